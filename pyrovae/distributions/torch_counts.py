"""The log probability of counts and its gradients by PyTorch's operations.

Where theta is one of a gene and of moderate size, all places are computed in single precision by
`small_counts.py`, then the counts above 16 are overwritten by `large_counts.py`. Otherwise all are
computed as zeros, and every other count is overwritten in double precision. On a CPU some rows are
computed at a time, so that their tables stay in its cache.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pyrovae.distributions import large_counts, small_counts
from pyrovae.distributions.pochhammer import (
    LINEAR,
    TABULATED,
    indices_where,
    log_pochhammer,
    log_pochhammer_by_gene,
    tables_by_gene,
)

__all__ = ["evaluate"]

_LARGE = 9.0  # log theta above which r - d is computed by its series
_AT_A_TIME = 150_000  # values, on a CPU; four times as many where few of them are computed


def evaluate(
    a: Tensor, t: Tensor, g: Tensor | None, x: Tensor, differentiable: bool
) -> list[Tensor]:
    """Return log p(x), and its gradients in a, t (and g), each with shape (*, G).

    Args:
        a: log mu, with shape (*, G).
        t: log theta, with a shape that broadcasts with it.
        g: logit of pi, with shape (*, G); None without a gate.
        x: counts, with a shape that broadcasts with it.
        differentiable: whether gradients are needed.
    """
    genes = a.shape[-1] if a.dim() else 1
    rows, by_gene = (-1, genes), t.dim() == 1 and t.shape == a.shape[-1:]
    count = (4 if g is not None else 3) if differentiable else 1
    found = [a.new_empty(a.shape) for _ in range(count)]
    a, x = a.reshape(rows), x.expand(a.shape).reshape(rows)
    g = None if g is None else g.reshape(rows)
    t = t if by_gene else t.expand(found[0].shape).reshape(rows)
    single = by_gene and _is_single(a, t, x)
    tables = (small_counts.tables(t)[0], large_counts.constants(t)) if single else None
    pochhammer = tables_by_gene(t.double()) if by_gene and not single else None
    for some in _parts(a, 4 * _AT_A_TIME):
        a_i, t_i, x_i = a[some], t if by_gene else t[some], x[some]
        out = [each.view(rows)[some] for each in found]
        parts = _parts(a_i, _AT_A_TIME)
        if tables is not None:
            for one in parts:
                small_counts.fill(a_i[one], t, x_i[one], tables[0], [each[one] for each in out])
            above = indices_where(x_i.reshape(-1) > TABULATED)
            large_counts.fill(a_i, x_i, above, tables[1], out)
        else:
            _fill_zeros(a_i, t_i, out)
            _overwrite(a_i, t_i, x_i, indices_where(x_i.reshape(-1) != 0), pochhammer, out)
        if g is not None:
            for one in parts:
                small_counts.fill_gate(g[some][one], x_i[one], [each[one] for each in out])
    return found


def _parts(a: Tensor, values: int) -> list[slice]:
    """Return rows in parts of about so many values; all of them on a device."""
    if a.device.type != "cpu":
        return [slice(None)]
    length = max(1, values // max(1, a.shape[1]))
    return [slice(first, first + length) for first in range(0, len(a), length)]


def _is_single(a: Tensor, t: Tensor, x: Tensor) -> bool:
    """Return whether counts up to 16 keep their digits in single precision, of one theta a gene."""
    single = a.dtype == t.dtype == x.dtype == torch.float32 and a.device.type == "cpu"
    return single and bool(t.max() < _LARGE)


def _fill_zeros(a: Tensor, t: Tensor, out: list[Tensor]) -> None:
    """Fill `out` with log NB(0), and its gradients in a and t if it has room for them."""
    theta, ratio = t.exp(), a - t
    d = F.softplus(ratio, threshold=LINEAR)
    torch.mul(d, -theta, out=out[0])
    if len(out) == 1:
        return
    r = ratio.sigmoid_()
    torch.mul(_difference(r, d, t), theta, out=out[2])
    torch.mul(r, -theta, out=out[1])


def _difference(r: Tensor, d: Tensor, t: Tensor) -> Tensor:
    """Return r - d = -r^2 / 2 - r^3 / 3 - ..., where d = -log(1 - r).

    In single precision the series is used where both are small and their digits cancel.
    """
    difference = r - d
    if r.dtype == torch.float64 or t.max() < _LARGE:
        return difference
    return torch.where(r < 1e-3, r * r * (-0.5 - r / 3), difference)


def _overwrite(
    a: Tensor,
    t: Tensor,
    x: Tensor,
    place: Tensor,
    tables: tuple[Tensor, Tensor] | None,
    out: list[Tensor],
) -> None:
    """Overwrite `out`, log NB and its gradients in a and t, at the places of some counts.

    Args:
        a: log mu, with shape (R, G).
        t: log theta, with shape (G,) or (R, G).
        x: counts, with shape (R, G).
        place: indices of counts that are not zero in x as a vector, with shape (N,).
        tables: what `tables_by_gene` gives, if theta is one of a gene.
        out: log NB and its gradients, each with shape (R, G).
    """
    if not len(place):
        return
    x, a = (v.reshape(-1).index_select(0, place).double() for v in (x, a))
    gene = place % t.shape[-1]
    t = t.reshape(-1).index_select(0, gene if t.dim() == 1 else place).double()
    log_c, slope = log_pochhammer_by_gene(x, t, gene, tables) if tables else log_pochhammer(x, t)
    theta, ratio = t.exp(), a - t
    d = F.softplus(ratio, threshold=LINEAR)
    r = torch.sigmoid(ratio)
    in_mu, in_theta = x - (x + theta) * r, theta * (slope - d + r) - x * (1 - r)
    found = log_c - theta * d - x * (d - ratio), in_mu, in_theta
    for results, values in zip(out, found, strict=False):  # without gradients log NB alone
        results.view(-1).scatter_(0, place, values.to(results.dtype))
