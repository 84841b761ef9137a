"""Passes over rows and samples whose memory grows with neither, and the terms of a trace, one for each sample and row.

What `evaluate` and `annealing` share. K samples of B rows are one run of a program inside a plate at dim -2; each term of its
trace then has shape (K, B).
"""

from collections.abc import Iterator
from typing import Any

import pyro
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Sources, device_and_dtype, take

__all__ = ["log_prob", "many", "passes"]

Tensors = tuple[Tensor, ...]

# Numbers that one pass may hold a site: 32 MiB in float32, so that memory does not grow with samples or rows.
_AT_ONCE = 1 << 23
_ROWS = 128  # encoded together
_LEAST_WIDTH = 256  # of a row, for its hidden layers


def passes(
    graph: Any, data: Sources, samples: int, copies: int = 1
) -> Iterator[tuple[Tensors, list[int]]]:
    """Yield minibatches and, for each, the numbers of draws to make at once, so that no pass holds more than _AT_ONCE values.

    Args:
        graph: anything with `model` and `guide`.
        data: (x, *c), B rows each.
        samples: K, draws a row.
        copies: how often a pass holds a site's numbers, e.g. 4 where gradients are taken.

    Raises:
        ValueError: if K is below 1.
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}, expected at least one draw a row")
    width = copies * _width(graph, take(data, slice(0, 1), *device_and_dtype(graph, data)))
    rows = max(1, min(_ROWS, _AT_ONCE // width))
    draws = max(1, _AT_ONCE // (width * rows))
    sizes = [min(draws, samples - done) for done in range(0, samples, draws)]
    for start in range(0, len(data[0]), rows):
        yield take(data, slice(start, start + rows), *device_and_dtype(graph, data)), sizes


def _width(graph: Any, one: Tensors) -> int:
    """Return how many numbers one draw for one row takes: the largest parameter of a site, such as a categorical's logits."""
    with programs.random_stream(0, []):  # a look that leaves the stream where it was
        p, q = programs.run(graph.model, graph.guide, *one)
    for site in [*p.values(), *q.values()]:
        if any(frame.vectorized and frame.dim < -1 for frame in site["cond_indep_stack"]):
            raise ValueError(
                f'site "{site["name"]}" lies in more plates than the one over the rows, and evaluation puts its samples where the next '
                "is. Make what is inside a row one event: `fn.to_event(1)` instead of a plate"
            )
    leaves = [programs.leaf(site["fn"]) for trace in (p, q) for site in trace.values()]
    parameters = [
        getattr(leaf, name) for leaf in leaves for name in getattr(leaf, "arg_constraints", {})
    ]
    return max(
        [_LEAST_WIDTH, *(value.numel() for value in parameters if isinstance(value, Tensor))]
    )


def many(program: programs.Program, draws: int) -> programs.Program:
    """Return the program run `draws` times at once, in a plate left of the one over the rows."""
    return pyro.plate(programs.SAMPLES, draws, dim=-2)(program)


def log_prob(site: programs.Site, batch: Tensors) -> Tensor:
    """Return log p of a site's value, with shape (K, B)."""
    return programs.per_row(programs.log_prob(site), site, len(batch[0]))
