"""How good a graph is, from traces of (model, guide) alone, so for every graph; under eval(), changing nothing.

log p(x) = log E_q(z|x)[ p(x, z) / q(z | x) ]  ~  log (1 / K) sum_k w_k,   w_k = p(x, z_k) / q(z_k | x),   z_k ~ q(z | x)
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array, Sources, as_sources
from pyrovae.evaluation.chunking import log_prob, many, passes
from pyrovae.programs import check_density, per_row, total

__all__ = ["Evidence", "Terms", "elbo", "estimate", "log_evidence", "naive_log_evidence", "summary"]

Tensors = tuple[Tensor, ...]
LogWeights = Callable[[Any, Tensors, int], Tensor]  # graph, batch, K -> log w, with shape (K, B)


class Evidence(NamedTuple):
    """An estimate of log p(x), each field with shape (B,).

    Attributes:
        log_p: log (1 / K) sum_k w_k, in nats; its expectation is at most log p(x) (Burda et al. 2016, theorem 1).
        standard_error: of log_p, by the delta method: the relative standard error of the mean weight.
        effective_sample_size: (sum w)^2 / sum w^2, between 1 and K. Near 1 a single draw decides and neither figure can be trusted.
    """

    log_p: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor


class Terms(NamedTuple):
    """The ELBO and its terms at beta = 1, in nats, each with shape (B,): elbo = reconstruction - kl."""

    elbo: Tensor
    reconstruction: Tensor
    kl: Tensor


def log_evidence(
    graph: Any, x: Array, *c: Array, samples: int = 1000, seed: int | None = 0
) -> Evidence:
    """Estimate log p(x | c) of each row by importance sampling from the guide (Burda et al. 2016, eq. 8; AEVB's own is appendix D).

    Args:
        graph: anything with `model` and `guide` whose draws lie in a plate over the rows.
        x: data with shape (B, *event).
        c: context, B rows each.
        samples: K, importance samples a row.
        seed: of the stream used, so that the figure is the same twice; None takes the global stream.

    Returns:
        Evidence(log_p, standard_error, effective_sample_size), each with shape (B,).

    Raises:
        ValueError: if K is below 1, or the graph has no importance weights a row (a flat prior, a point posterior, latents
            shared by all rows).

    Example:
        >>> import pyrovae as pv
        >>> q, p = pv.posteriors.DiagonalNormal(nn.Linear(6, 4)), pv.likelihoods.Bernoulli(nn.Linear(2, 6))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), q, p)
        >>> pv.log_evidence(vae, torch.ones(3, 6), samples=10).log_p.shape
        torch.Size([3])
    """
    return estimate(graph, as_sources((x, *c)), samples, seed, _weights_from_guide)


def naive_log_evidence(
    graph: Any, x: Array, *c: Array, samples: int = 1000, seed: int | None = 0
) -> Evidence:
    """Estimate log p(x | c) by the plain average over the prior: log (1 / K) sum_k p(x | z_k), z_k ~ p(z | c).

    Few of the draws explain x, so it needs far too many: its effective sample size says so. It is here to be compared with
    `log_evidence`; arguments, result and errors are the same.
    """
    return estimate(graph, as_sources((x, *c)), samples, seed, _weights_from_prior)


def elbo(graph: Any, x: Array, *c: Array, samples: int = 1, seed: int | None = 0) -> Terms:
    """Estimate the ELBO of each row at beta = 1 by L draws, the KL in closed form where one is known (AEVB, eq. 7).

    Args:
        graph: anything with `model` and `guide` whose draws lie in a plate over the rows.
        x: data with shape (B, *event).
        c: context, B rows each.
        samples: L, draws a row.
        seed: as in `log_evidence`.

    Returns:
        Terms(elbo, reconstruction, kl), each with shape (B,).
    """
    data = as_sources((x, *c))
    pieces = []
    with programs.evaluation(graph, seed):
        for batch, sizes in passes(graph, data, samples):
            pieces.append(total(_terms(graph, batch, draws) * draws for draws in sizes) / samples)
    rec, kl = torch.cat(pieces, -1)
    return Terms(rec - kl, rec, kl)


def _terms(graph: Any, batch: Tensors, draws: int) -> Tensor:
    """Return the mean reconstruction and KL of each row over so many draws, with shape (2, B)."""
    p, q = programs.run(many(graph.model, draws), many(graph.guide, draws), *batch)
    prior = {site["name"]: site for site in programs.sites(p, observed=False)}
    rec = total(log_prob(site, batch) for site in programs.sites(p, observed=True))
    kl = total(
        per_row(programs.analytic_kl(site, prior.get(site["name"])), site, len(batch[0]))
        for site in programs.sites(q, observed=False)
    )
    return torch.stack([rec.mean(0), kl.mean(0)])


# -------------------------------------------------------------------------------------------------- importance sampling
def estimate(
    graph: Any,
    data: Sources,
    samples: int,
    seed: int | None,
    log_weights: LogWeights,
    copies: int = 1,
) -> Evidence:
    """Accumulate log sum w and log sum w^2 over passes; neither memory nor the result depends on how they are cut."""
    first, second = [], []
    with programs.evaluation(graph, seed):
        for batch, sizes in passes(graph, data, samples, copies):
            log_w = torch.full((2, len(batch[0])), -math.inf, dtype=torch.float64, device="cpu")
            for draws in sizes:
                log_w_k = log_weights(graph, batch, draws).double().cpu()  # (K, B)
                log_w = torch.logaddexp(
                    log_w, torch.stack([log_w_k.logsumexp(0), (2 * log_w_k).logsumexp(0)])
                )
            first.append(log_w[0])
            second.append(log_w[1])
    return summary(torch.cat(first), torch.cat(second), samples)


def summary(log_sum: Tensor, log_sum_of_squares: Tensor, samples: int) -> Evidence:
    """Return what log sum w and log sum w^2 of so many weights, each with shape (B,), say of log mean w."""
    size = (2 * log_sum - log_sum_of_squares).exp()
    error = (
        ((samples / size - 1).clamp(min=0) / (samples - 1)).sqrt()
        if samples > 1
        else torch.full_like(size, math.nan)
    )
    return Evidence(log_sum - math.log(samples), error, size)


def _weights_from_guide(graph: Any, batch: Tensors, draws: int) -> Tensor:
    p, q = programs.run(many(graph.model, draws), many(graph.guide, draws), *batch)
    programs.check_sites(p, q, needs_rsample=False)
    for site in programs.sites(p, observed=False) + programs.sites(q, observed=False):
        check_density(site)
    joint = total(
        log_prob(site, batch)
        for site in programs.sites(p, observed=True) + programs.sites(p, observed=False)
    )
    return joint - total(log_prob(site, batch) for site in programs.sites(q, observed=False))


def _weights_from_prior(graph: Any, batch: Tensors, draws: int) -> Tensor:
    p, _ = programs.run(many(graph.model, draws), lambda *_: None, *batch)
    return total(log_prob(site, batch) for site in programs.sites(p, observed=True))
