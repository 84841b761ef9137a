"""Pictures of a fitted model of images or arrays, in the unit of the stored data."""

from math import isnan

import numpy as np

from pyrovae.command.choices import Prior
from pyrovae.command.images.model import ImageModel
from pyrovae.command.images.posing import draw_poses
from pyrovae.command.images.reconstruction import corrupted
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
TRAINING_CODE = (
    "Training: mean over each epoch, while the weights change. Validation: after each epoch. "
    "There is no KL term, and this is no bound of log p(x)."
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
    z = "code" if settings.is_autoencoder else "posterior mean"
    pictures = [_training(settings, history)] if history.elbo else []
    pictures.append(_reconstructions(model, rows, z))
    if settings.denoise:
        pictures.append(_denoised(model, rows))
    if settings.pose:
        pictures += _poses(model, rows)
    if settings.prior is not Prior.FLAT:
        pictures.append(_samples(model, settings.seed))
    pictures += [_interpolations(model, rows, z), _latent_space(model, rows, z)]
    if settings.latents == 2 and settings.prior is Prior.FLAT and not settings.condition:
        pictures.append(_plane(model, rows))
    if kl_per_unit:
        figure = plots.kl_per_unit(np.array(kl_per_unit))
        pictures.append(Picture("KL per unit", figure, KL_PER_UNIT))
    plane = settings.latents == 2 and settings.prior is Prior.STANDARD_NORMAL
    if plane and not settings.condition:
        figure = plots.manifold(model.manifold(GRID), model.preparation.limits)
        pictures.append(Picture("Manifold", figure, "Kingma & Welling (2014), figure 4."))
    return pictures


def _training(settings: ImageSettings, history: History) -> Picture:
    """Draw how training went."""
    noisy = " The encoder sees noisy rows in training, clean ones in validation."
    noisy = noisy if settings.denoise else ""
    if settings.pose and isnan(history.reconstruction[-1]):  # of an objective of Pyro
        figure = plots.curve(history, "ELBO, E[log p(x | z)] - KL(q(z | x) || p(z))")
        return Picture("Training", figure, "Validation: after each epoch.")
    if not settings.is_autoencoder:
        return Picture("Training", plots.curves(history), TRAINING + noisy)
    name = settings.bound_name(history.bound_name)
    return Picture(
        "Training", plots.curve(history, f"{name}, z the code of x"), TRAINING_CODE + noisy
    )


def _reconstructions(model: ImageModel, rows: Rows, z: str) -> Picture:
    """Draw rows and their reconstructions."""
    batch = rows.some(PAIRS)
    x, x_hat = model.preparation.undo(batch[0]), model.reconstruct(batch)
    figure = plots.pairs(x, x_hat, limits=model.preparation.limits)
    binarized = " Grey values were binarized once." if model.preparation.binarize else ""
    caption = f"The mean of p(x | z), z the {z} of x.{binarized}"
    return Picture("Originals and reconstructions", figure, caption)


def _poses(model: ImageModel, rows: Rows) -> list[Picture]:
    """Draw contents at zero pose, and the distribution of the poses."""
    batch, undo = rows.some(PAIRS), model.preparation.undo
    versions = {
        "original": undo(batch[0]),
        "reconstructed": model.reconstruct(batch),
        "at zero pose": model.upright(batch),
    }
    return draw_poses(model.poses(rows.some(EMBEDDED)), versions, model.preparation.limits)


def _denoised(model: ImageModel, rows: Rows) -> Picture:
    """Draw rows, the same with noise as in training, and what the model makes of those."""
    x, *c = rows.some(COLUMNS)
    noisy = corrupted(model.graph, x)
    assert noisy is not None  # the settings ask for noise
    undo = model.preparation.undo
    parts = {"original": undo(x), "noisy": undo(noisy), "denoised": model.reconstruct((noisy, *c))}
    caption = "The noise is that of training. The model sees the middle row and gives the last."
    figure = plots.bands(parts, "Noisy test data, denoised", COLUMNS, model.preparation.limits)
    return Picture("Denoising", figure, caption)


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


def _interpolations(model: ImageModel, rows: Rows, z: str) -> Picture:
    """Draw straight lines between latent representations."""
    batch = rows.some(2 * WALKS)
    n = len(batch[0])
    pairs = [(i, n - 1 - i) for i in range(max(1, n // 2))]
    paths = model.interpolate(batch, pairs, STEPS)
    caption = f"Each row decodes points on the line between the {z}s of two test rows."
    return Picture("Interpolations", plots.interpolations(paths, model.preparation.limits), caption)


def _latent_space(model: ImageModel, rows: Rows, z: str) -> Picture:
    """Draw posterior means or codes in the plane."""
    few = rows.spread(EMBEDDED)
    figure = plots.latent_space(model.embed(few.batch), few.labels, few.label_names, f"{z}s")
    return Picture("Latent space", figure, f"{z.capitalize()}s of test rows.")


def _plane(model: ImageModel, rows: Rows) -> Picture:
    """Draw what an even grid over the plane of the codes decodes to."""
    codes = model.embed(rows.some(EMBEDDED))
    low, high = np.quantile(codes, [0.01, 0.99], axis=0)
    title = "Decoded plane: z1 rises to the right, z2 upwards"
    figure = plots.grid(model.plane(low, high, GRID), title, model.preparation.limits)
    caption = (
        "An even grid over the 1 % to 99 % quantiles of each code. No prior says which of these "
        "points stand for data: where no code lies, the decoder was never trained."
    )
    return Picture("Decoded plane", figure, caption)
