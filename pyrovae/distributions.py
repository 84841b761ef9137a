r"""Densities that Pyro lacks or computes slowly or badly, each from the natural parameter that a network puts out.

IndependentBernoulli   log p(x | l) = sum_j x_j l_j - softplus(l_j)
ContinuousBernoulli    log p(x | l) = x l - log Z(l),       Z(l) = (e^l - 1) / l,           x in [0, 1]
LogPoisson             log p(x | r) = x r - e^r - log x!,                                   x in {0, 1, 2, ...}
DiscretizedLogistic    p(x | m, s)  = sigmoid((b - m) / s) - sigmoid((a - m) / s),          x in {0, ..., L - 1} in the bin [a, b]
Levels                 p(x | l)     = softmax(l)_x,                                         x in {0, ..., L - 1}
"""

from collections.abc import Callable

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import constraints
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor
from torch.distributions.utils import broadcast_all

__all__ = ["ContinuousBernoulli", "DiscretizedLogistic", "IndependentBernoulli", "Levels", "LogPoisson"]


# ------------------------------------------------------------------------------------------------------------- Bernoulli
class IndependentBernoulli(dist.Independent):
    """Bernoulli variables, independent over the last `n` axes: `Independent(Bernoulli(logits=l), n)` with a faster density.

    log p(x) = sum_j x_j l_j - softplus(l_j), summed without the elementwise log1p that costs ten times an exp on a CPU.

    Args:
        base_distribution: `Bernoulli(logits=l)`, l with shape (*, *event).
        reinterpreted_batch_ndims: number n of event axes.

    Example:
        >>> p = IndependentBernoulli(dist.Bernoulli(logits=torch.zeros(5, 784)), 1)
        >>> p.log_prob(torch.ones(784))[0]  # 784 log(1/2)
        tensor(-543.4274)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of values x with shape (*, *event), with shape (*)."""
        logits, n = self.base_dist.logits, self.reinterpreted_batch_ndims
        if n == 0 or value.requires_grad or logits.dtype not in (torch.float32, torch.float64):
            return super().log_prob(value)
        if self._validate_args:
            self._validate_sample(value)
        return _SumBernoulli.apply(value.to(logits.dtype), logits, n)


class _SumBernoulli(torch.autograd.Function):
    """(x, l) -> sum over the last n axes of x l - softplus(l); its gradient in l is x - sigmoid(l)."""

    @staticmethod
    def forward(ctx, x: Tensor, logits: Tensor, n: int) -> Tensor:  # noqa: ANN001 (torch's own context)
        ctx.save_for_backward(x, logits)
        ctx.n = n
        x, logits = x.flatten(-n), logits.flatten(-n)
        return torch.linalg.vecdot(x, logits) - _sum_softplus(logits)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[None, Tensor, None]:  # noqa: ANN001 (torch's own context)
        x, logits = ctx.saved_tensors
        g = g[(...,) + (None,) * ctx.n]
        if torch.is_grad_enabled() or x.dim() > logits.dim() or x.shape != logits.shape:
            return None, (g * (x - logits.sigmoid())).sum_to_size(logits.shape), None
        s = logits.sigmoid()
        return None, torch.sub(x, s, out=s).mul_(g), None


def _sum_softplus(logits: Tensor) -> Tensor:
    """Sum over the last axis of softplus(l) = relu(l) - log sigmoid(|l|), with one logarithm for up to 64 terms.

    sigmoid(|l|) lies in [1/2, 1], so a product of 64 of them is at least 2^-64, far above the 2^-126 where float32 ends.
    One buffer serves both terms: fresh memory costs as much as the arithmetic.
    """
    buffer = logits.relu()
    total = buffer.sum(-1)
    factors = torch.abs(logits, out=buffer).sigmoid_()
    whole = factors.shape[-1] // 64 * 64
    blocks = factors[..., :whole].unflatten(-1, (-1, 64)).prod(-1)  # (*, D // 64)
    rest = factors[..., whole:].prod(-1)  # (*)
    return total.sub_(blocks.log_().sum(-1)).sub_(rest.log_())


# ---------------------------------------------------------------------------------------------------- continuous Bernoulli
class ContinuousBernoulli(TorchDistribution):
    """p(x) = e^(x l) / Z(l) on [0, 1], Z(l) = (e^l - 1) / l (Loaiza-Ganem & Cunningham 2019), exact at every logit.

    Torch's class goes through probabilities: it cuts logits at about 16 in float32 and switches to a series near 1/2.

    Args:
        logits: l, with shape (*).

    Example:
        >>> ContinuousBernoulli(torch.tensor([0.0, 30.0])).mean
        tensor([0.5000, 0.9667])
    """

    arg_constraints = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "ContinuousBernoulli":
        """The same distribution with a larger batch shape."""
        return type(self)(self.logits.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of x in [0, 1]."""
        if self._validate_args:
            self._validate_sample(value)
        return value * self.logits - _LogMeanExp.apply(self.logits)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        """x = log(1 + u (e^l - 1)) / l, u uniform: the inverse of the distribution function."""
        u = torch.rand(self._extended_shape(sample_shape), dtype=self.logits.dtype, device=self.logits.device)
        return self.icdf(u)

    def icdf(self, value: Tensor) -> Tensor:
        """The x below which a mass of u lies. For l > 0 it is 1 - icdf(1 - u) at -l, which does not overflow."""
        l = self.logits.abs().clamp_min(1e-4)
        v = torch.where(self.logits > 0, 1 - value, value)
        x = -torch.log1p(v * torch.expm1(-l)) / l
        x = torch.where(self.logits > 0, 1 - x, x).clamp(0, 1)
        return torch.where(self.logits.abs() < 1e-4, value, x)

    @property
    def mean(self) -> Tensor:
        """E x = d log Z / dl = 1 / (1 - e^-l) - 1 / l."""
        return _tilted_mean(self.logits)

    @property
    def variance(self) -> Tensor:
        """Var x = 1 / l^2 - 1 / (4 sinh^2(l / 2))."""
        l = self.logits.abs()
        far = l.clamp_min(0.3)
        exact = far**-2 - torch.exp(-far) / torch.expm1(-far) ** 2
        return torch.where(l < 0.3, 1 / 12 - l**2 / 240 + l**4 / 6048, exact)


class _LogMeanExp(torch.autograd.Function):
    """l -> log Z(l) = log((e^l - 1) / l), elementwise; its derivative is the mean."""

    @staticmethod
    def forward(ctx, l: Tensor) -> Tensor:  # noqa: ANN001, E741
        ctx.save_for_backward(l)
        a = l.abs()
        far = a.clamp_min(0.1)
        exact = torch.log(-torch.expm1(-far) / far)
        near = -a / 2 + a**2 / 24 - a**4 / 2880
        return l.relu() + torch.where(a < 0.1, near, exact)

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:  # noqa: ANN001
        (l,) = ctx.saved_tensors
        return g * _tilted_mean(l)


def _tilted_mean(l: Tensor) -> Tensor:  # noqa: E741
    a = l.abs()
    far = a.clamp_min(0.3)
    exact = -1 / torch.expm1(-far) - 1 / far
    near = 0.5 + a / 12 - a**3 / 720 + a**5 / 30240 - a**7 / 1209600
    m = torch.where(a < 0.3, near, exact)
    return torch.where(l < 0, 1 - m, m)


class LogPoisson(TorchDistribution):
    """Poisson with rate e^r, given by its logarithm r: log p(x) = x r - e^r - log x!, finite where e^r underflows.

    Args:
        log_rate: r, with shape (*).

    Example:
        >>> LogPoisson(torch.tensor([-200.0])).log_prob(torch.ones(1))
        tensor([-200.])
    """

    arg_constraints = {"log_rate": constraints.real}
    support = constraints.nonnegative_integer

    def __init__(self, log_rate: Tensor, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "LogPoisson":
        """The same distribution with a larger batch shape."""
        return type(self)(self.log_rate.expand(batch_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of counts x."""
        if self._validate_args:
            self._validate_sample(value)
        return value * self.log_rate - self.mean - torch.lgamma(value + 1)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        """Counts with shape (*sample_shape, *)."""
        with torch.no_grad():
            return torch.poisson(self.mean.expand(self._extended_shape(sample_shape)))

    @property
    def mean(self) -> Tensor:
        """e^r."""
        return self.log_rate.exp()

    @property
    def variance(self) -> Tensor:
        """e^r."""
        return self.mean


class Levels(dist.Categorical):
    """Categorical over the ordered levels 0, ..., L - 1, which therefore has a mean and a variance.

    Args:
        logits: with shape (*, L), for a batch shape of (*).

    Example:
        >>> Levels(logits=torch.zeros(256)).mean
        tensor(127.5000)
    """

    @property
    def mean(self) -> Tensor:
        """Sum_k k p_k."""
        return self.probs @ self._levels

    @property
    def variance(self) -> Tensor:
        """Sum_k (k - mean)^2 p_k."""
        return (self.probs * (self._levels - self.mean[..., None]) ** 2).sum(-1)

    @property
    def _levels(self) -> Tensor:
        return torch.arange(self._num_events, dtype=self.probs.dtype, device=self.probs.device)


# ---------------------------------------------------------------------------------------------------- discretized logistic
class DiscretizedLogistic(TorchDistribution):
    """A logistic density cut into bins, one for each of the levels 0, ..., L - 1 (Kingma et al. 2016; Salimans et al. 2017).

    Level k is the point v_k = 2 k / (L - 1) - 1 of [-1, 1], on which scale loc and log_scale are given; its bin reaches
    h = 1 / (L - 1) to both sides, and the first and the last bin take in the tails. With a = (v - h - m) / s, b = (v + h - m) / s

        sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^-(b - a)),    b - a = 2 h / s,

    a product, whose logarithm loses nothing however small the bin's mass is.

    Args:
        loc: m, with shape (*).
        log_scale: log s, with shape (*). It counts as -15 below that: s is 3e-7 there and a bin all or nothing.
        levels: L.

    Example:
        >>> p = DiscretizedLogistic(torch.zeros(()), torch.zeros(()))
        >>> p.log_prob(torch.arange(256)).logsumexp(0).abs() < 1e-5, p.mean
        (tensor(True), tensor(127.5000))
    """

    arg_constraints = {"loc": constraints.real, "log_scale": constraints.real}
    has_rsample = False

    def __init__(self, loc: Tensor, log_scale: Tensor, levels: int = 256, validate_args: bool | None = None) -> None:
        self.loc, self.log_scale = broadcast_all(loc, log_scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """Whole levels 0 to L - 1."""
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "DiscretizedLogistic":
        """The same distribution with a larger batch shape."""
        return type(self)(self.loc.expand(batch_shape), self.log_scale.expand(batch_shape), self.levels, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of levels x, with shape (*)."""
        if self._validate_args:
            self._validate_sample(value)
        log_s = self.log_scale.clamp(-15, 60)
        h, top = 1 / (self.levels - 1), self.levels - 1
        centred = value * (2 / top) - 1 - self.loc
        below = F.logsigmoid((centred + h) * torch.exp(-log_s))  # log mass up to the bin's upper edge
        above = F.logsigmoid((h - centred) * torch.exp(-log_s))  # log mass from the bin's lower edge
        inside = below + above + torch.log(-torch.expm1(-2 * h * torch.exp(-log_s)))
        return torch.where(value <= 0, below, torch.where(value >= top, above, inside))

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:
        """The level in whose bin m + s logit(u) falls, u uniform."""
        with torch.no_grad():
            u = torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
            v = self.loc + self.log_scale.exp() * torch.logit(u, eps=torch.finfo(u.dtype).tiny)
            return ((v + 1) * (self.levels - 1) / 2).round().clamp(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """E x = sum_(k > 0) P(x >= k), in level units."""
        return self._survival_sum(lambda k: 1)

    @property
    def variance(self) -> Tensor:
        """E x^2 - (E x)^2 with E x^2 = sum_(k > 0) (2 k - 1) P(x >= k), in level units squared."""
        return self._survival_sum(lambda k: 2 * k - 1) - self.mean**2

    def _survival_sum(self, weight: Callable[[int], int]) -> Tensor:
        """Sum over k > 0 of weight(k) P(x >= k), a level at a time: memory stays that of one image."""
        inverse_scale, total = torch.exp(-self.log_scale.clamp(-15, 60)), torch.zeros_like(self.loc)
        for k in range(1, self.levels):
            edge = (2 * k - 1) / (self.levels - 1) - 1
            total = total + weight(k) * torch.sigmoid((self.loc - edge) * inverse_scale)
        return total
