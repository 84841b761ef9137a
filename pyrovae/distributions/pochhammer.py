"""The count's own factor in a negative binomial: C(x, theta) = theta (theta + 1) ... (theta + x - 1) / x!, its log and its slope.

log C = lgamma(x + theta) - lgamma(theta) - log x! = sum_{i < x} log((theta + i) / (i + 1))
d log C / d theta = psi(x + theta) - psi(theta) = sum_{i < x} 1 / (theta + i)

The sums have only terms of one kind and lose no digits. Counts of single cells are small and most models have one theta a gene, so
the sums are tabled once a gene, a tenth of what lgamma and digamma of each count take; large counts are left to those two.
"""

import numpy as np
import torch
from torch import Tensor

__all__ = ["factor", "factor_by_gene", "places"]

_TABLED = 16  # counts up to this one are looked up
_ALMOST_POISSON = 20.0  # log theta above which lgamma loses digits in float64 too


def factor(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Return log C and its slope for counts x and log theta t of one shape, in float64."""
    theta = t.exp()
    log_c, slope = (
        torch.lgamma(x + theta).sub_(torch.lgamma(theta)),
        torch.digamma(x + theta).sub_(torch.digamma(theta)),
    )
    if t.numel() and t.max() > _ALMOST_POISSON:
        large = t > _ALMOST_POISSON
        log_c, slope = (
            torch.where(large, x * t + x * (x - 1) / (2 * theta), log_c),
            torch.where(large, x / theta, slope),
        )
    return log_c.sub_(torch.lgamma(x + 1)), slope


def factor_by_gene(x: Tensor, t: Tensor, gene: Tensor) -> tuple[Tensor, Tensor]:
    """Return log C and its slope for counts x >= 1, each of the gene with this index; t is log theta with shape (G,), in float64."""
    i = torch.arange(_TABLED, dtype=t.dtype, device=t.device)
    terms = t.exp()[:, None] + i  # (G, 16)
    tables = (terms / (i + 1)).log_().cumsum(1), terms.reciprocal_().cumsum(1)
    place = x.clamp(max=_TABLED).long().add_(gene * _TABLED - 1)
    log_c, slope = (table.view(-1).index_select(0, place) for table in tables)
    large = places(x > _TABLED)
    if len(large):
        exact = factor(x.index_select(0, large), t.index_select(0, gene.index_select(0, large)))
        for looked_up, value in zip((log_c, slope), exact, strict=True):
            looked_up.index_copy_(0, large, value)
    return log_c, slope


def places(where: Tensor) -> Tensor:
    """Return the indices at which a vector is true; on the CPU by NumPy, which takes a third of torch's time."""
    if where.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(where.numpy()))
    return where.nonzero().squeeze(-1)
