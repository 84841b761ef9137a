"""The two kinds of data that `pyrovae fit` takes, images or arrays and single cells, and which option is for which."""

from dataclasses import fields
from pathlib import Path

from pyrovae.command.options import Likelihood, Objective, Posterior, Prior, Settings

__all__ = [
    "FOR_CELLS",
    "NOT_FOR_CELLS",
    "SIMULATED",
    "holds_cells",
    "refuse_what_does_not_apply",
    "refuse_what_does_not_go_together",
]

SIMULATED = "simulated-cells"
FOR_CELLS = (
    "batch_key", "labels_key", "layer", "categorical_key", "continuous_key", "layers", "dropout", "dispersion", "observed_library",
    "encode_covariates",
)  # fmt: skip
NOT_FOR_CELLS = (
    "binarize", "condition", "denoise", "network", "activation", "sigma", "objective", "beta", "draws",
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
        if (
            field.name in (NOT_FOR_CELLS if cells else FOR_CELLS)
            and getattr(settings, field.name) != field.default
        ):
            raise ValueError(f"--{field.name.replace('_', '-')} {whose}; leave it out")
    known = COUNTS_OF_CELLS if cells else OTHERS
    if settings.likelihood is not None and settings.likelihood not in known:
        raise ValueError(
            f"--likelihood {settings.likelihood.value} {whose}; choose {', '.join(one.value for one in known)}"
        )


def refuse_what_does_not_go_together(settings: Settings) -> None:
    """Refuse parts that do not fit each other.

    Raises:
        ValueError: Names the options and the remedy.
    """
    point, flat = settings.posterior is Posterior.POINT, settings.prior is Prior.FLAT
    if (point or flat) and holds_cells(settings.data):
        what = "--posterior point" if point else "--prior flat"
        raise ValueError(
            f"{what} makes an autoencoder, but {settings.data} holds cells, whose model is a VAE; leave it out"
        )
    if settings.prior is Prior.VAMP and point:
        raise ValueError(
            "--prior vamp is a mixture of posteriors, and --posterior point has no density; take --prior flat"
        )
    if flat and not point:
        raise ValueError(
            f"--prior flat gives {settings.posterior.value} nothing to be near to; take --posterior point"
        )
    if settings.prior is Prior.FLOW and settings.latents == 1:
        raise ValueError(
            "--prior flow bends latents by each other, and --latents is 1; take --prior mixture"
        )
    if settings.components is not None and settings.prior not in (Prior.MIXTURE, Prior.VAMP):
        raise ValueError(
            f"--components is for --prior mixture or vamp, but --prior is {settings.prior.value}; leave it out"
        )
    if settings.objective in (Objective.IWAE, Objective.DREG) and settings.draws == 1:
        raise ValueError(
            f"--objective {settings.objective.value} of one draw is the ELBO; give e.g. --draws 5"
        )
