"""The distribution of inferred poses: angles around the circle, shifts in the plane, log scales."""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING

import numpy as np

from pyrovae.command.report.style import BLUE, GREY, hide_frame, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

_SECTORS = 36


def draw(found: dict[str, np.ndarray]) -> Figure:
    """Draw a panel for each latent of the pose.

    Args:
        found: Means of the posterior by site: theta (N, 1) in radians, dx (N, 2), s (N, 1).
    """
    figure = new_figure(3.8 * len(found), 3.8)
    for i, (site, values) in enumerate(found.items(), 1):
        place = (1, len(found), i)
        if site == "theta":
            _angles(figure.add_subplot(*place, projection="polar"), values[:, 0])
        elif site == "dx":
            _shifts(figure.add_subplot(*place), values)
        else:
            axis = figure.add_subplot(*place)
            axis.hist(values[:, 0], 30, color=BLUE)
            axis.set(title="Log scale s", xlabel="s", ylabel="test rows")
            hide_frame(axis)
    return figure


def _angles(axis: Axes, theta: np.ndarray) -> None:
    """Draw how many angles fall into each sector, by area."""
    counts, edges = np.histogram((theta + pi) % (2 * pi) - pi, _SECTORS, (-pi, pi))
    middle = (edges[:-1] + edges[1:]) / 2
    axis.bar(middle, np.sqrt(counts), width=2 * pi / _SECTORS, color=BLUE)
    axis.set_yticks([])
    axis.set_title("Angle; area by number of rows")


def _shifts(axis: Axes, dx: np.ndarray) -> None:
    """Draw shifts as points, at equal scale."""
    axis.axhline(0, color=GREY, lw=0.8)
    axis.axvline(0, color=GREY, lw=0.8)
    axis.scatter(dx[:, 0], dx[:, 1], s=8, lw=0, alpha=0.5, color=BLUE)
    reach = 1.05 * max(np.abs(dx).max(), 1e-3)
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axis.set(title="Shift of the content", xlabel="right, half lengths", ylabel="up")
    hide_frame(axis)
