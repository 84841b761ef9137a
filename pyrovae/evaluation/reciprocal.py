"""log p(x) from draws of the posterior: the Gelfand-Dey estimator (generalized harmonic mean).

1 / p(x) = E_p(z|x)[ q(z) / p(x, z) ]   for any density q whose mass lies where the posterior's does
                                    (Gelfand & Dey 1994; Kingma & Welling 2014, appendix D)
"""

from typing import Any

import torch
from pyro.distributions import Normal
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array
from pyrovae.distributions import WrappedNormal, wrap
from pyrovae.evaluation.checking import checked_sources
from pyrovae.evaluation.chunking import chunks_of
from pyrovae.evaluation.evidence import Evidence, Weights, joined, warn_if_unreliable
from pyrovae.evaluation.tempering import (
    COPIES,
    TemperedPath,
    check_counts,
    check_latents,
    initial_step_sizes,
)
from pyrovae.programs import hmc

__all__ = ["reciprocal_log_evidence"]


def reciprocal_log_evidence(
    graph: Any,
    x: Array,
    *c: Array,
    samples: int = 100,
    moves: int = 100,
    leapfrog: int = 10,
    seed: int | None = 0,
) -> Evidence:
    """Estimate log p(x | c) of each row from draws of its posterior.

    1 / p(x) ~ (1 / L) sum_l q(z_l) / p(x, z_l). HMC draws 2 L states of the posterior, each by its
    own chain; q is a normal with full covariance (of angles a wrapped one), fitted to the first
    half, and the average is over the other half. Source: Kingma & Welling 2014, appendix D.

    Use it for few latents only, below 5 (the paper's advice): q must fit, and nothing warns of a
    mode that no chain visited. By Jensen's inequality the estimate is above log p(x) in
    expectation, where that of importance sampling is below.

    Args:
        graph: as for `annealed_log_evidence`; the chains start from the guide's draws.
        x: data with shape (B, *event).
        c: context, B rows each.
        samples: L, states averaged, more than the latents of a row.
        moves: transitions of each chain; step sizes are adapted in the first half of them, and the
            last state is kept.
        leapfrog: leapfrog steps per transition.
        seed: of the random stream used.

    Returns:
        Evidence of the L reciprocal weights; the standard error assumes that the chains have
        reached the posterior.

    Raises:
        ValueError: as `annealed_log_evidence`, if L is at most the number of latents of a row, and
            if the chains of a row do not spread.
    """
    check_counts("moves", moves, 2, leapfrog)
    data, pieces = checked_sources(graph, x, *c), []
    with programs.evaluation(graph, seed):
        for batch, layouts in chunks_of(graph, data, 2 * samples, check_latents, COPIES):
            paths = [TemperedPath(graph, batch, layout, from_guide=False) for layout in layouts]
            states = [_posterior(path, moves // 2, leapfrog) for path in paths]
            u, log_f = (torch.cat(part) for part in zip(*states, strict=True))
            weights = Weights(len(batch[0]), samples)
            weights.add(_reciprocal(u, log_f, paths[0].coordinates.angles))
            pieces.append(weights.evidence())
    inverse = joined(pieces)
    evidence = Evidence(-inverse.log_p, inverse[1], inverse[2], inverse.pareto_k)
    warn_if_unreliable(evidence, samples, "reciprocal_log_evidence")
    return evidence


def _posterior(path: TemperedPath, steps: int, leapfrog: int) -> tuple[Tensor, Tensor]:
    """Return states of the posterior as vectors, shape (K, B, D), and log p(x, z) there, (K, B)."""
    f, u = path.joint, path.drawn(path.graph.guide)
    u, eps = hmc.adapt(f, u, steps=steps, leapfrog=leapfrog, step_size=initial_step_sizes(u))
    u, _ = hmc.sample(f, u, steps=steps, leapfrog=leapfrog, step_size=eps)
    return u, f(u)


def _reciprocal(u: Tensor, log_f: Tensor, angles: Tensor) -> Tensor:
    """Fit q to the first half of the states; return log q - log f at the others, shape (L, B)."""
    fitted, averaged = u.double().chunk(2)  # (L, B, D) each
    if len(fitted) <= u.shape[-1]:
        raise ValueError(
            f"reciprocal_log_evidence: {len(fitted)} samples for {u.shape[-1]} latents of a row, "
            "expected more samples than latents, and few latents: see annealed_log_evidence"
        )
    return _fitted_log_prob(fitted, averaged, angles.to(u.device)) - log_f.chunk(2)[1]


def _fitted_log_prob(fitted: Tensor, u: Tensor, angles: Tensor) -> Tensor:
    """Return log q(u) of the normal fitted to states, shape (L, B); `angles` are wrapped.

    log q(u) = sum_d log q(u_d | u_<d),   u_d | u_<d ~ N(u_d - r_d L_dd, L_dd^2),   L r = u - mean

    with L the covariance's Cholesky factor. Each conditional of an angle is a wrapped normal, in
    which its u_d is the theta + 2 pi k nearest to the mean direction.
    """
    middle = torch.where(angles, torch.atan2(fitted.sin().mean(0), fitted.cos().mean(0)), 0.0)
    fitted, u = (torch.where(angles, middle + wrap(part - middle), part) for part in (fitted, u))
    centred = fitted - fitted.mean(0)
    covariance = torch.einsum("lbi,lbj->bij", centred, centred) / (len(fitted) - 1)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed.any():
        raise ValueError(
            f"reciprocal_log_evidence: the chains of {int(failed.count_nonzero())} rows, the first "
            f"row {int(failed.nonzero()[0])} of its batch, do not spread over all latents, so that "
            "no normal fits. Run more moves, or use annealed_log_evidence"
        )
    rest = u - fitted.mean(0)
    standard = torch.linalg.solve_triangular(factor, rest[..., None], upper=False)[..., 0]
    scale = factor.diagonal(dim1=-2, dim2=-1)
    given = u - standard * scale
    line, circle = Normal(given, scale).log_prob(u), WrappedNormal(given, scale).log_prob(wrap(u))
    return torch.where(angles, circle, line).sum(-1)
