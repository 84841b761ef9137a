"""How good a graph is, from traces of (model, guide) alone, so for every graph; under eval(), changing nothing.

log p(x) = log E_q(z|x)[ p(x, z) / q(z | x) ]  ~  log (1 / K) sum_k w_k,   w_k = p(x, z_k) / q(z_k | x),   z_k ~ q(z | x)
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae import traces
from pyrovae.batches import Array, as_tensors, kind, take

__all__ = ["Evidence", "Terms", "elbo", "log_evidence", "naive_log_evidence"]

Tensors = tuple[Tensor, ...]
LogWeights = Callable[[Any, Tensors, int], Tensor]  # graph, batch, K -> log w, with shape (K, B)

# Numbers that one pass may hold a site: 32 MiB in float32, so that memory does not grow with samples or rows.
_AT_ONCE = 1 << 23
_ROWS = 128  # encoded together
_LEAST_WIDTH = 256  # of a row, for its hidden layers


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


def log_evidence(graph: Any, x: Array, *c: Array, samples: int = 1000, seed: int | None = 0) -> Evidence:
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
    return _estimate(graph, as_tensors((x, *c)), samples, seed, _weights_from_guide)


def naive_log_evidence(graph: Any, x: Array, *c: Array, samples: int = 1000, seed: int | None = 0) -> Evidence:
    """Estimate log p(x | c) by the plain average over the prior: log (1 / K) sum_k p(x | z_k), z_k ~ p(z | c).

    Few of the draws explain x, so it needs far too many: its effective sample size says so. It is here to be compared with
    `log_evidence`; arguments, result and errors are the same.
    """
    return _estimate(graph, as_tensors((x, *c)), samples, seed, _weights_from_prior)


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
    data = as_tensors((x, *c))
    pieces = []
    with traces.evaluation(graph, seed):
        for batch, sizes in _passes(graph, data, samples):
            pieces.append(_total(_terms(graph, batch, draws) * draws for draws in sizes) / samples)
    rec, kl = torch.cat(pieces, -1)
    return Terms(rec - kl, rec, kl)


def _terms(graph: Any, batch: Tensors, draws: int) -> Tensor:
    """Return the mean reconstruction and KL of each row over so many draws, with shape (2, B)."""
    p, q = traces.run(_many(graph.model, draws), _many(graph.guide, draws), *batch)
    prior = {site["name"]: site for site in traces.sites(p, observed=False)}
    rec = _total(_log_prob(site, batch) for site in traces.sites(p, observed=True))
    kl = _total(
        _per_row(traces.analytic_kl(site, prior.get(site["name"])), site, batch) for site in traces.sites(q, observed=False)
    )
    return torch.stack([rec.mean(0), kl.mean(0)])


# -------------------------------------------------------------------------------------------------- importance sampling
def _estimate(graph: Any, data: Tensors, samples: int, seed: int | None, log_weights: LogWeights) -> Evidence:
    """Accumulate log sum w and log sum w^2 over passes; neither memory nor the result depends on how they are cut."""
    first, second = [], []
    with traces.evaluation(graph, seed):
        for batch, sizes in _passes(graph, data, samples):
            log_w = torch.full((2, len(batch[0])), -math.inf, dtype=torch.float64)
            for draws in sizes:
                log_w_k = log_weights(graph, batch, draws).double().cpu()  # (K, B)
                log_w = torch.logaddexp(log_w, torch.stack([log_w_k.logsumexp(0), (2 * log_w_k).logsumexp(0)]))
            first.append(log_w[0])
            second.append(log_w[1])
    log_sum, log_sum_of_squares = torch.cat(first), torch.cat(second)
    size = (2 * log_sum - log_sum_of_squares).exp()
    error = ((samples / size - 1).clamp(min=0) / (samples - 1)).sqrt() if samples > 1 else torch.full_like(size, math.nan)
    return Evidence(log_sum - math.log(samples), error, size)


def _weights_from_guide(graph: Any, batch: Tensors, draws: int) -> Tensor:
    p, q = traces.run(_many(graph.model, draws), _many(graph.guide, draws), *batch)
    for site in traces.sites(p, observed=False) + traces.sites(q, observed=False):
        _check_density(site)
    joint = _total(_log_prob(site, batch) for site in traces.sites(p, observed=True) + traces.sites(p, observed=False))
    return joint - _total(_log_prob(site, batch) for site in traces.sites(q, observed=False))


def _weights_from_prior(graph: Any, batch: Tensors, draws: int) -> Tensor:
    p, _ = traces.run(_many(graph.model, draws), lambda *_: None, *batch)
    return _total(_log_prob(site, batch) for site in traces.sites(p, observed=True))


def _check_density(site: traces.Site) -> None:
    if isinstance(traces.leaf(site["fn"]), dist.Delta | dist.ImproperUniform):
        raise ValueError(
            f'site "{site["name"]}" is a point or flat: an autoencoder has no density over its codes and so no log p(x). '
            "Use a proper prior and posterior, or compare reconstructions"
        )


# ------------------------------------------------------------------------------------------------------ rows and samples
def _passes(graph: Any, data: Tensors, samples: int) -> Iterator[tuple[Tensors, list[int]]]:
    """Yield minibatches and, for each, the numbers of draws to make at once, so that no pass holds more than _AT_ONCE values."""
    if samples < 1:
        raise ValueError(f"samples is {samples}, expected at least one draw a row")
    width = _width(graph, take(data, slice(0, 1), *kind(graph, data)))
    rows = max(1, min(_ROWS, _AT_ONCE // width))
    draws = max(1, _AT_ONCE // (width * rows))
    sizes = [min(draws, samples - done) for done in range(0, samples, draws)]
    for start in range(0, len(data[0]), rows):
        yield take(data, slice(start, start + rows), *kind(graph, data)), sizes


def _width(graph: Any, one: Tensors) -> int:
    """Return how many numbers one draw for one row takes: the largest parameter of a site, such as a categorical's logits."""
    with traces.random_stream(0, []):  # a look that leaves the stream where it was
        p, q = traces.run(graph.model, graph.guide, *one)
    leaves = [traces.leaf(site["fn"]) for trace in (p, q) for site in trace.values()]
    parameters = [getattr(leaf, name) for leaf in leaves for name in getattr(leaf, "arg_constraints", {})]
    return max([_LEAST_WIDTH, *(value.numel() for value in parameters if isinstance(value, Tensor))])


def _many(program: traces.Program, draws: int) -> traces.Program:
    """Return the program run `draws` times at once, in a plate left of the one over the rows."""
    return pyro.plate("samples", draws, dim=-2)(program)


def _log_prob(site: traces.Site, batch: Tensors) -> Tensor:
    return _per_row(traces.log_prob(site), site, batch)


def _per_row(term: Tensor, site: traces.Site, batch: Tensors) -> Tensor:
    """Return a site's term, which has shape (K, B) if it has one a row."""
    rows = len(batch[0])
    if not any(frame.dim == -1 and frame.size == rows for frame in site["cond_indep_stack"]):
        raise ValueError(
            f'site "{site["name"]}" is not in a plate over the {rows} rows: there is no term a row. '
            'Draw it inside `with pyro.plate("data", len(x)):`'
        )
    return term


def _total(terms: Iterable[Tensor]) -> Tensor:
    return reduce(torch.add, terms)
