"""Stochastic variational inference of single rows: a mixture of normals over their latents.

q(u) = sum_m w_m N(u; mu_m, L_m L_m^T),   z = T(u)
maximize E_m log p(z, y) |dz/du| - log N(u; mu_m, L_m L_m^T) for each m,   w_m its exponential

u are unconstrained coordinates of all latents of a row. Each row starts from those of many draws of
the guide and the prior that explain y best, so that several modes are found. The gradient is that
of Roeder et al. 2017, without noise where q is the posterior. (Kim et al. 2018, "Semi-amortized
variational autoencoders"; Mattei & Frellsen 2019 for what the draws are weighted by.)
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.training import Adam

__all__ = ["Normals", "refined"]

_FULL = 64  # dimensions up to which the covariance is full
_DRAWS = 8  # of each normal at each step
_RATE = 0.1  # of Adam, in units of the spread of the first draws
_LEAST_SHARE = 0.1  # of the draws, from the components in equal parts
_LEAST_SPREAD = 1e-3  # relative to the median of a row's dimensions

LogDensity = Callable[[Tensor], Tensor]  # from (K, B, D) to (K, B)


class Normals(NamedTuple):
    """A mixture of M normals for each of B rows.

    Attributes:
        loc: with shape (M, B, D).
        tril: lower triangular factor of the covariance, with shape (M, B, D, D); in many
            dimensions the standard deviations, with shape (M, B, D, 1).
        log_share: with shape (M, B).
    """

    loc: Tensor
    tril: Tensor
    log_share: Tensor

    def sample(self, draws: int) -> Tensor:
        """Return draws with shape (K, B, D)."""
        shares = self.log_share.exp().T  # (B, M)
        chosen = torch.multinomial(shares, draws, replacement=True).T  # (K, B)
        rows = torch.arange(len(shares), device=shares.device)
        loc, tril = self.loc[chosen, rows], self.tril[chosen, rows]
        return loc + _times(tril, torch.randn_like(loc))

    def log_prob(self, u: Tensor) -> Tensor:
        """Return log q(u), with shape (K, B), for u with shape (K, B, D)."""
        terms = [
            share + _log_normal(u, loc, tril)
            for share, loc, tril in zip(self.log_share, self.loc, self.tril, strict=True)
        ]
        return torch.stack(terms).logsumexp(0)


def refined(log_f: LogDensity, u: Tensor, components: int, steps: int) -> Normals:
    """Return normals that approximate the density of each row.

    Args:
        log_f: log density up to a constant of each row.
        u: first draws, with shape (N, B, D).
        components: M, at most N.
        steps: of Adam.
    """
    log_p = log_f(u)
    spread, loc = _spread(log_p, u), _starts(log_p.nan_to_num(nan=-math.inf), u, components)
    with torch.enable_grad():
        fitted = _fitted(lambda v: log_f(v * spread), loc / spread, steps)
    return Normals(fitted.loc * spread, fitted.tril * spread.unsqueeze(-1), fitted.log_share)


def _spread(log_p: Tensor, u: Tensor) -> Tensor:
    """Return the standard deviations of the first draws, with shape (B, D).

    Where some of them have no finite density, they are those of the better half.
    """
    better = log_p.nan_to_num(nan=-math.inf).topk(max(2, len(u) // 2), 0).indices
    of_better = u[better, torch.arange(u.shape[1], device=u.device)].std(0)
    finite = torch.isfinite(log_p).all(0).unsqueeze(-1)
    spread = torch.where(finite, u.std(0), of_better)
    return spread.clamp(min=_LEAST_SPREAD * spread.median(-1, keepdim=True).values.clamp(min=1))


def _starts(log_p: Tensor, u: Tensor, components: int) -> Tensor:
    """Return the best of the first draws, and others by their tempered density, (M, B, D)."""
    best = log_p.max(0).values
    heat = (best - log_p.median(0).values).nan_to_num(posinf=1.0).clamp(min=1.0) / 4
    gumbel = -torch.empty_like(log_p).exponential_().log()
    score = ((log_p - best) / heat).nan_to_num(nan=-math.inf) + gumbel
    score = torch.where(log_p == best, math.inf, score)
    chosen = score.topk(components, 0).indices  # (M, B)
    return u[chosen, torch.arange(u.shape[1], device=u.device)]


def _fitted(log_f: LogDensity, start: Tensor, steps: int) -> Normals:
    m, b, d = start.shape
    loc = start.clone().requires_grad_()
    log_scale = torch.full_like(start, math.log(0.5)).requires_grad_()
    lower = torch.zeros(*start.shape, d if d <= _FULL else 0, dtype=start.dtype).to(start.device)
    lower.requires_grad_()
    parameters = [loc, log_scale, lower]
    optimizer = Adam(parameters, lr=_RATE, betas=(0.9, 0.99))
    for i in range(steps):
        optimizer.param_groups[0]["lr"] = _RATE * (1 + math.cos(math.pi * i / steps)) / 2 + 1e-3
        tril = _tril(log_scale, lower)
        eps = torch.randn(_DRAWS, m, b, d, dtype=start.dtype, device=start.device)
        u = loc + _times(tril, eps)
        log_p = log_f(u.flatten(0, 1)).unflatten(0, (_DRAWS, m))
        # The gradient of -log q(u) along u alone: its score has mean zero, and only noise.
        terms = log_p + (u * _solved(tril.detach(), eps)).sum(-1)
        terms = torch.where(torch.isfinite(terms), terms, 0.0)
        gradients = torch.autograd.grad(-terms.sum() / _DRAWS, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.nan_to_num(0.0, 0.0, 0.0)
        optimizer.step()
    with torch.no_grad():
        normals = Normals(loc.detach(), _tril(log_scale, lower), torch.zeros_like(loc[..., 0]))
        return normals._replace(log_share=_shares(log_f, normals))


def _shares(log_f: LogDensity, normals: Normals) -> Tensor:
    """Return log shares of the components, by their evidence lower bounds."""
    bounds = []
    for loc, tril in zip(normals.loc, normals.tril, strict=True):
        u = loc + _times(tril, torch.randn(_DRAWS, *loc.shape, dtype=loc.dtype, device=loc.device))
        bounds.append((log_f(u) - _log_normal(u, loc, tril)).mean(0))
    share = torch.stack(bounds).nan_to_num(-math.inf).softmax(0).nan_to_num(1 / len(bounds))
    return ((1 - _LEAST_SHARE) * share + _LEAST_SHARE / len(bounds)).log()


def _tril(log_scale: Tensor, lower: Tensor) -> Tensor:
    if not lower.numel():
        return log_scale.exp().unsqueeze(-1)
    return lower.tril(-1) + torch.diag_embed(log_scale.exp())


def _is_full(tril: Tensor) -> bool:
    return tril.shape[-1] == tril.shape[-2]


def _times(tril: Tensor, eps: Tensor) -> Tensor:
    """Return L eps, with shape (*, D)."""
    if _is_full(tril):
        return torch.einsum("...ij,...j->...i", tril, eps)
    return tril.squeeze(-1) * eps


def _solved(tril: Tensor, eps: Tensor) -> Tensor:
    """Return L^-T eps, with the shape (S, *, D) of eps."""
    if not _is_full(tril):
        return eps / tril.squeeze(-1)
    return torch.linalg.solve_triangular(tril.mT, eps.movedim(0, -1), upper=True).movedim(-1, 0)


def _log_normal(u: Tensor, loc: Tensor, tril: Tensor) -> Tensor:
    """Return log N(u; mu, L L^T), with shape (K, B), for u with shape (K, B, D)."""
    off = u - loc
    if _is_full(tril):
        eps = torch.linalg.solve_triangular(tril, off.movedim(0, -1), upper=False).movedim(-1, 0)
        log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    else:
        eps, log_det = off / tril.squeeze(-1), tril.squeeze(-1).log().sum(-1)
    return -(eps.square().sum(-1) + u.shape[-1] * math.log(2 * math.pi)) / 2 - log_det
