"""Likelihoods of binary values, counts and levels: p(x | z) = prod_j p(x_j | net(z)_j)."""

from math import log, pi
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import Distribution
from torch import Tensor, nn

from pyrovae import distributions
from pyrovae.data import supports
from pyrovae.likelihoods.base import Likelihood

__all__ = [
    "Bernoulli",
    "Binomial",
    "Categorical",
    "DiscretizedLogistic",
    "NegativeBinomial",
    "Poisson",
]

# In widths of a level: there the logistic's standard deviation, pi s / sqrt(3), is that of a value
# uniform on one level, 1 / sqrt(12).
LEAST_SCALE = 1 / (2 * pi)


class Bernoulli(Likelihood):
    """p(x | z) = prod_j sigmoid(l_j)^x_j (1 - sigmoid(l_j))^(1 - x_j), for x in {0, 1}.

    (Kingma & Welling 2014, eq. 11)

    Args:
        net: maps z (and c) to the logits l, with shape (*, *event).
        event_dim: as for `Likelihood`.

    Example:
        >>> import torch
        >>> p = Bernoulli(nn.Linear(20, 784))
        >>> p(torch.zeros(5, 20)).log_prob(torch.ones(5, 784)).shape
        torch.Size([5])
    """

    support = supports.BINARY

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        p = dist.Bernoulli(logits=self._outputs(z, *c))
        return distributions.IndependentBernoulli(p, self.event_ndim)


class Binomial(Likelihood):
    """p(x | z) = prod_j C(n, x_j) sigmoid(l_j)^x_j (1 - sigmoid(l_j))^(n - x_j).

    For counts x in {0, ..., n}.

    Args:
        net: maps z (and c) to the logits l, with shape (*, *event).
        total_count: n; 16 for scikit-learn's digits.
        event_dim: as for `Likelihood`.

    Example:
        >>> import torch
        >>> Binomial(nn.Linear(2, 64))(torch.zeros(5, 2)).sample().max() <= 16
        tensor(True)
    """

    def __init__(
        self, net: nn.Module, total_count: int = 16, *, event_dim: int | None = None
    ) -> None:
        super().__init__(net, event_dim=event_dim)
        self.total_count, self.support = total_count, supports.levels(total_count)

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        logits = self._outputs(z, *c)
        n = logits.new_full((), self.total_count)  # no copy to a device, which is waited for
        return dist.Binomial(n, logits=logits).to_event(self.event_ndim)


class Poisson(Likelihood):
    """p(x | z) = prod_j e^(x_j r_j - e^r_j) / x_j!, for counts x in {0, 1, 2, ...}.

    Args:
        net: maps z (and c) to the logarithms r of the rates, with shape (*, *event).
        event_dim: as for `Likelihood`.

    Example:
        >>> import torch
        >>> Poisson(nn.Linear(2, 64))(torch.zeros(5, 2)).mean.shape
        torch.Size([5, 64])
    """

    support = supports.COUNTS

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        return distributions.LogPoisson(self._outputs(z, *c)).to_event(self.event_ndim)


class NegativeBinomial(Likelihood):
    """p(x | z) = prod_j NB(x_j; mu_j, theta_j), mu = e^r, for counts x in {0, 1, 2, ...}.

    Var x = mu + mu^2 / theta. Each value of x has an inverse dispersion theta of its own, learned;
    for a large theta it is a Poisson distribution. For counts of genes see
    `pyrovae.expression.NegativeBinomial`.

    Args:
        net: maps z (and c) to the logarithms r of the means, with shape (*, *event). It must have a
            `shape_out`, as `pyrovae.nets.MLP` does.
        event_dim: as for `Likelihood`.

    Raises:
        ValueError: if the network does not tell its shape.

    Example:
        >>> import torch
        >>> from pyrovae.nets import MLP
        >>> NegativeBinomial(MLP(2, [8], 64))(torch.zeros(5, 2)).mean.shape
        torch.Size([5, 64])
    """

    support = supports.COUNTS

    def __init__(self, net: nn.Module, event_dim: int | None = None) -> None:
        super().__init__(net, event_dim=event_dim)
        if self.event_shape is None:
            raise ValueError(
                "likelihoods.NegativeBinomial: expected a network that tells its shape_out, since "
                "each value has a parameter; use pyrovae.nets.MLP, or set net.shape_out"
            )
        self.log_theta = nn.Parameter(torch.zeros(self.event_shape))

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        p = distributions.NegativeBinomial.from_logs(self._outputs(z, *c), self.log_theta)
        return p.to_event(self.event_ndim)


class DiscretizedLogistic(Likelihood):
    """p(x | z) = prod_j mass of a logistic density in the bin of x_j, for x in {0, ..., L - 1}.

    Levels are mapped to [-1, 1], in whose units locations and scales are given: see
    `pyrovae.distributions.DiscretizedLogistic`. The scale is that of the network plus the floor.
    Without a floor it goes to zero at pixels that always have the same level; one pixel of another
    level then has a log probability of -10^6 and less, and training diverges.

    Args:
        net: maps z (and c) to locations and log scales, stacked along the first event dimension.
        levels: L, the number of grey levels.
        event_dim: as for `Likelihood`.
        floor: lower bound of the scale, in widths of a level; 0 is none. At the default a level
            between the first and the last has a probability of at most 0.92.

    Raises:
        ValueError: if the floor is negative, or the first dimension of the network's output is odd.

    Example:
        >>> import torch
        >>> DiscretizedLogistic(nn.Linear(20, 2 * 784))(torch.zeros(5, 20)).event_shape
        torch.Size([784])
    """

    BEFORE: ClassVar[dict[str, Any]] = {"floor": 0.0}

    def __init__(
        self,
        net: nn.Module,
        levels: int = 256,
        *,
        event_dim: int | None = None,
        floor: float = LEAST_SCALE,
    ) -> None:
        super().__init__(net, event_dim=event_dim)
        self.set_parameters_per_value(2)
        if not 0 <= floor < float("inf"):
            raise ValueError(
                f"likelihoods.DiscretizedLogistic: expected floor >= 0, got {floor}; 0 is none"
            )
        self.levels, self.support, self.floor = levels, supports.levels(levels - 1), floor

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        loc, log_scale = self._outputs(z, *c).chunk(2, -self.event_ndim)  # (*, *event) each
        if self.floor:
            least = log(2 * self.floor / (self.levels - 1))  # levels are mapped to [-1, 1]
            log_scale = least + F.softplus(log_scale - least)
        p = distributions.DiscretizedLogistic(loc, log_scale, self.levels)
        return p.to_event(self.event_ndim)


class Categorical(Likelihood):
    """p(x | z) = prod_j softmax(l_j)_(x_j), for levels x in {0, ..., L - 1}.

    Any probabilities of the levels: their order has no influence.

    Args:
        net: maps z (and c) to the logits of level 0, of level 1, ..., each with the shape of x,
            stacked along the first event dimension.
        levels: L, the number of levels.
        event_dim: as for `Likelihood`.

    Example:
        >>> import torch
        >>> Categorical(nn.Linear(20, 4 * 784), levels=4)(torch.zeros(5, 20)).event_shape
        torch.Size([784])
    """

    def __init__(self, net: nn.Module, levels: int = 256, *, event_dim: int | None = None) -> None:
        super().__init__(net, event_dim=event_dim)
        self.set_parameters_per_value(levels, f"Change its last layer, or levels={levels}")
        self.levels, self.support = levels, supports.levels(levels - 1)

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        logits = self._outputs(z, *c).unflatten(
            -self.event_ndim, (self.levels, -1)
        )  # (*, L, *event)
        logits = logits.movedim(-self.event_ndim - 1, -1)  # (*, *event, L)
        return distributions.OrdinalCategorical(logits=logits).to_event(self.event_ndim)
