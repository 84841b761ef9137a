"""Negative binomial counts up to 16 in single precision, one inverse dispersion per gene.

log NB(x) = T(x) + x (a - d) - theta d          T(x) = log C(x, theta) - x t     if t > 0
log NB(x) = T(x) + x (a - t - d) - theta d      T(x) = log C(x, theta)           otherwise

with a, t and d of `negative_binomial_log_prob.py`; T(x) is looked up. The large terms of log C and
x t cancel in the table, in double precision, so that the rest keeps its digits in single precision.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pyrovae.distributions.pochhammer import TABULATED, tables_by_gene

__all__ = ["evaluate", "tables"]

_LEAST = -3e38  # instead of log 0


def tables(t: Tensor) -> Tensor:
    """Return T and d log C / d theta of the counts 0 to 16, in single precision: (2, 17, G).

    Args:
        t: log theta, with shape (G,).
    """
    t = t.double()
    found = torch.zeros(2, TABULATED + 1, len(t), device=t.device)
    log_c, slope = tables_by_gene(t)
    x = torch.arange(1, TABULATED + 1, dtype=t.dtype, device=t.device).unsqueeze(-1)
    found[0, 1:] = log_c.sub_(x * t.clamp(min=0))
    found[1, 1:] = slope
    return found


def evaluate(
    a: Tensor, t: Tensor, g: Tensor | None, x: Tensor, tables: Tensor, differentiable: bool
) -> tuple[Tensor, list[Tensor]]:
    """Return log p(x) and its gradients in a, t (and g); those of counts above 16 are wrong.

    Args:
        a: log mu in single precision, with shape (*, G).
        t: log theta below 9 or so, with shape (G,).
        g: logit of pi, with shape (*, G); None without a gate.
        x: counts, with a shape that broadcasts with it.
        tables: of the counts 0 to 16, with shape (2, 17, G), as `tables` gives them.
        differentiable: whether gradients are needed; else the list is empty.
    """
    theta = t.exp()
    gene = torch.arange(len(t), dtype=torch.int32, device=t.device)
    index = x.expand(a.shape).clamp(max=TABULATED).int().mul_(len(t)).add_(gene).view(-1)
    u, slope = (table.index_select(0, index).view(a.shape) for table in tables.flatten(1))
    ratio = a - t
    d = F.softplus(ratio)
    by_count = torch.where(t > 0, a, ratio).sub_(d).clamp_(min=_LEAST)  # 0 times it is 0
    u.addcmul_(x, by_count).addcmul_(theta, d, value=-1)
    log_p, w, dg = _gated(u, g, x == 0, differentiable) if g is not None else (u, None, None)
    if not differentiable:
        return log_p, []
    da = torch.addcmul(x, x + theta, ratio.sigmoid_(), value=-1)
    dt = slope.sub_(d).mul_(theta).sub_(da)
    if w is None or dg is None:
        return log_p, [da, dt]
    return log_p, [da.mul_(w), dt.mul_(w), dg]


def _gated(
    u: Tensor, g: Tensor, zero: Tensor, differentiable: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return log ZINB, w and the gradient in g, from log NB."""
    u = u - g
    log_p = torch.where(zero, F.softplus(u), u).sub_(F.softplus(-g))
    if not differentiable:
        return log_p, None, None
    w = u.sigmoid_().masked_fill_(~zero, 1)
    return log_p, w, torch.sigmoid(-g).sub_(w)
