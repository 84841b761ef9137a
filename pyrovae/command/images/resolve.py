"""Images and arrays: read the data that DATA names, and choose the settings that were left open.

The likelihood is the first that `Dataset.likelihoods` suggests, or Bernoulli for binarized data.
"""

from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

from pyrovae.command.choices import Activation, Likelihood, Network
from pyrovae.command.images.settings import ImageSettings
from pyrovae.command.options import SIMULATED, Options, given, settings_of
from pyrovae.data import Dataset, datasets

__all__ = ["TEST_FRACTION", "read_data", "resolve_settings"]

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
VALUES_FOR_ONE_THREAD = 10_000  # per step: smaller steps are slower with two threads than with one
LEAST_STEPS = 4000  # of a whole run, unless that takes more than 500 epochs: for small data


def read_data(data: str, data_dir: Path | None = None) -> Dataset:
    """Load what DATA names: an embedded set, an array file or a folder of images.

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
        return datasets.image_folder(path)
    if path.suffix.lower() in (".npy", ".npz"):
        return datasets.array(path)
    raise FileNotFoundError(
        f"DATA is {data}: expected {', '.join((*EMBEDDED, SIMULATED))}, an .npy, .npz or .h5ad "
        "file, or a folder of images; there is no such folder"
    )


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
    chosen = _by_data(data) | recipe | given(options)
    batch_size, values = chosen["batch_size"], prod(data.shape)
    chosen = {
        "likelihood": _likelihood(data, chosen["binarize"]),
        "threads": 1 if batch_size * values <= VALUES_FOR_ONE_THREAD else None,
        "epochs": max(20, min(500, LEAST_STEPS * batch_size // len(data.x))),
    } | chosen
    if chosen["network"] is Network.CONV and options.hidden is None:
        chosen["hidden"] = (32, 64, 64)
    settings = ImageSettings.of(chosen)
    if settings.patience and settings.validation == 0:
        raise ValueError(
            "--patience needs validation rows, but --validation is 0; leave one of them out"
        )
    return settings


def _by_data(data: Dataset) -> dict[str, Any]:
    """Return the settings that depend on the number of rows and their shape alone."""
    large_images = len(data.shape) == 3 and prod(data.shape[1:]) > 32 * 32
    return {
        "validation": min(0.1, 5000 / len(data.x)),
        "test": TEST_FRACTION,
        "binarize": False,
        "latents": max(2, min(16, prod(data.shape) // 2)),
        "hidden": (400,),
        "network": Network.CONV if large_images else Network.MLP,
        "activation": Activation.RELU,
        "warm_up": 0.0,
        "batch_size": 128 if len(data.x) >= 10_000 else 32,
        "samples": ImageSettings.EVIDENCE_SAMPLES,
    }


def _likelihood(data: Dataset, binarize: bool) -> Likelihood:
    """Return the likelihood that fits the values of the data best."""
    if binarize:
        return Likelihood.BERNOULLI
    names = {likelihood.class_name: likelihood for likelihood in Likelihood}
    return names[data.likelihoods[0].name]
