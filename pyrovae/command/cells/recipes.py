"""From the words of the command line to a model of cells: which data, what is left open, every count looked at."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor

from pyrovae.command import kinds, parts
from pyrovae.command.options import Dispersion, Likelihood, Posterior, Settings, Settled
from pyrovae.singlecell import SingleCellVAE, listed, read, simulate

__all__ = ["SAMPLES", "about", "load", "model", "settle"]

SAMPLES = 200  # importance samples for log p(x): 1,000 cells of 2,500 genes then take half a minute on one core
_EPOCHS, _VISITS = (
    400,
    8_000_000,
)  # scvi-tools' rule: 400 epochs, and fewer where those are more visits of cells than this


def load(data: str) -> Any:
    """Load the cells that DATA names: an h5ad file, or the simulated ones, which are the same each time.

    Raises:
        ImportError: anndata is not installed.
        FileNotFoundError, ValueError: The file is not there, truncated or no h5ad, or DATA names no cells.
    """
    if not kinds.holds_cells(data):
        raise ValueError(
            f"{data} holds no cells, but the model was fitted on cells; give an .h5ad file or {kinds.SIMULATED}"
        )
    try:
        import anndata  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{data} needs anndata, which is not installed: pip install 'pyrovae[cells]'"
        ) from error
    if data == kinds.SIMULATED:
        return simulate().to_anndata()
    try:
        return read(data)
    except ValueError as error:
        raise ValueError(
            " ".join(str(error).split())
        ) from error  # h5py's own message may have lines


def settle(settings: Settings, adata: Any) -> Settled:
    """Fill in what was left to the kind of data.

    Raises:
        ValueError: Two settings do not go together.
    """
    chosen: dict[str, Any] = {
        "likelihood": Likelihood.ZINB,
        "latents": 10,
        "hidden": (128,),
        "epochs": max(1, min(_EPOCHS, round(_VISITS / max(1, adata.n_obs)))),
        "batch_size": 128,
        "validation": min(0.1, 5000 / max(1, adata.n_obs)),
        "test": 0.1,
        "warm_up": 0.25,
        "samples": SAMPLES,
    }
    if settings.data == kinds.SIMULATED:
        chosen |= {"batch_key": "batch", "labels_key": "cell_type"}
    if settings.dispersion is not None and settings.likelihood is Likelihood.POISSON:
        raise ValueError(
            f"--dispersion {settings.dispersion.value}: a Poisson has none; leave it out, or take --likelihood zinb or nb"
        )
    if (
        settings.dispersion is Dispersion.GENE_LABEL
        and (settings.labels_key or chosen.get("labels_key")) is None
    ):
        raise ValueError(
            "--dispersion gene-label needs the column with the labels: add --labels-key"
        )
    if settings.patience and settings.validation == 0:
        raise ValueError(
            "--patience needs validation cells to judge by, but --validation is 0; leave one of them out"
        )
    if settings.batch_size == 1:
        raise ValueError("--batch-size 1: batch normalization needs at least 2 cells a step")
    if len(settings.hidden or ()) > 1:
        widths = ",".join(map(str, settings.hidden or ()))
        raise ValueError(
            f"--hidden {widths}: the layers of the count model have one width; give it once, and their number as --layers"
        )
    return Settled(
        **chosen | {key: value for key, value in asdict(settings).items() if value is not None}
    )


def model(settings: Settled, adata: Any) -> SingleCellVAE:
    """Build the model; this looks at every count.

    Raises:
        ValueError: A column or layer is not there, or the data cannot be counts; names the file, cell, gene or key.
    """
    _check_keys(settings, adata)
    with about(settings.data):
        return _model(settings, adata)


def _model(settings: Settled, adata: Any) -> SingleCellVAE:
    SingleCellVAE.setup_anndata(
        adata,
        layer=settings.layer,
        batch_key=settings.batch_key,
        labels_key=settings.labels_key,
        categorical_covariate_keys=settings.categorical_key,
        continuous_covariate_keys=settings.continuous_key,
    )
    likelihoods: Any = settings.likelihood.value  # the face takes words; Typer has checked them
    dispersion: Any = (settings.dispersion or Dispersion.GENE).value
    plain = (
        settings.posterior is Posterior.DIAGONAL_NORMAL
    )  # scVI's own, with a floor under the variance
    return SingleCellVAE(
        adata,
        n_hidden=settings.hidden[0],
        n_latent=settings.latents,
        n_layers=settings.layers,
        dropout_rate=settings.dropout,
        dispersion=dispersion,
        gene_likelihood=likelihoods,
        use_observed_lib_size=settings.observed_library,
        encode_covariates=settings.encode_covariates,
        prior=lambda q: parts.prior(
            settings, q, functools.partial(_seen, adata, settings.layer), low=0.0
        ),
        posterior=None if plain else functools.partial(parts.posterior, settings),
        seed=settings.seed,
    )


def _seen(adata: Any, layer: str | None, k: int) -> Tensor:
    """Return log(1 + x) of k cells by chance: what the encoder sees."""
    chosen = parts.some(torch.arange(adata.n_obs), k).numpy()
    x = (adata.X if layer is None else adata.layers[layer])[chosen]
    return torch.from_numpy(np.asarray(x.toarray() if issparse(x) else x, dtype=np.float32)).log1p()


def _check_keys(settings: Settled, adata: Any) -> None:
    """Refuse a column or a layer that is not there, by the option that names it; list those that are."""
    for option, names in (
        ("--batch-key", [settings.batch_key]),
        ("--labels-key", [settings.labels_key]),
        ("--categorical-key", settings.categorical_key or []),
        ("--continuous-key", settings.continuous_key or []),
    ):
        for name in names:
            if name is not None and name not in adata.obs:
                raise ValueError(
                    f"{option} {name}: {settings.data} has no such column of obs; it has {listed(adata.obs.columns, most=50)}"
                )
    if settings.layer is not None and settings.layer not in adata.layers:
        raise ValueError(
            f"--layer {settings.layer}: {settings.data} has no such layer; it has {listed(adata.layers.keys(), most=50)}"
        )


@contextmanager
def about(data: str) -> Iterator[None]:
    """Context whose errors name the file, and options as the command line spells them."""
    try:
        yield
    except ValueError as error:
        words = str(error).replace("layer='counts'", "--layer counts")
        raise ValueError(f"{data}: {words}") from error
