"""Pictures of a model of single cells: latent space, library sizes, posterior predictive.

x'_n ~ p(x' | x_n): draws of the posterior predictive beside the data, by the mean, the variance and
the zeros of genes and cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyrovae.command.report import plots
from pyrovae.command.report.groups import LAYERS, SHOWN, SIZE, UNLABELLED, Groups, looks_of, scatter
from pyrovae.command.report.names import legend_columns, write_names
from pyrovae.command.report.planes import Plane
from pyrovae.command.report.style import BLUE, ORANGE, hide_frame, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pyrovae.files import History

__all__ = [
    "COLLAPSED",
    "UNLABELLED",
    "Groups",
    "Moments",
    "curves",
    "kl_per_unit",
    "latent_map",
    "libraries",
    "moments",
    "predictive",
]

_WIDE = 5  # ratios that span more have a logarithmic axis
COLLAPSED = 0.01  # nats per cell, below which a unit of z carries next to nothing


class Moments(NamedTuple):
    """Moments of counts of N cells and G genes.

    Attributes:
        mean: of each gene, with shape (G,).
        variance: of each gene, with shape (G,).
        gene_zeros: fraction of zeros of each gene, with shape (G,).
        cell_zeros: fraction of zeros of each cell, with shape (N,).
    """

    mean: np.ndarray
    variance: np.ndarray
    gene_zeros: np.ndarray
    cell_zeros: np.ndarray


def curves(history: History, library: bool) -> Figure:
    """Draw the ELBO, its terms and the weight of the KL of z over the epochs.

    Args:
        history: of the fit.
        library: whether the library size is a latent.
    """
    figure = plots.curves(history)
    given, cost = ("z, l", "KL of z and of l") if library else ("z", "KL of z")
    figure.axes[1].set_title(f"Reconstruction E[log p(x | {given})]")
    figure.axes[2].set_title(cost)
    for axis in figure.axes[:3]:
        axis.set_ylabel("nats per cell")
    for axis in figure.axes[3:]:
        axis.set_ylabel("weight of the KL of z (dashed)")
        if legend := axis.get_legend():
            legend.remove()  # it would lie on the curves
    return figure


def latent_map(plane: Plane, groups: Sequence[Groups]) -> Figure:
    """Draw cells in the plane, once for each way to group them; without any, in one colour.

    Args:
        plane: where they are.
        groups: such as the batches and the cell types.
    """
    figure, axes = _panels(groups)
    for axis, group in zip(axes, groups, strict=False):
        scatter(axis, plane.points, group)
        axis.set_title(f"by {group.title}")
    if not groups:
        axes[0].scatter(plane.points[:, 0], plane.points[:, 1], s=SIZE, c=BLUE, alpha=0.6, lw=0)
        hide_frame(axes[0])
    for axis in axes:
        axis.set(xlabel=plane.axes[0], ylabel=plane.axes[1])
        axis.label_outer()
    for axis, group in zip(axes, groups, strict=False):
        if not group.batches:
            write_names(axis, plane.points, group.names, list(looks_of(group)))
    return figure


def _panels(groups: Sequence[Groups]) -> tuple[Figure, Any]:
    """Return a figure with a panel for each way to group cells, with room for the legends.

    The panels are beside each other, or one below the other if a legend has two columns: a wider
    figure would be made small on the page.
    """
    panels = max(1, len(groups))
    entries = [min(SHOWN + 2, len(set(group.names))) for group in groups]
    columns = max(map(legend_columns, entries), default=0)
    if columns > 1:
        figure = new_figure(6.0 + 1.8 * columns, 5.2 * panels)
        return figure, figure.subplots(panels, 1, sharex=True, sharey=True, squeeze=False).ravel()
    figure = new_figure(panels * (4.6 + 1.6 * columns), 4.6)
    return figure, figure.subplots(1, panels, sharex=True, sharey=True, squeeze=False).ravel()


def libraries(totals: np.ndarray, sizes: np.ndarray, batches: Groups | None) -> Figure:
    """Draw library sizes as inferred against the totals, and their ratio.

    Args:
        totals: transcripts observed in each cell, with shape (N,).
        sizes: library sizes inferred, with shape (N,).
        batches: of the cells, to colour by.
    """
    seen = totals > 0
    totals, sizes = totals[seen], sizes[seen]
    ratios = sizes / totals
    figure = new_figure(10.6, 4.2)
    left, right = figure.subplots(1, 2)
    for axis, y in ((left, sizes), (right, ratios)):
        if batches is None:
            axis.scatter(totals, y, s=SIZE, c=BLUE, alpha=0.6, lw=0)
            hide_frame(axis)
        else:
            groups = batches._replace(names=batches.names[seen])
            scatter(axis, np.stack([totals, y], 1), groups, legend=axis is right)
    ends = [totals.min(), totals.max()]
    left.plot(ends, ends, color="black", lw=0.8)
    right.axhline(1, color="black", lw=0.8)
    _make_logarithmic(left, "x", "y")
    _make_logarithmic(right, "x")
    observed, inferred = "transcripts observed", "library size inferred, E[exp l | x]"
    left.set(title="Library size", xlabel=observed, ylabel=inferred)
    right.set(title="Inferred over observed", xlabel=observed, ylabel="ratio")
    if ratios.max() > _WIDE * ratios.min():
        _make_logarithmic(right, "y")
    return figure


def moments(x: Any) -> Moments:
    """Return the moments of counts, a SciPy sparse matrix with shape (N, G)."""
    x = x.tocsr().astype(np.float64)
    mean = np.asarray(x.mean(0)).ravel()
    variance = np.asarray(x.multiply(x).mean(0)).ravel() - mean**2
    filled = x > 0
    genes, cells = (np.asarray(filled.mean(axis)).ravel() for axis in (0, 1))
    return Moments(mean, variance, 1 - genes, 1 - cells)


def predictive(data: Moments, drawn: Moments) -> Figure:
    """Draw draws of the posterior predictive beside the data: variances and zeros.

    Args:
        data: of the cells.
        drawn: of one draw for each of them.
    """
    figure = new_figure(13.2, 4.2)
    axes = figure.subplots(1, 3)
    _draw_variances(axes[0], data, drawn)
    _draw_zeros(axes[1], data.gene_zeros, drawn.gene_zeros, "gene")
    _draw_zeros(axes[2], data.cell_zeros, drawn.cell_zeros, "cell")
    for axis in axes:
        hide_frame(axis)
    return figure


def _draw_variances(axis: Axes, data: Moments, drawn: Moments) -> None:
    """Draw the variance of each gene against its mean, in layers: neither hides the other."""
    for layer in range(LAYERS):
        for found, colour, label in ((data, BLUE, "data"), (drawn, ORANGE, "drawn")):
            kept = (found.mean > 0) & (found.variance > 0)
            mean, variance = (part[kept][layer::LAYERS] for part in (found.mean, found.variance))
            name = None if layer else label
            axis.scatter(mean, variance, s=6, c=colour, alpha=0.45, lw=0, label=name)
    _make_logarithmic(axis, "x", "y")
    ends = np.array(axis.get_xlim())
    axis.plot(ends, ends, color="black", lw=0.8, label="Poisson: variance = mean")
    axis.legend(frameon=False, markerscale=2)
    axis.set(title="Variance against mean, per gene", xlabel="mean", ylabel="variance", xlim=ends)


def _draw_zeros(axis: Axes, data: np.ndarray, drawn: np.ndarray, what: str) -> None:
    """Draw the fractions of zeros of draws against those of the data."""
    axis.scatter(data, drawn, s=6, c=BLUE, alpha=0.45, lw=0)
    low = min(data.min(), drawn.min())
    axis.plot([low, 1], [low, 1], color="black", lw=0.8)
    axis.set(title=f"Fraction of zeros, per {what}", xlabel="data", ylabel="drawn")


def kl_per_unit(kl: np.ndarray) -> Figure:
    """Draw each latent's KL to the prior in nats per cell, with shape (D,), greatest first.

    The axis is logarithmic, which shows the line at 0.01 nats also where the greatest is 10.
    """
    figure = plots.kl_per_unit(kl, COLLAPSED)
    axis = figure.axes[0]
    lowest = max(1e-4, min(COLLAPSED / 3, float(kl.min()) / 2))
    axis.set_yscale("log")
    axis.set_ylim(lowest, 2 * max(float(kl.max()), COLLAPSED))
    axis.set(title="KL of z, by unit", ylabel="nats per cell (logarithmic)")
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _make_logarithmic(axis: Axes, *names: str) -> None:
    """Make axes logarithmic, with plain numbers such as 2,000 where they span little."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for name in names:
        getattr(axis, f"set_{name}scale")("log")
        low, high = getattr(axis, f"get_{name}lim")()
        one = getattr(axis, f"{name}axis")
        one.set_minor_formatter(NullFormatter())
        if high / low < 1000:
            one.set_major_locator(LogLocator(subs=(1, 2, 5)))
            one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
