"""From latents to data: generate, decode, reconstruct.

x ~ p(x | z), z ~ p(z);      x^ = E[x | z];      z = E_q[z | x]

The model runs forwards with an x that holds no values, since most models only count its rows. One
that reads more, such as the number of time steps, is given rows of data by `like`.
"""

from collections.abc import Collection, Mapping
from math import prod
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array, as_sources, batches_in_order, slices
from pyrovae.tasks.embedding import expectation, points_of_latents
from pyrovae.tasks.inputs import Inputs, inputs_of

__all__ = ["decode", "generate", "latent_site", "reconstruct"]

_ROWS = 1024

Sites = dict[str, programs.Site]
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
            semi-supervised model, keeps it and is not returned.
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
            reads x and `like` is not given; or a name is not that of a site.

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
        given |= _fixed_values(graph, batch, fixed, "generate")
        try:
            x = programs.simulated(graph.model, *batch, given=given, observed=observed).observed
        except NotImplementedError as error:
            raise ValueError(
                "generate: the prior is flat (improper) and cannot be sampled. Use a VAE, whose "
                "prior is a distribution"
            ) from error
        values = {name: _value(site, mean) for name, site in x.items()}
        inputs.check_drawn("generate", list(values.values()))
        return _alone(values)


def decode(
    graph: Any,
    z: Array | Mapping[str, Array],
    *c: Array,
    site: str | None = None,
    observed: str | None = None,
    like: Array | None = None,
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

    Returns:
        A tensor with shape (B, *event) or (K, B, *event), or a dict of them, as from `generate`.

    Raises:
        ValueError: if the model has no such site, z has not its shape, or the model reads x and
            `like` is not given.
    """
    inputs = inputs_of(graph, len(c[0]) if c else 1, c, like, "decode")
    with programs.evaluation(graph), inputs.hint("decode"):
        latents = programs.look(graph.model, *inputs.at(torch.zeros(1, dtype=torch.long))).latent
        inputs.check_drawn("decode", [site["value"] for site in latents.values()])
        of_sites = z if isinstance(z, Mapping) else {latent_site(latents, site): z}
        given = {name: _fitting(name, value, latents, graph) for name, value in of_sites.items()}
        lead = _batch_shape(given, latents, rows=len(c[0]) if c else None)
        flat = {name: value.flatten(0, len(lead) - 1) for name, value in given.items()}
        x = _decoded(graph, flat, inputs, torch.arange(prod(lead)), lead[-1], observed)
        inputs.check_drawn("decode", list(x.values()))
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
        ValueError: if there is no such site.
    """
    pieces: list[Values] = []
    latents = None  # of the model: the guide may have auxiliary ones
    with programs.evaluation(graph):
        for batch in batches_in_order(graph, as_sources((x, *c))):
            latents = latents or programs.look(graph.model, *batch).latent
            points = points_of_latents(graph, batch, site)
            given = {name: z for name, z in points.items() if site or name in latents}
            given |= _fixed_values(graph, batch, fixed, "reconstruct")
            sites = programs.simulated(graph.model, *batch, given=given, observed=observed).observed
            pieces.append({name: expectation(each["fn"]) for name, each in sites.items()})
    return _alone(_joined(pieces))


def latent_site(latents: Sites, site: str | None) -> str:
    """Return the latent site that is meant: the one named, the only one, or "z" among several.

    Raises:
        ValueError: if several are there, none is named, and none is "z".
    """
    if site is not None:
        return site
    if len(latents) == 1:
        return next(iter(latents))
    if "z" in latents:
        return "z"
    raise ValueError(f"the model has the latent sites {list(latents)}: name one of them by site=")


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


def _fixed_values(
    graph: Any, batch: tuple[Tensor, ...], fixed: Mapping[str, Any] | None, task: str
) -> Values:
    """Return the values of latents that are fixed, for every row.

    Raises:
        ValueError: if the model has no such latent, or a value has not its shape.
    """
    if not fixed:
        return {}
    latents = programs.look(graph.model, *batch).latent
    values = {}
    for name, value in fixed.items():
        if name not in latents:
            raise ValueError(
                f'{task}: fixed names "{name}", but the model has the latents {list(latents)}'
            )
        like = latents[name]["value"]
        try:
            given = torch.as_tensor(value).to(like.device, like.dtype)
            values[name] = given.expand(like.shape).clone()
            if not values[name].isfinite().all():
                raise ValueError("it holds NaN or infinity")
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f'{task}: fixed["{name}"] does not fit the shape {tuple(like.shape)} of that '
                f"latent: give a finite number, or an array that broadcasts to it ({error})"
            ) from error
    return values


def _value(site: programs.Site, mean: bool) -> Tensor:
    return expectation(site["fn"]) if mean else site["value"]


def _fitting(name: str, z: Array, latents: Sites, graph: Any) -> Tensor:
    """Return values of a latent site as a tensor like the site's own.

    Raises:
        ValueError: if there is no such site, or the values have not its shape.
    """
    if name not in latents:
        raise ValueError(
            f'decode: the model has no latent site "{name}", it has {list(latents)}: name one of '
            "them by site="
        )
    like, event = latents[name]["value"], tuple(latents[name]["fn"].event_shape)
    value = as_sources(z, "decode")[0][:]
    lead, whole = value.dim() - len(event), like.is_floating_point() or not _has_fractions(value)
    if lead < 1 or tuple(value.shape[lead:]) != event or not whole:
        expected = ", ".join(["B", *map(str, event)])
        raise ValueError(
            f"decode: z has shape {tuple(value.shape)} and type {value.dtype}, expected "
            f'({expected}) and {like.dtype} for the latent site "{name}"'
        )
    return value.to(like.device, like.dtype)


def _has_fractions(value: Tensor) -> bool:
    return value.is_floating_point() and bool(value.frac().any())


def _batch_shape(given: Values, latents: Sites, rows: int | None) -> tuple[int, ...]:
    """Return the batch dimensions (*, B) that the values of all sites share."""
    shapes = {
        name: tuple(z.shape[: z.dim() - len(latents[name]["fn"].event_shape)])
        for name, z in given.items()
    }
    lead = next(iter(shapes.values()))
    if len(set(shapes.values())) > 1 or rows not in (None, lead[-1]):
        context = "" if rows is None else f", the context has {rows}"
        raise ValueError(f"decode: the latents have rows {shapes}{context}: expected the same")
    return lead


def _decoded(
    graph: Any, given: Values, inputs: Inputs, every: Tensor, rows: int, observed: str | None
) -> Values:
    """Return the expected value of each observed site at all the given rows."""
    pieces = []
    for part in slices(len(every), _ROWS):
        batch = inputs.at(every[part] % rows)
        values = {name: z[part] for name, z in given.items()}
        sites = programs.simulated(graph.model, *batch, given=values, observed=observed).observed
        pieces.append({name: expectation(site["fn"]) for name, site in sites.items()})
    return _joined(pieces)


def _joined(pieces: list[Values]) -> Values:
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def _alone(values: Values) -> Any:
    """Return the tensor of the only site, or the dict of several."""
    return next(iter(values.values())) if len(values) == 1 else values
