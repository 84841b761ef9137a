"""Priors over D angles in radians, such as the rotation of a pose: periodic densities.

p(theta) = exp(kappa cos(theta - mu)) / (2 pi I_0(kappa))      von Mises, the analogue of the normal
                                                               (Mardia & Jupp 2000, section 3.5.4)
p(theta) = 1 / (2 pi)                                          uniform, its limit at kappa = 0

Use `posteriors.WrappedNormal` with them. A posterior over the real line raises a ValueError: it
could spread over many turns, each with the prior's whole mass, and the ELBO would not be a bound.
"""

import torch
from pyro.distributions import Distribution
from torch import Tensor

from pyrovae.distributions import CircularUniform, CircularVonMises, Conditional, whole_number

__all__ = ["UniformAngle", "VonMises"]


class VonMises(Conditional):
    """p(theta) = prod_d VonMises(theta_d; mu, kappa), the same for theta and theta + 2 pi.

    Draws lie in [-pi, pi).

    Args:
        d: number of angles D.
        concentration: kappa, above 0; about 1 / variance where it is large.
        loc: mu, in radians.

    Raises:
        ValueError: if `d` is below 1 or `concentration` not above 0.

    Example:
        >>> VonMises(1, concentration=2.0)().event_shape
        torch.Size([1])
    """

    def __init__(self, d: int, concentration: float = 1.0, loc: float = 0.0) -> None:
        super().__init__()
        if not concentration > 0:
            raise ValueError(
                f"VonMises: concentration is {concentration}, expected a number above 0; for 0 use "
                "UniformAngle"
            )
        d = whole_number(d, "VonMises: d")
        self.d, self.concentration, self.loc = d, concentration, loc
        self.register_buffer("_loc", torch.full((d,), float(loc)), persistent=False)
        self.register_buffer(
            "_concentration", torch.full((d,), float(concentration)), persistent=False
        )

    _loc: Tensor
    _concentration: Tensor

    def forward(self, *c: Tensor) -> Distribution:
        """Return p(theta), batch shape (), event shape (D,)."""
        return CircularVonMises(self._loc, self._concentration).to_event(1)


class UniformAngle(Conditional):
    """p(theta) = (2 pi)^-D, the same for theta and theta + 2 pi. Draws lie in [-pi, pi).

    Args:
        d: number of angles D.

    Raises:
        ValueError: if `d` is below 1.

    Example:
        >>> UniformAngle(1)().log_prob(torch.tensor([3.0]))
        tensor(-1.8379)
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.d = whole_number(d, "UniformAngle: d")
        self.register_buffer("_zero", torch.zeros(self.d), persistent=False)

    _zero: Tensor

    def forward(self, *c: Tensor) -> Distribution:
        """Return p(theta), batch shape (), event shape (D,)."""
        return CircularUniform(self._zero).to_event(1)
