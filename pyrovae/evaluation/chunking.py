"""Minibatches of rows and groups of draws such that memory grows with neither."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from pyrovae import programs
from pyrovae.data import Sources, ThreadWatch, device_and_dtype, take
from pyrovae.distributions import whole_number
from pyrovae.evaluation.checking import Check
from pyrovae.programs import Layout

__all__ = ["chunks_of"]

Tensors = tuple[Tensor, ...]

# Values of one site in one run: 8 MiB in float32. Several such tensors stay with the process when
# they are freed; larger ones go back to the system, which clears their pages anew at each run.
_AT_ONCE = 1 << 21
_ROWS = 128  # encoded together
_LEAST_WIDTH = 256  # values per row, for its hidden layers


def chunks_of(
    graph: Any, data: Sources, samples: int, check: Check, copies: int = 1
) -> Iterator[tuple[Tensors, list[Layout]]]:
    """Yield minibatches, each with the layouts of the runs that together make K draws per row.

    No run holds more than a fixed number of values per site. The programs are checked on the first
    rows before anything else runs them.

    Args:
        graph: anything with `model` and `guide`.
        data: (x, *c), B rows each.
        samples: K, draws per row.
        check: of the traces of model and guide.
        copies: how often a run holds a site's values, e.g. 4 where gradients are taken.

    Raises:
        ValueError: if K is below 1, from `check`, or for what Pyro's validation refuses.
    """
    samples = whole_number(samples, "samples")
    placement = device_and_dtype(graph, data)
    programs.Programs(graph).validate(check, *take(data, slice(0, _ROWS), *placement))
    width = copies * _width(graph, take(data, slice(0, 1), *placement))
    rows = max(1, min(_ROWS, len(data[0]), _AT_ONCE // width))
    draws = max(1, _AT_ONCE // (width * rows))
    sizes = [min(draws, samples - done) for done in range(0, samples, draws)]
    layout = None
    with ThreadWatch() as watch:
        for start in range(0, len(data[0]), rows):
            batch = take(data, slice(start, start + rows), *placement)
            if layout is None:
                both = graph.model, graph.guide
                layout = programs.find_layout(*both, *batch, draws=max(2, *sizes), scaled=False)
                sizes = [1] * samples if layout.separate else sizes
            yield batch, [layout._replace(rows=len(batch[0]), draws=size) for size in sizes]
            watch.look()


def _width(graph: Any, one: Tensors) -> int:
    """Return how many values one draw for one row takes: the largest parameter of any site."""
    try:
        with programs.random_stream(0, []):  # the random stream stays where it was
            p, q = programs.run(graph.model, graph.guide, *one)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the programs of {type(graph).__name__} do not run on one row ({error}). A guide with "
            "parameters of each row, such as an autoguide of Pyro's, is for the rows that it was "
            "made for: let a network compute them from x"
        ) from error
    leaves = [programs.leaf(site["fn"]) for trace in (p, q) for site in trace.values()]
    parameters = [value for leaf in leaves for value in _parameters(leaf)]
    sizes = (value.numel() for value in parameters if isinstance(value, Tensor))
    return max(_LEAST_WIDTH, *sizes, 0)


def _parameters(leaf: Any) -> list[Any]:
    """Return the parameters of a distribution; none of one that does not name them."""
    try:
        return [getattr(leaf, name) for name in leaf.arg_constraints]
    except (NotImplementedError, AttributeError):
        return []
