"""Likelihoods of real values and of values in [0, 1]: p(x | z) = prod_j p(x_j | net(z)_j)."""

from math import log

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from pyrovae import distributions
from pyrovae.data import supports
from pyrovae.likelihoods.base import Likelihood

__all__ = ["ContinuousBernoulli", "Gaussian", "HeteroscedasticGaussian"]


class ContinuousBernoulli(Likelihood):
    """p(x | z) = prod_j e^(x_j l_j) l_j / (e^l_j - 1), for x in [0, 1].

    The Bernoulli's cross entropy for grey values, with the normalizing constant that makes it a
    density (Loaiza-Ganem & Cunningham 2019).

    Args:
        net: maps z (and c) to the logits l, with shape (*, *event).
        event_dim: as for `Likelihood`.

    Example:
        >>> p = ContinuousBernoulli(nn.Linear(20, 784))
        >>> p(torch.zeros(5, 20)).mean.shape
        torch.Size([5, 784])
    """

    support = supports.UNIT

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        return distributions.ContinuousBernoulli(self.net(z, *c)).to_event(self.event_ndim)


class Gaussian(Likelihood):
    """p(x | z) = N(mu(z), sigma^2 I), one sigma for all values, for real x.

    A fixed sigma gives the squared error the weight 1 / (2 sigma^2) relative to the KL; a learned
    one is fitted with the network.

    Args:
        net: maps z (and c) to the means mu, with shape (*, *event).
        sigma: standard deviation, in units of x.
        learned: whether sigma is a parameter, with the given initial value.
        event_dim: as for `Likelihood`.

    Raises:
        ValueError: if sigma is not positive.

    Example:
        >>> p = Gaussian(nn.Linear(20, 784), sigma=0.5, learned=True)
        >>> p.log_sigma.exp()
        tensor(0.5000, grad_fn=<ExpBackward0>)
    """

    support = supports.REAL

    def __init__(
        self,
        net: nn.Module,
        sigma: float = 1.0,
        learned: bool = False,
        event_dim: int | None = None,
    ) -> None:
        super().__init__(net, event_dim)
        if not 0 < sigma < float("inf"):
            raise ValueError(
                f"likelihoods.Gaussian: expected sigma > 0, got {sigma}; give it in units of x"
            )
        self.sigma, self.learned = sigma, learned
        self.log_sigma = nn.Parameter(torch.tensor(log(sigma))) if learned else None

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        sigma = self.sigma if self.log_sigma is None else self.log_sigma.exp()
        return dist.Normal(self.net(z, *c), sigma).to_event(self.event_ndim)


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

    def __init__(self, net: nn.Module, floor: float = 1e-3, event_dim: int | None = None) -> None:
        super().__init__(net, event_dim)
        self.set_parameters_per_value(2)
        if not 0 <= floor < float("inf"):
            raise ValueError(
                f"likelihoods.HeteroscedasticGaussian: expected floor >= 0, got {floor}; 0 is none"
            )
        self.floor = floor

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        mu, s = self.net(z, *c).chunk(2, -self.event_ndim)  # (*, *event) each
        return dist.Normal(mu, self.floor + s.exp()).to_event(self.event_ndim)
