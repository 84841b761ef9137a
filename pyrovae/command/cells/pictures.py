"""Pictures of a fitted model of cells."""

import numpy as np

from pyrovae.command.cells.evaluated import EvaluatedCells
from pyrovae.command.report import cell_plots
from pyrovae.command.report.page import Picture
from pyrovae.command.report.planes import umap_plane
from pyrovae.files import History

__all__ = ["draw"]

MAPPED_CELLS = 5_000

TRAINING = (
    "Training: mean over each epoch, while the weights change. Validation: after each epoch, with "
    "every KL at weight 1. Only the KL of z is annealed."
)
LIBRARIES = (
    "Held-out cells. The posterior library size tracks the observed total and is shrunk towards "
    "the batch's prior mean."
)
PREDICTIVE = (
    "One draw x' ~ p(x' | x) for each held-out cell. Points on the lines: draws have the variances "
    "and the zeros of the data."
)
KL_PER_UNIT = (
    "Units below the line have collapsed to the prior and carry no information about the cell."
)


def draw(
    cells: EvaluatedCells, history: History, kl_per_unit: list[float] | None, *, complete: bool
) -> list[Picture]:
    """Draw a run.

    Args:
        cells: The fitted model and its cells.
        history: Of the fit.
        kl_per_unit: KL of each latent in nats, if it was measured.
        complete: Whether the model could be measured; else only the training is drawn.
    """
    pictures = []
    if history.elbo:
        curves = cell_plots.curves(history, cells.library_is_latent)
        pictures.append(Picture("Training", curves, TRAINING))
    if not complete:
        return pictures
    pictures.append(_latent_space(cells))
    if cells.library_is_latent:
        figure = cell_plots.libraries(*cells.libraries, cells.batches(cells.rows))
        pictures.append(Picture("Library sizes", figure, LIBRARIES))
    figure = cell_plots.predictive(*cells.moments)
    pictures.append(Picture("Posterior predictive", figure, PREDICTIVE))
    if kl_per_unit:
        figure = cell_plots.kl_per_unit(np.array(kl_per_unit))
        pictures.append(Picture("KL per unit", figure, KL_PER_UNIT))
    return pictures


def _latent_space(cells: EvaluatedCells) -> Picture:
    """Draw the posterior means of z in the plane."""
    rows = cells.some(cells.mapped, MAPPED_CELLS)
    plane = umap_plane(cells.embed(rows), cells.seed)
    figure = cell_plots.latent_map(plane, cells.groups(rows))
    what = f"Posterior means of {len(rows):,} cells{plane.how and f': {plane.how}'}."
    caption = f"{what} Batches should mix within a type, and types should be apart."
    return Picture("Latent space", figure, caption)
