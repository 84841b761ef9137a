"""Names of groups: written among their points without overlap, and in legends that fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

__all__ = ["legend_columns", "shortened", "write_names"]

_LONGEST = 24  # characters of a name in a picture
_ROWS = 20  # of a legend
_NEAR = 0.5  # of a name's own size; from farther a line leads back to the group


def _steps() -> np.ndarray:
    """Return offsets to try in multiples of a name's size, with shape (K, 2), the nearest first.

    A name is wide, so that half its width is farther than its height.
    """
    across, down = np.arange(-24, 25) / 6, np.arange(-60, 61) / 3
    offsets = np.stack(np.meshgrid(across, down), -1).reshape(-1, 2)
    return offsets[np.argsort(np.hypot(6 * offsets[:, 0], offsets[:, 1]), kind="stable")]


_STEPS = _steps()


def shortened(name: str) -> str:
    """Return a name of at most 24 characters, its middle left out if it is longer.

    Example:
        >>> shortened("CD14+ Monocytes"), shortened("regulatory T cells of the thymus")
        ('CD14+ Monocytes', 'regulatory T…the thymus')
    """
    half = _LONGEST // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}…{name[1 - half :].lstrip()}"


def legend_columns(entries: int) -> int:
    """Return the number of columns of a legend."""
    return -(-entries // _ROWS)


def write_names(axis: Axes, points: np.ndarray, groups: np.ndarray, names: Sequence[str]) -> None:
    """Write each name at its group's cell nearest to the median, moved where names would overlap.

    The largest groups are written first, so theirs move least. Limits and legends of the axis have
    to be final.

    Args:
        axis: with the points drawn.
        points: with shape (N, 2).
        groups: name of each point's group, with shape (N,).
        names: the groups to name; those without points are left out.
    """
    sizes = {name: int((groups == name).sum()) for name in names}
    ranked = sorted((name for name in names if sizes[name]), key=lambda name: -sizes[name])
    texts = [_write(axis, shortened(name), _middle(points[groups == name])) for name in ranked]
    axis.set(xlim=axis.get_xlim(), ylim=axis.get_ylim())  # lines to names do not change them
    axis.figure.draw_without_rendering()  # type: ignore[union-attr]  # texts get their sizes
    taken: list[np.ndarray] = []
    for text in texts:
        _move(axis, text, taken)


def _middle(points: np.ndarray) -> np.ndarray:
    """Return the point nearest to the median: the median itself may lie between two islands."""
    distance = np.linalg.norm(points - np.median(points, 0), axis=1)
    return points[distance.argmin()]


def _write(axis: Axes, name: str, at: np.ndarray) -> Text:
    """Write a name in black with a white outline; it takes no room in the layout."""
    from matplotlib.patheffects import withStroke

    outline = [withStroke(linewidth=2.5, foreground="white")]
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "zorder": 5}
    text = axis.text(at[0], at[1], name, path_effects=outline, **look)
    text.set_in_layout(False)
    return text


def _move(axis: Axes, text: Text, taken: list[np.ndarray]) -> None:
    """Move a name to the nearest free place inside the axis, and add it to those taken."""
    extent, box = text.get_window_extent(), axis.get_window_extent()  # in pixels
    size, centre = np.array([extent.width, extent.height]), (extent.p0 + extent.p1) / 2
    offsets = _STEPS * size
    corners = centre + offsets - size / 2
    free = ((corners >= box.p0) & (corners + size <= box.p1)).all(1)
    for other in taken:
        free &= ~((corners < other[1]) & (corners + size > other[0])).all(1)
    best = int(free.argmax())  # the first, its own place, where none is free
    taken.append(np.stack([corners[best], corners[best] + size]))
    at = text.get_position()
    text.set_position(tuple(axis.transData.inverted().transform(centre + offsets[best])))
    if np.abs(offsets[best] / size).max() > _NEAR:
        x, y = zip(at, text.get_position(), strict=True)
        axis.plot(x, y, color="black", lw=0.5, zorder=4)
