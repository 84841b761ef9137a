"""Generate, embed, reconstruct, interpolate, and decode a grid over the latent space.

x ~ p(x | z), z ~ p(z);      z = E_q[z | x];      x^ = E[x | z]
"""

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array, as_sources, batches_in_order, empty_batch

__all__ = [
    "decode",
    "embed",
    "generate",
    "interpolate",
    "linear",
    "manifold",
    "reconstruct",
    "spherical",
]

Curve = Callable[[Tensor, Tensor, Tensor], Tensor]


def generate(graph: Any, n: int, *c: Array, mean: bool = True, seed: int | None = None) -> Tensor:
    """Return n generated x: z ~ p(z | c), then E[x | z, c] or a draw x ~ p(x | z, c).

    Args:
        graph: any graph whose observed site is "x".
        n: number of observations.
        c: context, n rows each.
        mean: return E[x | z, c], as papers show, instead of a draw.
        seed: seed of the random draws; None continues the global random stream.

    Returns:
        A tensor with shape (n, *event).

    Raises:
        ValueError: if the prior cannot be sampled, such as an autoencoder's flat one.
    """
    with programs.evaluation(graph, seed):
        try:
            p = _likelihood(graph, n, {}, *c)
        except NotImplementedError as error:
            raise ValueError(
                "generate: the prior is flat (improper) and cannot be sampled. Use a VAE, whose "
                "prior is a distribution"
            ) from error
        return programs.mean(p) if mean else p.sample()


def embed(graph: Any, x: Array, *c: Array, site: str = "z") -> Tensor:
    """Return the embedding E_q[z | x, c] of each row with shape (B, D), the same at each call.

    Args:
        graph: a fitted graph.
        x: data with shape (B, *event).
        c: context, B rows each.
        site: name of the latent site.
    """
    data = as_sources((x, *c))
    with programs.evaluation(graph):
        batches = batches_in_order(graph, data)
        means = [programs.means(graph, batch, site).mean(0) for batch in batches]
    return torch.cat(means)


def decode(graph: Any, z: Array, *c: Array, site: str = "z") -> Tensor:
    """Return E[x | z, c] with shape (B, *event); latents of other sites are drawn from the model.

    Args:
        graph: a fitted graph whose observed site is "x".
        z: values of one latent site, with shape (B, D).
        c: context, B rows each.
        site: name of that latent site.

    Raises:
        ValueError: if the model has no such site.
    """
    data = as_sources((z, *c), "decode")
    with programs.evaluation(graph):
        means = [
            programs.mean(_likelihood(graph, len(values), {site: values}, *context))
            for values, *context in batches_in_order(graph, data)
        ]
    return torch.cat(means)


def reconstruct(graph: Any, x: Array, *c: Array, site: str = "z") -> Tensor:
    """Return E[x | z = E_q[z | x, c], c], with the shape of x; it denoises a noisy x.

    Args:
        graph: a fitted graph whose observed site is "x".
        x: data with shape (B, *event).
        c: context, B rows each.
        site: the latent site on which x depends, such as "z1" of a `HierarchicalVAE`.
    """
    return decode(graph, embed(graph, x, *c, site=site), *c, site=site)


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
    site: str = "z",
) -> Tensor:
    """Return the decoded points of a path from a to b through the latent space, both ends included.

    Args:
        graph: a fitted graph whose observed site is "x".
        a: one observation with shape (*event).
        b: another.
        c: context of all points, with shape (C,) each.
        steps: number of points, at least 2.
        path: `linear`, `spherical`, or your own function (a, b, t) -> (T, D).
        site: name of the latent site.

    Returns:
        A tensor with shape (steps, *event).

    Raises:
        ValueError: if `steps` is below 2.
    """
    if steps < 2:
        raise ValueError(f"interpolate: steps is {steps}, expected at least the two ends")
    ends = torch.stack([torch.as_tensor(a), torch.as_tensor(b)])
    z = embed(graph, ends, *_repeated(c, 2), site=site)
    points = path(z[0], z[1], torch.linspace(0, 1, steps, device=z.device, dtype=z.dtype))
    return decode(graph, points, *_repeated(c, steps), site=site)


def manifold(
    graph: Any, *c: Array, steps: int = 20, low: float = 0.01, high: float = 0.99
) -> Tensor:
    """Return the decoded grid over a two-dimensional latent space (Kingma & Welling 2014, fig. 4).

    Neighbouring points of a side enclose equal probabilities of the standard normal prior.

    Args:
        graph: a fitted graph whose latent site is "z" with two dimensions, and whose observed site
            is "x".
        c: context of the whole grid, with shape (C,) each.
        steps: number of points along each side.
        low: quantile of the first point of a side.
        high: quantile of the last.

    Returns:
        A tensor with shape (steps, steps, *event). As in a picture, z_2 decreases along the first
        dimension and z_1 increases along the second.

    Raises:
        ValueError: if the latent space is not two-dimensional, or the prior is flat.
    """
    _check_plane(graph, *c)
    side = torch.special.ndtri(torch.linspace(low, high, steps))
    z = torch.cartesian_prod(-side, side).flip(-1)  # (steps^2, 2) of (z_1, z_2)
    return decode(graph, z, *_repeated(c, len(z))).unflatten(0, (steps, steps))


def _check_plane(graph: Any, *c: Array) -> None:
    """Raise a ValueError if the site "z" has not two dimensions."""
    with programs.evaluation(graph):
        try:
            _, latent = programs.simulate(graph.model, *empty_batch(graph, 1, *_repeated(c, 1)))
        except NotImplementedError as error:
            raise ValueError(
                "manifold: the prior is flat (improper) and has no quantiles. Use a VAE, or decode "
                "a grid of your own"
            ) from error
    z = next(site["value"] for site in latent if site["name"] == "z")
    if z.shape[1:] != (2,):
        raise ValueError(
            f"manifold: z has shape {tuple(z.shape[1:])} per observation, expected (2,). Fit a "
            "graph with two latents, or decode points of your own"
        )


def _repeated(c: tuple[Array, ...], n: int) -> list[Tensor]:
    """Return each context, with shape (C,), as n equal rows."""
    return [torch.as_tensor(part).expand(n, *part.shape) for part in c]


def _likelihood(graph: Any, n: int, given: dict[str, Tensor], *c: Array) -> TorchDistribution:
    """Return p(x | z, c) of n rows, latents at the `given` values or drawn from the model."""
    return programs.simulate(graph.model, *empty_batch(graph, n, *c), given=given)[0]["fn"]
