"""Negative binomial counts up to 16 in single precision, one inverse dispersion per gene.

log NB(x) = T(x) + x (a - d) - theta d          T(x) = log C(x, theta) - x t     if t > 0
log NB(x) = T(x) + x (a - t - d) - theta d      T(x) = log C(x, theta)           otherwise

with a, t and d of `negative_binomial_log_prob.py`; T(x) is looked up. The large terms of log C and
x t cancel in the table, in double precision, so that the rest keeps its digits in single precision.

log ZINB(0) = max(log NB(0), g) - max(0, g) + log m(1 - pi) - log m(w)      m(p) = max(p, 1 - p)

with g = logit of pi and w of `negative_binomial_log_prob.py`, because log(e^y + e^v) is
max(y, v) - log m(sigmoid(y - v)).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pyrovae.distributions.pochhammer import TABULATED, tables_by_gene

__all__ = ["fill", "fill_gate", "tables"]

_LEAST = -3e38  # instead of log 0


def tables(t: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is looked up for one theta per gene.

    Args:
        t: log theta, with shape (G,).

    Returns:
        T and theta d log C / d theta of the counts 0 to 16, in single precision, with shape
        (2, 17, G); log C and d log C / d theta of the count 16, in double precision: (2, G).
    """
    t = t.double()
    found = torch.zeros(2, TABULATED + 1, len(t), device=t.device)
    log_c, slope = tables_by_gene(t)
    of_16 = torch.stack([log_c[-1], slope[-1]])
    x = torch.arange(1, TABULATED + 1, dtype=t.dtype, device=t.device).unsqueeze(-1)
    found[0, 1:] = log_c.sub_(x * t.clamp(min=0))
    found[1, 1:] = slope.mul_(t.exp())
    return found, of_16


def fill(a: Tensor, t: Tensor, x: Tensor, tables: Tensor, out: list[Tensor]) -> None:
    """Fill `out` with log NB and its gradients in a and t; those of counts above 16 are wrong.

    Args:
        a: log mu in single precision, with shape (*, G).
        t: log theta below 9 or so, with shape (G,).
        x: counts, with shape (*, G).
        tables: of the counts 0 to 16, with shape (2, 17, G), as `tables` gives them.
        out: the two gradients come second and third, if there is more than one; with shape (*, G).
    """
    theta, u = t.exp(), out[0]
    gene = torch.arange(len(t), dtype=torch.int32, device=t.device)
    known = x.clamp(max=TABULATED).int().clamp_(min=0)  # of NaN an int is any number
    index = known.mul_(len(t)).add_(gene).view(-1)
    for results, table in zip((out[0], out[2] if len(out) > 1 else None), tables, strict=True):
        if results is not None:
            torch.index_select(table.view(-1), 0, index, out=results.view(-1))
    ratio = a - t
    d = F.softplus(ratio)
    by_count = (a - t.clamp(max=0)).sub_(d).clamp_(min=_LEAST)  # 0 times it is 0
    u.addcmul_(x, by_count).addcmul_(theta, d, value=-1)
    if x.numel() and x.min() < 0:
        u.masked_fill_(x < 0, torch.nan)  # no count
    if len(out) == 1:
        return
    torch.addcmul(x, x + theta, ratio.sigmoid_(), value=-1, out=out[1])
    out[2].addcmul_(theta, d, value=-1).sub_(out[1])


def fill_gate(g: Tensor, x: Tensor, out: list[Tensor]) -> None:
    """Turn log NB and its gradients into those of log ZINB, and fill in the gradient in g.

    Args:
        g: logit of pi, with shape (*, G).
        x: counts, with shape (*, G).
        out: log NB and its gradients in a and t, or log NB alone; as `fill` returns them.
    """
    u, largest = out[0], g.clamp(max=0)
    v, positive = u - g, torch.ne(x, 0, out=torch.empty_like(u))  # `where` takes many times as long
    for _ in range(2):
        largest.sub_(positive, alpha=torch.finfo(u.dtype).max)  # to -inf where x > 0
    torch.maximum(u.sub_(g.clamp(min=0)), largest, out=u)
    w = torch.maximum(v.sigmoid_(), positive, out=v)
    open_gate = torch.neg(g, out=largest).sigmoid_()
    u.add_(_at_least_half(open_gate).div_(_at_least_half(w)).log_())
    if len(out) > 1:
        torch.sub(open_gate, w, out=out[3])
        out[1].mul_(w)
        out[2].mul_(w)


def _at_least_half(share: Tensor) -> Tensor:
    """Return the larger of p and 1 - p, which is 1 / (1 + e^-|y|) where p is the sigmoid of y."""
    other = 1 - share
    return torch.maximum(share, other, out=other)
