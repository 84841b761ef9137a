"""Pictures of a run as matplotlib figures, drawn without pyplot: nothing global changes.

Pictures of data take arrays with shape (N, C, H, W), (N, H, W) for grey images, or (N, D) for
vectors, which are drawn as lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.command.report.course import curve, curves
from pyrovae.command.report.grids import Limits, draw_grid
from pyrovae.command.report.planes import principal_plane
from pyrovae.command.report.style import (
    BLUE,
    CLASSES,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


__all__ = [
    "BLUE",
    "CLASSES",
    "GREEN",
    "GREY",
    "MARKERS",
    "ORANGE",
    "bands",
    "comparison",
    "curve",
    "curves",
    "grid",
    "images",
    "interpolations",
    "kl_per_unit",
    "latent_space",
    "manifold",
    "pairs",
    "png",
]

_CHANNELS = (1, 3, 4)  # of a picture: grey, or colours


def comparison(table: Any) -> Figure:
    """Draw how far each model is below the best, with two paired standard errors.

    Args:
        table: What `pyrovae.singlecell.compare` returns.
    """
    figure = new_figure(7, 0.8 + 0.45 * len(table))
    axis = figure.subplots()
    difference, error = table["difference"], 2 * table["difference_standard_error"]
    names = [str(name) for name in table.index]
    axis.errorbar(difference, names, xerr=error, fmt="o", capsize=4, color=BLUE)
    axis.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    axis.invert_yaxis()
    axis.set_xlabel("log p - that of the best, nats per cell (± 2 paired standard errors)")
    return figure


def images(
    x: np.ndarray, title: str = "", columns: int = 8, limits: Limits | None = None
) -> Figure:
    """Draw data in a grid, row by row.

    Args:
        x: Data with shape (N, C, H, W), (N, H, W) or (N, D).
        title: Title of the figure.
        columns: Number of columns.
        limits: Values drawn black and white; by default the least and greatest in `x`.
    """
    x = np.asarray(x)
    return draw_grid(x, min(columns, len(x)), limits, title)


def pairs(
    x: np.ndarray, x_hat: np.ndarray, columns: int = 12, limits: Limits | None = None
) -> Figure:
    """Draw originals above their reconstructions, in bands of two rows.

    Args:
        x: Originals with shape (N, C, H, W), (N, H, W) or (N, D).
        x_hat: Reconstructions, in the same order and with the same shape.
        columns: Number of pairs beside each other.
        limits: Values drawn black and white; by default the least and greatest original.
    """
    parts = {"original": x, "reconstruction": x_hat}
    return bands(parts, "Test data and their reconstructions", columns, limits)


def bands(
    parts: Mapping[str, np.ndarray], title: str, columns: int = 12, limits: Limits | None = None
) -> Figure:
    """Draw versions of the same rows below each other, in bands of one line a version.

    Args:
        parts: Data with shape (N, C, H, W), (N, H, W) or (N, D), all in the same order, by name.
        title: Title of the figure.
        columns: Number of rows beside each other.
        limits: Values drawn black and white; by default the least and greatest of the first.
    """
    first, *_ = versions = [np.asarray(part) for part in parts.values()]
    columns = min(columns, len(first))
    starts = range(0, len(first) - columns + 1, columns)
    drawn = np.concatenate([part[i : i + columns] for i in starts for part in versions])
    limits = limits or (float(first.min()), float(first.max()))
    return draw_grid(drawn, columns, limits, title, [*parts] * len(starts))


def interpolations(paths: np.ndarray, limits: Limits | None = None) -> Figure:
    """Draw interpolations in the latent space, one in each row.

    Args:
        paths: Decoded points with shape (P, steps, C, H, W) or (P, steps, D). Or one path, as
            `pyrovae.interpolate` returns it: (steps, C, H, W) with 1, 3 or 4 channels, (steps, D).
        limits: Values drawn black and white; by default the least and greatest in `paths`.

    Raises:
        ValueError: If they have another shape, such as (P, steps, H, W); with 1, 3 or 4 steps that
            is drawn as one path, as its shape says.
    """
    paths = np.asarray(paths)
    if paths.ndim == 2 or (paths.ndim == 4 and paths.shape[1] in _CHANNELS):
        paths = paths[None]
    if paths.ndim not in (3, 5):
        raise ValueError(
            f"plots.interpolations: paths have shape {paths.shape}, expected (P, steps, C, H, W), "
            "(P, steps, D), or one path (steps, C, H, W); grey images have one channel, "
            "paths[..., None, :, :]"
        )
    return grid(paths, "Interpolations between the latent representations of two test rows", limits)


def grid(x: np.ndarray, title: str, limits: Limits | None = None) -> Figure:
    """Draw data that lie in rows and columns.

    Args:
        x: Data with shape (rows, columns, C, H, W), (rows, columns, H, W) or (rows, columns, D).
        title: Title of the figure.
        limits: Values drawn black and white; by default the least and greatest in `x`.

    Raises:
        ValueError: If they have another shape.
    """
    x = np.asarray(x)
    if x.ndim not in (3, 4, 5):
        raise ValueError(
            f"plots: a grid has shape {x.shape}, expected (rows, columns, C, H, W), "
            "(rows, columns, H, W) or (rows, columns, D)"
        )
    n, columns, *event = x.shape
    return draw_grid(x.reshape(n * columns, *event), columns, limits, title)


def manifold(decoded: np.ndarray, limits: Limits | None = None) -> Figure:
    """Draw what a two-dimensional latent space decodes to, at the prior's quantiles.

    Args:
        decoded: Grid with shape (steps, steps, *event), as `pyrovae.manifold` returns it.
        limits: Values drawn black and white; by default the least and greatest of it.

    Raises:
        ValueError: If it is no such grid.
    """
    title = "Manifold: z1 rises to the right, z2 upwards, by the prior's quantiles"
    return grid(decoded, title, limits)


def latent_space(
    z: np.ndarray,
    labels: np.ndarray | None = None,
    label_names: Sequence[str] = (),
    what: str = "posterior means",
) -> Figure:
    """Draw posterior means in two dimensions, coloured by label; more are reduced by PCA.

    Args:
        z: Posterior means with shape (N, D).
        labels: Class of each, an index into `label_names`, with shape (N,).
        label_names: Names of the classes.
        what: What z is.
    """
    points, names, how = principal_plane(np.asarray(z))
    figure = new_figure(7, 5.2)
    axis = figure.subplots()
    if labels is None:
        axis.scatter(points[:, 0], points[:, 1], s=8, c=BLUE, alpha=0.6, lw=0)
    else:
        _draw_classes(axis, points, np.asarray(labels), label_names)
    title = f"Latent space: {what}"
    axis.set(title=f"{title}, {how}" if how else title, xlabel=names[0], ylabel=names[1])
    return figure


def kl_per_unit(kl: np.ndarray, threshold: float = 0.01) -> Figure:
    """Draw each latent's KL to the prior, greatest first; below the threshold it has collapsed.

    Args:
        kl: KL(q(z_d | x) || p(z_d)) in nats, averaged over data, with shape (D,).
        threshold: Least KL of a unit that carries information.
    """
    kl = np.asarray(kl)
    order = np.argsort(kl)[::-1]
    figure = new_figure(max(5.0, min(11.0, 2 + 0.3 * len(kl))), 3.6)
    axis = figure.subplots()
    above = kl[order] > threshold
    for mask, colour, label in ((above, BLUE, "above"), (~above, ORANGE, "below")):
        if mask.any():
            name = f"{mask.sum()} units {label}"
            axis.bar(np.flatnonzero(mask), kl[order][mask], color=colour, label=name)
    axis.axhline(threshold, color=GREY, lw=1, ls="--", label=f"{threshold:g} nats")
    if len(kl) <= 40:
        axis.set_xticks(np.arange(len(kl)), order)
    axis.set(xlabel="latent unit, sorted", ylabel="nats per observation", xmargin=0.02)
    axis.margins(y=0.18)  # room for the legend above the bars
    axis.set_title("KL per latent unit")
    axis.legend(frameon=False, loc="upper right", ncols=3, fontsize="small", columnspacing=1)
    return figure


def png(figure: Figure, dpi: int = 110) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    from io import BytesIO

    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def _draw_classes(axis: Axes, points: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> None:
    """Draw each class in its own colour and marker, named in the legend and at its median."""
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.75}
    for k in np.unique(labels):
        x, y = points[labels == k].T
        name = str(names[k]) if k < len(names) else str(k)
        colour, marker = CLASSES[k % len(CLASSES)], MARKERS[k % len(MARKERS)]
        axis.scatter(x, y, s=14, c=colour, marker=marker, label=name, alpha=0.75, lw=0)
        centre = float(np.median(x)), float(np.median(y))
        axis.annotate(name, centre, ha="center", va="center", fontsize=9, weight="bold", bbox=box)
    columns = -(-len(np.unique(labels)) // 20)
    axis.legend(
        frameon=False, markerscale=1.6, loc="center left", bbox_to_anchor=(1, 0.5), ncols=columns
    )
