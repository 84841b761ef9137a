"""Groups of cells as points: batches and types, each with a colour, a marker and a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyrovae.command.report.names import legend_columns, shortened
from pyrovae.command.report.style import BATCHES, GREY, MARKERS, TYPES, hide_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["LAYERS", "SHOWN", "SIZE", "UNLABELLED", "Groups", "looks_of", "scatter"]

SHOWN = len(TYPES)  # groups in a legend; the smaller ones are grey together
SIZE = 8  # of a cell's mark, in square points
LAYERS = 6  # each group is drawn in as many layers, interleaved, so that none hides another
UNLABELLED = "unlabelled"


class Groups(NamedTuple):
    """Groups of cells. Cells named `UNLABELLED` are in no group.

    Attributes:
        title: what the groups are.
        names: name of each cell's group, with shape (N,).
        ranked: all groups there are, the largest first: each has one colour in every picture.
        batches: whether they are batches: these have colours of their own, and as they should mix,
            their names are not written among the cells.
    """

    title: str
    names: np.ndarray
    ranked: tuple[str, ...] = ()
    batches: bool = False


def looks_of(groups: Groups) -> dict[str, Any]:
    """Return colour and marker of each group that is named; the others are grey."""
    names = groups.names
    found, sizes = np.unique(names[names != UNLABELLED], return_counts=True)
    ranked = groups.ranked or tuple(found[np.argsort(-sizes, kind="stable")])
    colours = BATCHES if groups.batches else TYPES
    return {
        name: {"c": colours[i % len(colours)], "marker": MARKERS[i % len(MARKERS)]}
        for i, name in enumerate(sorted(ranked[:SHOWN]))
    }


def scatter(axis: Axes, points: np.ndarray, groups: Groups, *, legend: bool = True) -> None:
    """Draw each group in its own colour and marker, in interleaved layers."""
    names, looks = groups.names, looks_of(groups)
    others = ~np.isin(names, list(looks))
    layers = np.arange(len(points)) * 7919 % LAYERS  # neighbours in the file in different layers
    x, y = points.T
    axis.scatter(x[others], y[others], s=SIZE, c=GREY, alpha=0.4, lw=0)
    for layer in range(LAYERS):
        for name, look in looks.items():
            mask = (names == name) & (layers == layer)
            axis.scatter(x[mask], y[mask], s=SIZE, alpha=0.75, lw=0, **look)
    hide_frame(axis)
    if legend:
        smaller = len(set(names) - set(looks) - {UNLABELLED})
        _name_groups(axis, looks, smaller, bool((names == UNLABELLED).any()))


def _name_groups(axis: Axes, looks: dict[str, Any], smaller: int, unlabelled: bool) -> None:
    """Name the groups beside the panel."""
    from matplotlib.lines import Line2D

    marks = {name: (look["marker"], look["c"]) for name, look in looks.items()}
    if smaller:
        marks[f"{smaller} smaller groups"] = ("o", GREY)
    if unlabelled:
        marks[UNLABELLED] = ("o", GREY)
    handles = [
        Line2D([], [], ls="", marker=marker, color=colour, label=shortened(name))
        for name, (marker, colour) in marks.items()
    ]
    axis.legend(
        handles=handles,
        frameon=False,
        fontsize=8,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        ncols=legend_columns(len(handles)),
    )
