"""The Pochhammer term of a negative binomial, its logarithm and its derivative in theta.

C(x, theta) = Gamma(x + theta) / (Gamma(theta) x!) = theta (theta + 1) ... (theta + x - 1) / x!

log C = lgamma(x + theta) - lgamma(theta) - lgamma(x + 1) = sum_{i < x} log((theta + i) / (i + 1))
d log C / d theta = psi(x + theta) - psi(theta)           = sum_{i < x} 1 / (theta + i)

All terms of a sum have one sign, so no digits are lost. Counts of single cells are small and most
models have one theta per gene, so the sums are tabulated once per gene, which is much faster than
lgamma and digamma for every count; large counts are left to those two.
"""

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "LINEAR",
    "TABULATED",
    "indices_where",
    "log_pochhammer",
    "log_pochhammer_by_gene",
    "tables_by_gene",
]

LINEAR = 40.0  # log(mu / theta) above which log(1 + mu / theta) is the same number
TABULATED = 16  # largest count that is looked up
_ALMOST_POISSON = 20.0  # log theta above which lgamma loses digits in float64 too


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
        exact = log_pochhammer(x.index_select(0, large), t.index_select(0, large))
        for looked_up, value in zip((log_c, slope), exact, strict=True):
            looked_up.index_copy_(0, large, value)
    return log_c, slope


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
