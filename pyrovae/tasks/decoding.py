"""What a fitted graph is used for: generate, embed, reconstruct, interpolate, and walk over a latent manifold.

x ~ p(x | z), z ~ p(z);      z = E_q[z | x];      x^ = E[x | z]
"""

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array, as_sources, batches_in_order, device_and_dtype, take

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

Path = Callable[[Tensor, Tensor, Tensor], Tensor]
_ROWS = 1024


def generate(graph: Any, n: int, *c: Array, mean: bool = True, seed: int | None = None) -> Tensor:
    """Draw n new x: z ~ p(z | c), then the mean of p(x | z, c), or a draw from it.

    Args:
        graph: anything with a `model` whose observed site is "x".
        n: how many.
        c: context, n rows each.
        mean: return E[x | z] (what papers show) or a draw x ~ p(x | z).
        seed: of the stream used; None continues the global one.

    Returns:
        A tensor with shape (n, *event).

    Raises:
        ValueError: if the prior cannot be drawn from, as an autoencoder's.
    """
    with programs.evaluation(graph, seed):
        try:
            fn = _likelihood(graph, n, {}, *c)
        except NotImplementedError as error:
            raise ValueError(
                "generate: the prior is flat, there is nothing to draw codes from. Use a VAE, whose prior is a distribution"
            ) from error
        return programs.mean(fn) if mean else fn.sample()


def embed(graph: Any, x: Array, *c: Array, site: str = "z") -> Tensor:
    """Return E_q[z | x, c], with shape (B, D): where each row lies in the latent space, the same at each call."""
    data = as_sources((x, *c))
    with programs.evaluation(graph):
        return torch.cat(
            [
                programs.mean(programs.posterior(graph, batch, site))
                for batch in batches_in_order(graph, data)
            ]
        )


def decode(graph: Any, z: Array, *c: Array, site: str = "z") -> Tensor:
    """Return E[x | z, c] for latents of a site with shape (B, D), with shape (B, *event); other latents are drawn from the model."""
    data = as_sources((z, *c), "decode")
    with programs.evaluation(graph):
        means = [
            programs.mean(_likelihood(graph, len(part[0]), {site: part[0]}, *part[1:]))
            for part in batches_in_order(graph, data)
        ]
    return torch.cat(means)


def reconstruct(graph: Any, x: Array, *c: Array, site: str = "z") -> Tensor:
    """Return E[x | z = E_q[z | x, c], c], with the shape of x: what is left of x after its code. It denoises if x is noisy.

    Of a graph whose latents have other names, `site` is the one next to x: "z1" of a `HierarchicalVAE`.
    """
    return decode(graph, embed(graph, x, *c, site=site), *c, site=site)


def linear(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Return the straight line (1 - t) a + t b, with shape (T, D) for a, b with shape (D,)."""
    return torch.lerp(a, b, t.unsqueeze(-1))


def spherical(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Return the arc sin((1 - t) w) / sin(w) a + sin(t w) / sin(w) b, w the angle between a and b (Shoemake 1985; White 2016).

    Points of N(0, I) lie near a sphere, whose inside a straight line crosses. Parallel vectors are joined by the line.
    """
    w = torch.arccos(torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1, 1))
    if w.sin().abs() < 1e-6:
        return linear(a, b, t)
    t = t.unsqueeze(-1)
    return (torch.sin((1 - t) * w) * a + torch.sin(t * w) * b) / torch.sin(w)


def interpolate(
    graph: Any, a: Array, b: Array, *c: Array, steps: int = 10, path: Path = linear, site: str = "z"
) -> Tensor:
    """Return the decoded walk from a to b through the latent space, both ends included.

    Args:
        graph: a fitted graph.
        a: one datum with shape (*event).
        b: another.
        c: context of the walk, one row each with shape (C,).
        steps: points on it, at least 2.
        path: `linear` or `spherical`, or your own (a, b, t) -> (T, D).
        site: the latent that walks.

    Returns:
        A tensor with shape (steps, *event).

    Raises:
        ValueError: if `steps` is below 2.
    """
    if steps < 2:
        raise ValueError(f"interpolate: steps is {steps}, expected at least the two ends")
    ends = torch.stack([torch.as_tensor(a), torch.as_tensor(b)])
    z = embed(graph, ends, *_repeated(c, 2), site=site)
    walk = path(z[0], z[1], torch.linspace(0, 1, steps, device=z.device, dtype=z.dtype))
    return decode(graph, walk, *_repeated(c, steps), site=site)


def manifold(
    graph: Any, *c: Array, steps: int = 20, low: float = 0.01, high: float = 0.99
) -> Tensor:
    """Return the decoded grid over a two-dimensional latent space, in equal shares of a standard normal prior (AEVB, figure 4).

    Args:
        graph: a fitted graph with two latents.
        c: context of the whole grid, one row each with shape (C,).
        steps: points along each side.
        low: quantile of the first point of a side.
        high: quantile of the last.

    Returns:
        A tensor with shape (steps, steps, *event): z_2 falls along the first axis, as in a picture; z_1 rises along the second.

    Raises:
        ValueError: if the latent space is not two-dimensional.
    """
    _check_plane(graph, *c)
    side = torch.special.ndtri(torch.linspace(low, high, steps))
    z = torch.cartesian_prod(-side, side).flip(-1)  # (steps^2, 2) of (z_1, z_2)
    return decode(graph, z, *_repeated(c, len(z))).unflatten(0, (steps, steps))


def _check_plane(graph: Any, *c: Array) -> None:
    with programs.evaluation(graph):
        try:
            z: Any = _forward(graph, 1, {}, *_repeated(c, 1)).nodes["z"]["value"]
        except NotImplementedError as error:
            raise ValueError(
                "manifold: the prior is flat and has no quantiles. Use a VAE, or decode a grid of your own"
            ) from error
    if z.shape[1:] != (2,):
        raise ValueError(f"manifold: a latent has shape {tuple(z.shape[1:])}, expected (2,)")


def _repeated(c: tuple[Array, ...], n: int) -> list[Tensor]:
    """Return each row of context n times."""
    return [torch.as_tensor(part).expand(n, *part.shape) for part in c]


def _likelihood(graph: Any, n: int, given: dict[str, Tensor], *c: Array) -> TorchDistribution:
    """Return p(x | z, c) of n rows, latents `given` or drawn from the prior."""
    node: Any = _forward(graph, n, given, *c).nodes["x"]
    return node["fn"]


def _forward(graph: Any, n: int, given: dict[str, Tensor], *c: Array) -> poutine.Trace:
    rows = torch.empty(n, 0)  # a model asks x only how many rows there are
    context = take(
        as_sources((torch.zeros(n, 1), *c)), slice(None), *device_and_dtype(graph, (rows,))
    )[1:]
    model = poutine.condition(poutine.uncondition(graph.model), given)
    trace = poutine.trace(model).get_trace(rows, *context)
    unknown = [name for name in given if name not in trace.nodes]
    if unknown:
        names = [name for name in trace.stochastic_nodes if name != "x"]
        raise ValueError(
            f'the model has no site "{unknown[0]}", it has {names}: name the one to decode by site='
        )
    return trace
