"""log p(x) from draws of the posterior: the Gelfand-Dey estimator (generalized harmonic mean).

1 / p(x) = E_p(z|x)[ q(z) / p(x, z) ]   for any density q whose mass lies where the posterior's does
                                    (Gelfand & Dey 1994; Kingma & Welling 2014, appendix D)
"""

import math
import warnings
from typing import Any

import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array
from pyrovae.evaluation.checking import checked_sources
from pyrovae.evaluation.chunking import chunks_of
from pyrovae.evaluation.evidence import (
    Evidence,
    EvidenceWarning,
    Weights,
    joined,
    warn_if_unreliable,
)
from pyrovae.evaluation.tempering import (
    COPIES,
    TemperedPath,
    check_counts,
    check_latents,
    initial_step_sizes,
)
from pyrovae.programs import hmc

__all__ = ["reciprocal_log_evidence"]

_MIDDLE = 0.25  # share of the states within pi / 2 of 0, half of a uniform posterior's


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
    own chain; q is a normal with full covariance, fitted to the first half, and the average is over
    the other half. Source: Kingma & Welling 2014, appendix D.

    Use it for few latents only, below 5 (the paper's advice): q must fit, and nothing warns of a
    mode that no chain visited. By Jensen's inequality the estimate is above log p(x) in
    expectation, where that of importance sampling is below. Chains of angles do not pass -pi and
    pi: where they end at both, the result is too high, and an `EvidenceWarning` says so.

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
        ValueError: as `annealed_log_evidence`, and if L is at most the number of latents of a row.
    """
    check_counts("moves", moves, 2, leapfrog)
    data, pieces, at_edge = checked_sources(graph, x, *c), [], 0
    with programs.evaluation(graph, seed):
        for batch, layouts in chunks_of(graph, data, 2 * samples, check_latents, COPIES):
            paths = [TemperedPath(graph, batch, layout, from_guide=False) for layout in layouts]
            states = [_posterior(path, moves // 2, leapfrog) for path in paths]
            u, log_f = (torch.cat(part) for part in zip(*states, strict=True))
            at_edge += int(_crowded(paths, [state for state, _ in states]).sum())
            weights = Weights(len(batch[0]), samples)
            weights.add(_reciprocal(u, log_f))
            pieces.append(weights.evidence())
    inverse = joined(pieces)
    evidence = Evidence(-inverse.log_p, inverse[1], inverse[2], inverse.pareto_k)
    warn_if_unreliable(evidence, samples, "reciprocal_log_evidence", stacklevel=3)
    if at_edge:
        warnings.warn(
            f"reciprocal_log_evidence: in {at_edge} of {len(evidence.log_p)} rows the chains of an "
            "angle end at both -pi and pi, which they do not pass and where no normal fits: log_p "
            "is too high. Use log_evidence or annealed_log_evidence",
            EvidenceWarning,
            stacklevel=2,
        )
    return evidence


def _crowded(paths: list[TemperedPath], states: list[Tensor]) -> Tensor:
    """Return in which rows the states of an angle are at both ends of [-pi, pi), shape (B,)."""
    crowded = torch.zeros(states[0].shape[1], dtype=torch.bool, device=states[0].device)
    angles = [name for name, site in paths[0].latent.items() if programs.on_circle(site["fn"])]
    for name in angles:
        parts = [path.coordinates.sites(u)[name] for path, u in zip(paths, states, strict=True)]
        angle = torch.cat(parts)
        both = (angle > math.pi - 1).any(0) & (angle < 1 - math.pi).any(0)
        few = (angle.abs() < math.pi / 2).float().mean(0) < _MIDDLE
        crowded |= (both & few).reshape(len(both), -1).any(1)
    return crowded


def _posterior(path: TemperedPath, steps: int, leapfrog: int) -> tuple[Tensor, Tensor]:
    """Return states of the posterior as vectors, shape (K, B, D), and log p(x, z) there, (K, B)."""
    f, u = path.joint, path.drawn(path.graph.guide)
    u, eps = hmc.adapt(f, u, steps=steps, leapfrog=leapfrog, step_size=initial_step_sizes(u))
    u, _ = hmc.sample(f, u, steps=steps, leapfrog=leapfrog, step_size=eps)
    return u, f(u)


def _reciprocal(u: Tensor, log_f: Tensor) -> Tensor:
    """Fit q to the first half of the states; return log q - log f at the others, shape (L, B)."""
    fitted, averaged = u.double().chunk(2)  # (L, B, D) each
    if len(fitted) <= u.shape[-1]:
        raise ValueError(
            f"reciprocal_log_evidence: {len(fitted)} samples for {u.shape[-1]} latents of a row, "
            "expected more samples than latents, and few latents: see annealed_log_evidence"
        )
    centred = fitted - fitted.mean(0)
    covariance = torch.einsum("lbi,lbj->bij", centred, centred) / (len(fitted) - 1)
    q = MultivariateNormal(fitted.mean(0), covariance)
    return q.log_prob(averaged) - log_f.chunk(2)[1]
