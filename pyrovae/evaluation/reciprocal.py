"""log p(x) from draws of the posterior (Kingma & Welling 2014, appendix D; Gelfand & Dey 1994).

1 / p(x) = E_p(z|x)[ q(z) / p(x, z) ]     for any density q whose mass lies where the posterior's does
"""

from typing import Any

import torch
from pyro.distributions import MultivariateNormal
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array, as_sources
from pyrovae.evaluation.chunking import passes
from pyrovae.evaluation.importance import Evidence, summary
from pyrovae.evaluation.tempering import COPIES, Path, check_counts, step_sizes_at_first
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
    """Estimate log p(x | c) of each row from draws of its posterior (Kingma & Welling 2014, appendix D).

    1 / p(x) = E_p(z|x)[ q(z) / p(x, z) ] ~ (1 / L) sum_l q(z_l) / p(x, z_l) for any density q. HMC draws 2 L states of the
    posterior by a chain each; q is a normal with full covariance, fitted to the first half, and the other half is averaged.

    For few latents only, below 5 (the paper's advice): q must fit, and nothing warns of a mode that no chain visited. By
    Jensen's inequality the estimate is above log p(x) in expectation, where that of importance sampling is below.

    Args:
        graph: as for `annealed_log_evidence`; the chains start from the guide's draws.
        x: data with shape (B, *event).
        c: context, B rows each.
        samples: L, states averaged, more than the latents of a row.
        moves: transitions of each chain; step sizes are found in the first half of them, and the last state is kept.
        leapfrog: leapfrog steps a move.
        seed: of the stream used.

    Returns:
        Evidence of the L reciprocal weights; the standard error takes chains to have reached the posterior.

    Raises:
        ValueError: as `annealed_log_evidence`, and if L is no more than the number of latents of a row.
    """
    check_counts("moves", moves, 2, leapfrog)
    pieces = []
    with programs.evaluation(graph, seed):
        for batch, sizes in passes(graph, as_sources((x, *c)), 2 * samples, COPIES):
            states = [
                _posterior(Path(graph, batch, draws, from_guide=False), moves // 2, leapfrog)
                for draws in sizes
            ]
            pieces.append(_reciprocal(*(torch.cat(part) for part in zip(*states, strict=True))))
    log_w, log_w2 = (
        torch.cat([piece.logsumexp(0) for piece in pieces]),
        torch.cat([(2 * p).logsumexp(0) for p in pieces]),
    )
    inverse = summary(log_w, log_w2, samples)
    return Evidence(-inverse.log_p, inverse.standard_error, inverse.effective_sample_size)


def _posterior(path: Path, moves: int, leapfrog: int) -> tuple[Tensor, Tensor]:
    """Return states of the posterior as vectors, with shape (K, B, D), and log p(x, z) there, with shape (K, B)."""
    f, u = path.joint, path.drawn(path.guide)
    u, eps = hmc.adapt(f, u, steps=moves, leapfrog=leapfrog, step_size=step_sizes_at_first(u))
    u, _ = hmc.sample(f, u, steps=moves, leapfrog=leapfrog, step_size=eps)
    return u, f(u)


def _reciprocal(u: Tensor, log_f: Tensor) -> Tensor:
    """Fit q to the first half of the states and return log q(z) - log p(x, z) at the others, with shape (L, B)."""
    fit, rest = u.double().chunk(2)  # (L, B, D) each
    if len(fit) <= u.shape[-1]:
        raise ValueError(
            f"reciprocal_log_evidence: {len(fit)} samples for {u.shape[-1]} latents a row, expected more samples than latents, "
            "and few latents: see annealed_log_evidence"
        )
    centred = fit - fit.mean(0)
    covariance = torch.einsum("lbi,lbj->bij", centred, centred) / (len(fit) - 1)
    return MultivariateNormal(fit.mean(0), covariance).log_prob(rest) - log_f.chunk(2)[1]
