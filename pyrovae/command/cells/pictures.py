"""Pictures of a fitted model of cells, with captions that say what the figures say."""

from typing import Any

import numpy as np

from pyrovae.command.cells.evaluated import EvaluatedCells
from pyrovae.command.report import cell_plots
from pyrovae.command.report.cell_plots import COLLAPSED
from pyrovae.command.report.page import Picture
from pyrovae.command.report.planes import umap_plane
from pyrovae.files import History

__all__ = ["draw"]

MAPPED_CELLS = 5_000


def draw(cells: EvaluatedCells, history: History, figures: dict[str, Any]) -> list[Picture]:
    """Draw a run.

    Args:
        cells: The fitted model and its cells.
        history: Of the fit.
        figures: What was measured; if that was not possible, only the training is drawn.
    """
    pictures = []
    if history.elbo:
        curves = cell_plots.curves(history, cells.library_is_latent)
        caption = _of_training(history, cells.library_is_latent)
        pictures.append(Picture("Training", curves, caption))
    if "why_not" in figures:
        return pictures
    pictures.append(_latent_space(cells, figures))
    measured = f"{len(cells.rows):,} {'held-out cells' if cells.held_out else 'cells'}"
    if cells.library_is_latent:
        figure = cell_plots.libraries(*cells.libraries, cells.batches(cells.rows))
        caption = _of_libraries(figures["library"], measured)
        pictures.append(Picture("Library sizes", figure, caption))
    figure, caption = cell_plots.predictive(*cells.moments), _of_predictive(figures["predictive"])
    pictures.append(Picture("Posterior predictive", figure, caption))
    kl = figures["latents"]["kl_per_unit"]
    if kl:
        figure = cell_plots.kl_per_unit(np.array(kl))
        pictures.append(Picture("KL per unit", figure, _of_units(np.array(kl))))
    return pictures


def _latent_space(cells: EvaluatedCells, figures: dict[str, Any]) -> Picture:
    """Draw the posterior means of z in the plane."""
    rows = cells.some(cells.mapped, MAPPED_CELLS)
    plane, groups = umap_plane(cells.embed(rows), cells.seed), cells.groups(rows)
    figure = cell_plots.latent_map(plane, groups)
    caption = f"Posterior means of {len(rows):,} cells{plane.how and f': {plane.how}'}."
    if any(not group.batches for group in groups):
        caption += " Each name is at the cell nearest to its group's median, or a line leads there."
    return Picture("Latent space", figure, " ".join([caption, *_of_groups(figures)]))


# ------------------------------------------------------------------------------------- captions
def _of_training(history: History, library: bool) -> str:
    """Say what the curves are."""
    words = ["Training: mean over each epoch, while the weights change."]
    if history.validation_elbo:
        words.append("Validation: after each epoch, with every KL at weight 1.")
    if any(beta != 1 for beta in history.beta):
        other = "; that of l is 1 throughout" if library else ""
        words.append(f"Dashed: the weight of the KL of z{other}.")
    return " ".join(words)


def _of_groups(figures: dict[str, Any]) -> list[str]:
    """Say in sentences how far labels are apart and how well batches mix, by the figures."""
    labels = figures["clusters"].get("latents", {}).get("silhouette")
    mixing = figures["mixing"] or {}
    batches = mixing.get("latents", {})
    words = []
    if labels is not None:
        words.append(f"Silhouette of labels {labels:.2f} (1: far apart; 0: they overlap).")
    if batches.get("asw_batch") is not None:
        inside = f"Batches within labels {batches['asw_batch']:.2f}"
        words.append(f"{inside} (1: as near to another batch as to one's own; 0: far apart).")
    if batches:
        shuffled = f"{batches['ilisi_shuffled']:.2f} with shuffled batches"
        most = min(mixing["batches"], mixing["neighbours"])
        words.append(f"iLISI {batches['ilisi']:.2f} (from 1 to {most}; {shuffled}).")
    return [*words, "These are figures of all latents, not of the plane."] if words else words


def _of_libraries(library: dict[str, Any], measured: str) -> str:
    """Say how the library sizes compare with the totals."""
    caption = f"{measured.capitalize()}; on the black lines, the two are equal."
    if library["correlation"] is None:
        return caption
    correlation = f"correlation {library['correlation']:.2f} of the logarithms"
    ratio = f"median ratio {library['median_ratio']:.2f}, inferred over observed"
    return f"{caption} In all: {correlation}, {ratio}."


def _of_predictive(found: dict[str, Any]) -> str:
    """Say how draws compare with the data."""
    zeros = f"{found['zeros_drawn']:.1%} zeros, the data {found['zeros_data']:.1%}"
    caption = (
        f"One draw x' ~ p(x' | x) for each of {found['cells']:,} cells. Left: the line is that of "
        "Poisson counts. Middle and right: points on the line have as many zeros drawn as in the "
        f"data, those above it more. The draws have {zeros}"
    )
    if found["variance_ratio"] is None:
        return f"{caption}."
    ratio = f"{found['variance_ratio']:.2f} times that of the data"
    return f"{caption}; in the median gene their variance is {ratio}."


def _of_units(kl: np.ndarray) -> str:
    """Say how many units have collapsed."""
    collapsed = int((kl < COLLAPSED).sum())
    if not collapsed:
        return f"All {len(kl)} units are above the dashed line of {COLLAPSED} nats: none collapsed."
    return (
        f"{collapsed} of {len(kl)} units are below the dashed line of {COLLAPSED} nats: they have "
        "collapsed to the prior, and carry next to no information about the cell."
    )
