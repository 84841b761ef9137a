"""A model that runs forwards on many rows: so many at once that memory does not grow with them."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.data import rows_at_once
from pyrovae.programs import Trace
from pyrovae.tasks.embedding import expectation

__all__ = ["Looked", "Values", "alone", "expected", "joined", "look_at"]

_ROWS = 4096  # at once, of a model that runs forwards

Values = dict[str, Tensor]


class Looked(NamedTuple):
    """What a model that is looked at on few rows shows.

    Attributes:
        latents: its latent sites, and where its rows are.
        unread: an example of the observed value that no site follows, by name. Where expected
            values are wanted it need not be drawn, which often takes longer than the network.
        rows: how many rows to run at once, by the size of the observed values.
    """

    latents: Trace
    unread: Values
    rows: int


def look_at(model: programs.Program, rows: Callable[[int], tuple[Tensor, ...]]) -> Looked:
    """Look at a model.

    Args:
        model: a program of (x, *c).
        rows: returns (x, *c) of so many rows.
    """
    found, layout = programs.look_for_rows(model, rows)
    latents = Trace(found.latent)
    latents.layout = layout
    sizes = [site["value"].numel() // layout.rows for site in found.observed.values()]
    return Looked(latents, found.unread, rows_at_once((max(sizes, default=0),), most=_ROWS))


def expected(sites: Mapping[str, programs.Site], layout: programs.Layout) -> Values:
    """Return the expected values of sites by name, rows first."""
    return {name: layout.rows_first(expectation(site["fn"]), site) for name, site in sites.items()}


def joined(pieces: Iterable[tuple[slice, Values]], n: int) -> Values:
    """Return the values of all n rows, given those of some rows after the other.

    They are written to their place one after the other, so that there is no second copy of all.
    Values that have no rows are concatenated.
    """
    whole, others = Values(), dict[str, list[Tensor]]()
    for rows, values in pieces:
        size = rows.stop - rows.start
        if size == n:
            return values
        for name, value in values.items():
            if value.dim() == 0 or len(value) != size:
                others.setdefault(name, []).append(value)
                continue
            if name not in whole:
                whole[name] = value.new_empty((n, *value.shape[1:]))
            whole[name][rows] = value
    return whole | {name: torch.cat(parts) for name, parts in others.items()}


def alone(values: Values) -> Any:
    """Return the tensor of the only site, or the dict of several.

    Raises:
        ValueError: if there is none, as of a model that observes by `pyro.factor` alone.
    """
    if not values:
        raise ValueError(
            "the model observes no value that a distribution gives, only factors or the context, "
            "so there is none to return. Observe x by pyro.sample(..., obs=x) of a distribution "
            "with that density"
        )
    return next(iter(values.values())) if len(values) == 1 else values
