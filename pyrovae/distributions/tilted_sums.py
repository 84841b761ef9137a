"""Sums of a few independent values on many levels, by the saddlepoint approximation.

p_t(x_i = k) = p_i(k) e^(t k) / M_i(t),   K(t) = sum_i log M_i(t)        exponential tilting
log p(S) ~ K(t) - t S - log(2 pi K''(t) + 1) / 2,     K'(t) = S
E[x_i | S] ~ E_t[x_i]

The tilted values have the mean S, so that the approximation is as good in the tails as elsewhere,
but for masses with a gap (0 certain, 1 all but impossible): it gives too much to a sum within it.
The smallest and the largest sum, which one state alone gives, have their exact probability.
(Daniels 1954, "Saddlepoint approximations in statistics", eq. 2.6. The 1 beside 2 pi K'' is ours:
of a sum that is certain, K'' = 0, it makes the probability 1.)
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pyrovae.distributions.families import family, in_blocks
from pyrovae.distributions.levels import Points

__all__ = ["TiltedSums"]

_ITERATIONS = 60  # at most, of Newton's method, which takes 3 to 7
_CLOSE = 1e-3  # how near K'(t) comes to S, in standard deviations: within 5e-7 nats
_LEAST_DEVIATION = 0.1  # in levels, where a sum is all but certain: what float32 resolves
_RESOLVED = 1e-6  # relative to t: bounds as near to each other as float32 tells
_ROUNDING = 5e-7  # of the largest sum: so far off a whole number are means times f^2 in float32


class TiltedSums:
    """The sums of m values each, every one on the levels 0, ..., L - 1.

    Args:
        points: the levels of a distribution with batch shape (*).
        lay_out: from a tensor with shape (*) to the values of each sum, with shape (*', m).
    """

    def __init__(self, points: Points, lay_out: Callable[[Tensor], Tensor]) -> None:
        p, levels, self._type = points.p, points.values, points.values.dtype
        self._k = levels.to(torch.promote_types(self._type, torch.float32))
        parameters, self._log_mass = family(p)
        if not parameters:
            parameters = (points.log_mass.movedim(0, -1),)
            self._log_mass = lambda k, table: table.movedim(-1, 0)

        def laid_out(part: Tensor) -> Tensor:
            part = part.to(self._k.dtype)
            if part.dim() == len(p.batch_shape):
                return lay_out(part)
            return torch.stack([lay_out(piece) for piece in part.unbind(-1)], -1)

        self._parameters = [laid_out(part) for part in parameters]
        of_ends = [laid_out(p.log_prob(k.expand(p.batch_shape))) for k in levels[[0, -1]]]
        self._log_least, self._log_most = (log_p.sum(-1) for log_p in of_ends)
        self._m = of_ends[0].shape[-1]
        self._most = self._m * float(self._k[-1])

    @property
    def numbers_per_value(self) -> int:
        """The parameters of each value that are held."""
        dims = self._log_least.dim() + 1
        return max(part.shape[dims:].numel() for part in self._parameters)

    def log_prob(self, s: Tensor) -> Tensor:
        """Return log p(S), with shape (*'); -inf below the least and above the largest sum.

        Between whole numbers, such as a mean that was rounded gives, it is as beside them.
        """
        s = self._expanded(s)
        found = torch.where(s == 0, self._log_least, -math.inf)
        found = torch.where(s == self._most, self._log_most, found)
        inside, given = self._inside(s)
        if not given[0].numel():
            return found
        return found.masked_scatter(inside, self._in_blocks(self._log_prob_of_some, given))

    @torch.no_grad()
    def mean(self, s: Tensor) -> Tensor:
        """Return E[x | S], with shape (*', m); they add up to S."""
        top = float(self._k[-1])
        return self._of_values(s, lambda s, m, variance, _: _onto_sum(m, variance, s, top))

    @torch.no_grad()
    def draw(self, s: Tensor) -> Tensor:
        """Return x with shape (*', m), drawn under the tilting, then moved to where they add up.

        They are levels where S is a whole number.
        """

        def drawn(s: Tensor, mean: Tensor, variance: Tensor, tilted: Tensor) -> Tensor:
            gumbel = -torch.empty_like(tilted).exponential_().log()
            x = (tilted + gumbel).argmax(0).to(mean.dtype)
            return _rounded(_onto_sum(x, variance, s, float(self._k[-1])), s)

        return self._of_values(s, drawn)

    def _of_values(self, s: Tensor, values: Callable[..., Tensor]) -> Tensor:
        """Return values(S, mean, variance, log p_t) of each sum, with shape (*', m)."""
        s = self._expanded(s)
        inside, given = self._inside(s)
        ends = (s > 0).to(s.dtype) * float(self._k[-1])
        found = ends.unsqueeze(-1).repeat(*[1] * s.dim(), self._m)

        def of_some(s: Tensor, *parameters: Tensor) -> Tensor:
            log_mass = self._log_mass(self._k[:, None, None], *parameters)
            tilted, mean, variance = _tilted(log_mass, self._k, _tilting(log_mass, self._k, s))
            return values(s, mean, variance, tilted)

        if given[0].numel():
            found[inside] = self._in_blocks(of_some, given)
        return found.to(self._type)

    def _log_prob_of_some(self, s: Tensor, *parameters: Tensor) -> Tensor:
        log_mass = self._log_mass(self._k[:, None, None], *parameters)  # (L, n, m)
        possible = _possible(log_mass.detach(), self._k, s)
        t = _tilting(log_mass.detach(), self._k, possible)
        tilted = log_mass + t[:, None] * self._k[:, None, None]
        log_m = tilted.logsumexp(0)
        p, k = (tilted - log_m).exp(), self._k[:, None, None]
        mean = (p * k).sum(0)
        off = k - mean.detach()
        second = (p * off.square()).sum((0, -1))
        third = (p.detach() * off**3).sum((0, -1))
        width = 2 * math.pi * second + 1
        # t moves with the parameters: dt = -dK'(t) / K''(t), and log p depends on it by the width.
        slope = (math.pi * third / (width * second.clamp(min=1e-30))).detach()
        first = mean.sum(-1)
        log_p = log_m.sum(-1) - t * possible - width.log() / 2
        log_p = log_p + slope * (first - first.detach())
        return torch.where(s == possible, log_p, -math.inf)

    def _expanded(self, s: Tensor) -> Tensor:
        """Return S with shape (*'), and whole where it is so but for rounding."""
        s = s.to(self._k.dtype)
        s = torch.where((s - s.round()).abs() <= _ROUNDING * self._most, s.round(), s)
        return s.expand(np.broadcast_shapes(s.shape, self._log_least.shape))

    def _inside(self, s: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return which sums several states may give, with shape (*'), and what is known of these.

        They are S with shape (n,), and the parameters of its values, with shape (n, m, ...).
        """
        inside = (s > 0) & (s < self._most)
        dims = self._log_least.dim()
        parts = (part.expand(*s.shape, *part.shape[dims:]) for part in self._parameters)
        return inside, [s[inside], *(part[inside] for part in parts)]

    def _in_blocks(self, f: Callable[..., Tensor], given: list[Tensor]) -> Tensor:
        return in_blocks(f, given, len(self._k) * self._m)


def _tilted(log_mass: Tensor, k: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log p_t up to a constant, with shape (L, n, m), and mean and variance, (n, m)."""
    rows = log_mass.flatten(1)  # (L, n m): in two dimensions it takes a third less time
    tilted = torch.addcmul(rows, k[:, None], t.repeat_interleave(log_mass.shape[-1]))
    # No term is denormal, with which processors take their time.
    weight = (tilted - tilted.amax(0)).clamp_(min=-80).exp_()
    middle = k[-1] / 2  # about which the digits of the variance are lost least
    powers = torch.stack([torch.ones_like(k), k - middle, (k - middle).square()])
    total, first, second = (powers @ weight).unflatten(1, log_mass.shape[1:])
    mean = first / total
    variance = (second / total - mean.square()).clamp(min=0)
    return tilted.view_as(log_mass), middle + mean, variance


def _possible(log_mass: Tensor, k: Tensor, s: Tensor) -> Tensor:
    """Return S, or the sum next to it where levels have no mass and none is as small or large."""
    impossible, k = log_mass.isneginf(), k[:, None, None]
    if not impossible.any():
        return s
    least = torch.where(impossible, math.inf, k).amin(0).sum(-1)
    return s.clamp(least, torch.where(impossible, 0.0, k).amax(0).sum(-1))


def _tilting(log_mass: Tensor, k: Tensor, s: Tensor) -> Tensor:
    """Return t with K'(t) = S, for log masses (L, n, m) and S with shape (n,), 0 < S < m (L - 1).

    By Newton's method for logit(K' / (m (L - 1))), which is nearly linear in t on both sides,
    within bounds that close in on t.
    """
    most = log_mass.shape[-1] * float(k[-1])
    t, low = torch.zeros_like(s), torch.full_like(s, -math.inf)
    high, goal = -low, (s / (most - s)).log()
    for _ in range(_ITERATIONS):
        _, mean, variance = _tilted(log_mass, k, t)
        first, second = mean.sum(-1), variance.sum(-1)
        close = (first - s).abs() <= _CLOSE * second.sqrt().clamp(min=_LEAST_DEVIATION)
        high, low = torch.where(first > s, t, high), torch.where(first > s, low, t)
        close |= high - low <= _RESOLVED * t.abs()
        if close.all():
            break
        rate = most * second / (first * (most - first))
        step = ((goal - (first / (most - first)).log()) / rate).nan_to_num(0.0)
        reach = 1 + t.abs()
        found = t + step.clamp(-reach, reach)
        between = torch.where(high.isinf(), low + reach, (low + high) / 2)
        between = torch.where(low.isinf(), high - reach, between)
        found = torch.where((found > low) & (found < high), found, between)
        t = torch.where(close, t, found)
    return t


def _onto_sum(x: Tensor, variance: Tensor, s: Tensor, top: float) -> Tensor:
    """Return values in [0, top] that add up to S, moved in proportion to their variances first."""
    variance = variance + torch.finfo(variance.dtype).tiny
    share = variance / variance.sum(-1, keepdim=True)
    x = (x + share * (s - x.sum(-1)).unsqueeze(-1)).clamp(0, top)
    missing = (s - x.sum(-1)).unsqueeze(-1)
    room = torch.where(missing > 0, top - x, x)
    return x + missing * room / room.sum(-1, keepdim=True).clamp(min=1e-30)


def _rounded(x: Tensor, s: Tensor) -> Tensor:
    """Return x rounded so that it adds up to S: up where the fractions are largest."""
    below = x.floor()
    rank = (below - x).argsort(-1).argsort(-1)
    return below + ((s - below.sum(-1)).unsqueeze(-1) - rank).clamp(0, 1)
