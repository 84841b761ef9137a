"""The two kinds of data that `pyrovae fit` takes, images or arrays and single cells, and which option is for which."""

from dataclasses import fields
from pathlib import Path

from pyrovae.command.options import Likelihood, Settings

__all__ = ["FOR_CELLS", "NOT_FOR_CELLS", "SIMULATED", "holds_cells", "refuse_what_does_not_apply"]

SIMULATED = "simulated-cells"
FOR_CELLS = (
    "batch_key", "labels_key", "layer", "categorical_key", "continuous_key", "layers", "dropout", "dispersion", "observed_library",
    "encode_covariates",
)  # fmt: skip
NOT_FOR_CELLS = (
    "binarize", "condition", "denoise", "network", "activation", "prior", "posterior", "sigma", "objective", "beta", "draws",
    "optimizer", "clip_norm",
)  # fmt: skip
COUNTS_OF_CELLS = (Likelihood.ZINB, Likelihood.NB, Likelihood.POISSON)
OTHERS = tuple(one for one in Likelihood if one not in (Likelihood.ZINB, Likelihood.NB))


def holds_cells(data: str) -> bool:
    """Whether DATA names single cells; anything else is images, or rows of an array."""
    return data == SIMULATED or Path(data).suffix == ".h5ad"


def refuse_what_does_not_apply(settings: Settings) -> None:
    """Refuse an option that would be passed over for this kind of data.

    Raises:
        ValueError: One was given; names it.
    """
    cells = holds_cells(settings.data)
    whose = f"is for {'images and arrays' if cells else 'cells'}, but {settings.data} holds {'cells' if cells else 'none'}"
    for field in fields(Settings):
        if field.name in (NOT_FOR_CELLS if cells else FOR_CELLS) and getattr(settings, field.name) != field.default:
            raise ValueError(f"--{field.name.replace('_', '-')} {whose}; leave it out")
    known = COUNTS_OF_CELLS if cells else OTHERS
    if settings.likelihood is not None and settings.likelihood not in known:
        raise ValueError(f"--likelihood {settings.likelihood.value} {whose}; choose {', '.join(one.value for one in known)}")
