"""The log probability of counts and its gradients by PyTorch's operations.

All places are computed as zeros, then those of the other counts are overwritten in double
precision. Where most counts are not zero, and theta is one of a gene and of moderate size, all are
computed alike by `small_counts.py`, and only counts above 16 are overwritten. On a CPU some rows
are computed at a time, so that their tables stay in its cache.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pyrovae.distributions import small_counts
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
_MANY = 0.4  # share of non-zeros from which all values alike are computed faster
_AT_A_TIME = 100_000  # values, on a CPU


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
    alike = by_gene and _are_many_and_small(a, t, x)
    a, x = a.reshape(rows), x.expand(a.shape).reshape(rows)
    g = None if g is None else g.reshape(rows)
    t = t if by_gene else t.expand(found[0].shape).reshape(rows)
    tables = small_counts.tables(t)[0] if alike else None
    pochhammer = tables_by_gene(t.double()) if by_gene and not alike else None
    length = max(1, _AT_A_TIME // max(1, genes)) if a.device.type == "cpu" else max(1, len(a))
    for first in range(0, len(a), length):
        one = slice(first, first + length)
        a_i, t_i, g_i = a[one], t if by_gene else t[one], None if g is None else g[one]
        out = [each.view(rows)[one] for each in found]
        if tables is not None:
            small_counts.fill(a_i, t_i, g_i, x[one], tables, out)
            places = x[one].reshape(-1) > TABULATED
        else:
            _fill_zeros(a_i, t_i, g_i, out)
            places = x[one].reshape(-1) != 0
        _overwrite(a_i, t_i, g_i, x[one], indices_where(places), pochhammer, out)
    return found


def _are_many_and_small(a: Tensor, t: Tensor, x: Tensor) -> bool:
    """Return whether counts up to 16 are computed in single precision, all alike."""
    if not a.dtype == t.dtype == x.dtype == torch.float32 or a.device.type != "cpu":
        return False
    some = x.reshape(-1, x.shape[-1])[::8] if x.dim() else x
    return bool(t.max() < _LARGE and some.count_nonzero() > _MANY * some.numel())


def _fill_zeros(a: Tensor, t: Tensor, g: Tensor | None, out: list[Tensor]) -> None:
    """Fill `out`, 1 or 3 or 4 tensors, with log p(0) and its gradients in a, t (and g)."""
    theta, ratio = t.exp(), a - t
    d = F.softplus(ratio, threshold=LINEAR)
    torch.mul(d, -theta, out=out[0])
    w = small_counts.fill_gate(g, None, out) if g is not None else None
    if len(out) == 1:
        return
    r = ratio.sigmoid_()
    torch.mul(_difference(r, d, t), theta, out=out[2])
    torch.mul(r, -theta, out=out[1])
    if w is not None:
        out[1].mul_(w)
        out[2].mul_(w)


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
    g: Tensor | None,
    x: Tensor,
    place: Tensor,
    tables: tuple[Tensor, Tensor] | None,
    out: list[Tensor],
) -> None:
    """Overwrite `out` at the places of some counts that are not zero.

    Args:
        a: log mu, with shape (R, G).
        t: log theta, with shape (G,) or (R, G).
        g: logit of pi, with shape (R, G); None without a gate.
        x: counts, with shape (R, G).
        place: indices of the counts in x as a vector, with shape (N,).
        tables: what `tables_by_gene` gives, if theta is one of a gene and many counts are small.
        out: log p and its gradients, each with shape (R, G).
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
    found = [log_c - theta * d - x * (d - ratio), in_mu, in_theta]
    if g is not None:
        g = g.reshape(-1).index_select(0, place)
        found = [found[0] - F.softplus(g), in_mu, in_theta, -torch.sigmoid(g)]
    for results, values in zip(out, found, strict=False):  # without gradients log p alone
        results.view(-1).scatter_(0, place, values.to(results.dtype))
