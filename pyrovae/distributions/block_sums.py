"""Sums over squares of independent values: S = sum_i x_i,  x_i ~ p_i,  and x given S.

normal     S ~ N(sum mu_i, sum s_i^2);   x_i | S = x_i + s_i^2 / sum s^2 (S - sum x) for any draw x
Poisson    S ~ Poisson(sum r_i);         x | S ~ Multinomial(S, r / sum r)
levels     p(S) by convolution;          E[x_i | S] = d log p_t(S) / dt_i at t = 0, where
           p_t has the weights p_i(k) e^(t_i k);   x_1 | S, then x_2 | S - x_1, ...
           by the saddlepoint approximation of more than 64 levels, or of 64 values in a square
others     as the normal of the same mean and variance; of counts its variance is 1 / (2 pi) larger,
           so that a count that is certain has the probability 1
"""

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal, Poisson

from pyrovae.distributions.discrete import LogPoisson
from pyrovae.distributions.levels import levels, moments
from pyrovae.distributions.tilted_sums import TiltedSums

__all__ = ["BlockSums", "blocks", "unblocked"]

_MOST = 64  # levels of one value, and values of one square, that are summed by convolution


def blocks(x: Tensor, factor: int) -> Tensor:
    """Return the squares of images (*, H, W) as rows: shape (*, H / f, W / f, f * f)."""
    x = x.unflatten(-1, (-1, factor)).unflatten(-3, (-1, factor))  # (*, H/f, f, W/f, f)
    return x.transpose(-3, -2).flatten(-2)


def unblocked(x: Tensor, factor: int) -> Tensor:
    """Return the images (*, H, W) of which `blocks` made x."""
    x = x.unflatten(-1, (factor, factor)).transpose(-3, -2)
    return x.flatten(-2).flatten(-3, -2)


_CELL = 1 / (2 * math.pi)  # the variance of a normal density whose largest value is 1


class BlockSums:
    """The sums over f x f squares of an image of independent values.

    Args:
        p: distribution of single values, batch shape (*, H, W) or flattened, event shape ().
        factor: f, a divisor of H and W.
        shape: (*, H, W); by default the batch shape of p.
        arrange: lays a tensor with the batch shape of p out so that reshaping gives (*, H, W).

    Raises:
        ValueError: if nothing is known of the sum of such values.

    Example:
        >>> sums = BlockSums(Normal(torch.zeros(4, 4), 1.0), 2)
        >>> sums.draw(torch.full((2, 2), 3.0))[:2, :2].sum().round()
        tensor(3.)
    """

    def __init__(
        self,
        p: Any,
        factor: int,
        shape: tuple[int, ...] | None = None,
        arrange: Callable[[Tensor], Tensor] = lambda value: value,
    ) -> None:
        shape = p.batch_shape if shape is None else shape
        self.factor = factor
        self.sums = _sums(p, factor, lambda part: blocks(arrange(part).reshape(shape), factor))

    @property
    def numbers_per_value(self) -> int:
        """The numbers that are held for each value."""
        return self.sums.numbers_per_value

    def log_prob(self, s: Tensor) -> Tensor:
        """Return log p(S) of each square, shape (*, H / f, W / f)."""
        return self.sums.log_prob(s)

    def mean(self, s: Tensor) -> Tensor:
        """Return E[x | S], shape (*, H, W)."""
        return unblocked(self.sums.mean(s), self.factor)

    def draw(self, s: Tensor) -> Tensor:
        """Return x ~ p(x | S), shape (*, H, W)."""
        return unblocked(self.sums.draw(s), self.factor)


class _Sums(Protocol):
    """Sums with shape (*) of values with shape (*, m)."""

    @property
    def numbers_per_value(self) -> int: ...

    def log_prob(self, s: Tensor) -> Tensor: ...

    def mean(self, s: Tensor) -> Tensor: ...

    def draw(self, s: Tensor) -> Tensor: ...


def _sums(p: Any, factor: int, lay_out: Callable[[Tensor], Tensor]) -> _Sums:
    """Return the sums of values of p, which `lay_out` brings into rows of f * f."""
    if isinstance(p, Poisson | LogPoisson):
        return _PoissonSums(lay_out(p.mean))
    found = levels(p)
    if found is None or found.values[0]:
        loc, variance = (lay_out(part) for part in _moments(p))
        return _NormalSums(loc, variance, p.support.is_discrete)
    if max(len(found.values), factor**2) > _MOST:
        return TiltedSums(found, lay_out)
    log_mass = found.log_mass.log_softmax(0)
    return _LevelSums(torch.stack([lay_out(part) for part in log_mass], -1))


def _moments(p: Any) -> tuple[Tensor, Tensor]:
    try:
        return moments(p)
    except NotImplementedError:
        raise ValueError(
            f"BlockSums: {type(p).__name__} has no known variance, so the probability of a sum of "
            "its values is not known. Use a likelihood with a variance"
        ) from None


class _PoissonSums:
    """Of Poisson counts with rates (*, m)."""

    numbers_per_value = 1

    def __init__(self, rate: Tensor) -> None:
        self.rate = rate

    def log_prob(self, s: Tensor) -> Tensor:
        return Poisson(self.rate.sum(-1), validate_args=False).log_prob(s)

    def mean(self, s: Tensor) -> Tensor:
        return self.rate / self.rate.sum(-1, keepdim=True) * s.unsqueeze(-1)

    def draw(self, s: Tensor) -> Tensor:
        return _multinomial(self.rate, s)


class _NormalSums:
    """Of values with means and variances (*, m), as if they were normal."""

    numbers_per_value = 1

    def __init__(self, loc: Tensor, variance: Tensor, are_counts: bool) -> None:
        self.loc, self.variance = loc, variance
        self.cell = _CELL if are_counts else 0.0

    def log_prob(self, s: Tensor) -> Tensor:
        scale = (self.variance.sum(-1) + self.cell).sqrt()
        return Normal(self.loc.sum(-1), scale, validate_args=False).log_prob(s)

    def mean(self, s: Tensor) -> Tensor:
        return self._moved(self.loc, s)

    def draw(self, s: Tensor) -> Tensor:
        return self._moved(Normal(self.loc, self.variance.sqrt(), validate_args=False).sample(), s)

    def _moved(self, x: Tensor, s: Tensor) -> Tensor:
        variance = self.variance + torch.finfo(self.variance.dtype).tiny  # of certain values too
        share = variance / variance.sum(-1, keepdim=True)
        return x + share * (s - x.sum(-1)).unsqueeze(-1)


class _LevelSums:
    """Of values on few levels with log masses (*, m, K)."""

    def __init__(self, log_mass: Tensor) -> None:
        self.log_mass = log_mass

    @property
    def numbers_per_value(self) -> int:
        """The masses of a value, and of sums of 1 to m."""
        values, k = self.log_mass.shape[-2:]
        return k + (k - 1) * (values + 1) // 2

    def log_prob(self, s: Tensor) -> Tensor:
        return _log_prob_of_levels(self.log_mass, s)

    def mean(self, s: Tensor) -> Tensor:
        return _mean_of_levels(self.log_mass, s)

    def draw(self, s: Tensor) -> Tensor:
        return _draw_of_levels(self.log_mass, s)


# ---------------------------------------------------- values of few levels, log masses (*, n, K)
def _suffixes(log_mass: Tensor) -> list[Tensor]:
    """Return the log masses of x_i + ... + x_n for i = 1 .. n, and of the empty sum."""
    found = [log_mass.new_zeros(*log_mass.shape[:-2], 1)]
    for a in reversed(log_mass.unbind(-2)):
        found.append(_convolved(a, found[-1]))
    return found[::-1]


def _convolved(a: Tensor, b: Tensor) -> Tensor:
    """Return log sum_k e^(a_k + b_(s - k)) for every s, -700 below the largest term at least.

    It is the sum of products of exponentials in double precision, each divided by the largest,
    which is three times faster than the exponential of each pair.
    """
    if b.shape[-1] == 1:
        return a + b
    tops = [part.detach().amax(-1, keepdim=True) for part in (a, b)]
    left, right = ((part - top).double().exp() for part, top in zip((a, b), tops, strict=True))
    k, total = a.shape[-1], torch.zeros((), dtype=torch.double, device=a.device)
    for i in range(k):
        total = total + F.pad(right * left[..., i : i + 1], (i, k - 1 - i))
    return total.clamp(min=math.exp(-700)).log().to(a.dtype) + tops[0] + tops[1]


def _log_prob_of_levels(log_mass: Tensor, s: Tensor) -> Tensor:
    """Return log p(S = s) = log sum_k p(x_1 = k) p(x_2 + ... + x_n = s - k)."""
    first, others = log_mass[..., 0, :], _suffixes(log_mass[..., 1:, :])[0]
    rest = s.unsqueeze(-1) - torch.arange(first.shape[-1], device=s.device)
    return (first + _taken_at(others, rest.expand(first.shape))).logsumexp(-1)


def _taken_at(log_mass: Tensor, s: Tensor) -> Tensor:
    """Return log p(S = s) of several s in each square, (*, n), -inf where s is no sum of levels."""
    index = s.round().long()
    inside = (index >= 0) & (index < log_mass.shape[-1]) & ((s - index).abs() < 1e-3)
    taken = log_mass.gather(-1, index.clamp(0, log_mass.shape[-1] - 1))
    return torch.where(inside, taken, -math.inf)


def _mean_of_levels(log_mass: Tensor, s: Tensor) -> Tensor:
    with torch.enable_grad():
        t = torch.zeros_like(log_mass[..., :1]).requires_grad_()
        k = torch.arange(log_mass.shape[-1], device=log_mass.device)
        log_p = _log_prob_of_levels(log_mass.detach() + t * k, s)
        (mean,) = torch.autograd.grad(log_p.sum(), t)
    return mean.squeeze(-1)


def _draw_of_levels(log_mass: Tensor, s: Tensor) -> Tensor:
    left = s.expand(np.broadcast_shapes(s.shape, log_mass.shape[:-2]))
    levels, drawn = torch.arange(log_mass.shape[-1], device=s.device), list[Tensor]()
    for a, others in zip(log_mass.unbind(-2), _suffixes(log_mass)[1:], strict=True):
        rest = left.unsqueeze(-1) - levels
        log_p = a + _taken_at(others.expand(*left.shape, -1), rest)
        gumbel = -torch.empty_like(log_p).exponential_().log()
        drawn.append((log_p + gumbel).argmax(-1).to(log_mass.dtype))
        left = left - drawn[-1]
    return torch.stack(drawn, -1)


def _multinomial(rate: Tensor, s: Tensor) -> Tensor:
    left, drawn = s.expand(rate.shape[:-1]), []
    remaining = rate.flip(-1).cumsum(-1).flip(-1)
    for r, total in zip(rate.unbind(-1), remaining.unbind(-1), strict=True):
        drawn.append(torch.binomial(left, (r / total).clamp(0, 1)))
        left = left - drawn[-1]
    return torch.stack(drawn, -1)
