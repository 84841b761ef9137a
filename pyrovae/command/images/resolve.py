"""Images and arrays: read the data that DATA names, and choose the settings that were left open.

`resolve_settings` tells what it chose, and `reasons` why.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

from pyrovae.command.choices import Activation, Likelihood, Network, Posterior, Prior
from pyrovae.command.images.choosing import Chosen, choose_likelihood
from pyrovae.command.images.schedule import patience_of_rate, starts_at_components
from pyrovae.command.images.settings import ImageSettings
from pyrovae.command.options import SIMULATED, Options, given, settings_of
from pyrovae.data import Dataset, datasets

__all__ = ["EMBEDDED", "TEST_FRACTION", "TIFFS", "read_data", "reasons", "resolve_settings"]

EMBEDDED: dict[str, Callable[[Path | None], Dataset]] = {
    "digits": lambda root: datasets.digits(),
    "mnist": datasets.mnist,
    "fashion-mnist": datasets.fashion_mnist,
}
# Kingma & Welling's setting (2014, section 5), with 20 latents.
MNIST = {
    "binarize": True,
    "hidden": (500,),
    "activation": Activation.TANH,
    "latents": 20,
    "batch_size": 100,
    "epochs": 20,
}
BY_NAME: dict[str, dict[str, Any]] = {
    "digits": {"hidden": (512,), "latents": 16, "batch_size": 32, "epochs": 60},
    "mnist": MNIST,
    "fashion-mnist": MNIST,
}
TEST_FRACTION = 0.2
TIFFS = (".tif", ".tiff")
VALUES_FOR_ONE_THREAD = 10_000  # per step: smaller steps are slower with two threads than with one
LEAST_STEPS = 4000  # of a whole run, unless that takes more than MOST_EPOCHS: for small data
MOST_EPOCHS = 1000
PATIENCE_STEPS = 500  # without a better validation ELBO, in at least 10 and at most 50 epochs
FEWEST_VALIDATION_ROWS = 10
MOST_WEIGHTS = 4_000_000  # of the first layer: wide data get a narrower one
ROWS_PER_LATENT = 10


def read_data(data: str, data_dir: Path | None = None, missing: bool = False) -> Dataset:
    """Load what DATA names: an embedded set, an array file, a stack or a folder of images.

    Args:
        data: What the user wrote.
        data_dir: Folder with torchvision's data sets.
        missing: Whether values of an array or image file may be NaN, which says that they are not
            known.

    Raises:
        ImportError, FileNotFoundError, ValueError: It cannot be read, or holds cells.
    """
    if settings_of(data) is not ImageSettings:
        raise ValueError(
            f"{data} holds cells, but the model was fitted on images or arrays; "
            "give data of that kind"
        )
    if data in EMBEDDED:
        return EMBEDDED[data](data_dir)
    path = Path(data)
    if path.is_dir():
        return datasets.image_folder(path, missing)
    if path.suffix.lower() in TIFFS:
        return datasets.pages(path, missing)
    if path.suffix.lower() in (".npy", ".npz"):
        return datasets.array(path, missing)
    if path.suffix.lower() in (".mrcs", ".mrc"):
        return datasets.stack(path)
    expected = (
        f"DATA is {data}: expected {', '.join((*EMBEDDED, SIMULATED))}, an .npy, .npz, .mrcs, "
        ".tif or .h5ad file, or a folder of images or cells"
    )
    if path.is_file():
        raise ValueError(
            f"{expected}. Write the rows of a table by numpy.save(path, table.to_numpy()), and "
            "counts of cells by anndata.AnnData(table).write_h5ad(path); files of 10x Genomics are "
            "read by scanpy.read_10x_h5 and read_10x_mtx"
        )
    raise FileNotFoundError(f"{expected}; there is no such file or folder")


def resolve_settings(options: Options, data: Dataset) -> ImageSettings:
    """Return the settings of a run: the options, and by the data what they leave open.

    Args:
        options: As given.
        data: Training rows, with the test rows held out.

    Raises:
        ValueError: Two settings contradict each other.
    """
    recipe = dict(BY_NAME.get(options.data, {}))
    if options.likelihood not in (None, Likelihood.BERNOULLI):
        recipe["binarize"] = False
    if _minimizes_squared_error(options):
        recipe |= {"binarize": False, "likelihood": Likelihood.GAUSSIAN, "sigma": 1.0}
    chosen = _by_data(data) | recipe | given(options)
    batch_size, values = chosen["batch_size"], prod(data.shape)
    kept = len(data.x) * (1 - chosen["validation"])
    steps = max(1.0, kept / batch_size)  # per epoch
    chosen = {
        "threads": 1 if batch_size * values <= VALUES_FOR_ONE_THREAD else None,
        "epochs": max(20, min(MOST_EPOCHS, round(LEAST_STEPS / steps))),
    } | chosen
    if "likelihood" not in chosen:
        chosen["likelihood"] = _likelihood(data, chosen).likelihood
    if options.epochs is None and "epochs" not in recipe and chosen["validation"]:
        patience = max(10, min(50, round(PATIENCE_STEPS / steps)))
        chosen = {"patience": patience} | chosen
    if chosen["network"] is Network.CONV and options.hidden is None:
        chosen["hidden"] = (32, 64, 64)
    settings = ImageSettings.of(chosen)
    if (
        options.network is None
        and not settings.pose
        and settings.network is Network.MLP
        and starts_at_components(settings)
    ):
        settings = replace(settings, network=Network.LINEAR_MLP)
    if settings.patience and settings.validation == 0:
        raise ValueError(
            "--patience needs validation rows, but --validation is 0; leave one of them out"
        )
    return settings


def _minimizes_squared_error(options: Options) -> bool:
    """Return whether this is an autoencoder whose likelihood is left open.

    Nothing is gained by a learned noise where there is no log p(x): the default is the squared
    error of standardized values, -log N(x; x_hat, I) up to factor and constant.
    """
    autoencoder = options.prior is Prior.FLAT or options.posterior is Posterior.POINT
    return autoencoder and options.likelihood is None and not options.binarize


def _by_data(data: Dataset) -> dict[str, Any]:
    """Return the settings that depend on the number of rows and their shape alone."""
    large_images = len(data.shape) == 3 and prod(data.shape[1:]) > 32 * 32
    n, d = len(data.x), prod(data.shape)
    validation = min(max(0.1, FEWEST_VALIDATION_ROWS / n), 0.25, 5000 / n)
    return {
        "validation": validation,
        "test": TEST_FRACTION,
        "binarize": False,
        "latents": max(2, min(16, d // 2, n // ROWS_PER_LATENT)),
        "hidden": (max(32, min(400, MOST_WEIGHTS // d)),),
        "network": Network.CONV if large_images else Network.MLP,
        "activation": Activation.RELU,
        "warm_up": 0.0,
        "batch_size": 128 if len(data.x) >= 10_000 else 32,
        "samples": ImageSettings.EVIDENCE_SAMPLES,
    }


def _likelihood(data: Dataset, settings: Mapping[str, Any]) -> Chosen:
    """Return the likelihood that fits the values of the data best, and why."""
    if settings["binarize"]:
        return Chosen(Likelihood.BERNOULLI, "grey values are drawn as 0 or 1")
    return choose_likelihood(data, settings["latents"])


def reasons(settings: ImageSettings, data: Dataset) -> list[str]:
    """Return in sentences what these data would choose, and why, where the settings follow it."""
    chosen, usual = [], _by_data(data)
    best = _likelihood(data, settings.to_dict())
    if settings.is_autoencoder and settings.sigma == 1:
        chosen.append("likelihood gaussian with sigma 1: training minimizes the squared error")
    elif settings.likelihood is best.likelihood:
        chosen.append(f"likelihood {best.likelihood.value}: {best.why}")
    if settings.latents == usual["latents"]:
        chosen.append(
            f"{settings.latents} latents: at most 16, half of the {prod(data.shape)} values of a "
            f"row, and one for every {ROWS_PER_LATENT} of {len(data.x)} rows, but at least 2"
        )
    if settings.network is Network.LINEAR_MLP:
        chosen.append(
            "encoder and decoder have a linear part beside the network, which starts at "
            "probabilistic PCA; that start is kept if no epoch is better on validation rows"
        )
    if settings.patience:
        chosen.append(
            f"up to {settings.epochs} epochs; the learning rate falls to a third after "
            f"{patience_of_rate(settings.patience)} without a better validation ELBO, and training "
            f"ends after {settings.patience}"
        )
    if settings.clip_norm == "auto":
        chosen.append("gradients are clipped at four times the geometric mean of their norms")
    return chosen
