"""What every evaluation checks first: the support of the data, and what the programs draw."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array, Sources, as_sources, batches_in_order
from pyrovae.programs import Trace

__all__ = [
    "check_densities",
    "check_pair",
    "check_rows",
    "checked_batches",
    "checked_sources",
]

Check = Callable[[Trace, Trace], None]


def checked_sources(graph: Any, x: Array, *c: Array) -> Sources:
    """Return (x, *c) as sources, once `graph.check(x, *c)` accepts them, if the graph has it.

    Raises:
        ValueError: if a value is not finite, or outside the support of the observed site.
    """
    data = as_sources((x, *c))
    programs.check_data(graph, *data)
    return data


def checked_batches(graph: Any, data: Sources) -> Iterator[tuple[Tensor, ...]]:
    """Yield minibatches in order, of which the first shows whether x holds rows.

    To be read within `programs.evaluation`.

    Raises:
        ValueError: if the model observes x in another shape.
    """
    for i, batch in enumerate(batches_in_order(graph, data)):
        if i == 0:
            programs.check_shapes(graph, *batch)
        yield batch


def check_pair(p: Trace, q: Trace) -> None:
    """Refuse a model and a guide between which there is no bound."""
    programs.check_all_rows(p, q)
    programs.check_sites(p, q, needs_rsample=False)
    programs.check_measures(p, q)
    programs.check_auxiliary(p, q)


def check_densities(p: Trace, q: Trace) -> None:
    """Refuse what `check_pair` does, and latents without a density or shared by the rows."""
    check_pair(p, q)
    check_rows(p, q)
    for site in programs.latent(p) + programs.latent(q):
        if not programs.holds_draw(site, q):
            programs.check_density(site)


def check_rows(p: Trace, q: Trace) -> None:
    """Refuse latents that the rows share, and random parts of rows: they have no evidence then."""
    programs.check_whole_rows(p, q)
    for trace in (p, q):
        for site in programs.latent(trace):
            trace.layout.check_rows(site)
