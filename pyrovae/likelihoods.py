"""Likelihoods p(x | z, c): a network reads z (and c) and puts out the parameters of a distribution over x.

Bernoulli                  x in {0, 1}             logit l
ContinuousBernoulli        x in [0, 1]             logit l
Gaussian                   x real                  mean mu
HeteroscedasticGaussian    x real                  mean mu, log sigma
Binomial                   x in {0, ..., n}        logit l
Poisson                    x in {0, 1, 2, ...}     log rate r
DiscretizedLogistic        x in {0, ..., L - 1}    location m, log scale s
Categorical                x in {0, ..., L - 1}    L logits

Several parameters of each value come as consecutive blocks along the first event axis of the network's output:
(mu_1, ..., mu_D, log sigma_1, ..., log sigma_D) for vectors, blocks of channels for images.
"""

from math import log, prod

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from pyrovae import distributions, supports
from pyrovae.conditional import Conditional
from pyrovae.supports import Support, fitting

__all__ = ["Bernoulli", "Binomial", "Categorical", "ContinuousBernoulli", "DiscretizedLogistic", "Gaussian"]
__all__ += ["HeteroscedasticGaussian", "Likelihood", "Poisson", "fitting"]


class Likelihood(Conditional):
    """p(x | z, c): what all likelihoods share, the axes of the event and the check of data against the support.

    Args:
        net: maps z (and c) to the parameters, with shape (*, *event), the first event axis longer by their number.
        event_dim: number of event axes; by default that of `net.shape_out`, and 1 for a network without that attribute.

    Attributes:
        support: the values of x that have a density.
    """

    support: Support

    def __init__(self, net: nn.Module, event_dim: int | None = None) -> None:
        super().__init__()
        self.net, self.event_dim = net, event_dim
        shape = getattr(net, "shape_out", None)
        self._n = event_dim if event_dim is not None else 1 if shape is None else len(shape)
        self._event = None if shape is None else tuple(shape)

    def check(self, x: Tensor | np.ndarray, name: str = "x") -> None:
        """Refuse data that the likelihood cannot explain.

        Args:
            x: data with shape (N, *event), of any real or integer type.
            name: what the error calls the data.

        Raises:
            ValueError: if the rows have another shape than the network puts out, or a value is off the support: the
                first such value, where it is, how many there are, and the likelihoods that fit.
        """
        place = f"likelihoods.{type(self).__name__}"
        if self._event is not None and tuple(x.shape[1:]) != self._event:
            raise ValueError(
                f"{place}: expected rows of {name} with shape {self._event}, as the network puts them out, got {name} "
                f"with shape {tuple(x.shape)}; reshape the data, or build the network for that shape"
            )
        off = self.support.first_off(x)
        if off is not None:
            raise ValueError(
                f"{place}: expected {name} to hold {self.support.words}, got {off.value:g} at row {off.row}, position "
                f"{off.position} ({off.total} of {prod(x.shape)} values are off); {self._remedy(x)}"
            )

    def _remedy(self, x: Tensor | np.ndarray) -> str:
        fit = fitting(x)
        if not fit:
            return "no likelihood fits NaN or infinite values: remove those rows, or fill the values in"
        text = "such data fit " + ", ".join(f"likelihoods.{name}" for name in fit)
        if self.support is supports.BINARY and fit[0] == "ContinuousBernoulli":
            text += "; or make them binary by pyrovae.batches.binarize"
        return text

    def _divide(self, parameters: int) -> None:
        """Note that each value of x has so many parameters: a ValueError if the network's output does not divide."""
        if self._event is None:
            return
        first, *rest = self._event
        if first % parameters:
            raise ValueError(
                f"likelihoods.{type(self).__name__}: expected {parameters} blocks on the first axis of the network's "
                f"output, got the shape {self._event}; let it put out {parameters} features (or channels) for each of x"
            )
        self._event = (first // parameters, *rest)


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


class ContinuousBernoulli(Likelihood):
    """p(x | z) = prod_j e^(x_j l_j) l_j / (e^l_j - 1), for x in [0, 1] (Loaiza-Ganem & Cunningham 2019).

    The Bernoulli's cross entropy for grey values, with what it lacks to be a density.

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
        return distributions.ContinuousBernoulli(self.net(z, *c)).to_event(self._n)


class Gaussian(Likelihood):
    """p(x | z) = N(mu(z), sigma^2 I), one sigma for all values, for real x.

    A fixed sigma weighs the squared error against the KL, 1 / (2 sigma^2) to 1; a learned one finds its own place.

    Args:
        net: maps z (and c) to the means mu, with shape (*, *event).
        sigma: standard deviation, in the unit of x.
        learned: whether sigma is a parameter, which starts at the given value.
        event_dim: as for `Likelihood`.

    Raises:
        ValueError: if sigma is not positive.

    Example:
        >>> p = Gaussian(nn.Linear(20, 784), sigma=0.5, learned=True)
        >>> p.log_sigma.exp()
        tensor(0.5000, grad_fn=<ExpBackward0>)
    """

    support = supports.REAL

    def __init__(self, net: nn.Module, sigma: float = 1.0, learned: bool = False, event_dim: int | None = None) -> None:
        super().__init__(net, event_dim)
        if not 0 < sigma < float("inf"):
            raise ValueError(f"likelihoods.Gaussian: expected sigma > 0, got {sigma}; give it in the unit of the data")
        self.sigma, self.learned = sigma, learned
        self.log_sigma = nn.Parameter(torch.tensor(log(sigma))) if learned else None

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        sigma = self.sigma if self.log_sigma is None else self.log_sigma.exp()
        return dist.Normal(self.net(z, *c), sigma).to_event(self._n)


class HeteroscedasticGaussian(Likelihood):
    """p(x | z) = N(mu(z), diag sigma(z)^2), sigma = floor + e^s, for real x (Kingma & Welling 2014, eq. 12).

    Args:
        net: maps z (and c) to mu and s, two blocks along the first event axis.
        floor: what sigma stays above, in the unit of x. Without it the density has no maximum where x never varies.
        event_dim: as for `Likelihood`.

    Raises:
        ValueError: if the floor is negative, or the network's output is not two blocks.

    Example:
        >>> HeteroscedasticGaussian(nn.Linear(20, 2 * 784))(torch.zeros(5, 20)).event_shape
        torch.Size([784])
    """

    support = supports.REAL

    def __init__(self, net: nn.Module, floor: float = 1e-3, event_dim: int | None = None) -> None:
        super().__init__(net, event_dim)
        self._divide(2)
        if not 0 <= floor < float("inf"):
            raise ValueError(f"likelihoods.HeteroscedasticGaussian: expected floor >= 0, got {floor}; 0 leaves it out")
        self.floor = floor

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        mu, s = self.net(z, *c).chunk(2, -self._n)  # (*, *event) each
        return dist.Normal(mu, self.floor + s.exp()).to_event(self._n)


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
        return distributions.Levels(logits=blocks.movedim(-self._n - 1, -1)).to_event(self._n)
