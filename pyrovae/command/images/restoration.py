"""The report's section on restoration: noise removed, hidden pixels filled in, images enlarged."""

import warnings
from math import prod

from torch import Tensor

from pyrovae import programs
from pyrovae.command.choices import NoiseKind
from pyrovae.command.images import masks
from pyrovae.command.images.cost import multiplications
from pyrovae.command.images.degradations import (
    Corruption,
    Degradation,
    HiddenPixels,
    Noise,
    Pooling,
)
from pyrovae.command.images.gallery import Scale
from pyrovae.command.images.model import ImageModel
from pyrovae.command.images.results import TRAINING, restored, score, sheet
from pyrovae.command.images.rows import Rows
from pyrovae.command.images.scoring import table
from pyrovae.command.report.page import Picture
from pyrovae.data import spread
from pyrovae.tasks import RestorationWarning

__all__ = ["draw"]

ROWS = 24  # test images that are restored, for time
EFFORT = {"samples": 64, "steps": 30, "components": 1}  # for time; the commands take more
DRAWS = 19  # the fewest for intervals of 90 %
NOISE = 0.3  # standard deviation, as a fraction of the range from black to white
LARGEST = 4096  # values of an image, for the memory of the baselines
# Multiplications of one run on all restored images: each is run some 2500 times, which took 20 to
# 40 seconds of a core for each picture with this many. Small networks take all ROWS in a second.
AFFORDABLE = 3.6e8
PER_LEVEL = 800  # of them that take as long as one level of one value, in sums over squares
FEWEST = 2  # images, of which scores have a standard error
MOST_LEVELS = 16_384  # of all values of an image, over which the noise is summed


def draw(model: ImageModel, rows: Rows, train: Tensor, seed: int) -> list[Picture]:
    """Restore degraded test images, and draw and score them beside simple baselines.

    Args:
        model: The fitted model, a variational autoencoder.
        rows: Test rows, prepared.
        train: Training rows, prepared.
        seed: Of the degradation and of the draws.

    Returns:
        A picture with a table for each task that fits the shape of the data, and that does not
        take minutes for a few images.
    """
    shape, scale = model.preparation.shape, Scale(model.preparation)
    if len(shape) != 3 or prod(shape) > LARGEST:
        return []
    cost = _cost(model, rows)
    fitted = scale.from_model(train[spread(len(train), TRAINING)])
    pictures = []
    all_clean, levels = scale.from_model(rows.some(ROWS)[0]), scale.levels
    for title, degradation in _degradations(all_clean, levels).items():
        most = _affordable(cost + _cost_of_sums(degradation, levels, shape))
        if not most:
            continue
        x, *c = rows.some(most)
        clean = scale.from_model(x)
        degradation = _degradations(clean, levels)[title]  # whose mask has as many rows
        with programs.random_stream(seed, []):
            given = degradation.degrade(clean)
        options = {"draws": DRAWS, "seed": seed, **EFFORT}
        with warnings.catch_warnings():  # the caption says with how little effort
            warnings.simplefilter("ignore", RestorationWarning)
            found = restored(model, degradation, given, tuple(c), options)
        figures = score(degradation, given, found, clean, fitted, seed)
        figure, caption = sheet(degradation, given, found, clean)
        caption = (
            f"{caption} Below, PSNR and SSIM of {len(clean)} test images{_why(most)}, restored "
            f"with little effort; `pyrovae {degradation.TASK}` takes any number, with more."
        )
        pictures.append(Picture(title, figure, caption, table(figures)))
    return pictures


def _cost(model: ImageModel, rows: Rows) -> float:
    """Return the multiplications of a run on one image, at least 1; 1 if there is only one row."""
    batch = rows.some(FEWEST)
    return max(1.0, multiplications(model.graph, batch)) if len(batch[0]) == FEWEST else 1.0


def _cost_of_sums(degradation: Degradation, levels: int, shape: tuple[int, ...]) -> float:
    """Return the multiplications that take as long as the densities of the sums over squares."""
    if not isinstance(degradation, Pooling) or levels == 1:
        return 0.0
    return PER_LEVEL * (levels + 1) * prod(shape)


def _affordable(cost: float) -> int:
    """Return how many images can be restored in about a minute, 0 if not one."""
    share = AFFORDABLE / cost
    return 0 if share < 1 else max(FEWEST, int(min(ROWS, share)))


def _why(most: int) -> str:
    return ", so few since each takes long" if most < ROWS else ""


def _degradations(x: Tensor, levels: int) -> dict[str, Degradation]:
    """Return what the section shows, by the headings of its parts."""
    found: dict[str, Degradation] = {}
    if x[0].numel() * levels <= MOST_LEVELS:
        corruption = Corruption(NoiseKind.GAUSSIAN, NOISE)
        found[f"Restored: Gaussian noise of {NOISE:g}"] = Noise(corruption)
    if x.shape[-2] > 1:  # of a single row, nothing would be left
        lower = masks.read("lower-half", x)
        found["Restored: the lower half hidden"] = HiddenPixels(lower)
    if not any(side % 2 for side in x.shape[-2:]) and min(x.shape[-2:]) >= 4:
        found["Restored: a quarter of the pixels"] = Pooling(2)
    return found
