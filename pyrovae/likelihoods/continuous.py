"""Likelihoods of real values and of values in [0, 1]: p(x | z) = prod_j p(x_j | net(z)_j).

A density is unbounded where its scale may go to zero: at a column that is constant, at pixels that
are exactly 0. Each `floor` bounds the scale from below, and so the density from above.
"""

from collections.abc import Sequence
from math import log
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from pyrovae import distributions
from pyrovae.data import supports
from pyrovae.likelihoods.base import Likelihood

__all__ = ["ContinuousBernoulli", "Gaussian", "HeteroscedasticGaussian"]

LEVEL_OF_8_BITS = 1 / 255
LEAST_OF_INITIAL = 1e-3  # floor of a learned sigma, relative to its initial value


class ContinuousBernoulli(Likelihood):
    """p(x | z) = prod_j e^(x_j l_j) l_j / (e^l_j - 1), for x in [0, 1].

    The Bernoulli's cross entropy for grey values, with the normalizing constant that makes it a
    density (Loaiza-Ganem & Cunningham 2019). Near 0 and 1 its scale is 1 / |l|. The floor f bounds
    it: the network's output a becomes l = tanh(f a) / f, so that |l| < 1 / f, and the density stays
    below 1 / f.

    Args:
        net: maps z (and c) to the logits a, with shape (*, *event).
        event_dim: as for `Likelihood`.
        floor: lower bound of the scale, by default one level of 8 bits; 0 is none, and then the
            density is unbounded where x is exactly 0 or 1.

    Raises:
        ValueError: if the floor is not in [0, 1).

    Example:
        >>> p = ContinuousBernoulli(nn.Linear(20, 784))
        >>> p(torch.zeros(5, 20)).mean.shape
        torch.Size([5, 784])
    """

    support = supports.UNIT
    BEFORE: ClassVar[dict[str, Any]] = {"floor": 0.0}

    def __init__(
        self, net: nn.Module, event_dim: int | None = None, *, floor: float = LEVEL_OF_8_BITS
    ) -> None:
        super().__init__(net, event_dim=event_dim)
        if not 0 <= floor < 1:
            raise ValueError(
                f"likelihoods.ContinuousBernoulli: expected a floor in [0, 1), got {floor}; "
                "0 is none"
            )
        self.floor = floor

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        logits = self._outputs(z, *c)
        if self.floor:
            logits = torch.tanh(logits * self.floor) / self.floor
        return distributions.ContinuousBernoulli(logits).to_event(self.event_ndim)


class Gaussian(Likelihood):
    """p(x | z) = N(mu(z), sigma^2 I), one sigma for all values or one for each, for real x.

    A fixed sigma gives the squared error the weight 1 / (2 sigma^2) relative to the KL; a learned
    one is fitted with the network: sigma^2 = floor^2 + e^(2 s), s the parameter.

    Args:
        net: maps z (and c) to the means mu, with shape (*, *event).
        sigma: standard deviation, in units of x.
        learned: whether sigma is a parameter, with the given initial value.
        event_dim: as for `Likelihood`.
        floor: lower bound of a learned sigma, in units of x: one number, or one for each value of
            x, flattened; by default a thousandth of `sigma`. 0 is none, and then the density is
            unbounded where x is constant.
        separate: whether each value of x has a learned sigma of its own, as in factor analysis; the
            network must then have a `shape_out`.

    Raises:
        ValueError: if sigma is not positive, a floor is negative, or `separate` does not apply.

    Example:
        >>> p = Gaussian(nn.Linear(20, 784), sigma=0.5, learned=True)
        >>> p.scale
        tensor(0.5000, grad_fn=<SqrtBackward0>)
    """

    support = supports.REAL
    BEFORE: ClassVar[dict[str, Any]] = {"floor": 0.0}
    least: Tensor

    def __init__(
        self,
        net: nn.Module,
        sigma: float = 1.0,
        *,
        learned: bool = False,
        event_dim: int | None = None,
        floor: float | Sequence[float] | None = None,
        separate: bool = False,
    ) -> None:
        super().__init__(net, event_dim=event_dim)
        if not 0 < sigma < float("inf"):
            raise ValueError(
                f"likelihoods.Gaussian: expected sigma > 0, got {sigma}; give it in units of x"
            )
        self.sigma, self.learned, self.separate = sigma, learned, separate
        self.floor = sigma * LEAST_OF_INITIAL if floor is None else floor
        self.register_buffer("least", self._floors(), persistent=False)
        self.log_sigma = nn.Parameter(self._initial()) if learned else None

    @property
    def scale(self) -> Tensor | float:
        """Sigma: a number where it is fixed, otherwise a tensor of shape () or of an event."""
        if self.log_sigma is None:
            return self.sigma
        if self.floor == 0:
            return self.log_sigma.exp()
        return (self.least.square() + (2 * self.log_sigma).exp()).sqrt()

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        mean, scale = self._outputs(z, *c), self.scale
        if not isinstance(scale, Tensor):  # made on the device: a copy there would be waited for
            scale = mean.new_full((), scale)
        return dist.Normal(mean, scale).to_event(self.event_ndim)

    def _floors(self) -> Tensor:
        """Return the floor with the shape of sigma."""
        floors = torch.as_tensor(self.floor)
        several = self.separate or floors.dim() > 0
        if several and (self.event_shape is None or not self.learned):
            raise ValueError(
                "likelihoods.Gaussian: one sigma or floor for each value of x needs learned=True "
                "and a network that tells its shape_out"
            )
        if not bool(((floors >= 0) & floors.isfinite()).all()):
            raise ValueError(
                f"likelihoods.Gaussian: expected floor >= 0, got {floors.min().item()}; 0 is none"
            )
        if not several:
            return floors
        shape = torch.Size(self.event_shape or ())
        if floors.numel() not in (1, shape.numel()):
            raise ValueError(
                f"likelihoods.Gaussian: got {floors.numel()} floors, expected one number, or "
                f"{shape.numel()}, one for each value of x"
            )
        return floors.expand(shape.numel()).reshape(shape).clone()

    def _initial(self) -> Tensor:
        """Return the parameter s at which sigma is as given, or just above a higher floor."""
        if self.floor == 0 and not self.separate:
            return torch.tensor(log(self.sigma))
        above = (self.sigma**2 - self.least.double().square()).clamp_min((self.sigma / 10) ** 2)
        return (above.log() / 2).float()


class HeteroscedasticGaussian(Likelihood):
    """p(x | z) = N(mu(z), diag sigma(z)^2), sigma = floor + e^s, for real x.

    (Kingma & Welling 2014, eq. 12)

    Args:
        net: maps z (and c) to mu and s, stacked along the first event dimension.
        floor: lower bound of sigma, in units of x. Without it the density is unbounded where x is
            constant.
        event_dim: as for `Likelihood`.

    Raises:
        ValueError: if the floor is negative, or the first dimension of the network's output is odd.

    Example:
        >>> HeteroscedasticGaussian(nn.Linear(20, 2 * 784))(torch.zeros(5, 20)).event_shape
        torch.Size([784])
    """

    support = supports.REAL

    def __init__(
        self, net: nn.Module, *, floor: float = 1e-3, event_dim: int | None = None
    ) -> None:
        super().__init__(net, event_dim=event_dim)
        self.set_parameters_per_value(2)
        if not 0 <= floor < float("inf"):
            raise ValueError(
                f"likelihoods.HeteroscedasticGaussian: expected floor >= 0, got {floor}; 0 is none"
            )
        self.floor = floor

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        mu, s = self._outputs(z, *c).chunk(2, -self.event_ndim)  # (*, *event) each
        return dist.Normal(mu, self.floor + s.exp()).to_event(self.event_ndim)
