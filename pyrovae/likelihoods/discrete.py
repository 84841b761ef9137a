"""Likelihoods of binary values, counts and levels."""

import pyro.distributions as dist
from pyro.distributions import Distribution
from torch import Tensor, nn

from pyrovae import distributions
from pyrovae.data import supports
from pyrovae.likelihoods.base import Likelihood

__all__ = ["Bernoulli", "Binomial", "Categorical", "DiscretizedLogistic", "Poisson"]


class Bernoulli(Likelihood):
    """p(x | z) = prod_j sigmoid(l_j)^x_j (1 - sigmoid(l_j))^(1 - x_j), for x in {0, 1} (Kingma & Welling 2014, eq. 11).

    Args:
        net: maps z (and c) to the logits l, with shape (*, *event).
        event_dim: as for `Likelihood`.

    Example:
        >>> p = Bernoulli(nn.Linear(20, 784))
        >>> p(torch.zeros(5, 20)).log_prob(torch.ones(5, 784)).shape
        torch.Size([5])
    """

    support = supports.BINARY

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        return distributions.IndependentBernoulli(dist.Bernoulli(logits=self.net(z, *c)), self._n)


class Binomial(Likelihood):
    """p(x | z) = prod_j C(n, x_j) sigmoid(l_j)^x_j (1 - sigmoid(l_j))^(n - x_j), for counts x in {0, ..., n}.

    Args:
        net: maps z (and c) to the logits l, with shape (*, *event).
        total_count: n; 16 for scikit-learn's digits.
        event_dim: as for `Likelihood`.

    Example:
        >>> Binomial(nn.Linear(2, 64))(torch.zeros(5, 2)).sample().max() <= 16
        tensor(True)
    """

    def __init__(self, net: nn.Module, total_count: int = 16, event_dim: int | None = None) -> None:
        super().__init__(net, event_dim)
        self.total_count, self.support = total_count, supports.levels(total_count)

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        return dist.Binomial(self.total_count, logits=self.net(z, *c)).to_event(self._n)


class Poisson(Likelihood):
    """p(x | z) = prod_j e^(x_j r_j - e^r_j) / x_j!, for counts x in {0, 1, 2, ...} without a bound.

    Args:
        net: maps z (and c) to the logarithms r of the rates, with shape (*, *event).
        event_dim: as for `Likelihood`.

    Example:
        >>> Poisson(nn.Linear(2, 64))(torch.zeros(5, 2)).mean.shape
        torch.Size([5, 64])
    """

    support = supports.COUNTS

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        return distributions.LogPoisson(self.net(z, *c)).to_event(self._n)


class DiscretizedLogistic(Likelihood):
    """p(x | z) = prod_j of a logistic density's mass in the bin of x_j, for grey levels x in {0, ..., L - 1}.

    Locations and scales live on [-1, 1], onto which levels are mapped: see `pyrovae.distributions.DiscretizedLogistic`.

    Args:
        net: maps z (and c) to locations and log scales, two blocks along the first event axis.
        levels: L.
        event_dim: as for `Likelihood`.

    Example:
        >>> DiscretizedLogistic(nn.Linear(20, 2 * 784))(torch.zeros(5, 20)).event_shape
        torch.Size([784])
    """

    def __init__(self, net: nn.Module, levels: int = 256, event_dim: int | None = None) -> None:
        super().__init__(net, event_dim)
        self._divide(2)
        self.levels, self.support = levels, supports.levels(levels - 1)

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        loc, log_scale = self.net(z, *c).chunk(2, -self._n)  # (*, *event) each
        return distributions.DiscretizedLogistic(loc, log_scale, self.levels).to_event(self._n)


class Categorical(Likelihood):
    """p(x | z) = prod_j softmax(l_j)_(x_j), for levels x in {0, ..., L - 1}, however their probabilities lie.

    Args:
        net: maps z (and c) to the logits, L blocks along the first event axis, one of the data's shape for each level.
        levels: L.
        event_dim: as for `Likelihood`.

    Example:
        >>> Categorical(nn.Linear(20, 4 * 784), levels=4)(torch.zeros(5, 20)).event_shape
        torch.Size([784])
    """

    def __init__(self, net: nn.Module, levels: int = 256, event_dim: int | None = None) -> None:
        super().__init__(net, event_dim)
        self._divide(levels)
        self.levels, self.support = levels, supports.levels(levels - 1)

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        blocks = self.net(z, *c).unflatten(-self._n, (self.levels, -1))  # (*, L, *event)
        return distributions.OrdinalCategorical(logits=blocks.movedim(-self._n - 1, -1)).to_event(self._n)
