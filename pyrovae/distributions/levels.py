"""A distribution of one value as a sum over points: of all its levels, or by quadrature.

E[f(x)] = sum_k w_k f(x_k),   w_k = p(x_k)           a discrete distribution with bounds
E[f(x)] ~ sum_k w_k f(x_k),   w_k = g_k p(x_k)       a density on [0, 1], Gauss-Legendre weights g_k

Where sum_k w_k is not 1, a density is too narrow for the x_k, and three points of its mean and its
variance stand for it, or it is infinite at 0 or 1, and so much as is missing lies there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyrovae.distributions.discrete import DiscretizedLogistic
from pyrovae.distributions.families import family, in_blocks

__all__ = ["Points", "expected", "levels", "moments", "numbers_per_value", "points"]

LogF = Callable[..., Tensor]

_MOST = 1024  # levels
_DRAWS = 256  # for a mean without a formula
_NODES = 64  # of the quadrature: exact for polynomials up to degree 127
_OFF = 0.005  # of the sum of the weights from 1, from where on they are corrected
_NARROW = 0.015  # standard deviation, below which three points stand for a density
_TINY = 1e-30  # of a weight, which stands for 0 and has a logarithm


@dataclass(frozen=True)
class Points:
    """Points x_k and weights w_k of a distribution with batch shape (*).

    Its sums take some of the values (*) at a time where the family of p is known, so that K numbers
    for each of them are held neither forwards nor for the gradient.

    Attributes:
        p: the distribution.
        values: x_k, with shape (K,).
        log_weight: log g_k, with shape (K,); zeros for levels.
    """

    p: Any
    values: Tensor
    log_weight: Tensor

    @property
    def log_mass(self) -> Tensor:
        """Log w_k, with shape (K, *)."""
        parameters, log_mass = family(self.p)
        return self._along(self.log_weight) + log_mass(self._along(self.values), *parameters)

    def log_expected(self, log_f: LogF, *given: Tensor) -> Tensor:
        """Return log sum_k w_k f(x_k), with shape (*).

        Args:
            log_f: from x, with shape (K, 1, ..., 1), and parts of `given`, to log f(x).
            given: tensors with shape (*).
        """
        return self._summed(lambda x, log_w, *some: (log_w + log_f(x, *some)).logsumexp(0), given)

    def mean(self, log_f: LogF, *given: Tensor) -> Tensor:
        """Return sum_k w_k f(x_k) x_k / sum_k w_k f(x_k), with shape (*); as `log_expected`."""

        def mean(x: Tensor, log_w: Tensor, *some: Tensor) -> Tensor:
            return ((log_w + log_f(x, *some)).softmax(0) * x).sum(0)

        return self._summed(mean, given)

    @torch.no_grad()
    def draw(self, log_f: LogF, *given: Tensor) -> Tensor:
        """Return points drawn with probabilities in proportion to w_k f(x_k), with shape (*)."""

        def drawn(x: Tensor, log_w: Tensor, *some: Tensor) -> Tensor:
            log_joint = log_w + log_f(x, *some)
            gumbel = -torch.empty_like(log_joint).exponential_().log()
            chosen = (log_joint + gumbel).argmax(0, keepdim=True)
            return x.expand_as(log_joint).gather(0, chosen).squeeze(0)

        return self._summed(drawn, given)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and variance, with shape (*) each."""
        mean = self.mean(lambda x: torch.zeros_like(x))

        def variance(x: Tensor, log_w: Tensor, mean: Tensor) -> Tensor:
            return (log_w.softmax(0) * (x - mean).square()).sum(0)

        return mean, self._summed(variance, (mean,))

    def _summed(self, f: Callable[..., Tensor], given: tuple[Tensor, ...]) -> Tensor:
        """Return f(x, log w, *given), which takes (K, *) to (*), some values at a time."""
        parameters, log_mass = family(self.p)
        batch, of_all = self.p.batch_shape, self._mean_and_variance()
        if not parameters:
            x, log_w = self._along(self.values), self.log_mass
            return f(*(_corrected(x, log_w, *of_all) if of_all else (x, log_w)), *given)
        shape = np.broadcast_shapes(batch, *(part.shape for part in given))
        x, log_weight = self.values[:, None], self.log_weight[:, None]

        def of_some(*parts: Tensor) -> Tensor:
            some, known = parts[: len(given)], parts[len(given) + len(of_all) :]
            log_w = log_mass(x, *known) + log_weight
            if not of_all:
                return f(x, log_w, *some)
            return f(*_corrected(x, log_w, *parts[len(given) :][: len(of_all)]), *some)

        parts = [part.expand(shape).reshape(-1) for part in (*given, *of_all)]
        for part in parameters:
            event = part.shape[len(batch) :]
            parts.append(part.expand(*shape, *event).reshape(-1, *event))
        return in_blocks(of_some, parts, len(x)).reshape(shape)

    def _mean_and_variance(self) -> tuple[Tensor, ...]:
        """Return both of a density, if they have formulas; nothing for levels."""
        if not self.log_weight.any():
            return ()
        try:
            return self.p.mean, self.p.variance
        except (NotImplementedError, AttributeError):
            return ()

    def _along(self, values: Tensor) -> Tensor:
        return values.reshape(-1, *[1] * len(self.p.batch_shape))


def _corrected(x: Tensor, log_w: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return points and log weights whose sum is 1, with five more points.

    Args:
        x: nodes in [0, 1], with shape (K, 1, ..., 1).
        log_w: with shape (K, *).
        mean: of the density, with shape (*).
        variance: of the density, with shape (*).
    """
    w = log_w.clamp(max=80).exp()
    missing = 1 - w.sum(0)
    off = ~(missing.abs() < _OFF)
    if x.device.type == "cpu" and not off.any():  # an accelerator would have to wait for the answer
        return x, log_w
    narrow = off & (variance < _NARROW**2)
    at_one = (mean - (w * x).sum(0)).clamp(min=0).minimum(missing.clamp(min=0))
    ends = torch.stack([missing.clamp(min=0) - at_one, at_one]).clamp(min=_TINY).log()
    ends = torch.where(off & ~narrow, ends, -torch.inf)
    three = log_w.new_tensor([1 / 6, 2 / 3, 1 / 6]).log()  # of a normal, right up to x^5
    three = three.reshape(-1, *[1] * mean.dim()).expand(3, *mean.shape)
    three = torch.where(narrow, three, -torch.inf)
    apart = (3 * variance).clamp(min=_TINY).sqrt()
    near = torch.stack([mean - apart, mean, mean + apart]).clamp(0, 1)
    zero = torch.zeros_like(mean)
    points = torch.cat([x.expand_as(log_w), torch.stack([zero, zero + 1]), near])
    return points, torch.cat([torch.where(narrow, -torch.inf, log_w), ends, three])


def levels(p: Any) -> Points | None:
    """Return all levels of a discrete distribution with bounds, None of any other.

    Args:
        p: a distribution of single values, with batch shape (*) and event shape ().

    Example:
        >>> from pyro.distributions import Bernoulli
        >>> levels(Bernoulli(torch.full((3,), 0.25))).log_mass.exp()
        tensor([[0.7500, 0.7500, 0.7500],
                [0.2500, 0.2500, 0.2500]])
    """
    bounds = _bounds(p)
    if bounds is None or bounds[1] - bounds[0] >= _MOST:
        return None
    like = _like(p)
    values = torch.arange(bounds[0], bounds[1] + 1, dtype=like.dtype, device=like.device)
    return Points(p, values, torch.zeros_like(values))


def points(p: Any) -> Points | None:
    """Return the levels of a discrete distribution, the nodes of a density on [0, 1], or None.

    A density without a mean by formula has none, for it may be too steep at the ends for them, as a
    relaxed Bernoulli is.
    """
    found = levels(p)
    if found is not None or not _is_unit_interval(_support(p)) or not _has_mean(p):
        return found
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(_NODES))
    like = _like(p)
    values = ((nodes + 1) / 2).to(like.device, like.dtype)
    return Points(p, values, (weights / 2).log().to(like.device, like.dtype))


def expected(p: Any) -> Tensor:
    """Return the mean of a distribution of single values, with shape (*); of draws, if need be.

    Of classes without an order it is the mean of their numbers.
    """
    try:
        mean = p.mean
        if not mean.isnan().any():
            return mean
    except (NotImplementedError, AttributeError):
        pass
    found = points(p)
    return p.sample(torch.Size([_DRAWS])).mean(0) if found is None else found.moments()[0]


def numbers_per_value(p: Any, summed: bool = True) -> int:
    """Return how many numbers there are for each value of p: of its parameters, or its points.

    Args:
        p: a distribution of single values.
        summed: whether its points are summed; they count where its family is not known.
    """
    found = points(p)
    if found is None:
        return 1
    parameters, _ = family(p)
    if not parameters:
        return len(found.values) if summed else 1
    return max(part[(0,) * len(p.batch_shape)].numel() for part in parameters)


def moments(p: Any) -> tuple[Tensor, Tensor]:
    """Return mean and variance of a distribution of single values, with shape (*) each.

    Raises:
        NotImplementedError: if neither has a formula, nor can be summed.
    """
    if type(p) is DiscretizedLogistic:
        return _moments_of_bins(p)
    try:
        mean, variance = p.mean, p.variance
        if not (mean.isnan().any() or variance.isnan().any()):
            return mean, variance
    except (NotImplementedError, AttributeError):
        pass
    found = points(p)
    if found is None:
        raise NotImplementedError
    return found.moments()


def _moments_of_bins(p: DiscretizedLogistic) -> tuple[Tensor, Tensor]:
    """Return both as sums over the levels, of some of the values at a time."""

    def of_some(name: str) -> Tensor:
        def f(loc: Tensor, log_scale: Tensor) -> Tensor:
            return getattr(DiscretizedLogistic(loc, log_scale, p.levels, False), name)

        parts = p.loc.flatten(), p.log_scale.flatten()
        return in_blocks(f, parts, p.levels).reshape(p.batch_shape)

    return of_some("mean"), of_some("variance")


def _has_mean(p: Any) -> bool:
    try:
        return isinstance(p.mean, Tensor)
    except (NotImplementedError, AttributeError):
        return False


def _like(p: Any) -> Tensor:
    """Return a tensor of the type and device of the values of p: a parameter, or its mean."""
    parts = (part for part in vars(p).values() if isinstance(part, Tensor))
    found = next((part for part in parts if part.is_floating_point()), None)
    if found is not None:
        return found
    return p.mean if _has_mean(p) else torch.empty(0)


def _bounds(p: Any) -> tuple[int, int] | None:
    support = _support(p)
    if support is constraints.boolean:
        return 0, 1
    if isinstance(support, torch.distributions.constraints.integer_interval):
        low, high = (torch.as_tensor(edge) for edge in (support.lower_bound, support.upper_bound))
        if not high.numel():
            return None  # no values, each with bounds of its own
        return int(low.min()), int(high.max())
    return None


def _is_unit_interval(support: Any) -> bool:
    if not isinstance(support, type(constraints.unit_interval)):
        return False
    low, high = (torch.as_tensor(edge) for edge in (support.lower_bound, support.upper_bound))
    return bool((low == 0).all() and (high == 1).all())


def _support(p: Any) -> Any:
    try:
        return p.support
    except (NotImplementedError, AttributeError):
        return None
