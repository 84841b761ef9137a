"""From latents to data: generate, decode, reconstruct.

x ~ p(x | z), z ~ p(z);      x^ = E[x | z];      z = E_q[z | x]

The model runs forwards with an x that holds no values, since most models only count its rows. One
that reads more, such as the number of time steps, is given rows of data by `like`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array, Inputs, as_sources, device_and_dtype, inputs_of, slices, take
from pyrovae.evaluation import checked_batches
from pyrovae.tasks.embedding import expectation, points_of_latents
from pyrovae.tasks.given import (
    Given,
    SameNoise,
    check_inferred,
    check_shared,
    fixed_values,
    given_values,
    latent_site,
    latents_of,
)

__all__ = ["decode", "decoded", "generate", "reconstruct"]

_ROWS = 1024

Values = dict[str, Tensor]


def generate(
    graph: Any,
    n: int,
    *c: Array,
    mean: bool = True,
    seed: int | None = None,
    observed: str | None = None,
    like: Array | None = None,
    from_guide: Collection[str] = (),
    fixed: Mapping[str, Any] | None = None,
) -> Any:
    """Return n generated x: z ~ p(z | c), then E[x | z, c] or a draw x ~ p(x | z, c).

    A latent that all rows share, such as the weights of a `BayesianVAE`, is drawn from its prior as
    the others are, unless `from_guide` names it: then it is drawn from its posterior.

    Args:
        graph: any graph.
        n: number of observations.
        c: context, n rows each. A site that observes a context itself, such as the label of a
            semi-supervised model, keeps it and is not returned. Factors of the model are ignored.
        mean: return E[x | z, c], as papers show, instead of a draw. For a site of class numbers
            (`Categorical`) these are the probabilities of the K classes, with shape (n, K).
        seed: seed of the random draws; None continues the global random stream.
        observed: name of the observed site to return; by default the only one, or all of them.
        like: rows of data with shape (B, *event), for a model that reads x: row i for observation
            i, and again from the first where B < n.
        from_guide: names of latents to draw from the guide, which is given `like` as x.
        fixed: values of latents by name, that are not drawn: a number, or an array that broadcasts
            to (n, *event), such as `{"theta": 0.5}` for images at one angle.

    Returns:
        A tensor with shape (n, *event); a dict of them by name where several sites are observed and
        none is named.

    Raises:
        ValueError: if the prior cannot be sampled, such as an autoencoder's flat one; the model
            reads x and `like` is not given; a site that observes a context depends on latents that
            are drawn; or a name is not that of a site.

    Example:
        >>> import pyrovae as pv
        >>> q = pv.posteriors.DiagonalNormal(nn.Linear(6, 4))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(nn.Linear(2, 6)))
        >>> pv.generate(vae, 16).shape
        torch.Size([16, 6])
    """
    if not isinstance(n, Integral) or n < 1:
        raise ValueError(f"generate: n is {n!r}, expected the number of observations, at least 1")
    inputs = inputs_of(graph, n, c, like, "generate")
    with programs.evaluation(graph, seed), inputs.hint("generate"):
        batch = inputs.at(torch.arange(n))
        given = _drawn_by_guide(graph, batch, from_guide)
        if fixed is not None:
            latents = latents_of(graph.model, inputs.first)
            given |= fixed_values(latents, fixed, (n,), "generate").values
        try:
            programs.check_forwards(graph.model, *batch, given=given, factors=False)
            x = programs.simulated(graph.model, *batch, given=given, observed=observed).observed
        except NotImplementedError as error:
            raise ValueError(
                "generate: the prior is flat (improper), or another distribution that cannot be "
                f"sampled ({error}). Use a VAE, whose prior can"
            ) from error
        layout = _layout_of(x.values(), n, graph.model, inputs)
        values = {name: layout.rows_first(_value(site, mean), site) for name, site in x.items()}
        inputs.check_drawn("generate", list(values.values()))
        return _alone(values)


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
        latents = latents_of(graph.model, inputs.first)
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
            with SameNoise():
                x = _decoded(graph, given, lead, inputs, observed, latents.layout, at_once=1)
        else:
            x = _decoded(graph, given, lead, inputs, observed, latents.layout, at_once=_ROWS)
        inputs.check_drawn(task, list(x.values()))
        return _alone({name: value.unflatten(0, lead) for name, value in x.items()})


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
    pieces: list[Values] = []
    data = as_sources((x, *c))
    with programs.evaluation(graph):
        like = device_and_dtype(graph, data)
        # of the model: the guide may have others
        latents = latents_of(graph.model, lambda n: take(data, torch.zeros(n).long(), *like))
        kept = fixed_values(latents, fixed, (len(data[0]),), "reconstruct")
        rows = slices(len(data[0]), _ROWS)
        for part, batch in zip(rows, checked_batches(graph, data), strict=True):
            points = points_of_latents(graph, batch, site)
            given = {name: z for name, z in points.items() if site or name in latents}
            given = {name: _placed(latents, name, z) for name, z in given.items()}
            given |= kept.at(part)
            check_inferred(latents, given, site, "reconstruct")
            sites = programs.simulated(graph.model, *batch, given=given, observed=observed).observed
            pieces.append(_expected(sites, latents.layout._replace(rows=len(batch[0]))))
    return _alone(_joined(pieces))


def _drawn_by_guide(graph: Any, batch: tuple[Tensor, ...], names: Collection[str]) -> Values:
    if not names:
        return {}
    drawn = programs.latent_by_name(programs.record(graph.guide, *batch))
    unknown = sorted(set(names) - set(drawn))
    if unknown:
        raise ValueError(
            f"generate: from_guide names {unknown}, but the guide has the latents {list(drawn)}"
        )
    return {name: drawn[name]["value"] for name in names}


def _layout_of(
    sites: Iterable[programs.Site], rows: int, model: programs.Program, inputs: Inputs
) -> programs.Layout:
    """Return where the rows of observed sites are; the model is looked at if sizes do not tell."""
    layout = programs.Layout(rows)
    if any(layout.ambiguous(site) for site in sites):
        return programs.look_for_rows(model, inputs.first)[1]._replace(rows=rows)
    return layout


def _placed(latents: programs.Trace, name: str, z: Tensor) -> Tensor:
    """Return values of a latent by row where the model has its rows."""
    return latents.layout.rows_placed(z, latents[name]) if name in latents else z


def _expected(sites: Mapping[str, programs.Site], layout: programs.Layout) -> Values:
    """Return the expected values of sites by name, rows first."""
    return {name: layout.rows_first(expectation(site["fn"]), site) for name, site in sites.items()}


def _value(site: programs.Site, mean: bool) -> Tensor:
    return expectation(site["fn"]) if mean else site["value"]


def _decoded(
    graph: Any,
    given: Given,
    lead: tuple[int, ...],
    inputs: Inputs,
    observed: str | None,
    layout: programs.Layout,
    at_once: int,
) -> Values:
    """Return the expected value of each observed site at all rows, so many in a run."""
    pieces: list[Values] = []
    every = torch.arange(prod(lead))
    for part in slices(len(every), at_once):
        batch, values = inputs.at(every[part] % lead[-1]), given.at(part)
        if not pieces:
            programs.check_forwards(graph.model, *batch, given=values, factors=False)
        sites = programs.simulated(graph.model, *batch, given=values, observed=observed).observed
        pieces.append(_expected(sites, layout._replace(rows=len(batch[0]))))
    return _joined(pieces)


def _joined(pieces: list[Values]) -> Values:
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def _alone(values: Values) -> Any:
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
