"""Log probability of negative binomial counts, with a gate of zeros or without, and its gradients.

log NB(x) = log C(x, theta) - theta log(1 + mu / theta) - x log(1 + theta / mu)
log NB(0) = -theta log(1 + mu / theta)                            C: see `pochhammer.py`
log ZINB(0) = log(pi + (1 - pi) NB(0)),   log ZINB(x) = log(1 - pi) + log NB(x)

Most counts of single cells are zeros, which need no C. It is computed for the other counts alone,
in double precision, in which it keeps its digits at theta = 1e7. With one theta of moderate size
per gene, counts up to 16 are computed in single precision: by `count_kernel.py` if numba is there,
otherwise by `small_counts.py` if they are many. Value and gradients come out of one pass.

With a = log mu, t = log theta, g = logit pi, d = log(1 + mu / theta), s = -theta d,
r = mu / (theta + mu), and at a zero w = P(the zero is one of the negative binomial's):

              d / da               d / dt                                               d / dg
x = 0         -w theta r           w theta (r - d)                                      1 - w - pi
x > 0         x - (x + theta) r    theta (psi(x + theta) - psi(theta) - d + r           -pi
                                          - x / (theta + mu))
"""

import warnings
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Size, Tensor
from torch.autograd import Function

from pyrovae.distributions import small_counts
from pyrovae.distributions.pochhammer import (
    TABULATED,
    indices_where,
    log_pochhammer,
    log_pochhammer_by_gene,
)

__all__ = ["negative_binomial_log_prob"]

_LARGE = 9.0  # log theta above which r - d is computed by its series
_MANY = 0.4  # share of non-zeros from which all values alike are computed faster


def negative_binomial_log_prob(a: Tensor, t: Tensor, g: Tensor | None, x: Tensor) -> Tensor:
    """Return log p(x), with the shape (*) of a.

    Args:
        a: log mu, with shape (*).
        t: log theta, with a shape that broadcasts with it.
        g: logit of pi, with shape (*); None without a gate.
        x: counts, with a shape that broadcasts with it.
    """
    return _LogProb.apply(a, t, g, x)


class _LogProb(Function):
    """log p(x), with all gradients computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, t: Tensor, g: Tensor | None, x: Tensor) -> Tensor:
        differentiable, a = any(ctx.needs_input_grad), a.contiguous()
        module = _for_small_counts(a, t, x)
        if module is None:
            log_p, gradients = _at_zero(a, t, t.exp(), g, differentiable)
        else:
            tables = small_counts.tables(t)
            log_p, gradients = module.evaluate(a, t, g, x, tables, differentiable)
        if module is None or module is small_counts:
            above = TABULATED if module else 0
            _overwrite_counts(a, t, g, x, log_p, gradients, above)
        ctx.save_for_backward(*gradients)
        ctx.shape = t.shape
        return log_p

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # by create_graph=True
            raise RuntimeError(
                "the log probability of counts has no second derivative here: its gradients are "
                "computed once, so leave create_graph out, or take differences of gradients"
            )
        da, dt, *dg = ctx.saved_tensors
        if upstream.stride() == (0,) * upstream.dim():  # one number: the sum is taken first
            dt = dt.sum_to_size(ctx.shape) * upstream.flatten()[0]
        else:
            dt = (dt * upstream).sum_to_size(ctx.shape)
        return da * upstream, dt, dg[0] * upstream if dg else None, None


def _for_small_counts(a: Tensor, t: Tensor, x: Tensor) -> ModuleType | None:
    """Return the module that computes small counts in single precision, None if none may."""
    one_type = a.dtype == t.dtype == x.dtype == torch.float32
    if not one_type or t.dim() != 1 or t.shape != a.shape[-1:] or not a.numel():
        return None
    if a.device.type != "cpu" or not t.max() < _LARGE:
        return None
    compiled = _compiled()
    if compiled is None and x.count_nonzero() > _MANY * x.numel():
        return small_counts
    return compiled


@cache
def _compiled() -> ModuleType | None:
    """Return the module compiled by numba, if numba is installed."""
    if find_spec("numba") is None:
        return None
    try:
        from pyrovae.distributions import count_kernel
    except ImportError as error:  # as of a numba for another NumPy
        warnings.warn(
            f"numba cannot be imported ({error}), so the likelihood of counts takes its slower "
            "path; install a numba for this NumPy, or uninstall it",
            stacklevel=2,
        )
        return None
    return count_kernel


def _at_zero(
    a: Tensor, t: Tensor, theta: Tensor, g: Tensor | None, differentiable: bool
) -> tuple[Tensor, list[Tensor]]:
    """Return log p(0) at every place, and its gradients in a, t (and g) if they are needed.

    Operations are in place, because the tables of cells by genes are large.
    """
    ratio = a - t
    d = F.softplus(ratio)
    s = d * -theta
    log_p, w = s, None
    if g is not None:
        s = s.sub_(g)
        log_p = F.softplus(s).sub_(F.softplus(-g))
        w = s.sigmoid_() if differentiable else None
    if not differentiable:
        return log_p, []
    r = ratio.sigmoid_()
    dt = _difference(r, d, t).mul_(theta)
    da = r.mul_(-theta)
    if g is None or w is None:
        return log_p, [da, dt]
    dg = torch.sigmoid(-g).sub_(w)
    return log_p, [da.mul_(w), dt.mul_(w), dg]


def _difference(r: Tensor, d: Tensor, t: Tensor) -> Tensor:
    """Return r - d = -r^2 / 2 - r^3 / 3 - ..., where d = -log(1 - r).

    In single precision the series is used where both are small and their digits cancel.
    """
    difference = r - d
    if r.dtype == torch.float64 or t.max() < _LARGE:
        return difference
    return torch.where(r < 1e-3, r * r * (-0.5 - r / 3), difference)


def _overwrite_counts(
    a: Tensor,
    t: Tensor,
    g: Tensor | None,
    x: Tensor,
    log_p: Tensor,
    gradients: list[Tensor],
    above: int = 0,
) -> None:
    """Write log p, and the gradients if there are any, at the places of the counts above some."""
    flat = x.expand(a.shape).reshape(-1)
    place = indices_where(flat > above if above else flat != 0)
    if above and not len(place):
        return
    x, a = (v.expand(log_p.shape).reshape(-1).index_select(0, place).double() for v in (x, a))
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
    t: Tensor, shape: Size, place: Tensor, x: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return log theta at the non-zero counts x, and there log C and its derivative."""
    if t.dim() == 1 and t.shape == shape[-1:]:  # one theta per gene
        gene = place % shape[-1]
        return t.index_select(0, gene), log_pochhammer_by_gene(x, t, gene)
    t = t.expand(shape).reshape(-1).index_select(0, place)
    return t, log_pochhammer(x, t)
