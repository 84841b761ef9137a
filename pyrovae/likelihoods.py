"""Likelihoods p(x | z, c): a network reads z (and c) and puts out the parameters of a distribution over x.

Bernoulli                x in {0, 1}           logit l               ContinuousBernoulli   x in [0, 1]            logit l
Gaussian                 x real                mean mu               HeteroscedasticGaussian  x real       mu, log sigma
Binomial                 x in {0, ..., n}      logit l               Poisson               x in {0, 1, ...}     log rate r
DiscretizedLogistic      x in {0, ..., L - 1}  location, log scale   Categorical           x in {0, ..., L - 1}  L logits

Parameters of which each value of x has several come as consecutive blocks on the first event axis of the network's output:
(mu_1 ... mu_D, log sigma_1 ... log sigma_D) for vectors, blocks of channels for images.
"""

from abc import abstractmethod
from collections.abc import Iterator
from math import log, prod
from typing import NamedTuple

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import Distribution, constraints
from torch import Tensor, nn

from pyrovae import distributions
from pyrovae.conditional import Conditional

__all__ = [
    "Bernoulli",
    "Binomial",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Gaussian",
    "HeteroscedasticGaussian",
    "Likelihood",
    "Poisson",
    "Support",
    "fitting",
]


class Support(NamedTuple):
    """A set of numbers: how to say it, and how to test for it."""

    words: str
    constraint: constraints.Constraint

    def holds(self, x: Tensor) -> Tensor:
        """Whether each value is a finite number of the set, elementwise."""
        return self.constraint.check(x) & x.isfinite()


class Likelihood(Conditional):
    """p(x | z, c): what all likelihoods share, which is the shape of the event and the check of data against the support.

    Args:
        net: maps z (and c) to the parameters, with shape (*, *event), the first event axis longer by their number.
        event_dim: number of event axes; by default that of `net.shape_out`, and 1 for a network without that attribute.
        parameters: how many parameters each value of x has.

    Raises:
        ValueError: if the network's output does not divide into so many parameters.
    """

    def __init__(self, net: nn.Module, event_dim: int | None = None, parameters: int = 1) -> None:
        super().__init__()
        self.net, self.event_dim = net, event_dim
        shape = getattr(net, "shape_out", None)
        self._n = event_dim if event_dim is not None else len(shape or (1,))
        if shape and shape[0] % parameters:
            raise ValueError(
                f"{type(self).__name__}: expected {parameters} parameters a value, got a network with {shape[0]} outputs on its "
                f"first axis, {tuple(shape)}; give the network {parameters} outputs (or channels) for each of the data's"
            )
        self._event = (shape[0] // parameters, *shape[1:]) if shape else None

    @property
    @abstractmethod
    def support(self) -> Support:
        """The values of x that have a density."""

    def check(self, x: Tensor | np.ndarray, name: str = "x") -> None:
        """Refuse data that the likelihood does not explain. Looks at all values, a million at a time.

        Args:
            x: data with shape (N, *event), of any real or integer type.
            name: what to call the data in the error.

        Raises:
            ValueError: naming the first value off the support, where it is, how many there are, and likelihoods that fit.
        """
        place = type(self).__name__
        if self._event is not None and tuple(x.shape[1:]) != self._event:
            raise ValueError(
                f"{place}: expected rows of {name} with shape {self._event}, as the network puts out, got {name} with shape "
                f"{tuple(x.shape)}; reshape the data, or build the network with that shape (features_out, shape_out)"
            )
        found = _first_off(x, self.support)
        if found is None:
            return
        value, row, position, count = found
        raise ValueError(
            f"{place}: expected {name} to hold {self.support.words}, got {value:g} at row {row}, position {position} "
            f"({count} of {prod(x.shape)} values are off); {_remedy(x, self)}"
        )


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

    def __init__(self, net: nn.Module, event_dim: int | None = None) -> None:
        super().__init__(net, event_dim)

    @property
    def support(self) -> Support:
        """0 or 1."""
        return Support("0 or 1", constraints.boolean)

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        return distributions.IndependentBernoulli(dist.Bernoulli(logits=self.net(z, *c)), self._n)


class ContinuousBernoulli(Likelihood):
    """p(x | z) = prod_j e^(x_j l_j) l_j / (e^l_j - 1), for x in [0, 1] (Loaiza-Ganem & Cunningham 2019).

    What the Bernoulli's loss means for grey values, once it integrates to one.

    Args:
        net: maps z (and c) to the logits l, with shape (*, *event).
        event_dim: as for `Likelihood`.

    Example:
        >>> p = ContinuousBernoulli(nn.Linear(20, 784))
        >>> p(torch.zeros(5, 20)).mean.shape
        torch.Size([5, 784])
    """

    def __init__(self, net: nn.Module, event_dim: int | None = None) -> None:
        super().__init__(net, event_dim)

    @property
    def support(self) -> Support:
        """[0, 1]."""
        return Support("values in [0, 1]", constraints.unit_interval)

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        return distributions.ContinuousBernoulli(self.net(z, *c)).to_event(self._n)


class Gaussian(Likelihood):
    """p(x | z) = N(mu(z), sigma^2 I), with one sigma for all values, for real x.

    A fixed sigma weighs the squared error against the KL (sigma^2 is the lambda of a beta-VAE); a learned one finds its place.

    Args:
        net: maps z (and c) to the means mu, with shape (*, *event).
        sigma: standard deviation, in the unit of x.
        learned: whether sigma is a parameter that starts at the given value.
        event_dim: as for `Likelihood`.

    Raises:
        ValueError: if sigma is not positive.

    Example:
        >>> p = Gaussian(nn.Linear(20, 784), sigma=0.1, learned=True)
        >>> p.log_sigma.exp()
        tensor(0.1000, grad_fn=<ExpBackward0>)
    """

    def __init__(self, net: nn.Module, sigma: float = 1.0, learned: bool = False, event_dim: int | None = None) -> None:
        super().__init__(net, event_dim)
        if not 0 < sigma < float("inf"):
            raise ValueError(f"Gaussian: expected a positive standard deviation sigma, got {sigma}; give it in the unit of the data")
        self.sigma, self.learned = sigma, learned
        self.log_sigma = nn.Parameter(torch.tensor(log(sigma))) if learned else None

    @property
    def support(self) -> Support:
        """Real numbers."""
        return Support("finite real numbers", constraints.real)

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        sigma = self.sigma if self.log_sigma is None else self.log_sigma.exp()
        return dist.Normal(self.net(z, *c), sigma).to_event(self._n)


class HeteroscedasticGaussian(Likelihood):
    """p(x | z) = N(mu(z), diag sigma(z)^2), sigma = floor + e^s from the network, for real x (Kingma & Welling 2014, eq. 12).

    Args:
        net: maps z (and c) to mu and s, two blocks along the first event axis.
        floor: what sigma stays above, in the unit of x. Where a value never varies the density has no maximum without it.
        event_dim: as for `Likelihood`.

    Raises:
        ValueError: if the floor is negative.

    Example:
        >>> HeteroscedasticGaussian(nn.Linear(20, 2 * 784))(torch.zeros(5, 20)).event_shape
        torch.Size([784])
    """

    def __init__(self, net: nn.Module, floor: float = 1e-3, event_dim: int | None = None) -> None:
        super().__init__(net, event_dim, parameters=2)
        if not 0 <= floor < float("inf"):
            raise ValueError(f"HeteroscedasticGaussian: expected a floor of at least 0, got {floor}; give it in the unit of the data")
        self.floor = floor

    @property
    def support(self) -> Support:
        """Real numbers."""
        return Support("finite real numbers", constraints.real)

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
        self.total_count = total_count

    @property
    def support(self) -> Support:
        """Whole numbers 0 to n."""
        return _levels(self.total_count)

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

    def __init__(self, net: nn.Module, event_dim: int | None = None) -> None:
        super().__init__(net, event_dim)

    @property
    def support(self) -> Support:
        """Whole numbers from 0."""
        return Support("whole numbers from 0", constraints.nonnegative_integer)

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        return distributions.LogPoisson(self.net(z, *c)).to_event(self._n)


class DiscretizedLogistic(Likelihood):
    """p(x | z) = prod_j of the mass of a logistic density in the bin of x_j, for grey levels x in {0, ..., L - 1}.

    See `pyrovae.distributions.DiscretizedLogistic`; levels are mapped to [-1, 1], the scale of the network's outputs.

    Args:
        net: maps z (and c) to locations and log scales, two blocks along the first event axis.
        levels: L.
        event_dim: as for `Likelihood`.

    Example:
        >>> DiscretizedLogistic(nn.Linear(20, 2 * 784))(torch.zeros(5, 20)).event_shape
        torch.Size([784])
    """

    def __init__(self, net: nn.Module, levels: int = 256, event_dim: int | None = None) -> None:
        super().__init__(net, event_dim, parameters=2)
        self.levels = levels

    @property
    def support(self) -> Support:
        """Whole numbers 0 to L - 1."""
        return _levels(self.levels - 1)

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        loc, log_scale = self.net(z, *c).chunk(2, -self._n)  # (*, *event) each
        return distributions.DiscretizedLogistic(loc, log_scale, self.levels).to_event(self._n)


class Categorical(Likelihood):
    """p(x | z) = prod_j softmax(l_j)_(x_j), for levels x in {0, ..., L - 1} that need not lie near each other.

    Args:
        net: maps z (and c) to the logits, L blocks along the first event axis: one block of the data's shape for each level.
        levels: L.
        event_dim: as for `Likelihood`.

    Example:
        >>> Categorical(nn.Linear(20, 4 * 784), levels=4)(torch.zeros(5, 20)).event_shape
        torch.Size([784])
    """

    def __init__(self, net: nn.Module, levels: int = 256, event_dim: int | None = None) -> None:
        super().__init__(net, event_dim, parameters=levels)
        self.levels = levels

    @property
    def support(self) -> Support:
        """Whole numbers 0 to L - 1."""
        return _levels(self.levels - 1)

    def forward(self, z: Tensor, *c: Tensor) -> Distribution:
        """Return p(x | z, c), batch shape (*)."""
        logits = self.net(z, *c).unflatten(-self._n, (self.levels, -1)).movedim(-self._n - 1, -1)  # (*, *event, L)
        return distributions.Levels(logits=logits).to_event(self._n)


# ----------------------------------------------------------------------------------------------------- data and supports
def fitting(x: Tensor | np.ndarray) -> tuple[str, ...]:
    """Which likelihoods fit the data, the most fitting first; none if there are infinities or NaN.

    Args:
        x: data with shape (N, *event), of any real or integer type.

    Example:
        >>> fitting(np.array([[0, 1], [1, 1]]))
        ('Bernoulli', 'Gaussian')
        >>> fitting(torch.tensor([0.0, 0.5]))
        ('ContinuousBernoulli', 'Gaussian')
    """
    low, high, whole = float("inf"), -float("inf"), True
    for _, values in _chunks(x):
        if not values.isfinite().all():
            return ()
        low, high = min(low, values.min().item()), max(high, values.max().item())
        whole = whole and bool((values % 1 == 0).all())
    if not whole:
        return ("ContinuousBernoulli", "Gaussian") if 0 <= low and high <= 1 else ("Gaussian",)
    if low < 0:
        return ("Gaussian",)
    return _fitting_counts(int(high))


def _fitting_counts(high: int) -> tuple[str, ...]:
    """Likelihoods for whole numbers from 0 to `high`: up to 64 they are taken for counts, up to 255 for grey levels."""
    if high <= 1:
        return ("Bernoulli", "Gaussian")
    if high <= 64:
        return (f"Binomial(total_count={high})", f"Categorical(levels={high + 1})", "Poisson", "Gaussian")
    if high <= 255:
        return ("DiscretizedLogistic", "Categorical", "Poisson", "Gaussian")
    return ("Poisson", "Gaussian")


def _levels(high: int) -> Support:
    return Support(f"whole numbers from 0 to {high}", constraints.integer_interval(0, high))


def _remedy(x: Tensor | np.ndarray, likelihood: Likelihood) -> str:
    fit = fitting(x)
    if not fit:
        return "no likelihood fits NaN or infinite values: remove or fill in those rows"
    text = f"such data fit likelihoods.{', likelihoods.'.join(fit)}"
    if isinstance(likelihood, Bernoulli) and fit[0] == "ContinuousBernoulli":
        text += "; or binarize the data by pyrovae.batches.binarize"
    return text


def _first_off(x: Tensor | np.ndarray, support: Support) -> tuple[float, int, tuple[int, ...], int] | None:
    """The first value off the support, its row, its position in the row and how many there are; None if there are none."""
    first, count = None, 0
    for row, values in _chunks(x):
        off = ~support.holds(values)
        n = int(off.sum())
        if n and first is None:
            i, *position = (int(k) for k in off.nonzero()[0])
            first = values[(i, *position)].item(), row + i, tuple(position)
        count += n
    return None if first is None else (*first, count)


def _chunks(x: Tensor | np.ndarray) -> Iterator[tuple[int, Tensor]]:
    """(first row, rows) of the data, about 2^20 values at a time, as uint8 or floating point."""
    rows = max(1, 2**20 // max(1, prod(x.shape[1:])))
    for start in range(0, len(x), rows):
        yield start, _numbers(x[start : start + rows])


def _numbers(x: Tensor | np.ndarray) -> Tensor:
    if not isinstance(x, Tensor):
        x = np.asarray(x)
        x = torch.from_numpy(x.astype(x.dtype if x.dtype in (np.uint8, np.float32) else np.float64))
    x = x.detach()
    if x.dtype in (torch.uint8, torch.float32, torch.float64):
        return x
    return x.to(torch.float32 if x.is_floating_point() else torch.float64)
