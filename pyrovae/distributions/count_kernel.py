"""The log probability of counts and its gradients in one pass, compiled by numba.

The formulas are those of `small_counts.py` and `negative_binomial_log_prob.py`, for which PyTorch
takes about thirty passes over the cells by genes. exp and log1p are polynomials here, because the
compiler cannot put the library's functions into vector instructions. NaN comes through: the rules
of floating point are relaxed for fused multiply-add only.

A row is filled in single precision. Then the places of what needs more digits are overwritten by
`exact_counts.py`: counts above 16, large theta, and every count where theta is not one of a gene.

numba is optional. Its code is compiled at first use, in some seconds, and kept on disk; the user is
told (`compile_notice.py`).
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numba
import torch
from numpy import empty, float32, float64, int32, int64, uint64
from torch import Tensor

from pyrovae.distributions import exact_counts, small_counts
from pyrovae.distributions.compile_notice import said_if_compiled
from pyrovae.distributions.exact_counts import AT_A_TIME, INLINE, PARTS, RULES, fill_exactly

__all__ = ["evaluate"]

_LEAST_VALUES = 200_000  # for a further thread

# Cody and Waite's argument reduction of exp, with the polynomial of the Cephes library.
_LOG2_E, _LN2_HIGH, _LN2_LOW = float32(1.44269504), float32(0.693359375), float32(-2.12194440e-4)
_ROUNDING = float32(3 << 22)  # added, it leaves a whole number in the low bits
_SMALLEST, _NAN = float32(-87.0), float32(math.nan)
_ZERO, _ONE, _TWO, _TABULATED = (float32(v) for v in (0, 1, 2, 16))
_E2, _E3, _E4 = float32(5.0000001201e-1), float32(1.6666665459e-1), float32(4.1665795894e-2)
_E5, _E6, _E7 = float32(8.3334519073e-3), float32(1.3981999507e-3), float32(1.9875691500e-4)
# log(1 + e) = 2 artanh(s) = 2 (s + s^3 / 3 + s^5 / 5 + ...) with s = e / (2 + e) <= 1 / 3, and
# log((1 + e) / (1 + f)) likewise with s = (e - f) / (2 + e + f)
_A3, _A5, _A7, _A9, _A11, _A13 = (float32(1 / k) for k in (3, 5, 7, 9, 11, 13))
_LARGE = float32(9.0)  # log theta from which theta (slope - d) has too few digits


def evaluate(
    a: Tensor, t: Tensor, g: Tensor | None, x: Tensor, differentiable: bool
) -> list[Tensor]:
    """Return log p(x), and its gradients in a, t (and g), each with shape (*, G).

    Args:
        a: log mu in single precision, with shape (*, G).
        t: log theta, with shape (G,) or a shape that broadcasts with that of a.
        g: logit of pi, with shape (*, G); None without a gate.
        x: counts, with a shape that broadcasts with it; nothing is copied for missing leading axes.
        differentiable: whether gradients are needed.
    """
    genes = a.shape[-1]
    by_gene = t.shape == (genes,)
    x, t = (v if _is_alike(v, a) else v.expand(a.shape) for v in (x, t))
    count = (4 if g is not None else 3) if differentiable else 1
    found = [a.new_empty(a.shape) for _ in range(count)]
    tables: list[Any] = [None] * 3
    if by_gene:
        (table, slope), of_16 = small_counts.tables(t)
        tables = [v.numpy() for v in (table, slope, of_16)]
    flat = [None if v is None else v.reshape(-1, genes).numpy() for v in (x, a, g, t, t.exp())]
    outputs = [v.view(-1, genes).numpy() for v in found] + [None] * (4 - count)
    rows, large = a.numel() // genes, not t.max() < _LARGE
    threads = max(1, min(torch.get_num_threads(), rows * genes // _LEAST_VALUES))
    run, given = _compiled(), (*flat, *tables, large, *outputs)
    with said_if_compiled(run, (g is None, by_gene, count)):
        _in_threads(threads, run, rows, given)
    return found


def _in_threads(threads: int, run: Callable[..., None], rows: int, given: Sequence[Any]) -> None:
    """Fill all rows."""
    if threads == 1:
        run(0, rows, *given)
        return
    ends = [rows * i // threads for i in range(threads + 1)]
    for part in [_pool(threads, os.getpid()).submit(run, *ab, *given) for ab in pairwise(ends)]:
        part.result()


def _is_alike(v: Tensor, a: Tensor) -> bool:
    """Return whether a is v, or v repeated: row i of a has row i % len(v) of v."""
    return v.dim() > 0 and v.shape == a.shape[a.dim() - v.dim() :]


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return some threads of this process: a forked one does not have those of its parent."""
    return ThreadPoolExecutor(threads, "pyrovae-counts")


@cache
def _compiled() -> Callable[..., None]:
    """Return the compiled loop, kept on disk where a folder can be written."""
    rows = _of_sources(sha256(Path(exact_counts.__file__).read_bytes()).hexdigest())
    try:
        return numba.njit(nogil=True, cache=True, **RULES)(rows)
    except RuntimeError:  # no such folder
        return numba.njit(nogil=True, **RULES)(rows)


def _of_sources(digest: str) -> Callable[..., None]:
    """Return the loop, as compiled from `exact_counts.py` with this digest.

    numba's cache sees changes of this file, and of what a function closes over, but of no other.
    """

    def rows(first, end, x, a, g, t, theta, table, slope, of_16, large, log_p, da, dt, dg):
        _ = digest
        _rows(first, end, x, a, g, t, theta, table, slope, of_16, large, log_p, da, dt, dg)

    return rows


@numba.njit(**INLINE)
def _exp(y):
    """Return e^y for y <= 0."""
    y = _SMALLEST if y < _SMALLEST else y
    shifted = y * _LOG2_E + _ROUNDING
    n = shifted - _ROUNDING
    f = y - n * _LN2_HIGH
    f = f - n * _LN2_LOW
    p = ((((_E7 * f + _E6) * f + _E5) * f + _E4) * f + _E3) * f + _E2
    p = p * f * f + f + _ONE
    power = (float32(shifted).view(int32) << int32(23)) + int32(0x3F800000)
    return p * int32(power).view(float32)


@numba.njit(**INLINE)
def _twice_artanh(s):
    """Return log((1 + s) / (1 - s)) for |s| <= 1 / 3."""
    q = s * s
    p = ((((_A13 * q + _A11) * q + _A9) * q + _A7) * q + _A5) * q + _A3
    return _TWO * (s + s * q * p)


@numba.njit(**INLINE)
def _positive(y):
    """Return max(y, 0), NaN for NaN."""
    return _ZERO if y <= _ZERO else y


@numba.njit(**RULES)
def _look_up(x, table, slope, log_p, dt, places):
    """Put T and its slope of the counts of a row where the results will be.

    It is a loop of its own, because looking up is no vector instruction, and goes over the places
    of the non-zeros, which are found without a branch that the processor would have to guess.

    Returns:
        The number of counts above 16, whose places come first in `places`.
    """
    n, above = 0, 0
    for j in range(len(x)):
        places[n] = j
        n += x[j] > _ZERO
    for j in range(len(x)):
        log_p[j] = _ZERO
        if dt is not None:
            dt[j] = _ZERO
    for i in range(n):
        j = places[i]
        k = x[j]
        place = uint64(int64(k if k < _TABULATED else _TABULATED)), uint64(j)
        log_p[j] = table[place]
        if dt is not None:
            dt[j] = slope[place]
        places[above] = j
        above += k > _TABULATED
    return above


@numba.njit(**RULES)
def _find_large(x, places):
    """Return the number of counts above 16, and their places in `places`."""
    n = 0
    for j in range(len(x)):
        places[n] = j
        n += x[j] > _TABULATED
    return n


@numba.njit(**RULES)
def _find_others(x, t, counts, places, n):
    """Return the number of `places` of which n are there, with those of a large theta added.

    If `counts`, all counts but zero are added too.
    """
    for j in range(len(x)):
        places[n] = j
        n += (not t[j] < _LARGE or (counts and x[j] > _ZERO)) and not x[j] > _TABULATED
    return n


@numba.njit(**INLINE)
def _fill_small(x, a, g, t, theta, log_p, da, dt, dg):
    """Fill a row with what is right for counts up to 16, from what was looked up if it was.

    Fractions share a division, 1 / ((1 + e) (2 + e)), which is the slowest of these instructions.
    """
    for j in range(len(x)):
        count, ratio, w = x[j], a[j] - t[j], _ONE
        e = _exp(-abs(ratio))
        divided = _ONE / ((_ONE + e) * (_TWO + e))
        log = _twice_artanh(e * (_ONE + e) * divided)
        d = _positive(ratio) + log
        u = log_p[j] - theta[j] * d
        u = u if count >= _ZERO else _NAN  # no count
        if not count <= _ZERO:  # a zero has no such term, even where log mu is infinite
            u += count * ((min(a[j], t[j]) if t[j] > _ZERO else -_positive(-ratio)) - log)
        log_p[j] = u
        if g is not None:
            v, above, below = u - g[j], _positive(g[j]), -_positive(-g[j])
            eu, eg, zero = _exp(-abs(v)), _exp(-abs(g[j])), count == _ZERO
            mixed = eu if zero else _ZERO
            logs = _twice_artanh((mixed - eg) / (_TWO + mixed + eg))
            largest = below if zero and below > u - above else u - above
            log_p[j] = largest + logs
            if da is not None:
                both = _ONE / ((_ONE + eu) * (_ONE + eg))
                share, not_gated = (_ONE + eg) * both, (_ONE + eu) * both
                share = share if v >= _ZERO else eu * share
                w = share if zero else _ONE
                dg[j] = (eg * not_gated if g[j] >= _ZERO else not_gated) - w
        if da is not None:
            r = (_TWO + e) * divided
            r = r if ratio >= _ZERO else e * r
            in_mu = count - (count + theta[j]) * r
            da[j] = in_mu * w
            dt[j] = (dt[j] - theta[j] * d - in_mu) * w


@numba.njit(**RULES)
def _overwrite(places, above, x, a, g, t, buffer, of_16, log_p, da, dt, dg):
    """Overwrite the results of a row at some places, `above` counts above 16 coming first."""
    for first in range(0, len(places), AT_A_TIME):
        some = places[first : first + AT_A_TIME]
        n = len(some)
        for i in range(n):
            j = some[i]
            buffer[i], buffer[AT_A_TIME + i], buffer[2 * AT_A_TIME + i] = x[j], a[j], t[j]
            buffer[3 * AT_A_TIME + i] = _ZERO if g is None else g[j]
        now = min(max(above - first, 0), n)
        if of_16 is not None:
            for i in range(now):
                j = some[i]
                buffer[4 * AT_A_TIME + i], buffer[5 * AT_A_TIME + i] = of_16[0, j], of_16[1, j]
        fill_exactly(buffer, n, now, 0 if of_16 is None else now, g is not None)
        for i in range(n):
            j = some[i]
            log_p[j] = buffer[i]
            if da is not None:
                da[j], dt[j] = buffer[AT_A_TIME + i], buffer[2 * AT_A_TIME + i]
            if dg is not None:
                dg[j] = buffer[3 * AT_A_TIME + i]


@numba.njit(**RULES)
def _rows(first, end, x, a, g, t, theta, table, slope, of_16, large, log_p, da, dt, dg):
    """Fill rows `first` to `end` of the outputs; without gradients da, dt and dg are None."""
    places, buffer = empty(x.shape[1] + 1, int32), empty(PARTS * AT_A_TIME, float64)
    for i in range(first, end):
        x_i, a_i, t_i, theta_i = x[i % len(x)], a[i], t[i % len(t)], theta[i % len(t)]
        g_i = None if g is None else g[i]
        da_i = None if da is None else da[i]
        dt_i = None if dt is None else dt[i]
        dg_i = None if dg is None else dg[i]
        if table is not None:
            above = _look_up(x_i, table, slope, log_p[i], dt_i, places)
        else:
            above = _find_large(x_i, places)
            log_p[i] = _ZERO
            if dt is not None:
                dt[i] = _ZERO
        _fill_small(x_i, a_i, g_i, t_i, theta_i, log_p[i], da_i, dt_i, dg_i)
        n = above
        if large or table is None:
            n = _find_others(x_i, t_i, table is None, places, n)
        if n:
            given = x_i, a_i, g_i, t_i, buffer, of_16, log_p[i], da_i, dt_i, dg_i
            _overwrite(places[:n], above, *given)
