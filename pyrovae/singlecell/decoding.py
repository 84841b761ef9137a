"""Posterior quantities of cells from a fitted `CountVAE`, one minibatch after the other.

z, l ~ q(z, l | x, c);      rho = softmax f(z, c);      mu = e^l rho;      x' ~ p(x | z, l, c)

Every function runs the graph inside `pyrovae.programs.evaluation`, or is to be called inside it, so
that the graph is left unchanged. The argument `batch` is a minibatch, x or (x, c).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Normal

from pyrovae import programs
from pyrovae.data import ThreadWatch, as_sources, batches_in_order, device_and_dtype, take
from pyrovae.graphs import CountVAE, observed_library

__all__ = [
    "Latents",
    "Parameters",
    "counts_drawn",
    "latent_draws",
    "latents",
    "library_sizes",
    "mapped",
    "moments",
    "parameters",
    "proportions",
]

_ROWS = 128  # of a minibatch, where the user says None
_DRAWS = 256  # for the mean of e^l where no formula is known

Batch = tuple[Tensor, ...]
T = TypeVar("T")


class Latents(NamedTuple):
    """Posterior means or K draws of a minibatch's latents.

    Attributes:
        z: with shape (K, B, D).
        l: log library sizes, with shape (K, B, 1).
    """

    z: Tensor
    l: Tensor  # noqa: E741 (the papers' symbol)


class Parameters(NamedTuple):
    """Parameters of p(x | z, l, c), each with shape (K, B, G).

    Attributes:
        mean: mu.
        dispersions: theta, the inverse dispersion; None for a Poisson.
        dropout: probability of an excess zero; None without zero inflation.
    """

    mean: Tensor
    dispersions: Tensor | None
    dropout: Tensor | None


def mapped(
    graph: CountVAE, data: Any, rows: int | None, seed: int | None, f: Callable[[Batch], T]
) -> Iterator[tuple[slice, T]]:
    """Yield (rows, f of their minibatch), each minibatch with a random stream of its own."""
    rows = _ROWS if rows is None else rows
    if not isinstance(rows, int | np.integer) or rows < 1:
        raise ValueError(f"batch_size is {rows!r}, expected a whole number of at least 1")
    tensors = as_sources(data)
    with ThreadWatch() as watch:
        for start in range(0, len(tensors[0]), rows):
            span = slice(start, min(start + rows, len(tensors[0])))
            with programs.evaluation(graph, None if seed is None else seed + start):
                result = f(take(tensors, span, *device_and_dtype(graph, tensors)))
            yield span, result
            watch.look()


# ------------------------------------------------------------------------------------------ latents
def latent_draws(graph: CountVAE, data: Any, seed: int | None) -> np.ndarray:
    """Return one draw from q(z | x) per cell, with shape (N, D)."""
    with programs.evaluation(graph, seed):
        draws = [
            programs.posterior(graph, batch, "z").sample()
            for batch in batches_in_order(graph, data)
        ]
    return torch.cat(draws).cpu().numpy()


def moments(graph: CountVAE, data: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return means and variances of q(z | x), each with shape (N, D).

    Raises:
        NotImplementedError: if they have no formula, as those of a flow.
    """
    with programs.evaluation(graph):
        posteriors = [programs.posterior(graph, b, "z") for b in batches_in_order(graph, data)]
        try:
            both = [(q.mean, q.variance) for q in posteriors]
        except NotImplementedError as error:
            raise NotImplementedError(
                "return_dist: the moments of this q(z | x) have no formula; take draws by "
                "give_mean=False"
            ) from error
    means, variances = zip(*both, strict=True)
    return torch.cat(means).cpu().numpy(), torch.cat(variances).cpu().numpy()


def library_sizes(graph: CountVAE, data: Any, mean: bool, seed: int | None) -> np.ndarray:
    """Return E_q[e^l] or one draw of e^l per cell, with shape (N, 1)."""
    with programs.evaluation(graph, seed):
        sizes = [_library(graph, batch, mean) for batch in batches_in_order(graph, data)]
    return torch.cat(sizes).cpu().numpy()


def _library(graph: CountVAE, batch: Batch, mean: bool) -> Tensor:
    """Return E_q[e^l] or a draw of e^l, with shape (B, 1); the totals if those are the library."""
    trace = programs.record(graph.guide, *batch)
    if "l" not in trace:
        return observed_library(batch[0]).exp()
    q = trace["l"]["fn"]
    if not mean:
        return q.sample().exp()
    if isinstance(programs.leaf(q), Normal):
        with suppress(NotImplementedError):  # a transformed normal has no formula for its mean
            return (q.mean + q.variance / 2).exp()
    return q.sample((_DRAWS,)).exp().mean(0)


def latents(graph: CountVAE, batch: Batch, draws: int = 1, mean: bool = True) -> Latents:
    """Return the posterior means of z and l, with K = 1, or K draws of them."""
    trace: Any = poutine.trace(graph.guide).get_trace(*batch)

    def value(site: str) -> Tensor:
        q = trace.nodes[site]["fn"]
        return programs.mean(q).unsqueeze(0) if mean else q.sample((draws,))

    z = value("z")
    if "l" in trace.nodes:
        return Latents(z, value("l"))
    return Latents(z, observed_library(batch[0]).expand(*z.shape[:2], 1))


# ----------------------------------------------------------------------------------------- decoding
def proportions(
    graph: CountVAE, z: Tensor, c: Batch, batches: Sequence[int | None], n_batches: int
) -> Tensor:
    """Return rho with shape (K, B, G), averaged over decoding all cells in each of the batches.

    Args:
        graph: the graph.
        z: with shape (K, B, D).
        c: context of the minibatch, () or (c,).
        batches: numbers of experimental batches; None in it stands for each cell's own.
        n_batches: how many experimental batches the model knows.
    """
    total: Any = sum(
        graph.likelihood.proportions(z, *_as_batch(c, s, n_batches, z)) for s in batches
    )
    return total / len(batches)


def parameters(graph: CountVAE, at: Latents, c: Batch) -> Parameters:
    """Return mu, theta and the probability of an excess zero."""
    fn = programs.leaf(_likelihood(graph, at, c))
    mean = fn.mu if hasattr(fn, "mu") else fn.mean
    theta, gate = getattr(fn, "theta", None), getattr(fn, "gate_logits", None)
    return Parameters(
        mean,
        None if theta is None else theta.expand_as(mean),
        None if gate is None else gate.sigmoid(),
    )


def dispersions(
    graph: CountVAE, at: Latents, c: Batch, batches: Sequence[int | None], n_batches: int
) -> Tensor | None:
    """Return theta averaged over decoding in each of the batches; None of a Poisson.

    The arguments are those of `proportions`. Its shape broadcasts with (K, B, G).
    """
    in_each = (graph.likelihood(*at, *_as_batch(c, s, n_batches, at.z)) for s in batches)
    each = [getattr(programs.leaf(fn), "theta", None) for fn in in_each]
    total: Any = None if each[0] is None else sum(each)
    return None if total is None else total / len(batches)


def counts_drawn(graph: CountVAE, batch: Batch, draws: int) -> Tensor:
    """Return x' ~ p(x' | x), with shape (K, B, G), each from its own draw of z and l."""
    return _likelihood(graph, latents(graph, batch, draws, mean=False), batch[1:]).sample()


def _likelihood(graph: CountVAE, at: Latents, c: Batch) -> Any:
    """Return p(x | z, l, c), batch shape (K, B), event shape (G,)."""
    return graph.likelihood(*at, *_as_batch(c, None, 1, at.z))


def _as_batch(c: Batch, s: int | None, n_batches: int, z: Tensor) -> list[Tensor]:
    """Return the context expanded over K draws, with all cells in batch s if that is a number."""
    if not c:
        return []
    (columns,) = c
    if s is not None and n_batches > 1:
        columns = columns.clone()
        columns[:, :n_batches] = torch.nn.functional.one_hot(torch.tensor(s), n_batches).to(columns)
    return [columns.expand(*z.shape[:-1], columns.shape[-1])]
