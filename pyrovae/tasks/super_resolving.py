"""Super-resolve: an image given its mean, or sum, over squares.

S = sum of x over f x f pixels,    p(x | S) = E_p(z | S)[ p(x | z, S) ]
"""

from typing import Any

import torch

from pyrovae import programs
from pyrovae.data import Array, as_sources, device_and_dtype, inputs_of
from pyrovae.distributions import whole_number
from pyrovae.tasks.measurements import Measurement, Pooled
from pyrovae.tasks.proposals import Effort
from pyrovae.tasks.restoring import Options, Restored, restore

__all__ = ["super_resolve"]


def super_resolve(
    graph: Any,
    pooled: Array,
    *c: Array,
    factor: int = 2,
    sums: bool = False,
    method: str = "refine",
    draws: int = 16,
    samples: int = 256,
    steps: int = 100,
    components: int = 4,
    batch_size: int = 64,
    progress: bool = False,
    seed: int | None = None,
    observed: str | None = None,
) -> Restored:
    """Return images given their means over squares of factor x factor pixels.

    p(S | z) is exact for normal and Poisson pixels, and for pixels of at most 64 levels, such as
    binary ones, in squares of at most 64. For more of either it is the saddlepoint approximation;
    other pixels count as normal ones of the same mean and variance.

    Args:
        graph: any graph of images, also flattened ones, whose likelihood is independent over the
            pixels.
        pooled: with shape (B, C, H / f, W / f) or (B, H / f, W / f), for images with shape
            (C, H, W) or (H, W).
        c: context, B rows each.
        factor: f, the side of a square in pixels.
        sums: whether `pooled` are sums over the squares, not means.
        method: as for `impute`.
        draws: as for `impute`.
        samples: as for `impute`.
        steps: as for `impute`.
        components: as for `impute`.
        batch_size: as for `impute`.
        progress: as for `impute`.
        seed: as for `impute`.
        observed: as for `impute`.

    Returns:
        Restored, in the shape of the model's observations. Its draws have the given means.

    Raises:
        ValueError: if the pooled image times the factor is not an image of the model, a value is
            not finite, or as `impute`.

    Warns:
        RestorationWarning: as `impute`.

    Example:
        >>> import pyrovae as pv
        >>> q = pv.posteriors.DiagonalNormal(nn.Linear(16, 4))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(nn.Linear(2, 16)))
        >>> pv.super_resolve(vae, torch.full((5, 2, 2), 0.5)).draws.sum(-1)[0]
        tensor([8., 8., 8., 8., 8.])
    """
    factor = whole_number(factor, "super_resolve: factor")
    data = as_sources((pooled, *c), "super_resolve")
    image = _image(tuple(data[0].shape[1:]), factor)
    event = _event(graph, c, image, observed)
    scale = 1 if sums else factor**2

    def measurement(rows: slice) -> Measurement:
        part = data[0][rows].to(*device_and_dtype(graph, data))
        return Pooled(part * scale, factor, event)

    effort = Effort(draws, samples, steps, components)
    options = Options("super_resolve", method, effort, observed, batch_size, progress, seed)
    return restore(graph, measurement, len(data[0]), data[1:], options)


def _image(pooled: tuple[int, ...], factor: int) -> tuple[int, ...]:
    if len(pooled) < 2:
        raise ValueError(
            f"super_resolve: pooled has shape (B, {', '.join(map(str, pooled))}), expected images "
            "(B, H / f, W / f) or (B, C, H / f, W / f): reshape flat rows"
        )
    *lead, height, width = pooled
    return (*lead, height * factor, width * factor)


def _event(
    graph: Any, c: tuple[Array, ...], image: tuple[int, ...], observed: str | None
) -> tuple[int, ...]:
    """Return the shape of one observation of the model.

    Raises:
        ValueError: if it is another image, or a flat one of another number of pixels.
    """
    event = _shape_of_site(graph, c, observed)
    if event is None or event == image or event == (torch.Size(image).numel(),):
        return event or image
    raise ValueError(
        f"super_resolve: the pooled images times the factor are {image}, the model's observations "
        f"{event}: expected the same shape, or as many pixels in a flat one. Give another factor"
    )


def _shape_of_site(
    graph: Any, c: tuple[Array, ...], observed: str | None
) -> tuple[int, ...] | None:
    """Return the shape of an observation, None if the model must read x to tell it."""
    one = inputs_of(graph, 1, [torch.as_tensor(part)[:1] for part in c], None, "super_resolve")
    with programs.evaluation(graph):
        try:
            found, layout = programs.look_for_rows(graph.model, one.first)
        except Exception:  # whatever a model raises that needs the values of x
            return None
    sites = found.observed
    if observed not in sites and not (observed is None and len(sites) == 1):
        return None  # `restore` says so
    site = sites[observed or next(iter(sites))]
    return tuple(layout.rows_first(site["value"], site).shape[1:]) or None
