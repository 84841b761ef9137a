"""What is given of a model's latents before it runs forwards; the others are drawn.

x ~ p(x | z, y),   z given,   y ~ p(y | z)
"""

import zlib
from collections.abc import Collection, Mapping
from math import prod
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array, as_sources
from pyrovae.programs import Trace

__all__ = [
    "Given",
    "SameNoise",
    "check_inferred",
    "check_shared",
    "fixed_values",
    "given_values",
    "latent_site",
]

Values = dict[str, Tensor]


class Given(NamedTuple):
    """Values of latents by name, for all rows.

    Attributes:
        values: of each latent, the batch dimensions (*, B) of the rows flattened into one.
        axes: the dimension of the rows; None for a latent that all rows share.
    """

    values: Values
    axes: dict[str, int | None]

    def at(self, rows: slice) -> Values:
        """Return the values at some rows."""
        axes = self.axes.items()
        index = {name: () if i is None else (*[slice(None)] * i, rows) for name, i in axes}
        return {name: value[index[name]] for name, value in self.values.items()}


class SameNoise(Messenger):
    """Draw each site from a random stream of its own, which begins anew in every run.

    A latent that does not depend on what is given thus has the same value in all runs, and the
    others the same noise. To be used inside `programs.evaluation`, which keeps the global stream.

    Args:
        graph: whose model runs.
    """

    def __init__(self, graph: object) -> None:
        super().__init__()
        self.devices = programs.cuda_devices(graph)

    def _pyro_sample(self, msg: Any) -> None:
        programs.seed_streams(zlib.crc32(msg["name"].encode()), self.devices)


def latent_site(latents: Trace, site: str | None) -> str:
    """Return the latent site that is meant: the one named, the only one, or "z" among several.

    The only one with a value per row counts as such.

    Raises:
        ValueError: if several are there, none is named, and none is "z".
    """
    if site is not None:
        return site
    per_row = [name for name, each in latents.items() if latents.layout.has_rows(each)]
    if len(latents) == 1 or len(per_row) == 1:
        return next(iter(per_row or latents))
    if "z" in latents:
        return "z"
    raise ValueError(f"the model has the latent sites {list(latents)}: name one of them by site=")


def check_shared(latents: Trace, given: Collection[str], task: str) -> None:
    """Refuse to draw latents that all rows share, such as the weights of a network.

    Args:
        latents: of the model, from `look_at`.
        given: names of those that have a value.
        task: what errors call it.

    Raises:
        ValueError: if one has no value.
    """
    drawn = [name for name in latents if name not in given]
    shared = [name for name in drawn if not latents.layout.has_rows(latents[name])]
    if shared:
        raise ValueError(
            f'{task}: all rows share the latent "{shared[0]}", and its value is not given: a draw '
            "from its prior would be an untrained model's. Give the value, as by "
            f'fixed={{"{shared[0]}": value}}; or take a graph with a draw from its posterior, such '
            "as graph.draw() of a BayesianVAE"
        )


def check_inferred(latents: Trace, given: Collection[str], site: str | None, task: str) -> None:
    """Refuse what `check_shared` does, and latents of the model that the guide does not draw.

    Their value would come from the prior, and say nothing of x.

    Args:
        latents: of the model, from `look_at`.
        given: names of those that have a value.
        site: the only latent that is asked for, beside which others are drawn from the model.
        task: what errors call it.

    Raises:
        ValueError: if one has no value.
    """
    check_shared(latents, given, task)
    missing = [name for name in latents if name not in given]
    if site is None and missing:
        raise ValueError(
            f'{task}: the guide does not draw the latent "{missing[0]}" of the model, such as one '
            "that TraceEnum_ELBO sums out, so its value would come from its prior. Sample it in "
            "the guide too, give fixed=, or name by site= the latent that is inferred"
        )


def fixed_values(
    latents: Trace, fixed: Mapping[str, Any] | None, lead: tuple[int, ...], task: str
) -> Given:
    """Return the values of latents that are fixed, for every row.

    Args:
        latents: of the model, from `look_at`.
        fixed: values by name, which broadcast to (*lead, *event), or to (*event) if all rows share
            the latent. Plates inside a row belong to its event.
        lead: batch dimensions (*, B) of the rows.
        task: what errors call it.

    Raises:
        TypeError: if they do not come by name.
        ValueError: if the model has no such latent, or a value has not its shape.
    """
    if not isinstance(fixed, Mapping | None):
        raise TypeError(
            f"{task}: fixed is a {type(fixed).__name__}, expected values of latents by name, as in "
            'fixed={"z": 0.0}'
        )
    given = Given({}, {})
    for name, value in (fixed or {}).items():
        if name not in latents:
            raise ValueError(
                f'{task}: fixed names "{name}", but the model has the latents {list(latents)}'
            )
        like, rows = latents[name]["value"], latents.layout.has_rows(latents[name])
        shape = (*lead, *_event_of(latents, name)) if rows else tuple(like.shape)
        try:
            whole = torch.as_tensor(value).to(like.device, like.dtype)
            whole = _with_plates_of_one(whole, latents, name, len(lead)) if rows else whole
            whole = whole.expand(shape).clone()
            if not whole.isfinite().all():
                raise ValueError("it holds NaN or infinity")
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f'{task}: fixed["{name}"] does not fit the shape {shape} of that '
                f"latent: give a finite number, or an array that broadcasts to it ({error})"
            ) from error
        if rows:
            _give(given, latents, name, whole, len(lead))
        else:
            given.values[name], given.axes[name] = whole, None
    return given


def given_values(
    latents: Trace, z: Mapping[str, Array], rows: int | None, task: str
) -> tuple[Given, tuple[int, ...]]:
    """Return values of latent sites for every row, and the batch dimensions (*, B) of the rows.

    Args:
        latents: of the model, from `look_at`.
        z: values by name, with shape (*, B, *event). Plates inside a row belong to its event.
        rows: number of rows that is expected; None for any.
        task: what errors call it.

    Raises:
        ValueError: if there is no such site, values have not its shape, or numbers of rows differ.
    """
    values = {name: _fitting(name, value, latents, task) for name, value in z.items()}
    lead = _batch_shape(values, latents, rows, task)
    given = Given({}, {})
    for name, value in values.items():
        _give(given, latents, name, value, len(lead))
    return given, lead


def _give(given: Given, latents: Trace, name: str, value: Tensor, lead: int) -> None:
    """Add a value with shape (*lead, *event) of a latent, its rows where the model has them."""
    site, rows = latents[name], value.flatten(0, lead - 1)
    given.values[name], given.axes[name] = latents.layout.rows_placed(rows, site), 0
    if latents.layout.has_rows(site):
        given.axes[name] = len(site["fn"].batch_shape) + latents.layout.row_dimension(site)


def _with_plates_of_one(value: Tensor, latents: Trace, name: str, lead: int) -> Tensor:
    """Return values, shape (*lead, *event), with the plates of one row that have one element.

    They may be left out of what is given.
    """
    own, event = latents[name]["fn"].event_dim, _event_of(latents, name)
    plates = event[: len(event) - own]
    missing = value.dim() == lead + own and tuple(value.shape[lead - len(plates) :]) != event
    if not plates or prod(plates) > 1 or not missing:
        return value
    return value.reshape(*value.shape[:lead], *plates, *value.shape[lead:])


def _event_of(latents: Trace, name: str) -> tuple[int, ...]:
    """Return the shape of a latent's value of one row; of one that has no rows, its event's."""
    site = latents[name]
    if not latents.layout.has_rows(site):
        return tuple(site["fn"].event_shape)
    return tuple(latents.layout.rows_first(site["value"], site).shape[1:])


def _fitting(name: str, z: Array, latents: Trace, task: str) -> Tensor:
    """Return values of a latent site as a tensor like the site's own."""
    if name not in latents:
        raise ValueError(
            f'{task}: the model has no latent site "{name}", it has {list(latents)}: name one of '
            "them by site="
        )
    like, event = latents[name]["value"], _event_of(latents, name)
    value = as_sources(z, task)[0][:]
    value = _with_plates_of_one(value, latents, name, value.dim() - latents[name]["fn"].event_dim)
    lead, whole = value.dim() - len(event), like.is_floating_point() or not _has_fractions(value)
    if lead < 1 or tuple(value.shape[lead:]) != event or not whole:
        expected = ", ".join(["B", *map(str, event)])
        raise ValueError(
            f"{task}: z has shape {tuple(value.shape)} and type {value.dtype}, expected "
            f'({expected}) and {like.dtype} for the latent site "{name}"'
        )
    return value.to(like.device, like.dtype)


def _has_fractions(value: Tensor) -> bool:
    return value.is_floating_point() and bool(value.frac().any())


def _batch_shape(values: Values, latents: Trace, rows: int | None, task: str) -> tuple[int, ...]:
    """Return the batch dimensions (*, B) that the values of all sites share."""
    shapes = {
        name: tuple(z.shape[: z.dim() - len(_event_of(latents, name))])
        for name, z in values.items()
    }
    lead = next(iter(shapes.values()))
    if len(set(shapes.values())) > 1 or rows not in (None, lead[-1]):
        context = "" if rows is None else f", the context has {rows}"
        raise ValueError(f"{task}: the latents have rows {shapes}{context}: expected the same")
    return lead
