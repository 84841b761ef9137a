"""Colours, markers and empty figures for all pictures.

The colours are those of Okabe & Ito (2008) and Petroff (2021), which colour-blind readers can tell
apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    "hide_frame",
    "new_figure",
]

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#6b6b6b"  # Okabe & Ito, and a grey
CLASSES = (  # Petroff, 10 colours
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)
MARKERS = "os^vDPX"  # 7 and 10 have no common factor: 70 classes differ in colour or marker


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that size in inches, without pyplot, so without global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def hide_frame(axis: Axes) -> None:
    """Draw no line above and at the right of an axis."""
    axis.spines[["top", "right"]].set_visible(False)
