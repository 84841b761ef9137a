"""Negative binomial counts, plain and zero-inflated, by mean mu and inverse dispersion theta; Var x = mu + mu^2 / theta.

log NB(x) = lgamma(x + theta) - lgamma(theta) - log x! - theta log(1 + mu / theta) - x log(1 + theta / mu)
log NB(0) = -theta log(1 + mu / theta)
log ZINB(0) = log( pi + (1 - pi) NB(0) ),    log ZINB(x) = log(1 - pi) + log NB(x),    pi = sigmoid(gate logits)

Most counts of single cells are zeros, which need no lgamma: that term is taken for the others alone, in double precision, in which
it keeps its digits at theta = 1e7 (`rising.py`). Value and gradients come out of one pass over the grid.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.autograd import Function

from pyrovae.distributions.pochhammer import factor, factor_by_gene, places

__all__ = ["NegativeBinomial", "ZeroInflatedNegativeBinomial"]

_ONE = Size()  # sample_shape of one draw
_LEAST_MEAN = 1e-20  # added to mu: log p and its gradient stay finite in float32 at mu = 0
_LARGE = 9.0  # log theta above which the terms that cancel are taken by their series


class NegativeBinomial(TorchDistribution):
    """Counts with mean mu and variance mu + mu^2 / theta (Lopez et al. 2018, supplementary note; Gamma-Poisson).

    Args:
        mu: mean, at least 0, with shape (*).
        theta: inverse dispersion, positive, with a shape that broadcasts with it.

    Example:
        >>> NegativeBinomial(torch.tensor(2.0), torch.tensor(3.0)).log_prob(torch.arange(2.0))
        tensor([-1.5325, -1.3502])
    """

    arg_constraints = {"mu": constraints.nonnegative, "theta": constraints.positive}  # noqa: RUF012 (as in torch)
    support = constraints.nonnegative_integer
    log_mu: Tensor
    log_theta: Tensor
    gate_logits: Tensor | None = None

    def __init__(self, mu: Tensor, theta: Tensor, validate_args: bool | None = None) -> None:
        self._hold(_log(mu), _log(theta), None, mu.dtype, validate_args)

    @classmethod
    def from_logs(
        cls, log_mu: Tensor, log_theta: Tensor, validate_args: bool | None = None
    ) -> "NegativeBinomial":
        """The same distribution from the logarithms, in whose precision it computes all but the non-zero counts."""
        return cls.__new__(cls)._hold(log_mu, log_theta, None, log_mu.dtype, validate_args)

    def _hold(
        self, a: Tensor, t: Tensor, g: Tensor | None, dtype: torch.dtype, validate: bool | None
    ) -> Any:
        shape = torch.broadcast_shapes(a.shape, t.shape, Size() if g is None else g.shape)
        self.log_mu, self.log_theta, self.dtype = a, t, dtype
        if g is not None:
            self.gate_logits = g
        super().__init__(shape, validate_args=validate)
        return self

    def expand(self, batch_shape: Size, _instance: object = None) -> Any:
        """The same distribution with a larger batch shape."""
        new = type(self).__new__(type(self))
        a, t, g = self.log_mu, self.log_theta, self.gate_logits
        return new._hold(
            a.expand(batch_shape),
            t,
            None if g is None else g.expand(batch_shape),
            self.dtype,
            self._validate_args,
        )

    @property
    def mu(self) -> Tensor:
        """The negative binomial's mean, with shape (*)."""
        return self.log_mu.exp().to(self.dtype).expand(self.batch_shape)

    @property
    def theta(self) -> Tensor:
        """The inverse dispersion, with shape (*)."""
        return self.log_theta.exp().to(self.dtype).expand(self.batch_shape)

    @property
    def mean(self) -> Tensor:
        """E x."""
        return self.mu

    @property
    def variance(self) -> Tensor:
        """Var x."""
        return self.mu + self.mu**2 / self.theta

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of counts, with shape (*)."""
        if self._validate_args:
            self._validate_sample(value)
        g = self.gate_logits if self.gate_logits is None else self.gate_logits.to(self.log_mu.dtype)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        log_p = _LogProb.apply(
            self.log_mu.expand(shape), self.log_theta, g if g is None else g.expand(shape), value
        )
        return log_p.to(self.dtype)

    @torch.no_grad()
    def sample(self, sample_shape: Size = _ONE) -> Tensor:
        """Draws with shape (*sample_shape, *): Poisson counts at a Gamma distributed rate."""
        shape = self._extended_shape(sample_shape)
        theta = self.theta.double().expand(shape)
        rate = torch._standard_gamma(theta) * (self.mu.double() / theta)
        return torch.poisson(rate).to(self.dtype)


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """A zero with probability pi, else a negative binomial count (Lopez et al. 2018, eq. 4).

    Args:
        mu: mean of the negative binomial, at least 0, with shape (*).
        theta: inverse dispersion, positive.
        gate_logits: log pi / (1 - pi); the logit, because the probability loses the tail.

    Example:
        >>> p = ZeroInflatedNegativeBinomial(torch.tensor(2.0), torch.tensor(3.0), torch.tensor(0.0))
        >>> p.mean, p.log_prob(torch.zeros(()))
        (tensor(1.), tensor(-0.4976))
    """

    arg_constraints = {**NegativeBinomial.arg_constraints, "gate_logits": constraints.real}  # noqa: RUF012 (as in torch)
    gate_logits: Tensor

    def __init__(
        self, mu: Tensor, theta: Tensor, gate_logits: Tensor, validate_args: bool | None = None
    ) -> None:
        self._hold(_log(mu), _log(theta), gate_logits, mu.dtype, validate_args)

    @classmethod
    def from_logs(
        cls,
        log_mu: Tensor,
        log_theta: Tensor,
        gate_logits: Tensor,
        validate_args: bool | None = None,
    ) -> "ZeroInflatedNegativeBinomial":
        """The same distribution from the logarithms, in whose precision it computes all but the non-zero counts."""
        return cls.__new__(cls)._hold(log_mu, log_theta, gate_logits, log_mu.dtype, validate_args)

    @property
    def mean(self) -> Tensor:
        """E x = (1 - pi) mu."""
        return torch.sigmoid(-self.gate_logits) * self.mu

    @property
    def variance(self) -> Tensor:
        """Var x = (1 - pi) (mu + mu^2 / theta + pi mu^2)."""
        pi = torch.sigmoid(self.gate_logits)
        return (1 - pi) * (super().variance + pi * self.mu**2)

    @torch.no_grad()
    def sample(self, sample_shape: Size = _ONE) -> Tensor:
        """Draws with shape (*sample_shape, *)."""
        x = super().sample(sample_shape)
        kept = torch.rand_like(x) < torch.sigmoid(-self.gate_logits)
        return x * kept


def _log(positive: Tensor) -> Tensor:
    """Return log y in double precision, finite at 0."""
    return (positive.double() + _LEAST_MEAN).log()


class _LogProb(Function):
    """log p(x) for a = log mu, t = log theta and the gate's logits g (or None), with all gradients from the forward pass.

    With d = log(1 + mu / theta), s = -theta d, r = mu / (theta + mu) and, at a zero, w = P(the zero is a negative binomial's):

        zeros        d/da = -w theta r           d/dt = w theta (r - d)                                          d/dg = 1 - w - pi
        others       d/da = x - (x + theta) r    d/dt = theta (psi(x + theta) - psi(theta) - d + r - x / (theta + mu))    d/dg = -pi
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, t: Tensor, g: Tensor | None, x: Tensor) -> Tensor:
        wanted, theta, a = any(ctx.needs_input_grad), t.exp(), a.contiguous()
        log_p, gradients = _zeros(a, t, theta, g, wanted)
        _others(a, t, g, x, log_p, gradients)
        ctx.save_for_backward(*gradients)
        ctx.shape = t.shape
        return log_p

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        da, dt, *dg = (gradient * upstream for gradient in ctx.saved_tensors)
        return da, dt.sum_to_size(ctx.shape), dg[0] if dg else None, None


def _zeros(
    a: Tensor, t: Tensor, theta: Tensor, g: Tensor | None, wanted: bool
) -> tuple[Tensor, list[Tensor]]:
    """Return log p(0) over the grid and its gradients with respect to a, t (and g)."""
    ratio = a - t
    d = F.softplus(ratio)
    s = d * -theta
    log_p, w = s, None
    if g is not None:
        s = s.sub_(g)
        log_p = F.softplus(s).sub_(F.softplus(-g))
        w = s.sigmoid_() if wanted else None
    if not wanted:
        return log_p, []
    r = ratio.sigmoid_()
    dt = _difference(r, d, t).mul_(theta)
    da = r.mul_(-theta)
    if g is None or w is None:
        return log_p, [da, dt]
    dg = torch.sigmoid(-g).sub_(w)
    return log_p, [da.mul_(w), dt.mul_(w), dg]


def _difference(r: Tensor, d: Tensor, t: Tensor) -> Tensor:
    """Return r - d, which is -r^2 / 2 - r^3 / 3 - ... as d = -log(1 - r); by the series where both are small and their digits cancel."""
    difference = r - d
    if r.dtype == torch.float64 or t.max() < _LARGE:
        return difference
    return torch.where(r < 1e-3, r * r * (-0.5 - r / 3), difference)


def _others(
    a: Tensor, t: Tensor, g: Tensor | None, x: Tensor, log_p: Tensor, gradients: list[Tensor]
) -> None:
    """Put the non-zero counts' log p, and gradients where there are any, into the grid."""
    place = places(x.expand(a.shape).reshape(-1) != 0)
    x, a = (
        values.expand(log_p.shape).reshape(-1).index_select(0, place).double() for values in (x, a)
    )
    t, (log_c, slope) = _dispersion(t.double(), log_p.shape, place, x)
    theta, ratio = t.exp(), a - t
    d = F.softplus(ratio)
    f = log_c - theta * d - x * (d - ratio)
    g = None if g is None else g.reshape(-1).index_select(0, place)
    log_p.view(-1).scatter_(0, place, (f if g is None else f - F.softplus(g)).to(log_p.dtype))
    if not gradients:
        return
    r = ratio.sigmoid_()
    da, dt, *dg = (gradient.view(-1) for gradient in gradients)
    dt.scatter_(0, place, (theta * (slope - d + r) - x * (1 - r)).to(log_p.dtype))
    da.scatter_(0, place, (x - (x + theta) * r).to(log_p.dtype))
    if g is not None:
        dg[0].scatter_(0, place, -torch.sigmoid(g))


def _dispersion(
    t: Tensor, grid: Size, place: Tensor, x: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return log theta at the non-zero counts, and the counts' own factor there with its slope."""
    if t.dim() == 1 and t.shape == grid[-1:]:  # one dispersion a gene
        gene = place % grid[-1]
        return t.index_select(0, gene), factor_by_gene(x, t, gene)
    t = t.expand(grid).reshape(-1).index_select(0, place)
    return t, factor(x, t)
