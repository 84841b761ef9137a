"""Kullback-Leibler divergences KL(q || p) in closed form: torch's, Pyro's and four more.

KL( N(mu, sigma^2) || N(0, 1) ) = (mu^2 + sigma^2 - 1) / 2 - log sigma          one short formula
    (Kingma & Welling 2014, appendix B)

KL( N(mu, S) || N(m, diag s^2) )
    = 1/2 sum_d [ (S_dd + (mu_d - m_d)^2) / s_d^2 - 1 + log s_d^2 ] - 1/2 log det S

log det S = 2 sum_d log L_dd                               S = L L^T
log det S = log det(I + W^T V^-1 W) + sum_d log v_d        S = W W^T + V,  V = diag v
    (the matrix determinant lemma)

KL( N(M, A A^T (x) B B^T) || N(M0, A0 A0^T (x) B0 B0^T) )                  of n x m matrices
    = 1/2 [ |R|^2 |C|^2 + |A0^-1 (M - M0) B0^-T|^2 - n m ] - m log det R - n log det C
    with R = A0^-1 A, C = B0^-1 B

KL( W(n, V) || W(m, U) ) over k x k matrices, with D = V U^-1
    = 1/2 [ n tr D - n k - m log det D + (n - m) psi_k(n / 2) ] + log G_k(m / 2) - log G_k(n / 2)

They are found by `kl_divergence` here and not registered with torch, whose table belongs to the
whole process.
"""

from typing import Any

import torch
from pyro.distributions import Delta, MaskedDistribution
from torch import Tensor
from torch.distributions import (
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
    Wishart,
)
from torch.distributions import kl_divergence as registered

from pyrovae.distributions.matrix_normal import Factor, MatrixMaps, MatrixNormal
from pyrovae.distributions.normal import UnitNormal
from pyrovae.distributions.sums import summed

__all__ = ["kl_divergence"]


def kl_divergence(q: Any, p: Any) -> Tensor:
    """Return KL(q || p) = E_q[log q(z) - log p(z)] in closed form, with the batch shape (*).

    Args:
        q: a distribution.
        p: a distribution over the same space, whose batch shape broadcasts with that of q.

    Raises:
        NotImplementedError: if no closed form is known here, to Pyro or to torch.
        ValueError: if the spaces have different shapes.

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> q = Independent(Normal(torch.ones(5, 3), 1.0), 1)
        >>> kl_divergence(q, Independent(UnitNormal(torch.zeros(3), torch.ones(3)), 1))
        tensor([1.5000, 1.5000, 1.5000, 1.5000, 1.5000])
    """
    if (draw := _held_draw(q)) is not None:
        return q.log_prob(draw) - p.log_prob(draw)
    if isinstance(q, Independent) and isinstance(p, Independent):
        return _independent(q, p)
    if isinstance(q, MaskedDistribution) and isinstance(p, MaskedDistribution):
        return _masked(q, p)
    if isinstance(q, Normal) and isinstance(p, UnitNormal):
        return _normal_to_unit(q, p)
    if isinstance(q, Wishart) and isinstance(p, Wishart):
        return _between_wisharts(q, p)
    if isinstance(q, MatrixNormal) and isinstance(p, MatrixNormal):
        return _between_matrices(q, p)
    if isinstance(q, MatrixMaps) and isinstance(p, MatrixMaps):
        return _between_matrices(q.maps, p.maps).sum(-1)
    if _is_diagonal_normal(p):
        if isinstance(q, MatrixNormal):
            return _to_diagonal(q, q.variance, _log_det(q), p)
        if isinstance(q, MatrixMaps):
            return _to_diagonal(q, q.variance, _log_det(q.maps).sum(-1), p)
        if isinstance(q, MultivariateNormal):
            return _full_to_diagonal(q, p)
        if isinstance(q, LowRankMultivariateNormal):
            return _low_rank_to_diagonal(q, p)
    try:
        return registered(q, p)
    except NotImplementedError:
        names = f"{_name(q)} || {_name(p)}"
        raise NotImplementedError(f"kl_divergence: no closed form of KL({names})") from None


def _held_draw(q: Any) -> Tensor | None:
    """Return the value of a `Delta`, None of another distribution.

    It may hold the density of a transform's draw, as in Pyro's autoguides, which Pyro's own formula
    leaves out.
    """
    while isinstance(q, Independent):
        q = q.base_dist
    return q.v if isinstance(q, Delta) else None


def _name(p: Any) -> str:
    name = type(p).__name__
    return f"{name}({_name(p.base_dist)})" if isinstance(p, Independent) else name


def _independent(q: Independent, p: Independent) -> Tensor:
    """Return the sum over the event dimensions that q and p share, as Pyro does."""
    n, m = q.reinterpreted_batch_ndims, p.reinterpreted_batch_ndims
    shared = min(n, m)
    if shared and q.event_shape[-shared:] != p.event_shape[-shared:]:
        _check_events(q, p)
    kl = kl_divergence(
        Independent(q.base_dist, n - shared) if n > shared else q.base_dist,
        Independent(p.base_dist, m - shared) if m > shared else p.base_dist,
    )
    return summed(kl, tuple(range(-shared, 0)))


def _masked(q: MaskedDistribution, p: MaskedDistribution) -> Tensor:
    """Return KL of the wrapped distributions, 0 where either is masked."""
    kl = kl_divergence(q.base_dist, p.base_dist)
    mask = torch.as_tensor(q._mask & p._mask, device=kl.device)  # Pyro has no public name for it
    return torch.where(mask, kl, kl.new_zeros(()))


def _normal_to_unit(q: Normal, p: UnitNormal) -> Tensor:
    mu, sigma, _ = torch.broadcast_tensors(q.loc, q.scale, p.loc)
    of_sigma = torch.addcmul(-0.5 - sigma.log(), sigma, sigma, value=0.5)
    return torch.addcmul(of_sigma, mu, mu, value=0.5)


def _is_diagonal_normal(p: Any) -> bool:
    """Return whether p is N(m, diag s^2), over vectors or other arrays."""
    return isinstance(p, Independent) and isinstance(p.base_dist, Normal)


def _full_to_diagonal(q: MultivariateNormal, p: Independent) -> Tensor:
    tril = q.scale_tril
    log_det = 2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return _to_diagonal(q, tril.square().sum(-1), log_det, p)


def _low_rank_to_diagonal(q: LowRankMultivariateNormal, p: Independent) -> Tensor:
    w, v = q.cov_factor, q.cov_diag
    inner = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device) + w.mT @ (w / v[..., None])
    log_det_inner = 2 * torch.linalg.cholesky(inner).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return _to_diagonal(q, w.square().sum(-1) + v, log_det_inner + v.log().sum(-1), p)


def _to_diagonal(q: Any, variance: Tensor, log_det: Tensor, p: Independent) -> Tensor:
    """Return KL(N(mu, S) || p) from the diagonal of S, with mu's shape, and log det S, (*)."""
    _check_events(q, p)
    m, s2 = p.base_dist.loc, p.base_dist.scale.square()
    each = (variance + (q.mean - m).square()) / s2 - 1 + s2.log()
    return 0.5 * (each.flatten(-len(p.event_shape)).sum(-1) - log_det)


def _check_events(q: Any, p: Any) -> None:
    if q.event_shape != p.event_shape:
        raise ValueError(
            f"kl_divergence: q is over arrays of shape {tuple(q.event_shape)} and p over "
            f"{tuple(p.event_shape)}, expected the same"
        )


def _between_matrices(q: MatrixNormal, p: MatrixNormal) -> Tensor:
    _check_events(q, p)
    rows, columns = _square_of(q.rows, p.rows), _square_of(q.columns, p.columns)
    off = p.columns.solved(p.rows.solved(q.loc - p.loc).mT).square().sum((-2, -1))
    size = q.event_shape.numel()
    return 0.5 * (rows * columns + off - size - _log_det(q) + _log_det(p))


def _between_wisharts(q: Wishart, p: Wishart) -> Tensor:
    """Return KL(q || p), where torch's own has no gradient of the parameters of q."""
    _check_events(q, p)
    n, m, k = q.df, p.df, q.event_shape[-1]
    ratio = torch.linalg.solve_triangular(p.scale_tril, q.scale_tril, upper=False)
    trace = ratio.square().sum((-2, -1))
    log_det = 2 * ratio.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    psi = torch.digamma(n.unsqueeze(-1) / 2 - torch.arange(k, device=n.device) / 2).sum(-1)
    gammas = torch.mvlgamma(m / 2, k) - torch.mvlgamma(n / 2, k)
    return 0.5 * (n * trace - n * k - m * log_det + (n - m) * psi) + gammas


def _log_det(p: MatrixNormal) -> Tensor:
    """Return log det(Omega (x) Psi), with shape (*)."""
    n, m = p.event_shape
    return 2 * (m * p.rows.log_det() + n * p.columns.log_det())


def _square_of(a: Factor, a0: Factor) -> Tensor:
    """Return |A0^-1 A|^2 = tr(Omega0^-1 Omega), with shape (*)."""
    if not (a.dense or a0.dense):
        return (a.scale / a0.scale).square().sum(-1)
    whole = a.scale if a.dense else torch.diag_embed(a.scale)
    return a0.solved(whole).square().sum((-2, -1))
