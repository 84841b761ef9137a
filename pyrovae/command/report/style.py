"""Colours, markers and empty figures for all pictures.

The colours are those of Okabe & Ito (2008) and Petroff (2021), which colour-blind readers can tell
apart. A page on cells needs more, so that one colour means one thing: 28 for types and 8 for
batches. They were chosen one after the other, each as far as possible in OKLab (Ottosson 2020) from
blue, orange, grey, white, black and all before it, also as dichromats see them (Machado et al.
2009). Few groups have the clearest colours, since the first are the farthest apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BATCHES",
    "BLUE",
    "CLASSES",
    "GREEN",
    "GREY",
    "MARKERS",
    "ORANGE",
    "TYPES",
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
TYPES = (  # of cells
    "#0810c8",
    "#f8b098",
    "#980058",
    "#30a0f0",
    "#688800",
    "#c06090",
    "#6840f8",
    "#b8a800",
    "#60e800",
    "#30b8c0",
    "#d000a8",
    "#005048",
    "#900000",
    "#985000",
    "#7070e0",
    "#78c0f8",
    "#2050d0",
    "#f06070",
    "#9000a0",
    "#a880c8",
    "#307040",
    "#e070f8",
    "#b84048",
    "#a0c838",
    "#c048c8",
    "#70a080",
    "#d898d0",
    "#c88830",
)
BATCHES = (  # of cells; more differ by marker
    "#680080",
    "#00e0f0",
    "#309860",
    "#504020",
    "#805890",
    "#48d070",
    "#a0d0c0",
    "#584878",
)
MARKERS = "os^vDPX"  # 7 has no factor in common with 8 or 10: 56 batches, 70 classes differ


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that size in inches, without pyplot, so without global state."""
    from pyrovae.command.report.shown import ShownFigure

    return ShownFigure(figsize=(width, height), layout="constrained")


def hide_frame(axis: Axes) -> None:
    """Draw no line above and at the right of an axis."""
    axis.spines[["top", "right"]].set_visible(False)
