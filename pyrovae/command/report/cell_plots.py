"""Pictures of a model of single cells: where its cells lie, their library sizes, and whether it makes data like those it saw.

x'_n ~ p(x' | x_n): draws of the posterior predictive beside the data, by the mean, the variance and the zeros of genes and cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pyrovae.command.report import plots
from pyrovae.command.report.plots import BLUE, CLASSES, GREY, MARKERS, ORANGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pyrovae.files import History

__all__ = [
    "UNLABELLED",
    "Groups",
    "Moments",
    "Plane",
    "curves",
    "kl_per_unit",
    "latent_map",
    "libraries",
    "moments",
    "plane",
    "predictive",
]

_COLOURS = tuple(
    colour for colour in CLASSES if colour not in ("#94a4a2", "#717581")
)  # its greys: grey is for the rest
_SHOWN = 20  # groups in a legend; the smaller ones are grey together
_LAYERS = 6  # groups are drawn in so many turns, so that none hides another
_WIDE = 5  # ratios that span more are drawn on a logarithmic axis
_NEIGHBOURS = 15  # UMAP's own default; it needs more cells than that
UNLABELLED = "unlabelled"


class Groups(NamedTuple):
    """Groups of cells: what they are, the name of each cell's, with shape (N,), and all names there are, the largest group first.

    The last give a group one colour in every picture. Cells named `UNLABELLED` are in no group.
    """

    title: str
    names: np.ndarray
    ranked: tuple[str, ...] = ()


class Plane(NamedTuple):
    """Codes in two dimensions: points with shape (N, 2), the names of both axes, and how they were made."""

    points: np.ndarray
    axes: tuple[str, str]
    how: str


class Moments(NamedTuple):
    """Of counts: mean, variance and zeros of each gene, with shape (G,), and the zeros of each cell, with shape (N,)."""

    mean: np.ndarray
    variance: np.ndarray
    gene_zeros: np.ndarray
    cell_zeros: np.ndarray


def plane(z: np.ndarray, seed: int = 0) -> Plane:
    """Bring codes to two dimensions: by UMAP (McInnes et al. 2018) where umap-learn is installed, else by PCA.

    Args:
        z: codes with shape (N, D); with D = 1 or 2 they are shown as they are.
        seed: of UMAP.
    """
    n, d = z.shape
    if d <= 2:
        points = z if d == 2 else np.stack([z[:, 0], np.arange(n)], 1)
        return Plane(points, ("z1", "z2" if d == 2 else "cell"), "as they are")
    if n > _NEIGHBOURS and (umap := _umap()) is not None:
        points = umap(n_neighbors=_NEIGHBOURS, random_state=seed, n_jobs=1).fit_transform(z)
        return Plane(points, ("UMAP 1", "UMAP 2"), f"{d} latents by UMAP")
    u, scale, _ = np.linalg.svd(z - z.mean(0), full_matrices=False)
    share = 100 * scale**2 / max((scale**2).sum(), 1e-12)
    points = np.zeros((n, 2))
    points[:, : min(2, len(scale))] = (u * scale)[:, :2]
    names = [f"PC {i + 1} ({part:.0f} % of variance)" for i, part in enumerate([*share, 0][:2])]
    return Plane(
        points,
        (names[0], names[1]),
        f"{d} latents, first two principal components (no umap-learn here)",
    )


def _umap() -> Any:
    """Return umap-learn's class, or None where it is not installed."""
    try:
        from umap import UMAP
    except ImportError:
        return None
    return UMAP


def curves(history: History, library: bool) -> Figure:
    """Draw the ELBO, its terms and the weight of the KL of z over the epochs.

    Args:
        history: of the fit.
        library: whether the library size is a latent.
    """
    from matplotlib.ticker import MaxNLocator

    figure = plots.curves(history)
    given, cost = ("z, l", "KL of z and of l") if library else ("z", "KL of z")
    figure.axes[1].set_title(f"Reconstruction E[log p(x | {given})]")
    figure.axes[2].set_title(cost)
    for axis in figure.axes[:3]:
        axis.set_ylabel("nats per cell")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in figure.axes[3:]:
        axis.set_ylabel("weight of the KL of z (dashed)")
        for legend in filter(None, [axis.get_legend()]):
            legend.remove()  # it would lie on the curves
    return figure


def latent_map(where: Plane, groups: Sequence[Groups]) -> Figure:
    """Draw cells in the plane, once for each way to group them; without any, in one colour.

    Args:
        where: their places.
        groups: such as the batches and the cell types.
    """
    wide = max(1, len(groups))
    figure = _figure(4.6 + 6.2 * (wide - 1) if wide > 1 else 6.4, 4.4)
    panels = np.atleast_1d(figure.subplots(1, wide, sharex=True, sharey=True))
    for axis, group in zip(panels, groups, strict=False):
        _scatter(axis, where.points, group.names, group.ranked)
        axis.set_title(f"by {group.title}")
    if not groups:
        panels[0].scatter(where.points[:, 0], where.points[:, 1], s=6, c=BLUE, alpha=0.6, lw=0)
    for axis in panels:
        axis.set_xlabel(where.axes[0])
    panels[0].set_ylabel(where.axes[1])
    return figure


def libraries(totals: np.ndarray, sizes: np.ndarray, batches: Groups | None) -> Figure:
    """Draw library sizes as inferred against the totals, and their ratio.

    Args:
        totals: transcripts observed in each cell, with shape (N,).
        sizes: library sizes inferred, with shape (N,).
        batches: of the cells, to colour by.
    """
    seen = totals > 0
    totals, sizes = totals[seen], sizes[seen]
    figure = _figure(10.6, 4.2)
    left, right = figure.subplots(1, 2)
    names, ranked = (
        (np.full(len(totals), "cells"), ())
        if batches is None
        else (batches.names[seen], batches.ranked)
    )
    _scatter(left, np.stack([totals, sizes], 1), names, ranked, legend=False)
    _scatter(
        right, np.stack([totals, sizes / totals], 1), names, ranked, legend=batches is not None
    )
    ends = [totals.min(), totals.max()]
    left.plot(ends, ends, color="black", lw=0.8)
    right.axhline(1, color="black", lw=0.8)
    _logarithmic(left, "x", "y")
    _logarithmic(right, "x")
    left.set(
        title="Library size",
        xlabel="transcripts observed",
        ylabel="library size inferred, E[exp l | x]",
    )
    right.set(title="Inferred over observed", xlabel="transcripts observed", ylabel="ratio")
    if (sizes / totals).max() > _WIDE * (sizes / totals).min():
        _logarithmic(right, "y")
    return figure


def moments(x: Any) -> Moments:
    """Return what is shown of counts: a SciPy sparse matrix with shape (N, G)."""
    x = x.tocsr().astype(np.float64)
    mean = np.asarray(x.mean(0)).ravel()
    variance = np.asarray(x.multiply(x).mean(0)).ravel() - mean**2
    filled = x > 0
    genes, cells = (np.asarray(filled.mean(axis)).ravel() for axis in (0, 1))
    return Moments(mean, variance, 1 - genes, 1 - cells)


def predictive(data: Moments, drawn: Moments) -> Figure:
    """Draw how draws of the posterior predictive compare with the data: variance by mean, zeros of genes, zeros of cells.

    Args:
        data: of the cells.
        drawn: of one draw for each of them.
    """
    figure = _figure(13.2, 4.2)
    first, second, third = figure.subplots(1, 3)
    for found, colour, label in ((data, BLUE, "data"), (drawn, ORANGE, "drawn")):
        kept = (found.mean > 0) & (found.variance > 0)
        first.scatter(
            found.mean[kept], found.variance[kept], s=6, c=colour, alpha=0.45, lw=0, label=label
        )
    _logarithmic(first, "x", "y")
    ends = np.array(first.get_xlim())
    first.plot(ends, ends, color="black", lw=0.8, label="Poisson: variance = mean")
    first.legend(frameon=False, markerscale=2)
    first.set(
        title="Variance by mean, a point a gene",
        xlabel="mean of a gene",
        ylabel="variance of a gene",
        xlim=ends,
    )
    for axis, name, what in ((second, "gene_zeros", "gene"), (third, "cell_zeros", "cell")):
        axis.scatter(getattr(data, name), getattr(drawn, name), s=6, c=BLUE, alpha=0.45, lw=0)
        low = min(getattr(data, name).min(), getattr(drawn, name).min())
        axis.plot([low, 1], [low, 1], color="black", lw=0.8)
        axis.set(title=f"Share of zeros, a point a {what}", xlabel="data", ylabel="drawn")
    for axis in (first, second, third):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def kl_per_unit(kl: np.ndarray) -> Figure:
    """Draw each latent's KL to the prior in nats a cell, with shape (D,), greatest first."""
    figure = plots.kl_per_unit(kl)
    figure.axes[0].set(title="KL of z, by unit", ylabel="nats per cell")
    return figure


def _figure(width: float, height: float) -> Figure:
    """Make a figure that no global state knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _scatter(
    axis: Axes, points: np.ndarray, names: np.ndarray, ranked: tuple[str, ...], legend: bool = True
) -> None:
    """Draw each group in its own colour and marker, in turns, so that none hides another."""
    found, sizes = np.unique(names[names != UNLABELLED], return_counts=True)
    shown = sorted((ranked or tuple(found[np.argsort(-sizes, kind="stable")]))[:_SHOWN])
    looks: dict[str, Any] = {
        name: {"c": _COLOURS[i % len(_COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        for i, name in enumerate(shown)
    }
    turns = (
        np.arange(len(points)) * 7919 % _LAYERS
    )  # neighbours in the file fall into different turns
    others = ~np.isin(names, shown)
    x, y = points.T
    axis.scatter(x[others], y[others], s=6, c=GREY, alpha=0.5, lw=0)
    for turn in range(_LAYERS):
        for name, look in looks.items():
            mask = (names == name) & (turns == turn)
            axis.scatter(x[mask], y[mask], s=6, alpha=0.6, lw=0, **look)
    axis.spines[["top", "right"]].set_visible(False)
    if legend:
        _legend(axis, looks, int((~np.isin(found, shown)).sum()), bool((names == UNLABELLED).any()))


def _legend(axis: Axes, looks: dict[str, Any], others: int, unlabelled: bool) -> None:
    """Name the groups beside the panel."""
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], ls="", marker=look["marker"], color=look["c"], label=name)
        for name, look in looks.items()
    ]
    marks += (
        [Line2D([], [], ls="", marker="o", color=GREY, label=f"{others} smaller groups")]
        if others
        else []
    )
    marks += [Line2D([], [], ls="", marker="o", color=GREY, label=UNLABELLED)] if unlabelled else []
    axis.legend(
        handles=marks, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8
    )


def _logarithmic(axis: Axes, *names: str) -> None:
    """Make axes logarithmic, with plain numbers where they span little: 2 x 10^3 is no label to read."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for name in names:
        getattr(axis, f"set_{name}scale")("log")
        low, high = getattr(axis, f"get_{name}lim")()
        one = getattr(axis, f"{name}axis")
        one.set_minor_formatter(NullFormatter())
        if high / low < 1000:
            one.set_major_locator(LogLocator(subs=(1, 2, 5)))
            one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
