"""Evidence by importance sampling from the guide, and the ELBO, of every row.

log p(x) = log E_q(z|x)[ p(x, z) / q(z | x) ]  ~  log (1 / K) sum_k w_k
w_k = p(x, z_k) / q(z_k | x),   z_k ~ q(z | x)

Everything is read from the traces of model and guide, so it serves every graph. The graph is
evaluated under eval(), and nothing in it changes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array, Sources
from pyrovae.evaluation.checking import Check, check_densities, check_pair, checked_sources
from pyrovae.evaluation.chunking import chunks_of
from pyrovae.evaluation.evidence import (
    LEAST_SHARE,
    Evidence,
    Weights,
    joined,
    warn_if_unreliable,
)
from pyrovae.evaluation.without_guide import without_guide
from pyrovae.programs import Layout, Trace, total

__all__ = ["Terms", "elbo", "estimate", "log_evidence", "naive_log_evidence"]

Tensors = tuple[Tensor, ...]
LogWeights = Callable[[Any, Tensors, Layout], Tensor]  # graph, batch, layout -> log w, shape (K, B)


class Terms(NamedTuple):
    """The ELBO and its terms at beta = 1, in nats, shape (B,) each: elbo = reconstruction - kl."""

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor


def log_evidence(
    graph: Any, x: Array, *c: Array, samples: int = 1000, seed: int | None = 0
) -> Evidence:
    """Estimate log p(x | c) of each row by importance sampling from the guide.

    Source: Burda et al. 2016, eq. 8. (AEVB's own estimator is `reciprocal_log_evidence`.)

    Args:
        graph: anything with `model` and `guide` whose latents lie in a plate over the rows.
        x: data with shape (B, *event).
        c: context, B rows each.
        samples: K, importance samples per row.
        seed: of the random stream used, so that two calls agree; None uses the global stream.

    Returns:
        Evidence(log_p, standard_error, effective_sample_size), each with shape (B,), and by name
        `pareto_k`, `mean`, `mean_standard_error`, `mean_monte_carlo_error`.

    Raises:
        ValueError: if K is below 1, x is outside the support of the likelihood, or the graph has no
            importance weights per row (a flat prior, a Delta posterior, latents shared by all rows,
            a density in the guide for probabilities in the prior).

    Warns:
        EvidenceWarning: if many rows have few effective draws, or weights with a heavy tail.

    Example:
        >>> import pyrovae as pv
        >>> q = pv.posteriors.DiagonalNormal(nn.Linear(6, 4))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(nn.Linear(2, 6)))
        >>> pv.log_evidence(vae, torch.ones(3, 6), samples=10).log_p.shape
        torch.Size([3])
    """
    data = checked_sources(graph, x, *c)
    return estimate("log_evidence", graph, data, samples, seed, _from_guide, check_densities)


def naive_log_evidence(
    graph: Any, x: Array, *c: Array, samples: int = 1000, seed: int | None = 0
) -> Evidence:
    """Estimate log p(x | c) of each row by the plain average over draws of the prior.

    log p(x) ~ log (1 / K) sum_k p(x | z_k),  z_k ~ p(z | c)

    Few of the draws explain x, so it needs far too many, as its effective sample size shows. It is
    here for comparison with `log_evidence`; arguments, result and errors are the same. The guide is
    not asked.
    """
    data, alone = checked_sources(graph, x, *c), without_guide(graph)
    return estimate("naive_log_evidence", alone, data, samples, seed, _from_prior, _check_prior)


def elbo(graph: Any, x: Array, *c: Array, samples: int = 1, seed: int | None = 0) -> Terms:
    """Estimate the ELBO of each row at beta = 1, the KL in closed form where one is known.

    Source: AEVB, eq. 7.

    Args:
        graph: anything with `model` and `guide` whose latents lie in a plate over the rows.
        x: data with shape (B, *event).
        c: context, B rows each.
        samples: L, draws per row.
        seed: as in `log_evidence`.

    Returns:
        Terms(elbo, reconstruction, kl), each with shape (B,).

    Raises:
        ValueError: if L is below 1, x is outside the support of the likelihood, a latent is shared
            by the rows or absent from the guide, or the guide has a density where the prior has
            probabilities.
    """
    data = checked_sources(graph, x, *c)
    pieces = []
    with programs.evaluation(graph, seed):
        for batch, layouts in chunks_of(graph, data, samples, check_pair):
            sums = [_terms(graph, batch, layout) * layout.draws for layout in layouts]
            pieces.append(total(sums) / samples)
    rec, kl = torch.cat(pieces, -1)
    return Terms(rec - kl, rec, kl)


def _terms(graph: Any, batch: Tensors, layout: Layout) -> Tensor:
    """Return the mean reconstruction and KL of each row over the draws, shape (2, B)."""
    p, q = programs.run(graph.model, graph.guide, *batch, layout=layout)
    rec = total(programs.log_prob_of_rows(p, site) for site in programs.observed(p))
    prior = programs.latent_by_name(p)
    kl = total(
        layout.per_row(_kl(site, prior.get(name), layout), site)
        for name, site in programs.densities(q).items()
    )
    return torch.stack([rec.mean(0), kl.mean(0)])


def _kl(q: programs.Site, p: programs.Site | None, layout: Layout) -> Tensor:
    of_prior = None if p is None else programs.unscaled(p, layout)
    return programs.analytic_kl(programs.unscaled(q, layout), of_prior)


# --------------------------------------------------------------------------- importance sampling
def estimate(
    name: str,
    graph: Any,
    data: Sources,
    samples: int,
    seed: int | None,
    log_weights: LogWeights,
    check: Check = lambda p, q: None,
    copies: int = 1,
    least_share: float = LEAST_SHARE,
) -> Evidence:
    """Return the evidence by K weights per row, and warn if many rows cannot be trusted.

    It is accumulated over runs, and does not depend on their sizes.
    """
    pieces = []
    with programs.evaluation(graph, seed):
        for batch, layouts in chunks_of(graph, data, samples, check, copies):
            weights = Weights(len(batch[0]), samples)
            for layout in layouts:
                weights.add(log_weights(graph, batch, layout))
            pieces.append(weights.evidence())
    evidence = joined(pieces)
    warn_if_unreliable(evidence, samples, name, least_share=least_share)
    return evidence


def _from_guide(graph: Any, batch: Tensors, layout: Layout) -> Tensor:
    p, q = programs.run(graph.model, graph.guide, *batch, layout=layout)
    joint = total(
        programs.log_prob_of_rows(p, site) for site in programs.observed(p) + programs.latent(p)
    )
    return joint - total(
        programs.log_prob_of_rows(q, site) for site in programs.densities(q).values()
    )


def _check_prior(p: Trace, _: Trace) -> None:
    programs.check_whole_rows(p)


def _from_prior(graph: Any, batch: Tensors, layout: Layout) -> Tensor:
    p = programs.record(graph.model, *batch, layout=layout)
    return total(programs.log_prob_of_rows(p, site) for site in programs.observed(p))
