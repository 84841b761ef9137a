"""From given latents to data: decode, reconstruct.

x^ = E[x | z];      z = E_q[z | x]

The model runs forwards with an x that holds no values, since most models only count its rows. One
that reads more, such as the number of time steps, is given rows of data by `like`.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.data import (
    Array,
    Inputs,
    Sources,
    as_sources,
    device_and_dtype,
    inputs_of,
    rows_at_once,
    slices,
    take,
)
from pyrovae.evaluation import checked_batches
from pyrovae.tasks.embedding import points_of_latents
from pyrovae.tasks.forwards import Looked, Values, alone, expected, joined, look_at
from pyrovae.tasks.given import (
    Given,
    SameNoise,
    check_inferred,
    check_shared,
    fixed_values,
    given_values,
    latent_site,
)

__all__ = ["decode", "decoded", "reconstruct"]


def decode(
    graph: Any,
    z: Array | Mapping[str, Array],
    *c: Array,
    site: str | None = None,
    observed: str | None = None,
    like: Array | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> Any:
    """Return E[x | z, c] with shape (B, *event); latents of other sites are drawn from the model.

    Args:
        graph: a fitted graph.
        z: values of one latent site, with shape (B, D), or (K, B, D) for K draws of each row;
            values of several sites by name.
        c: context, B rows each.
        site: name of that latent site; by default the only one, or "z" among several.
        observed: name of the observed site to return, as in `generate`.
        like: rows of data for a model that reads x, as in `generate`.
        fixed: values of further latents by name, as in `generate`, that broadcast to (B, *event);
            to (*event) for a latent that all rows share, which `z` cannot hold.

    Returns:
        A tensor with shape (B, *event) or (K, B, *event), or a dict of them, as from `generate`.

    Raises:
        ValueError: if the model has no such site, z has not its shape, the model reads x and
            `like` is not given, or a latent that all rows share, such as the weights of a
            `BayesianVAE`, is not given: give its value, or decode with `graph.draw()`.
    """
    return decoded(graph, z, c, site=site, observed=observed, like=like, fixed=fixed, task="decode")


def decoded(
    graph: Any,
    z: Array | Mapping[str, Array],
    c: Sequence[Array],
    *,
    site: str | None,
    observed: str | None,
    like: Array | None,
    fixed: Mapping[str, Any] | None,
    task: str,
    drawn_once: bool = False,
) -> Any:
    """Return what `decode` does, under the name `task` in errors.

    With `drawn_once` all rows have the same noise of the latents that are drawn: the model then
    runs row by row, if there are any.
    """
    rows = len(c[0]) if c else None
    inputs = inputs_of(graph, rows or 1, c, like, task)
    with programs.evaluation(graph), inputs.hint(task):
        looked = look_at(graph.model, inputs.first)
        latents = looked.latents
        inputs.check_drawn(task, [site["value"] for site in latents.values()])
        of_sites = z if isinstance(z, Mapping) else {latent_site(latents, site): z}
        given, lead = given_values(latents, of_sites, rows, task)
        kept = fixed_values(latents, fixed, lead, task)
        twice = sorted(set(kept.values) & set(given.values))
        if twice:
            raise ValueError(f"{task}: fixed names {twice}, whose values are given already")
        given = Given(given.values | kept.values, given.axes | kept.axes)
        check_shared(latents, given.values, task)
        if drawn_once and set(latents) - set(given.values):
            with SameNoise(graph):
                pieces = _decoded(graph, given, lead, inputs, observed, looked._replace(rows=1))
                x = joined(pieces, prod(lead))
        else:
            x = joined(_decoded(graph, given, lead, inputs, observed, looked), prod(lead))
        inputs.check_drawn(task, list(x.values()))
        return alone({name: value.unflatten(0, lead) for name, value in x.items()})


def reconstruct(
    graph: Any,
    x: Array,
    *c: Array,
    site: str | None = None,
    observed: str | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> Any:
    """Return E[x | z = E_q[z | x, c], c], with the shape of x; it denoises a noisy x.

    Args:
        graph: a fitted graph.
        x: data with shape (B, *event).
        c: context, B rows each.
        site: a latent site to set to its embedding (class numbers to the most probable class), the
            other sites drawn from the model; by default all latents of the guide are set.
        observed: name of the observed site to return, as in `generate`.
        fixed: values of latents by name, in place of their embeddings: `{"theta": 0.0, "dx": 0.0}`
            shows the contents of a `PoseVAE` at zero pose.

    Returns:
        A tensor with the shape of x, or a dict of them, as from `generate`.

    Raises:
        ValueError: if there is no such site; or a latent is neither set nor fixed that all rows
            share, or that the guide does not draw and no `site` is named.
    """
    data = as_sources((x, *c))
    with programs.evaluation(graph):
        pieces = _reconstructed(graph, data, site, observed, fixed)
        return alone(joined(pieces, len(data[0])))


def _reconstructed(
    graph: Any,
    data: Sources,
    site: str | None,
    observed: str | None,
    fixed: Mapping[str, Any] | None,
) -> Iterator[tuple[slice, Values]]:
    like = device_and_dtype(graph, data)
    # of the model: the guide may have others
    looked = look_at(graph.model, lambda n: take(data, torch.zeros(n).long(), *like))
    latents, n = looked.latents, len(data[0])
    kept = fixed_values(latents, fixed, (n,), "reconstruct")
    rows = slices(n, rows_at_once(data[0].shape[1:]))
    for part, batch in zip(rows, checked_batches(graph, data), strict=True):
        points = points_of_latents(graph, batch, site)
        given = {name: z for name, z in points.items() if site or name in latents}
        given = {name: _placed(latents, name, z) for name, z in given.items()}
        given |= kept.at(part)
        check_inferred(latents, given, site, "reconstruct")
        yield part, _expected_at(graph, batch, given, observed, looked)


def _expected_at(
    graph: Any, batch: tuple[Tensor, ...], given: Values, observed: str | None, looked: Looked
) -> Values:
    """Return the expected values of the observed sites of a minibatch."""
    sites = programs.simulated(
        graph.model, *batch, given=given, observed=observed, unread=looked.unread
    ).observed
    return expected(sites, looked.latents.layout._replace(rows=len(batch[0])))


def _placed(latents: programs.Trace, name: str, z: Tensor) -> Tensor:
    """Return values of a latent by row where the model has its rows."""
    return latents.layout.rows_placed(z, latents[name]) if name in latents else z


def _decoded(
    graph: Any,
    given: Given,
    lead: tuple[int, ...],
    inputs: Inputs,
    observed: str | None,
    looked: Looked,
) -> Iterator[tuple[slice, Values]]:
    """Yield the expected value of each observed site at some rows after the other."""
    every = torch.arange(prod(lead))
    for part in slices(len(every), looked.rows):
        batch, values = inputs.at(every[part] % lead[-1]), given.at(part)
        if part.start == 0:
            programs.check_forwards(graph.model, *batch, given=values, factors=False)
        yield part, _expected_at(graph, batch, values, observed, looked)
