"""Densities that Pyro lacks or computes slowly or badly, each from the natural parameter that a network puts out.

IndependentBernoulli   log p(x | l) = sum_j x_j l_j - softplus(l_j)                         x_j in {0, 1}
ContinuousBernoulli    log p(x | l) = x l - log Z(l),  Z(l) = (e^l - 1) / l                 x in [0, 1]
LogPoisson             log p(x | r) = x r - e^r - log x!                                    x in {0, 1, 2, ...}
Levels                 p(x | l) = softmax(l)_x                                              x in {0, ..., L - 1}
DiscretizedLogistic    p(x | m, s) = sigmoid(b) - sigmoid(a), the mass of the bin of x      x in {0, ..., L - 1}
"""

import math

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.distributions import register_kl
from torch.distributions.utils import broadcast_all

__all__ = ["ContinuousBernoulli", "DiscretizedLogistic", "IndependentBernoulli", "Levels", "LogPoisson", "UnitNormal"]

_ONE = Size()  # sample_shape of one draw


# ------------------------------------------------------------------------------------------------ independent Bernoulli
class IndependentBernoulli(dist.Independent):
    """Bernoulli variables, independent over the last n axes: `Bernoulli(logits=l).to_event(n)` with a faster density.

    log p(x) = sum_j x_j l_j - softplus(l_j), without the elementwise log1p, which may cost ten times an exp on a CPU.

    Args:
        base_distribution: `Bernoulli(logits=l)`, l with shape (*, *event).
        reinterpreted_batch_ndims: number n of event axes.

    Example:
        >>> p = IndependentBernoulli(dist.Bernoulli(logits=torch.zeros(5, 784)), 1)
        >>> p.log_prob(torch.ones(784))[0]  # 784 log(1 / 2)
        tensor(-543.4274)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability, with shape (*), of values with shape (*, *event)."""
        logits, n = self.base_dist.logits, self.reinterpreted_batch_ndims
        if n == 0 or value.requires_grad or logits.dtype not in (torch.float32, torch.float64):
            return super().log_prob(value)
        if self._validate_args:
            self._validate_sample(value)
        return _SumBernoulli.apply(value.to(logits.dtype), logits, n)


class _SumBernoulli(torch.autograd.Function):
    """(x, l) -> sum over the last n axes of x l - softplus(l), whose gradient in l is x - sigmoid(l)."""

    @staticmethod
    def forward(ctx, x: Tensor, logits: Tensor, n: int) -> Tensor:  # noqa: ANN001 (torch's context)
        ctx.save_for_backward(x, logits)
        ctx.n = n
        x, logits = x.flatten(-n), logits.flatten(-n)
        return torch.linalg.vecdot(x, logits) - _sum_softplus(logits)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[None, Tensor, None]:  # noqa: ANN001 (torch's context)
        x, logits = ctx.saved_tensors
        g = g[(..., *[None] * ctx.n)]
        s = logits.sigmoid()
        if torch.is_grad_enabled() or x.shape != logits.shape:  # asked for a graph of the gradient, or broadcast
            return None, ((x - s) * g).sum_to_size(logits.shape), None
        return None, torch.sub(x, s, out=s).mul_(g), None


def _sum_softplus(logits: Tensor) -> Tensor:
    """Sum over the last axis of softplus(l) = relu(l) - log sigmoid(|l|), with one logarithm for up to 64 terms.

    sigmoid(|l|) lies in [1/2, 1], so a product of 64 of them is at least 2^-64, far from the 2^-126 where float32 ends.
    One buffer serves both terms: fresh memory costs as much as the arithmetic.
    """
    buffer = logits.relu()
    total = buffer.sum(-1)
    factors = torch.abs(logits, out=buffer).sigmoid_()
    whole = factors.shape[-1] // 64 * 64
    blocks = factors[..., :whole].unflatten(-1, (-1, 64)).prod(-1)  # (*, D // 64)
    rest = factors[..., whole:].prod(-1)  # (*)
    return total.sub_(blocks.log_().sum(-1)).sub_(rest.log_())


# ------------------------------------------------------------------------------------------------- continuous Bernoulli
class ContinuousBernoulli(TorchDistribution):
    """p(x) = e^(x l) / Z(l) on [0, 1], Z(l) = (e^l - 1) / l, at every logit (Loaiza-Ganem & Cunningham 2019).

    Torch's class works from probabilities: in float32 it cuts logits off at 16, and near 1/2 it loses digits of log Z.

    Args:
        logits: l, with shape (*).

    Example:
        >>> ContinuousBernoulli(torch.tensor([0.0, 30.0])).mean
        tensor([0.5000, 0.9667])
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 (as in torch)
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: object = None) -> "ContinuousBernoulli":
        """The same distribution with a larger batch shape."""
        return type(self)(self.logits.expand(batch_shape), validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of values in [0, 1]."""
        if self._validate_args:
            self._validate_sample(value)
        return value * self.logits - _LogZ.apply(self.logits)

    def rsample(self, sample_shape: Size = _ONE) -> Tensor:
        """Draws icdf(u), u uniform, with a gradient in the logits."""
        u = torch.rand(self._extended_shape(sample_shape), dtype=self.logits.dtype, device=self.logits.device)
        return self.icdf(u)

    def icdf(self, value: Tensor) -> Tensor:
        """The x = log(1 + u (e^l - 1)) / l below which a mass of u lies; computed at -|l|, where nothing overflows."""
        up, far = self.logits > 0, self.logits.abs().clamp_min(1e-3)
        x = -torch.log1p(torch.where(up, 1 - value, value) * torch.expm1(-far)) / far
        near = value + self.logits * value * (1 - value) / 2  # error below l^2 / 60
        return torch.where(self.logits.abs() < 1e-3, near, torch.where(up, 1 - x, x)).clamp(0, 1)

    @property
    def mean(self) -> Tensor:
        """E x = d log Z / dl = 1 / (1 - e^-l) - 1 / l."""
        return _mean(self.logits)


class _LogZ(torch.autograd.Function):
    """l -> log((e^l - 1) / l) = l / 2 + log(sinh(a / 2) / (a / 2)), a = |l|; its derivative is the mean."""

    @staticmethod
    def forward(ctx, logits: Tensor) -> Tensor:  # noqa: ANN001 (torch's context)
        ctx.save_for_backward(logits)
        near, far = _near_and_far(logits)
        square = near.square()
        series = square * (1 / 24 - square * (1 / 2880 - square * (1 / 181440 - square / 9676800)))
        exact = far / 2 + torch.log((2 - 1 / far.sigmoid()) / far)  # 1 - e^-a, from the cheapest function torch has
        return logits / 2 + exact + series - _SERIES_LOG_Z

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:  # noqa: ANN001 (torch's context)
        (logits,) = ctx.saved_tensors
        return g * _mean(logits)


def _mean(logits: Tensor) -> Tensor:
    """1 / (1 - e^-l) - 1 / l = 1 / 2 + sign(l) (coth(a / 2) / 2 - 1 / a), a = |l|; the series is odd."""
    near, far = _near_and_far(logits)
    square = near.square()
    series = near * (1 / 12 - square * (1 / 720 - square * (1 / 30240 - square * (1 / 1209600 - square / 47900160))))
    exact = 0.5 / (2 * far.sigmoid() - 1) - far.reciprocal()
    return 0.5 + series + (exact - _SERIES_MEAN) * logits.sign()


def _near_and_far(logits: Tensor) -> tuple[Tensor, Tensor]:
    """L within [-1/2, 1/2], and max(|l|, 1/2): f = series(near) + exact(far) - series(1/2), without a slow `where`."""
    return logits.clamp(-0.5, 0.5), logits.abs().clamp_min(0.5)


_SERIES_LOG_Z = math.log(math.sinh(0.25) / 0.25)
_SERIES_MEAN = 0.5 / math.tanh(0.25) - 2


# ---------------------------------------------------------------------------------------------------- counts and levels
class LogPoisson(TorchDistribution):
    """Poisson given by the logarithm r of its rate: log p(x) = x r - e^r - log x!, finite where e^r underflows.

    Args:
        log_rate: r, with shape (*).

    Example:
        >>> LogPoisson(torch.tensor([-200.0])).log_prob(torch.ones(1))
        tensor([-200.])
    """

    arg_constraints = {"log_rate": constraints.real}  # noqa: RUF012 (as in torch)
    support = constraints.nonnegative_integer

    def __init__(self, log_rate: Tensor, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.shape, validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: object = None) -> "LogPoisson":
        """The same distribution with a larger batch shape."""
        return type(self)(self.log_rate.expand(batch_shape), validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of counts."""
        if self._validate_args:
            self._validate_sample(value)
        value = value.to(self.log_rate.dtype)
        return value * self.log_rate - self.mean - torch.lgamma(value + 1)

    @torch.no_grad()
    def sample(self, sample_shape: Size = _ONE) -> Tensor:
        """Draws with shape (*sample_shape, *)."""
        return torch.poisson(self.mean.expand(self._extended_shape(sample_shape)))

    @property
    def mean(self) -> Tensor:
        """E x = e^r."""
        return self.log_rate.exp()


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
        """E x = sum_k k p_k."""
        return self.probs @ self._levels

    @property
    def variance(self) -> Tensor:
        """Var x = sum_k (k - E x)^2 p_k."""
        return (self.probs * (self._levels - self.mean[..., None]) ** 2).sum(-1)

    @property
    def _levels(self) -> Tensor:
        return torch.arange(self.probs.shape[-1], dtype=self.probs.dtype, device=self.probs.device)


class DiscretizedLogistic(TorchDistribution):
    """A logistic density cut into bins, one for each level 0, ..., L - 1 (Kingma et al. 2016; Salimans et al. 2017).

    Level k is v_k = 2 k / (L - 1) - 1 in [-1, 1], the unit of m and s. Its bin reaches h = 1 / (L - 1) to both sides;
    the first and the last bin take in the tails. With a = (v - h - m) / s and b = (v + h - m) / s,

        sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^-(b - a)),    b - a = 2 h / s:

    a product, whose logarithm loses nothing however small the mass is.

    Args:
        loc: m, with shape (*).
        log_scale: log s, with shape (*). Below -15 it counts as -15, where float32 resolves no edge of a bin any more.
        levels: L.

    Example:
        >>> p = DiscretizedLogistic(torch.zeros(1), torch.zeros(1))
        >>> p.mean, p.log_prob(torch.arange(256.0)).exp().sum()
        (tensor([127.5000]), tensor(1.0000))
    """

    arg_constraints = {"loc": constraints.real, "log_scale": constraints.real}  # noqa: RUF012 (as in torch)

    def __init__(self, loc: Tensor, log_scale: Tensor, levels: int = 256, validate_args: bool | None = None) -> None:
        self.loc, self.log_scale = broadcast_all(loc, log_scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """Whole numbers 0 to L - 1."""
        return constraints.integer_interval(0, self.levels - 1)

    def expand(self, batch_shape: Size, _instance: object = None) -> "DiscretizedLogistic":
        """The same distribution with a larger batch shape."""
        loc, log_scale = self.loc.expand(batch_shape), self.log_scale.expand(batch_shape)
        return type(self)(loc, log_scale, self.levels, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of levels."""
        if self._validate_args:
            self._validate_sample(value)
        value, top = value.to(self.loc.dtype), self.levels - 1
        precision, twice = self._precision(), 2 * value - top
        a, b = ((edge / top - self.loc) * precision for edge in (twice - 1, twice + 1))  # bins meet to the last digit
        below, above = F.logsigmoid(b), F.logsigmoid(-a)
        within = below + above + torch.log(-torch.expm1(-2 / top * precision))
        return torch.where(value <= 0, below, torch.where(value >= top, above, within))

    @torch.no_grad()
    def sample(self, sample_shape: Size = _ONE) -> Tensor:
        """The levels in whose bins m + s logit(u) fall, u uniform, with shape (*sample_shape, *)."""
        u = torch.rand(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        v = self.loc + torch.logit(u, eps=torch.finfo(u.dtype).tiny) / self._precision()
        return ((v + 1) * ((self.levels - 1) / 2)).round().clamp(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """E x = sum_(k > 0) P(x >= k), in levels; about a million terms at a time."""
        loc, precision, total = self.loc[..., None], self._precision()[..., None], torch.zeros_like(self.loc)
        k = torch.arange(1, self.levels, dtype=loc.dtype, device=loc.device)
        for chunk in k.split(max(1, 2**20 // max(1, loc.numel()))):
            edges = (2 * chunk - 1) / (self.levels - 1) - 1  # lower edges of the bins
            total = total + torch.sigmoid((loc - edges) * precision).sum(-1)
        return total

    def _precision(self) -> Tensor:
        """1 / s. Above log s = 60 only the tails have mass; the bound keeps 2 h / s a normal float32."""
        return torch.exp(-self.log_scale.clamp(-15, 60))


# ------------------------------------------------------------------------------------------------- the standard normal
class UnitNormal(dist.Normal):
    """N(0, 1), known to be so: `Normal(zeros, ones)` to which KL(N(mu, sigma^2) || N(0, 1)) is one short formula.

    Args:
        loc: zeros, with shape (*).
        scale: ones, with shape (*).
    """


class _KLToUnit(torch.autograd.Function):
    """(mu, sigma) -> (mu^2 + sigma^2 - 1) / 2 - log sigma (AEVB, appendix B), whose gradient is (mu, sigma - 1 / sigma)."""

    @staticmethod
    def forward(ctx, mu: Tensor, sigma: Tensor) -> Tensor:  # noqa: ANN001 (torch's context)
        ctx.save_for_backward(mu, sigma)
        return torch.addcmul(sigma.square().sub_(1), mu, mu).mul_(0.5).sub_(sigma.log())

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN001 (torch's context)
        mu, sigma = ctx.saved_tensors
        return g * mu, g * (sigma - sigma.reciprocal())


@register_kl(dist.Normal, UnitNormal)
def _kl_normal_unit(q: dist.Normal, p: UnitNormal) -> Tensor:
    return _KLToUnit.apply(*torch.broadcast_tensors(q.loc, q.scale, p.loc)[:2])
