"""Grids of data in one axis: images as a mosaic, vectors as small line plots.

Data have shape (N, C, H, W), (N, H, W) for grey images, or (N, D). A grey image of one row of
pixels is a curve, and drawn as a vector: as an image it would be too flat to be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from pyrovae.command.report.style import BLUE, GREY, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Limits", "draw_grid"]

Limits = tuple[float, float]  # values drawn black and white


_TALLEST = 9  # inches of one row
_NAME_SIZE = 8  # points
_PER_LETTER = 0.6 * _NAME_SIZE / 72  # inches: the mean width of DejaVu Sans, and a little


def draw_grid(
    x: np.ndarray,
    columns: int,
    limits: Limits | None,
    title: str,
    names: Sequence[str] = (),
) -> Figure:
    """Return a figure with data in a grid, row by row, about 11 inches wide at most.

    Args:
        x: the data, with shape (N, C, H, W), (N, H, W) or (N, D).
        columns: number of columns.
        limits: values drawn black and white; by default the least and the greatest in x.
        title: of the figure.
        names: of the rows, written at their left.

    Raises:
        ValueError: if x has another shape.
    """
    x = _with_channels(x)
    rows = -(-len(x) // columns)
    limits = limits or (float(x.min()), float(x.max()))
    ratio = 0.6 if x.ndim == 2 else x.shape[-2] / _as_rgb(x[0], (0, 1)).shape[1]
    margin = max(1.2, 0.6 + _PER_LETTER * max(map(len, names), default=0))
    cell = min(0.9 if x.ndim == 4 else 1.5, (10.7 - margin) / columns, _TALLEST / ratio)
    figure = new_figure(max(4.0, cell * columns + margin), max(1.2, cell * ratio * rows) + 0.6)
    axis = figure.subplots()
    axis.set_axis_off()
    draw = _draw_lines if x.ndim == 2 else _draw_mosaic
    draw(axis, x, columns, limits)
    if names:
        _name_rows(axis, names)
    figure.suptitle(title)
    return figure


def _with_channels(x: np.ndarray) -> np.ndarray:
    """Return images as (N, C, H, W), vectors and images of one row as (N, D)."""
    if x.ndim not in (2, 3, 4) or 0 in x.shape:
        raise ValueError(
            f"plots: x has shape {x.shape}, expected (N, C, H, W) for images, (N, H, W) for grey "
            "ones, or (N, D) for vectors; one alone is x[None]"
        )
    x = x[:, None] if x.ndim == 3 else x
    return x[:, 0, 0] if x.shape[1:-1] == (1, 1) else x


def _name_rows(axis: Axes, names: Sequence[str]) -> None:
    """Write a name at the left of every row of a grid."""
    axis.set_anchor("W")  # beside the names, so that the layout makes room for them
    bottom, top = axis.get_ylim()
    for i, name in enumerate(names):
        height = (i + 0.5) / len(names) * abs(bottom - top) + min(bottom, top)
        axis.annotate(
            name,
            (0, height),
            xycoords=("axes fraction", "data"),
            xytext=(-6, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=_NAME_SIZE,
            color=GREY,
        )


def _draw_mosaic(axis: Axes, x: np.ndarray, columns: int, limits: Limits) -> None:
    """Draw images side by side in one picture, with a white gap between them."""
    cells = [_as_rgb(image, limits) for image in x]
    h, w = cells[0].shape[:2]
    gap = max(1, round(sqrt(h * w) / 14))
    rows = -(-len(cells) // columns)
    canvas = np.ones((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), np.float32)
    for i, cell in enumerate(cells):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        canvas[top : top + h, left : left + w] = cell
    axis.imshow(canvas, interpolation="nearest", aspect="equal")


def _as_rgb(image: np.ndarray, limits: Limits) -> np.ndarray:
    """Return (C, H, W) as RGB (H, W', 3); channels that are no colours lie side by side."""
    low, high = limits
    image = np.clip((image.astype(float) - low) / max(high - low, 1e-12), 0, 1)
    if image.shape[0] in (3, 4):
        return image[:3].transpose(1, 2, 0)
    return np.repeat(np.concatenate(list(image), axis=1)[..., None], 3, axis=2)


def _draw_lines(axis: Axes, x: np.ndarray, columns: int, limits: Limits) -> None:
    """Draw vectors as small line plots on one axis, each in its own cell."""
    from matplotlib.patches import Rectangle

    low, high = limits
    at = np.linspace(0.06, 0.94, x.shape[1]) if x.shape[1] > 1 else np.array([0.5])
    marker = "." if len(at) < 12 else None
    for i, values in enumerate(x):
        row, column = divmod(i, columns)
        height = (values - low) / max(high - low, 1e-12)
        axis.plot(column + at, row + 0.92 - 0.84 * height, color=BLUE, lw=1, marker=marker)
        corner = column + 0.03, row + 0.04
        axis.add_patch(Rectangle(corner, 0.94, 0.92, fill=False, ec="#cccccc", lw=0.6))
    axis.set(xlim=(0, columns), ylim=(-(-len(x) // columns), 0))
