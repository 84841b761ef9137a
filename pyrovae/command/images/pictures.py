"""Pictures of a fitted model of images or arrays, in the unit of the stored data."""

import numpy as np

from pyrovae.command.choices import Prior
from pyrovae.command.images.model import ImageModel
from pyrovae.command.images.rows import Rows
from pyrovae.command.images.settings import ImageSettings
from pyrovae.command.report import plots
from pyrovae.command.report.page import Picture
from pyrovae.files import History

__all__ = ["draw"]

PAIRS = 24
SAMPLES, COLUMNS = 64, 16
WALKS, STEPS = 6, 10
EMBEDDED = 2_000
GRID = 20

TRAINING = (
    "Training: mean over each epoch, while the weights change. "
    "Validation: after each epoch, at beta = 1."
)
KL_PER_UNIT = "Units below the line have collapsed to the prior and carry no information about x."


def draw(
    model: ImageModel,
    settings: ImageSettings,
    history: History,
    rows: Rows,
    kl_per_unit: list[float] | None,
) -> list[Picture]:
    """Draw a run.

    Args:
        model: The fitted model.
        settings: Of the run.
        history: Of the fit.
        rows: Evaluation rows.
        kl_per_unit: KL of each latent in nats, if it was measured.
    """
    pictures = [Picture("Training", plots.curves(history), TRAINING)] if history.elbo else []
    pictures.append(_reconstructions(model, rows))
    if settings.prior is not Prior.FLAT:
        pictures.append(_samples(model, settings.seed))
    pictures += [_interpolations(model, rows), _latent_space(model, rows)]
    if kl_per_unit:
        figure = plots.kl_per_unit(np.array(kl_per_unit))
        pictures.append(Picture("KL per unit", figure, KL_PER_UNIT))
    plane = settings.latents == 2 and settings.prior is Prior.STANDARD_NORMAL
    if plane and not settings.condition:
        figure = plots.manifold(model.manifold(GRID), model.preparation.limits)
        pictures.append(Picture("Manifold", figure, "Kingma & Welling (2014), figure 4."))
    return pictures


def _reconstructions(model: ImageModel, rows: Rows) -> Picture:
    """Draw rows and their reconstructions."""
    batch = rows.some(PAIRS)
    x, x_hat = model.preparation.undo(batch[0]), model.reconstruct(batch)
    figure = plots.pairs(x, x_hat, limits=model.preparation.limits)
    binarized = " Grey values were binarized once." if model.preparation.binarize else ""
    caption = f"The mean of p(x | z) at the posterior mean of z.{binarized}"
    return Picture("Originals and reconstructions", figure, caption)


def _samples(model: ImageModel, seed: int) -> Picture:
    """Draw means of p(x | z) at draws of the prior; each class keeps to its columns."""
    classes = model.preparation.classes
    k = max(1, len(classes))
    columns = k * (COLUMNS // k) or COLUMNS
    x = model.generate(columns * (SAMPLES // columns), seed=seed)
    title = "Samples: E[x | z], z from the prior"
    figure = plots.images(x, title, columns, model.preparation.limits)
    given = f" Classes round-robin: {', '.join(classes)}." if classes else ""
    return Picture("Samples", figure, f"Decoded draws from the prior: no data are used.{given}")


def _interpolations(model: ImageModel, rows: Rows) -> Picture:
    """Draw straight lines between latent representations."""
    batch = rows.some(2 * WALKS)
    n = len(batch[0])
    pairs = [(i, n - 1 - i) for i in range(max(1, n // 2))]
    paths = np.stack([model.interpolate(batch, a, b, STEPS) for a, b in pairs])
    caption = "Each row decodes points on the line between the posterior means of two test rows."
    return Picture("Interpolations", plots.interpolations(paths, model.preparation.limits), caption)


def _latent_space(model: ImageModel, rows: Rows) -> Picture:
    """Draw posterior means in the plane."""
    few = rows.spread(EMBEDDED)
    figure = plots.latent_space(model.embed(few.batch), few.labels, few.label_names)
    return Picture("Latent space", figure, "Posterior means of test rows.")
