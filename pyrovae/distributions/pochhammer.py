"""The Pochhammer term of a negative binomial, its logarithm and its derivative in theta.

C(x, theta) = Gamma(x + theta) / (Gamma(theta) x!) = theta (theta + 1) ... (theta + x - 1) / x!

log C = lgamma(x + theta) - lgamma(theta) - lgamma(x + 1) = sum_{i < x} log((theta + i) / (i + 1))
d log C / d theta = psi(x + theta) - psi(theta)           = sum_{i < x} 1 / (theta + i)

All terms of a sum have one sign, so no digits are lost. Counts of single cells are small and most
models have one theta per gene, so the sums are tabulated once per gene, which is much faster than
lgamma and digamma for every count, and continued above 16 by Stirling's series.
"""

import math

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "LINEAR",
    "TABULATED",
    "indices_where",
    "log_pochhammer",
    "log_pochhammer_above",
    "log_pochhammer_by_gene",
    "tables_by_gene",
]

LINEAR = 40.0  # log(mu / theta) above which log(1 + mu / theta) is the same number
TABULATED = 16  # largest count that is looked up
_ALMOST_POISSON = 20.0  # log theta above which lgamma loses digits in float64 too
_OF_16 = math.lgamma(TABULATED + 1) - 0.5 * math.log(2 * math.pi)


def log_pochhammer(x: Tensor, t: Tensor, compare: bool = True) -> tuple[Tensor, Tensor]:
    """Return log C and d log C / d theta, in float64.

    Args:
        x: counts, with shape (*).
        t: log theta, with a shape that broadcasts with it.
        compare: compute the case of a large theta only if there is one; to find that out waits for
            a device.
    """
    theta = t.exp()
    log_c = torch.lgamma(x + theta).sub_(torch.lgamma(theta))
    slope = torch.digamma(x + theta).sub_(torch.digamma(theta))
    if not compare or (t.numel() and t.max() > _ALMOST_POISSON):
        large = t > _ALMOST_POISSON
        log_c = torch.where(large, x * t + x * (x - 1) / (2 * theta), log_c)
        slope = torch.where(large, x / theta, slope)
    return log_c.sub_(torch.lgamma(x + 1)), slope


def log_pochhammer_by_gene(
    x: Tensor, t: Tensor, gene: Tensor, tables: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return log C and d log C / d theta where each gene has one theta, in float64.

    Args:
        x: counts, at least 1, with shape (N,).
        t: log theta of their genes, with shape (N,).
        gene: index of each count's gene, with shape (N,).
        tables: of counts up to 16, each with shape (16, G), as `tables_by_gene` gives them.
    """
    place = x.clamp(max=TABULATED).long().sub_(1).mul_(tables[0].shape[1]).add_(gene)
    log_c, slope = (table.view(-1).index_select(0, place) for table in tables)
    large = indices_where(x > TABULATED)
    if len(large):
        of_large = (v.index_select(0, large) for v in (x, t, log_c, slope))
        for looked_up, value in zip((log_c, slope), log_pochhammer_above(*of_large), strict=True):
            looked_up.index_copy_(0, large, value)
    return log_c, slope


def log_pochhammer_above(
    x: Tensor, t: Tensor, log_c: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """Return log C and d log C / d theta of counts above 16, in float64, by Stirling's series.

    log C(x, theta) - log C(16, theta) = log Gamma(y + h) - log Gamma(y) + log 16! - log x!, with
    y = theta + 16 and h = x - 16. The large terms of the first two are taken together, so that no
    digits are lost at any theta; the series has 12 digits from 16 on.

    Args:
        x: counts, with shape (N,).
        t: log theta, with shape (N,).
        log_c: log C(16, theta), with shape (N,).
        slope: its derivative in theta, with shape (N,).
    """
    y, h = t.exp().add_(TABULATED), x - TABULATED
    first, last, ratio = y.reciprocal(), (y + h).reciprocal_(), torch.log1p(h / y)
    rise = (y - 0.5).mul_(ratio).add_(_of_gamma(last)).sub_(_of_gamma(first))
    rise.addcmul_(h, y.log_().add_(ratio).sub_(1))
    above = x + 1
    rise.sub_((x + 0.5).mul_(above.log()).sub_(above).add_(_of_gamma(above.reciprocal_())))
    slope = slope + ratio.sub_(_of_digamma(last)).add_(_of_digamma(first))
    return rise.add_(log_c).add_(_OF_16), slope


def _of_gamma(inverse: Tensor) -> Tensor:
    """Return log Gamma(y) - (y - 1 / 2) log y + y - log(2 pi) / 2, of 1 / y."""
    square = inverse * inverse
    return (square / 1260).sub_(1 / 360).mul_(square).add_(1 / 12).mul_(inverse)


def _of_digamma(inverse: Tensor) -> Tensor:
    """Return log y - psi(y), of 1 / y."""
    square = inverse * inverse
    series = (square / 252).sub_(1 / 120).mul_(square).add_(1 / 12).mul_(square)
    return series.add_(inverse, alpha=0.5)


def tables_by_gene(t: Tensor) -> tuple[Tensor, Tensor]:
    """Return log C and d log C / d theta of the counts 1 to 16, each with shape (16, G).

    Args:
        t: log theta, with shape (G,), in float64.
    """
    i = torch.arange(TABULATED, dtype=t.dtype, device=t.device).unsqueeze(-1)
    terms = t.exp() + i
    slope = terms.reciprocal().cumsum_(0)
    return terms.div_(i + 1).log_().cumsum_(0), slope


def indices_where(condition: Tensor) -> Tensor:
    """Return the indices at which a vector is true; on the CPU by NumPy, which is faster."""
    if condition.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(condition.numpy()))
    return condition.nonzero().squeeze(-1)
