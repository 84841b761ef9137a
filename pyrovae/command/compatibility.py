"""Refuse, before any work, options that do not apply to the data or that contradict each other."""

from importlib.util import find_spec
from pathlib import Path

from pyrovae.command.cells.settings import CellSettings
from pyrovae.command.choices import Objective, Posterior, Prior
from pyrovae.command.options import DEFAULTS, KINDS, Options, settings_of

__all__ = ["refuse_contradictions", "refuse_inapplicable"]


def refuse_inapplicable(options: Options) -> None:
    """Refuse an option of another kind of data.

    Raises:
        ValueError: Such an option was given; the message names it.
    """
    own = settings_of(options.data)
    known = own.names()
    given = [name for name, value in vars(options).items() if value != DEFAULTS[name]]
    for name in given:
        if name not in known:
            other = next(kind for kind in KINDS if name in kind.names())
            found = f"holds {own.HOLDS}; leave it out"
            if other is CellSettings and Path(options.data).is_dir():
                found = "is a folder without .h5ad or .zarr files in it"
            raise ValueError(
                f"--{name.replace('_', '-')} is for {other.HOLDS}, but {options.data} {found}"
            )
    if options.likelihood is not None and options.likelihood not in own.LIKELIHOODS:
        other = next(kind for kind in KINDS if options.likelihood in kind.LIKELIHOODS)
        raise ValueError(
            f"--likelihood {options.likelihood.value} is for {other.HOLDS}, but {options.data} "
            f"holds {own.HOLDS}; choose {', '.join(one.value for one in own.LIKELIHOODS)}"
        )


def refuse_contradictions(options: Options) -> None:
    """Refuse parts that do not fit each other.

    Raises:
        ValueError: Names the options and the remedy.
    """
    if options.tensorboard and find_spec("tensorboard") is None:
        raise ValueError(
            "--tensorboard needs the package tensorboard: pip install 'pyrovae[tensorboard]'"
        )
    point, flat = options.posterior is Posterior.POINT, options.prior is Prior.FLAT
    if (point or flat) and settings_of(options.data) is CellSettings:
        raise ValueError(
            f"{'--posterior point' if point else '--prior flat'} makes an autoencoder, but "
            f"{options.data} holds cells, whose model is a VAE; leave it out"
        )
    if options.posterior is Posterior.MATRIX_NORMAL and settings_of(options.data) is CellSettings:
        raise ValueError(
            f"--posterior matrix-normal is for images, but {options.data} holds cells; leave it out"
        )
    if options.prior is Prior.VAMP and point:
        raise ValueError(
            "--prior vamp is a mixture of posterior densities, and --posterior point has none; "
            "use --prior flat"
        )
    if flat and not point:
        raise ValueError(
            f"--prior flat is improper: KL(q || p) is undefined for --posterior "
            f"{options.posterior.value}; use --posterior point"
        )
    if options.prior is Prior.FLOW and options.latents == 1:
        raise ValueError(
            "--prior flow needs at least two latent dimensions, but --latents is 1; "
            "use --prior mixture"
        )
    if options.components is not None and options.prior not in (Prior.MIXTURE, Prior.VAMP):
        raise ValueError(
            f"--components is for --prior mixture or vamp, but --prior is {options.prior.value}; "
            "leave it out"
        )
    if options.objective in (Objective.IWAE, Objective.DREG) and options.draws == 1:
        raise ValueError(
            f"--objective {options.objective.value} with one draw is the ELBO; give e.g. --draws 5"
        )
