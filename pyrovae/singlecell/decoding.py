"""What a fitted count graph says of cells: library sizes, expression, parameters, new counts; minibatch by minibatch.

z, l ~ q(z, l | x, c);      rho = softmax f(z, c);      mu = e^l rho;      x' ~ p(x | z, l, c)

Everything runs inside `pyrovae.traces.evaluation`: the graph is not touched. One draw stands for the posterior mean of z and l.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from pyro import poutine
from torch import Tensor

from pyrovae import programs
from pyrovae.data import as_sources, device_and_dtype, take
from pyrovae.graphs import CountVAE, observed_library

__all__ = [
    "Codes",
    "Parameters",
    "decoded",
    "encoded",
    "library",
    "mapped",
    "parameters",
    "predictive",
    "proportions",
]

Batch = tuple[Tensor, ...]
T = TypeVar("T")


class Codes(NamedTuple):
    """Latents of a minibatch, K draws of each: z with shape (K, B, D), l with shape (K, B, 1)."""

    z: Tensor
    l: Tensor  # noqa: E741 (the papers' symbol)


class Parameters(NamedTuple):
    """Of p(x | z, l, c), each with shape (K, B, G): mu; theta and the probability of dropout, None where there are none."""

    mean: Tensor
    dispersions: Tensor | None
    dropout: Tensor | None


def mapped(
    graph: CountVAE, data: Any, rows: int, seed: int | None, f: Callable[[Batch], T]
) -> Iterator[tuple[slice, T]]:
    """Yield (which rows, f of their x and c), each minibatch in an evaluation and a random stream of its own."""
    tensors = as_sources(data)
    for start in range(0, len(tensors[0]), rows):
        span = slice(start, min(start + rows, len(tensors[0])))
        with programs.evaluation(graph, None if seed is None else seed + start):
            result = f(take(tensors, span, *device_and_dtype(graph, tensors)))
        yield span, result


def encoded(graph: CountVAE, batch: Batch, draws: int = 1, mean: bool = True) -> Codes:
    """Return the posterior means of z and l, or draws of them."""
    trace: Any = poutine.trace(graph.guide).get_trace(*batch)

    def value(site: str) -> Tensor:
        fn = trace.nodes[site]["fn"]
        return programs.mean(fn).unsqueeze(0) if mean else fn.sample((draws,))

    z = value("z")
    l = value("l") if "l" in trace.nodes else observed_library(batch[0]).expand(*z.shape[:2], 1)  # noqa: E741
    return Codes(z, l)


def library(graph: CountVAE, batch: Batch, mean: bool = True) -> Tensor:
    """Return E_q[e^l], with shape (B, 1), or a draw of e^l; the totals where the library is observed."""
    trace: Any = poutine.trace(graph.guide).get_trace(*batch)
    if "l" not in trace.nodes:
        return observed_library(batch[0]).exp()
    fn = trace.nodes["l"]["fn"]
    if not mean:
        return fn.sample().exp()
    try:
        return (
            (fn.mean + fn.variance / 2).exp()
            if isinstance(programs.leaf(fn), torch.distributions.Normal)
            else _mean_exp(fn)
        )
    except NotImplementedError:
        return _mean_exp(fn)


def _mean_exp(fn: Any) -> Tensor:
    return fn.sample((256,)).exp().mean(0)


def proportions(
    graph: CountVAE, z: Tensor, c: Batch, batches: Sequence[int | None], n_batches: int
) -> Tensor:
    """Return rho, with shape (K, B, G), decoded as each of the batches in turn and averaged; None is the batch as observed."""
    total: Any = sum(
        graph.likelihood.proportions(z, *_as_batch(c, s, n_batches, z)) for s in batches
    )
    return total / len(batches)


def _as_batch(c: Batch, s: int | None, n_batches: int, z: Tensor) -> list[Tensor]:
    """Return the context over K draws, its first columns those of batch s."""
    if not c:
        return []
    (columns,) = c
    if s is not None and n_batches > 1:
        columns = columns.clone()
        columns[:, :n_batches] = torch.nn.functional.one_hot(torch.tensor(s), n_batches).to(columns)
    return [columns.expand(*z.shape[:-1], columns.shape[-1])]


def decoded(graph: CountVAE, codes: Codes, c: Batch) -> Any:
    """Return p(x | z, l, c), batch shape (K, B), event shape (G,)."""
    return graph.likelihood(*codes, *_as_batch(c, None, 1, codes.z))


def parameters(graph: CountVAE, codes: Codes, c: Batch) -> Parameters:
    """Return mu, theta and the probability of dropout."""
    fn = programs.leaf(decoded(graph, codes, c))
    mean = fn.mu if hasattr(fn, "mu") else fn.mean
    theta, gate = getattr(fn, "theta", None), getattr(fn, "gate_logits", None)
    return Parameters(
        mean,
        None if theta is None else theta.expand_as(mean),
        None if gate is None else gate.sigmoid(),
    )


def predictive(graph: CountVAE, batch: Batch, draws: int) -> Tensor:
    """Return x' ~ p(x' | x), with shape (K, B, G): each from its own draw of z and l."""
    return decoded(graph, encoded(graph, batch, draws, mean=False), batch[1:]).sample()
