"""Bernoulli densities, by the logit l.

log p(x | l) = sum_j x_j l_j - softplus(l_j)               x_j in {0, 1}    IndependentBernoulli
log p(x | l) = x l - log Z(l),  Z(l) = (e^l - 1) / l       x in [0, 1]      ContinuousBernoulli
"""

import math

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor

from pyrovae.distributions.sums import summed

__all__ = ["ContinuousBernoulli", "IndependentBernoulli"]

_ONE = Size()  # sample_shape of one draw


class IndependentBernoulli(dist.Independent):
    """`Bernoulli(logits=l).to_event(n)`, in fewer passes over the data.

    log p(x) = sum_j x_j l_j - softplus(l_j) is torch's cross entropy, summed before its sign is
    changed and not after. An `Independent` of torch, so that what knows that class knows this one.

    Args:
        base_distribution: `Bernoulli(logits=l)`, l with shape (*, *event).
        reinterpreted_batch_ndims: number n of event dimensions.

    Example:
        >>> p = IndependentBernoulli(dist.Bernoulli(logits=torch.zeros(5, 784)), 1)
        >>> p.log_prob(torch.ones(784))[0].round()  # 784 log(1 / 2)
        tensor(-543.)
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(x), with shape (*), for values with shape (*, *event)."""
        if self._validate_args:
            self._validate_sample(value)
        logits, event = self.base_dist.logits, tuple(range(-self.reinterpreted_batch_ndims, 0))
        if value.shape != logits.shape:
            value, logits = torch.broadcast_tensors(value, logits)
        cross_entropy = F.binary_cross_entropy_with_logits(
            logits, value.to(logits.dtype), reduction="none"
        )
        return -summed(cross_entropy, event)


class ContinuousBernoulli(TorchDistribution):
    """p(x) = e^(x l) / Z(l) on [0, 1], Z(l) = (e^l - 1) / l (Loaiza-Ganem & Cunningham 2019).

    Accurate at every logit. Torch's class works from probabilities: in float32 it clips logits at
    16, and near probability 1/2 it loses digits of log Z.

    Args:
        logits: l, with shape (*).

    Example:
        >>> ContinuousBernoulli(torch.tensor([0.0, 30.0])).mean
        tensor([0.5000, 0.9667])
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: object = None) -> "ContinuousBernoulli":
        """Return the same distribution with a larger batch shape."""
        return type(self)(self.logits.expand(batch_shape), validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of values in [0, 1], with shape (*)."""
        if self._validate_args:
            self._validate_sample(value)
        return value * self.logits - _LogZ.apply(self.logits)

    def rsample(self, sample_shape: Size = _ONE) -> Tensor:
        """Return icdf(u), u uniform, with shape (*sample_shape, *) and a gradient in l."""
        shape = self._extended_shape(sample_shape)
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        return self.icdf(u)

    def icdf(self, value: Tensor) -> Tensor:
        """Return x = log(1 + u (e^l - 1)) / l, below which a mass of u lies.

        Computed at -|l|, where nothing overflows.
        """
        up, far = self.logits > 0, self.logits.abs().clamp_min(1e-3)
        x = -torch.log1p(torch.where(up, 1 - value, value) * torch.expm1(-far)) / far
        near = value + self.logits * value * (1 - value) / 2  # error below l^2 / 60
        return torch.where(self.logits.abs() < 1e-3, near, torch.where(up, 1 - x, x)).clamp(0, 1)

    @property
    def mean(self) -> Tensor:
        """E[x] = d log Z / dl = 1 / (1 - e^-l) - 1 / l."""
        return _mean(self.logits)


class _LogZ(torch.autograd.Function):
    """log Z(l) = log((e^l - 1) / l) = l / 2 + log(sinh(a / 2) / (a / 2)), a = |l|.

    Its derivative is the mean.
    """

    @staticmethod
    def forward(ctx, logits: Tensor) -> Tensor:  # noqa: ANN001 (torch's context)
        ctx.save_for_backward(logits)
        near, far = _near_and_far(logits)
        square = near.square()
        series = square * (1 / 24 - square * (1 / 2880 - square * (1 / 181440 - square / 9676800)))
        # 2 - 1 / sigmoid(a) = 1 - e^-a; torch's sigmoid is faster than its exp.
        exact = far / 2 + torch.log((2 - 1 / far.sigmoid()) / far)
        return logits / 2 + exact + series - _SERIES_LOG_Z

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:  # noqa: ANN001 (torch's context)
        (logits,) = ctx.saved_tensors
        return g * _mean(logits)


def _mean(logits: Tensor) -> Tensor:
    """Return 1 / (1 - e^-l) - 1 / l = 1 / 2 + sign(l) (coth(a / 2) / 2 - 1 / a), a = |l|."""
    near, far = _near_and_far(logits)
    square = near.square()
    series = near * (
        1 / 12
        - square * (1 / 720 - square * (1 / 30240 - square * (1 / 1209600 - square / 47900160)))
    )
    exact = 0.5 / (2 * far.sigmoid() - 1) - far.reciprocal()
    return 0.5 + series + (exact - _SERIES_MEAN) * logits.sign()


def _near_and_far(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return l clamped to [-1/2, 1/2], and max(|l|, 1/2).

    Then f(l) = series(near) + exact(far) - series(1/2), without a `where` and its two branches.
    """
    return logits.clamp(-0.5, 0.5), logits.abs().clamp_min(0.5)


_SERIES_LOG_Z = math.log(math.sinh(0.25) / 0.25)
_SERIES_MEAN = 0.5 / math.tanh(0.25) - 2
