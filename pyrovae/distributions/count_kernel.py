"""The log probability of counts and its gradients in one pass, compiled by numba.

The formulas are those of `small_counts.py` and `negative_binomial_log_prob.py`, for which PyTorch
takes about thirty passes over the cells by genes. exp and log1p are polynomials here, because the
compiler cannot put the library's functions into vector instructions. NaN comes through: the rules
of floating point are relaxed for fused multiply-add only.

numba is optional. Its code is compiled at first use, in some seconds, and kept on disk.
"""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numba
import torch
from numpy import empty, float32, float64, int32, int64, uint64
from torch import Tensor

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

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

_RULES: dict[str, Any] = {"fastmath": {"contract"}, "error_model": "numpy"}


def evaluate(
    a: Tensor, t: Tensor, g: Tensor | None, x: Tensor, tables: Tensor, differentiable: bool
) -> tuple[Tensor, list[Tensor]]:
    """Return log p(x) and its gradients in a, t (and g).

    Args:
        a: log mu in single precision, with shape (*, G).
        t: log theta below 9 or so, with shape (G,).
        g: logit of pi, with shape (*, G); None without a gate.
        x: counts, with a shape that broadcasts with it; nothing is copied for missing leading axes.
        tables: of the counts 0 to 16, with shape (2, 17, G), as `small_counts.tables` gives them.
        differentiable: whether gradients are needed; else the list is empty.
    """
    genes, alike = a.shape[-1], x.dim() and x.shape == a.shape[a.dim() - x.dim() :]
    x = x if alike else x.expand(a.shape)  # row i of a has row i % len(x) of x
    count = (4 if g is not None else 3) if differentiable else 1
    found = a.new_empty(count, *a.shape)
    flat = [None if v is None else v.reshape(-1, genes).numpy() for v in (a, g, x)]
    theta = t.double().exp()
    gamma = torch.stack([theta, theta.lgamma(), theta.digamma()])
    by_gene = [v.contiguous().numpy() for v in (t, theta.float(), *tables, gamma)]
    outputs = [v.view(-1, genes).numpy() for v in found] + [None] * (4 - count)
    rows = a.numel() // genes
    threads = max(1, min(torch.get_num_threads(), rows * genes // _LEAST_VALUES))
    run, given = _compiled(), (*flat, *by_gene, *outputs)
    if threads == 1:
        run(0, rows, *given)
    else:
        ends = [rows * i // threads for i in range(threads + 1)]
        for part in [_pool(threads, os.getpid()).submit(run, *ab, *given) for ab in pairwise(ends)]:
            part.result()
    return found[0], list(found[1:])


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return some threads of this process: a forked one does not have those of its parent."""
    return ThreadPoolExecutor(threads, "pyrovae-counts")


@cache
def _compiled() -> Callable[..., None]:
    """Return the compiled loop, kept on disk where a folder can be written."""
    try:
        return numba.njit(nogil=True, cache=True, **_RULES)(_rows)
    except RuntimeError:  # no such folder
        return numba.njit(nogil=True, **_RULES)(_rows)


@numba.njit(inline="always", **_RULES)
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


@numba.njit(inline="always", **_RULES)
def _twice_artanh(s):
    """Return log((1 + s) / (1 - s)) for |s| <= 1 / 3."""
    q = s * s
    p = ((((_A13 * q + _A11) * q + _A9) * q + _A7) * q + _A5) * q + _A3
    return _TWO * (s + s * q * p)


@numba.njit(inline="always", **_RULES)
def _positive(y):
    """Return max(y, 0), NaN for NaN."""
    return _ZERO if y <= _ZERO else y


@numba.njit(**_RULES)
def _stirling(y):
    """Return log Gamma(y) and digamma(y) for y >= 16, to 12 digits."""
    log, inverse = math.log(y), 1 / y
    square = inverse * inverse
    series = inverse * (1 / 12 - square * (1 / 360 - square / 1260))
    slope = log - 0.5 * inverse - square * (1 / 12 - square * (1 / 120 - square / 252))
    return (y - 0.5) * log - y + _HALF_LOG_2PI + series, slope


@numba.njit(**_RULES)
def _large(count, ratio, theta, log_gamma, digamma):
    """Return log NB(x) and its derivatives in a and t, for x > 16, in double precision."""
    value, slope = _stirling(count + theta)
    log_c = value - log_gamma - _stirling(count + 1.0)[0]
    e = math.exp(-abs(ratio))
    d = max(ratio, 0.0) + math.log1p(e)
    r = 1 / (1 + e) if ratio >= 0 else e / (1 + e)
    in_mu = count - (count + theta) * r
    in_theta = theta * (slope - digamma - d) - in_mu
    return log_c - theta * d - count * (d - ratio), in_mu, in_theta


@numba.njit(**_RULES)
def _look_up(x, table, slope, log_p, dt, places):
    """Put T and its slope of the counts of a row where the results will be; return the largest.

    It is a loop of its own, because looking up is no vector instruction, and goes over the places
    of the non-zeros, which are found without a branch that the processor would have to guess.
    """
    most, n = _ZERO, 0
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
        most = k if k > most else most
        place = uint64(int64(k if k < _TABULATED else _TABULATED)), uint64(j)
        log_p[j] = table[place]
        if dt is not None:
            dt[j] = slope[place]
    return most


@numba.njit(inline="always", **_RULES)
def _fill_small(x, a, g, t, theta, log_p, da, dt, dg):
    """Fill a row with what is right for counts up to 16, from what was looked up.

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
        if g is not None:
            u -= g[j]
            eu, eg, zero = _exp(-abs(u)), _exp(-abs(g[j])), count == _ZERO
            mixed = eu if zero else _ZERO
            logs = _twice_artanh((mixed - eg) / (_TWO + mixed + eg))
            log_p[j] = (_positive(u) if zero else u) - _positive(-g[j]) + logs
            if da is not None:
                both = _ONE / ((_ONE + eu) * (_ONE + eg))
                share, not_gated = (_ONE + eg) * both, (_ONE + eu) * both
                share = share if u >= _ZERO else eu * share
                w = share if zero else _ONE
                dg[j] = (eg * not_gated if g[j] >= _ZERO else not_gated) - w
        else:
            log_p[j] = u
        if da is not None:
            r = (_TWO + e) * divided
            r = r if ratio >= _ZERO else e * r
            in_mu = count - (count + theta[j]) * r
            da[j] = in_mu * w
            dt[j] = (theta[j] * (dt[j] - d) - in_mu) * w


@numba.njit(**_RULES)
def _fill_large(x, a, g, t, gamma, log_p, da, dt):
    """Fill in the counts of a row above 16, one by one."""
    for j in range(len(x)):
        if x[j] > _TABULATED:
            ratio = float64(a[j]) - float64(t[j])
            of_gene = gamma[0, j], gamma[1, j], gamma[2, j]
            value, in_mu, in_theta = _large(float64(x[j]), ratio, *of_gene)
            if g is not None:
                e = _exp(-abs(g[j]))
                value -= _positive(g[j]) + _twice_artanh(e / (_TWO + e))
            log_p[j] = value
            if da is not None:
                da[j], dt[j] = in_mu, in_theta


def _rows(first, end, a, g, x, t, theta, table, slope, gamma, log_p, da, dt, dg):
    """Fill rows `first` to `end` of the outputs; without gradients da, dt and dg are None."""
    places = empty(x.shape[1], int32)
    for i in range(first, end):
        x_i = x[i % len(x)]
        g_i = None if g is None else g[i]
        da_i = None if da is None else da[i]
        dt_i = None if dt is None else dt[i]
        dg_i = None if dg is None else dg[i]
        most = _look_up(x_i, table, slope, log_p[i], dt_i, places)
        _fill_small(x_i, a[i], g_i, t, theta, log_p[i], da_i, dt_i, dg_i)
        if most > _TABULATED:
            _fill_large(x_i, a[i], g_i, t, gamma, log_p[i], da_i, dt_i)
