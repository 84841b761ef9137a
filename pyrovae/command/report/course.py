"""The course of training as matplotlib figures: the ELBO, its terms and the weight of the KL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pyrovae.command.report.style import BLUE, GREY, ORANGE, hide_frame, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pyrovae.files import History

__all__ = ["curve", "curves"]


def curves(history: History) -> Figure:
    """Draw the ELBO, its two terms and the weight of the KL over the epochs.

    For another bound the third panel shows the reconstruction minus the bound.

    Args:
        history: What `pyrovae.fit` returns.
    """
    figure = new_figure(11, 3.6)
    axes = figure.subplots(1, 3)
    is_elbo = history.bound_name == "ELBO"
    panels = {
        "elbo": history.bound_name,
        "reconstruction": "Reconstruction E[log p(x | z)]",
        "kl": "KL(q(z | x) || p(z))" if is_elbo else f"Reconstruction - {history.bound_name}",
    }
    for axis, (name, title) in zip(axes, panels.items(), strict=True):
        _draw_term(axis, history, name, title)
    _mark_best(axes[0], history)
    _draw_weight(axes[2], history)
    return figure


def curve(history: History, title: str) -> Figure:
    """Draw what training raises over the epochs, where it is one term only.

    Args:
        history: What `pyrovae.fit` returns.
        title: What it is.
    """
    figure = new_figure(7, 3.6)
    axis = figure.subplots()
    _draw_term(axis, history, "elbo", title)
    _mark_best(axis, history)
    return figure


def _draw_term(axis: Axes, history: History, name: str, title: str) -> None:
    """Draw a term on training and validation data."""
    from matplotlib.ticker import MaxNLocator

    for prefix, label, colour in (("", "training", BLUE), ("validation_", "validation", ORANGE)):
        values = np.array(getattr(history, prefix + name), dtype=float)
        if np.isfinite(values).any():
            epochs, marker = history.epoch[: len(values)], "o" if len(values) == 1 else None
            axis.plot(epochs, values, color=colour, label=label, marker=marker)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    hide_frame(axis)
    _leave_out_start(axis)
    axis.set(title=title, xlabel="epoch", ylabel="nats per observation")


def _mark_best(axis: Axes, history: History) -> None:
    """Mark the epoch whose weights were kept, and name the lines."""
    if history.best_epoch is not None:
        axis.axvline(history.best_epoch, color=GREY, lw=1, ls=":", label="best epoch")
    if axis.get_lines():
        axis.legend(frameon=False)


def _leave_out_start(axis: Axes) -> None:
    """Fit the axis to the curves without their first tenth, which would flatten the remainder."""
    curves = [np.asarray(line.get_ydata()) for line in axis.get_lines()]
    values = np.concatenate([*(curve[len(curve) // 10 :] for curve in curves), [np.nan]])
    if np.isfinite(values).any():
        low, high = np.nanmin(values), np.nanmax(values)
        margin = 0.06 * max(high - low, 1e-3)
        axis.set_ylim(low - margin, high + margin)


def _draw_weight(axis: Axes, history: History) -> None:
    """Draw the weight of the KL on an axis of its own, unless it is always 1."""
    if all(beta == 1 for beta in history.beta):
        return
    twin = axis.twinx()
    twin.plot(history.epoch, history.beta, color=GREY, ls="--", label="weight of the KL")
    twin.set(ylabel="weight of the KL", ylim=(0, 1.05 * max(max(history.beta), 1e-9)))
    twin.legend(frameon=False, loc="lower right")
