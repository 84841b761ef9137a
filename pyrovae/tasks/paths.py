"""Paths and grids through the latent space, decoded.

z(t) = (1 - t) a + t b                                     a line
z(t) = (sin((1 - t) w) a + sin(t w) b) / sin(w)            an arc, w the angle between a and b

Between angles b is that of b + 2 pi k which is nearest to a, so that a path turns the shorter way.
"""

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array, as_sources, device_and_dtype, inputs_of, take
from pyrovae.distributions import whole_number, wrap
from pyrovae.tasks.decoding import decoded
from pyrovae.tasks.embedding import embed
from pyrovae.tasks.forwards import look_at
from pyrovae.tasks.given import latent_site

__all__ = ["interpolate", "linear", "manifold", "spherical"]

_MISFITS = "Shape mismatch", "x has shape"  # in messages about data of another shape

Curve = Callable[[Tensor, Tensor, Tensor], Tensor]


def linear(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Return the straight line (1 - t) a + t b, with shape (T, D) for a, b with shape (D,)."""
    return torch.lerp(a, b, t.unsqueeze(-1))


def spherical(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Return the arc (sin((1 - t) w) a + sin(t w) b) / sin(w), w the angle between a and b.

    Points of N(0, I) in many dimensions lie near a sphere, which a straight line leaves (Shoemake
    1985; White 2016). Parallel vectors are interpolated linearly.
    """
    w = torch.arccos(torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1, 1))
    if w.sin().abs() < 1e-6:
        return linear(a, b, t)
    t = t.unsqueeze(-1)
    return (torch.sin((1 - t) * w) * a + torch.sin(t * w) * b) / torch.sin(w)


def interpolate(
    graph: Any,
    a: Array,
    b: Array,
    *c: Array,
    steps: int = 10,
    path: Curve = linear,
    site: str | None = None,
    observed: str | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> Any:
    """Return the decoded points of a path from a to b through the latent space, both ends included.

    Latents of other sites are drawn from the model once for the whole path: the same value at each
    point; or, where it depends on the site that moves, as z1 given z2, the same random numbers.
    Angles turn the shorter way.

    Args:
        graph: a fitted graph.
        a: one observation with shape (*event).
        b: another.
        c: context of all points, with shape (C,) each.
        steps: number of points, at least 2.
        path: `linear`, `spherical`, or your own function (a, b, t) -> (T, D).
        site: name of the latent site; by default the only one, or "z" among several.
        observed: name of the observed site to return, as in `generate`.
        fixed: values of other latents by name, as in `generate`, that are not drawn, such as
            `{"theta": 0.0}`.

    Returns:
        A tensor with shape (steps, *event), or a dict of them, as from `generate`.

    Raises:
        ValueError: if `steps` is below 2, a and b do not fit the graph, or a latent that all rows
            share is not given, as in `decode`.
    """
    steps = whole_number(steps, "interpolate: steps", least=2)
    ends = torch.stack(_alike(torch.as_tensor(a), torch.as_tensor(b)))
    try:
        z = embed(graph, ends, *_repeated(c, 2), site=site)
        t = torch.linspace(0, 1, steps, device=z.device, dtype=z.dtype)
        points = _points(path, z, t, round_=_are_angles(graph, ends, _repeated(c, 2), site))
        return decoded(
            graph,
            points,
            _repeated(c, steps),
            site=site,
            observed=observed,
            like=ends[:1],
            fixed=fixed,
            task="interpolate",
            drawn_once=True,
        )
    except (RuntimeError, ValueError) as error:
        if isinstance(error, ValueError) and not any(words in str(error) for words in _MISFITS):
            raise
        raise ValueError(
            f"interpolate: a and b of shape {tuple(ends.shape[1:])} do not fit the graph; each is "
            f"one row without the axis of rows, such as x[0] ({' '.join(str(error).split())})"
        ) from error


def _alike(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape:
        raise ValueError(
            f"interpolate: a has shape {tuple(a.shape)} and b {tuple(b.shape)}, expected two "
            "observations of one shape, without the axis of rows, such as x[0] and x[1]"
        )
    return a, b


def _are_angles(graph: Any, x: Tensor, c: list[Tensor], site: str | None) -> bool:
    """Return whether the guide draws angles at a site."""
    batch = take(as_sources((x, *c)), slice(None), *device_and_dtype(graph, (x, *c)))
    with programs.evaluation(graph):
        trace = programs.record(graph.guide, *batch)
        programs.name_rows(graph, batch, trace)
        name = programs.latent_of_rows(trace, site, "interpolate")
        return programs.on_circle(trace[name]["fn"])


def _points(path: Curve, z: Tensor, t: Tensor, round_: bool) -> Tensor:
    """Return the points of a path between two values z, angles or not."""
    if not round_:
        return path(z[0], z[1], t)
    return wrap(path(z[0], z[0] + wrap(z[1] - z[0]), t))


def manifold(
    graph: Any,
    *c: Array,
    steps: int = 20,
    low: float = 0.01,
    high: float = 0.99,
    site: str | None = None,
    observed: str | None = None,
    like: Array | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> Any:
    """Return the decoded grid over a two-dimensional latent space (Kingma & Welling 2014, fig. 4).

    Neighbouring points of a side enclose equal probabilities of the standard normal prior. Latents
    of other sites are drawn from the model once for the whole grid, as in `interpolate`.

    Args:
        graph: a fitted graph.
        c: context of the whole grid, with shape (C,) each.
        steps: number of points along each side.
        low: quantile of the first point of a side.
        high: quantile of the last.
        site: name of the latent site with two dimensions; by default the only one, or "z" among
            several.
        observed: name of the observed site to return, as in `generate`.
        like: rows of data for a model that reads x, as in `generate`; one is enough.
        fixed: values of other latents by name, as in `interpolate`.

    Returns:
        A tensor with shape (steps, steps, *event), or a dict of them, as from `generate`. As in a
        picture, z_2 decreases along the first dimension and z_1 increases along the second.

    Raises:
        ValueError: if the latent space is not two-dimensional, the prior is flat, a quantile is not
            between 0 and 1, or a latent that all rows share is not given, as in `decode`.
    """
    steps = whole_number(steps, "manifold: steps")
    if not all(_is_quantile(value) for value in (low, high)):
        raise ValueError(
            f"manifold: low is {low!r} and high {high!r}, expected quantiles between 0 and 1; "
            "these two lie at infinity"
        )
    name = _plane(graph, c, site, like)
    side = torch.special.ndtri(torch.linspace(low, high, steps))
    z = torch.cartesian_prod(-side, side).flip(-1)  # (steps^2, 2) of (z_1, z_2)
    x = decoded(
        graph,
        z,
        _repeated(c, len(z)),
        site=name,
        observed=observed,
        like=like,
        fixed=fixed,
        task="manifold",
        drawn_once=True,
    )
    if isinstance(x, dict):
        return {name: value.unflatten(0, (steps, steps)) for name, value in x.items()}
    return x.unflatten(0, (steps, steps))


def _is_quantile(value: Any) -> bool:
    return isinstance(value, Real) and 0 < float(value) < 1


def _plane(graph: Any, c: tuple[Array, ...], site: str | None, like: Array | None) -> str:
    """Return the name of the latent site.

    Raises:
        ValueError: if it has not two dimensions, or its prior is flat.
    """
    inputs = inputs_of(graph, 1, _repeated(c, 1), like, "manifold")
    with programs.evaluation(graph), inputs.hint("manifold"):
        try:
            programs.simulated(graph.model, *inputs.first(1))
        except NotImplementedError as error:
            raise ValueError(
                "manifold: the prior is flat (improper) and has no quantiles, or cannot be sampled "
                f"({error}). Use a VAE, or decode a grid of your own"
            ) from error
        latents = look_at(graph.model, inputs.first).latents
    name = latent_site(latents, site)
    shape = tuple(latents[name]["value"].shape[1:]) if name in latents else "no value"
    if shape != (2,):
        raise ValueError(
            f"manifold: {name} has shape {shape} per observation, expected (2,). Fit a graph with "
            "two latents, or decode points of your own"
        )
    return name


def _repeated(c: tuple[Array, ...], n: int) -> list[Tensor]:
    """Return each context, with shape (C,), as n equal rows."""
    parts = [torch.as_tensor(part) for part in c]
    return [part.expand(n, *part.shape) for part in parts]
