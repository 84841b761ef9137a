"""KL of correlated normals to independent ones, which torch and Pyro leave out.

KL( N(mu, S) || N(m, diag s^2) ) = 1/2 sum_d [ (S_dd + (mu_d - m_d)^2) / s_d^2 - 1 + log s_d^2 ] - 1/2 log det S

log det S = 2 sum_d log L_dd                                    S = L L^T
log det S = log det(I + W^T V^-1 W) + sum_d log v_d             S = W W^T + V,  V = diag v     (the matrix determinant lemma)
"""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    register_kl,
)

__all__ = ["cholesky_factor"]


def cholesky_factor(log_diagonal: Tensor, lower: Tensor) -> Tensor:
    """Return L, with shape (*, D, D), from the logarithms of its diagonal, (*, D), and what lies below it, row by row, (*, D (D - 1) / 2)."""
    d = log_diagonal.shape[-1]
    row, column = torch.tril_indices(d, d, -1, device=lower.device)
    square = lower.new_zeros(*lower.shape[:-1], d * d).index_copy(-1, row * d + column, lower)
    return square.unflatten(-1, (d, d)) + torch.diag_embed(log_diagonal.exp())


@register_kl(MultivariateNormal, Independent)
def _kl_full_diagonal(q: MultivariateNormal, p: Independent) -> Tensor:
    tril = q.scale_tril
    return _kl(q.loc, tril.square().sum(-1), 2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1), p)


@register_kl(LowRankMultivariateNormal, Independent)
def _kl_low_rank_diagonal(q: LowRankMultivariateNormal, p: Independent) -> Tensor:
    w, v = q.cov_factor, q.cov_diag
    inner = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device) + w.mT @ (w / v[..., None])
    log_det = 2 * torch.linalg.cholesky(inner).diagonal(dim1=-2, dim2=-1).log().sum(
        -1
    ) + v.log().sum(-1)
    return _kl(q.loc, w.square().sum(-1) + v, log_det, p)


def _kl(mu: Tensor, variance: Tensor, log_det: Tensor, p: Independent) -> Tensor:
    base = p.base_dist
    if not isinstance(base, Normal | dist.Normal) or len(p.event_shape) != 1:
        raise NotImplementedError(f"no closed form for the KL of a normal to {type(base).__name__}")
    m, s2 = base.loc, base.scale.square()
    each = (variance + (mu - m).square()) / s2 - 1 + s2.log()
    return 0.5 * (each.sum(-1) - log_det)
