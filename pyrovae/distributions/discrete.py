"""Probabilities of counts and of ordered levels.

log p(x | r) = x r - e^r - log x!           x in {0, 1, 2, ...}      LogPoisson
p(x | l) = softmax(l)_x                     x in {0, ..., L - 1}     OrdinalCategorical
p(x | m, s) = sigmoid(b) - sigmoid(a)       x in {0, ..., L - 1}     DiscretizedLogistic
"""

import math
from collections.abc import Iterator

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.distributions.utils import broadcast_all

from pyrovae.distributions.negative_binomial_log_prob import is_traced

__all__ = ["DiscretizedLogistic", "LogPoisson", "OrdinalCategorical"]

_ONE = Size()  # sample_shape of one draw
_LARGE = 256.0  # counts from which the terms of a Poisson cancel in single precision


class LogPoisson(TorchDistribution):
    """Poisson by its log rate r: log p(x) = x r - e^r - log x!, finite where e^r underflows.

    Args:
        log_rate: r, with shape (*).

    Example:
        >>> LogPoisson(torch.tensor([-200.0])).log_prob(torch.ones(1))
        tensor([-200.])
    """

    arg_constraints = {"log_rate": constraints.real}  # noqa: RUF012
    support = constraints.nonnegative_integer

    def __init__(self, log_rate: Tensor, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.shape, validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: object = None) -> "LogPoisson":
        """Return the same distribution with a larger batch shape."""
        return type(self)(self.log_rate.expand(batch_shape), validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of counts, with shape (*)."""
        if self._validate_args:
            self._validate_sample(value)
        x = value.to(self.log_rate.dtype)
        if x.device.type == "cpu" and x.numel() and not is_traced(x) and x.max() < _LARGE:
            return x * self.log_rate - self.mean - torch.lgamma(x + 1)  # a third of the time
        at_least_1 = x.clamp(min=1)
        log_x = at_least_1.log()
        u = self.log_rate - log_x  # so that x r and e^r do not cancel
        return x * u - at_least_1 * u.expm1() - _of_counts(x, at_least_1, log_x)

    @torch.no_grad()
    def sample(self, sample_shape: Size = _ONE) -> Tensor:
        """Return draws with shape (*sample_shape, *)."""
        return torch.poisson(self.mean.expand(self._extended_shape(sample_shape)))

    @property
    def mean(self) -> Tensor:
        """E[x] = e^r."""
        return self.log_rate.exp()

    @property
    def variance(self) -> Tensor:
        """Var[x] = e^r."""
        return self.log_rate.exp()


class OrdinalCategorical(dist.Categorical):
    """Categorical over the ordered levels 0, ..., L - 1, with their mean and variance.

    torch's `Categorical` returns NaN for both, for its categories have no order.

    Args:
        logits: with shape (*, L), for a batch shape of (*).

    Example:
        >>> OrdinalCategorical(logits=torch.zeros(256)).mean
        tensor(127.5000)
    """

    @property
    def mean(self) -> Tensor:
        """E[x] = sum_k k p_k, with shape (*)."""
        return self.probs @ self._levels

    @property
    def variance(self) -> Tensor:
        """Var[x] = sum_k (k - E[x])^2 p_k, with shape (*)."""
        return (self.probs * (self._levels - self.mean[..., None]) ** 2).sum(-1)

    @property
    def _levels(self) -> Tensor:
        return torch.arange(self.probs.shape[-1], dtype=self.probs.dtype, device=self.probs.device)


class DiscretizedLogistic(TorchDistribution):
    """A logistic density integrated over L bins (Kingma et al. 2016; Salimans et al. 2017).

    Level k is v_k = 2 k / (L - 1) - 1 in [-1, 1], the unit of m and s. Its bin extends by
    h = 1 / (L - 1) to both sides; the first and the last bin include the tails. With
    a = (v - h - m) / s and b = (v + h - m) / s,

        sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^-(b - a)),    b - a = 2 h / s,

    a product, whose logarithm loses no digits however small the mass is.

    Args:
        loc: m, with shape (*).
        log_scale: log s, with shape (*). Clamped to -15 from below, where float32 no longer
            resolves the edges of the bins.
        levels: L.

    Example:
        >>> p = DiscretizedLogistic(torch.zeros(1), torch.zeros(1))
        >>> p.mean, p.log_prob(torch.arange(256.0)).exp().sum()
        (tensor([127.5000]), tensor(1.0000))
    """

    arg_constraints = {"loc": constraints.real, "log_scale": constraints.real}  # noqa: RUF012

    def __init__(
        self, loc: Tensor, log_scale: Tensor, levels: int = 256, validate_args: bool | None = None
    ) -> None:
        self.loc, self.log_scale = broadcast_all(loc, log_scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The integers 0 to L - 1."""
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: Size, _instance: object = None) -> "DiscretizedLogistic":
        """Return the same distribution with a larger batch shape."""
        loc, log_scale = self.loc.expand(batch_shape), self.log_scale.expand(batch_shape)
        return type(self)(loc, log_scale, self.levels, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of levels, with shape (*)."""
        if self._validate_args:
            self._validate_sample(value)
        value, top = value.to(self.loc.dtype), self.levels - 1
        precision, twice = self._precision(), 2 * value - top
        # Computed alike for both edges, neighbouring bins meet to the last digit.
        a, b = ((edge / top - self.loc) * precision for edge in (twice - 1, twice + 1))
        below, above = F.logsigmoid(b), F.logsigmoid(-a)
        within = below + above + torch.log(-torch.expm1(-2 / top * precision))
        return torch.where(value <= 0, below, torch.where(value >= top, above, within))

    def log_masses(self) -> Tensor:
        """Return the log probability of every level, with shape (L, *): each edge once."""
        top, precision = self.levels - 1, self._precision()
        k = torch.arange(top, dtype=self.loc.dtype, device=self.loc.device)
        edges = (2 * k + 1 - top).reshape(-1, *[1] * self.loc.dim()) / top
        off = (edges - self.loc) * precision
        below, above = F.logsigmoid(off), F.logsigmoid(-off)
        within = below[1:] + above[:-1] + torch.log(-torch.expm1(-2 / top * precision))
        return torch.cat([below[:1], within, above[-1:]])

    @torch.no_grad()
    def sample(self, sample_shape: Size = _ONE) -> Tensor:
        """Return the levels in whose bins m + s logit(u) falls, u uniform.

        Their shape is (*sample_shape, *).
        """
        shape = self._extended_shape(sample_shape)
        u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        v = self.loc + torch.logit(u, eps=torch.finfo(u.dtype).tiny) / self._precision()
        return ((v + 1) * ((self.levels - 1) / 2)).round().clamp(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """E[x] = sum_(k > 0) P(x >= k), in levels."""
        loc, precision = self.loc[..., None], self._precision()[..., None]
        total = torch.zeros_like(self.loc)
        for _, edges in self._lower_edges():
            total = total + torch.sigmoid((loc - edges) * precision).sum(-1)
        return total

    @property
    def variance(self) -> Tensor:
        """Var[x] = E[(x - c)^2] - (E[x] - c)^2, where c is the level nearest to m.

        They are sums over the tails, P(x >= k) for k > c and P(x < k) for k <= c, which lose no
        digits however small the variance is.
        """
        loc, precision = self.loc[..., None], self._precision()[..., None]
        top = self.levels - 1
        center = ((loc.detach() + 1) * (top / 2)).round().clamp(0, top)
        first, second = torch.zeros_like(self.loc), torch.zeros_like(self.loc)
        for k, edges in self._lower_edges():
            twice = 2 * (k - center) - 1  # (k - c)^2 - (k - 1 - c)^2
            side = twice.sign()
            tail = torch.sigmoid((loc - edges) * precision * side)
            first = first + (side * tail).sum(-1)
            second = second + (twice.abs() * tail).sum(-1)
        return second - first.square()

    def _lower_edges(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield levels k > 0 and the lower edges of their bins: about a million terms at a time."""
        k = torch.arange(1, self.levels, dtype=self.loc.dtype, device=self.loc.device)
        for chunk in k.split(max(1, 2**20 // max(1, self.loc.numel()))):
            yield chunk, (2 * chunk - 1) / (self.levels - 1) - 1

    def _precision(self) -> Tensor:
        """Return 1 / s. Above log s = 60 only the tails have mass: there 2 h / s stays normal."""
        return torch.exp(-self.log_scale.clamp(-15, 60))


def _of_counts(x: Tensor, at_least_1: Tensor, log_x: Tensor) -> Tensor:
    """Return log x! - x log max(x, 1) + max(x, 1), by Stirling's series where x is above 16."""
    inverse = at_least_1.reciprocal()
    series = 0.5 * (math.log(2 * math.pi) + log_x)
    series += inverse * (1 / 12 - inverse.square() * (1 / 360 - inverse.square() / 1260))
    return torch.where(x > 16, series, torch.lgamma(x + 1) - x * log_x + at_least_1)
