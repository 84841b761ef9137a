"""The log probability of some counts and its gradients in double precision, compiled by numba.

log NB(x) = log C(x, theta) - theta d + x (a - t - d)      symbols: `negative_binomial_log_prob.py`
log C(x, theta) = log C(k, theta) + D(theta + k, x - k) - D(1 + k, x - k)           k = min(x, 16)
D(y, h) = log Gamma(y + h) - log Gamma(y)

C(k, theta) is a product of k fractions. D takes the large terms of both of Stirling's series
together, so digits are kept at any theta. No loop branches or calls a library's function, so the
compiler can put all of it into vector instructions.
"""

import math
from typing import Any

import numba
from numpy import float64, int64

__all__ = ["AT_A_TIME", "INLINE", "PARTS", "RULES", "fill_exactly"]

RULES: dict[str, Any] = {"fastmath": {"contract"}, "error_model": "numpy"}
INLINE = RULES | {"forceinline": True}

_FACTORS = 16
AT_A_TIME = 256
PARTS = 7
_X, _A, _T, _G, _C, _S, _E = (i * AT_A_TIME for i in range(PARTS))
# Cody and Waite's argument reduction of exp, with the constants of the Cephes library.
_LOG2_E, _LN2 = 1 / math.log(2), math.log(2)
_FACTORIALS = tuple(float(math.factorial(k)) for k in range(12, -1, -1))
_LN2_HIGH, _LN2_LOW = 6.93145751953125e-1, 1.42860682030941723212e-6
_ROUNDING = float(3 << 51)  # added, it leaves a whole number in the low bits
_LARGEST = 700.0  # has a finite exponential
_MOST = 600.0  # of |t|: with C, theta and 1 / theta are normal numbers then
_BITS, _ONE, _SQRT_HALF = int64(52), int64(0x3FF0000000000000), int64(0x3FE6A09E667F3BCD)


@numba.njit(**INLINE)
def _exp(y):
    """Return e^y, of y cut to +-700."""
    y = -_LARGEST if y < -_LARGEST else y
    y = _LARGEST if y > _LARGEST else y
    shifted = y * _LOG2_E + _ROUNDING
    n = shifted - _ROUNDING
    f = y - n * _LN2_HIGH
    f = f - n * _LN2_LOW
    series = 1.0 / 6227020800.0  # Taylor's, |f| <= log(2) / 2
    for k in _FACTORIALS:
        series = series * f + 1.0 / k
    return series * int64((float64(shifted).view(int64) << _BITS) + _ONE).view(float64)


@numba.njit(**INLINE)
def _log(y):
    """Return log y = 2 artanh((y - 1) / (y + 1)) + n log 2 of a positive, normal number."""
    bits = float64(y).view(int64)
    n = (bits - _SQRT_HALF) >> _BITS
    m = int64(bits - (n << _BITS)).view(float64)  # sqrt(1 / 2) <= m < sqrt(2)
    s = (m - 1.0) / (m + 1.0)
    square, series = s * s, 1.0 / 21.0
    for i in range(10):
        series = series * square + 1.0 / (19.0 - 2.0 * i)
    return 2.0 * s * series + n * _LN2


@numba.njit(**INLINE)
def _log1p_exp(y):
    """Return log(1 + e^y) and 1 / (1 + e^-y)."""
    e = _exp(-abs(y))
    divided = 1.0 / ((1.0 + e) * (2.0 + e))
    s, share = e * (1.0 + e) * divided, (2.0 + e) * divided
    square, series = s * s, 1.0 / 33.0  # log(1 + e) = 2 artanh(e / (2 + e))
    for i in range(16):
        series = series * square + 1.0 / (31.0 - 2.0 * i)
    return (y if y > 0.0 else 0.0) + 2.0 * s * series, share if y >= 0.0 else e * share


@numba.njit(**INLINE)
def _log_c(k, theta):
    """Return log C(k, theta) - k log max(theta, 1), and d log C / d theta, for k <= 16.

    With (p, q) -> (f p, f q + df / dtheta p) for each factor f, q / p is the derivative of log p.
    """
    p, q, scale = 1.0, 0.0, 1.0 / max(theta, 1.0)
    for i in range(_FACTORS):
        slope = scale * (1.0 / (i + 1.0))
        f = (theta + i) * slope if i < k else 1.0
        q = f * q + (slope * p if i < k else 0.0)
        p = f * p
    return _log(p), q / p


@numba.njit(**INLINE)
def _rise(y, h):
    """Return D(y, h) and its derivative in y, for y >= 16, to 12 digits."""
    divided = 1.0 / (y * (y + h))
    first, last = (y + h) * divided, y * divided
    ratio = h * first
    one = 1.0 + ratio
    log = _log(one) + (ratio - (one - 1.0)) * y * last  # log(1 + h / y), with what 1 + h / y lost
    rise = (y - 0.5) * log + h * (_log(y) + log - 1.0) + _series(last) - _series(first)
    return rise, log - _slope(last) + _slope(first)


@numba.njit(**INLINE)
def _series(inverse):
    """Return what Stirling's series adds to log Gamma(y), of 1 / y."""
    square = inverse * inverse
    return inverse * (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0)))


@numba.njit(**INLINE)
def _slope(inverse):
    """Return log y - digamma(y), of 1 / y."""
    square = inverse * inverse
    series = 1.0 / 12.0 - square * (1.0 / 120.0 - square * (1.0 / 252.0))
    return 0.5 * inverse + square * series


@numba.njit(**RULES)
def _fill_log_c(b, n, above, known):
    """Fill in log C and its slope of n counts, of which the first `above` are above 16.

    For the first `known` those of the count 16 are there already.
    """
    for i in range(n):
        t = b[_T + i]
        t = -_MOST if t < -_MOST else t
        t = _MOST if t > _MOST else t
        b[_T + i], b[_E + i] = t, _exp(t)
    for i in range(known, n):
        k, t, theta = b[_X + i], b[_T + i], b[_E + i]
        k = k if k < _FACTORS else float(_FACTORS)
        log_c, slope = _log_c(k, theta)
        b[_C + i], b[_S + i] = log_c + k * (t if t > 0.0 else 0.0), slope
    for i in range(above):
        h = b[_X + i] - _FACTORS
        rise, slope = _rise(b[_E + i] + _FACTORS, h)
        b[_C + i] = b[_C + i] + rise - _rise(1.0 + _FACTORS, h)[0]
        b[_S + i] = b[_S + i] + slope


@numba.njit(**RULES)
def fill_exactly(b, n, above, known, gated):
    """Replace counts x, a, t and g by log p and its gradients in a, t and g.

    Args:
        b: a vector of PARTS parts of length AT_A_TIME: x, a, t, g, and three for what is computed.
            That it is one vector tells the compiler that its parts do not overlap.
        n: how many there are.
        above: how many counts are above 16; they come first.
        known: of how many of these the fifth and the sixth part hold log C and its slope of 16.
        gated: whether there is a gate; else log NB, and g is not read.
    """
    _fill_log_c(b, n, above, known)
    for i in range(n):
        count, ratio, theta = b[_X + i], b[_A + i] - b[_T + i], b[_E + i]
        d, r = _log1p_exp(ratio)
        of_count = b[_C + i] + count * (ratio - d)
        u = (of_count if count > 0.0 else 0.0) - theta * d  # even at an infinite mu
        in_mu = count - (count + theta) * r
        in_theta = theta * (b[_S + i] - d) - in_mu
        b[_C + i] = u if count >= 0.0 else math.nan  # no count
        b[_A + i], b[_T + i] = in_mu, in_theta
    if gated:
        for i in range(above):  # no zero
            gate = b[_G + i]
            log_gate, share = _log1p_exp(gate)
            b[_C + i], b[_G + i] = b[_C + i] - log_gate, -share
        for i in range(above, n):
            u, gate, zero = b[_C + i], b[_G + i], b[_X + i] == 0.0
            above_0, below_0 = (gate, 0.0) if gate > 0.0 else (0.0, gate)
            log_gate, gated_0 = _log1p_exp(-abs(gate))  # log(1 + e^-|g|)
            mixed, share = _log1p_exp(-abs(u - gate))
            largest = u - above_0
            largest = below_0 if zero and below_0 > largest else largest
            share = 1.0 - share if u >= gate else share
            w = share if zero else 1.0
            b[_C + i] = largest + (mixed if zero else 0.0) - log_gate
            b[_A + i], b[_T + i] = b[_A + i] * w, b[_T + i] * w
            b[_G + i] = (gated_0 if gate >= 0.0 else 1.0 - gated_0) - w
    for i in range(n):
        b[_X + i] = b[_C + i]
