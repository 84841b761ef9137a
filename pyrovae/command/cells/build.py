"""Cells: build the two-latent count model that the settings name, after a look at every count."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from torch import Tensor

from pyrovae.command.build import build_posterior, build_prior, random_rows
from pyrovae.command.cells.settings import CellSettings
from pyrovae.command.choices import Dispersion, Posterior
from pyrovae.singlecell import SingleCellVAE, listed, some_cells

__all__ = ["build_model", "naming"]


def build_model(settings: CellSettings, adata: Any) -> SingleCellVAE:
    """Build the model, with initial weights by the seed.

    Raises:
        ValueError: A column or layer is missing, or the data are no counts; the message names the
            file, cell, gene or key.
    """
    _check_keys(settings, adata)
    likelihood: Any = settings.likelihood.value  # SingleCellVAE takes words; Typer checked them
    dispersion: Any = (settings.dispersion or Dispersion.GENE).value
    posterior = functools.partial(build_posterior, settings)
    own_posterior = settings.posterior is Posterior.DIAGONAL_NORMAL  # with a floor under sigma
    rows = functools.partial(_random_rows, adata, settings.layer)
    with naming(settings.data):
        SingleCellVAE.setup_anndata(
            adata,
            layer=settings.layer,
            batch_key=settings.batch_key,
            labels_key=settings.labels_key,
            categorical_covariate_keys=settings.categorical_key,
            continuous_covariate_keys=settings.continuous_key,
        )
        return SingleCellVAE(
            adata,
            n_hidden=settings.hidden[0],
            n_latent=settings.latents,
            n_layers=settings.layers,
            dropout_rate=settings.dropout,
            dispersion=dispersion,
            gene_likelihood=likelihood,
            use_observed_lib_size=settings.observed_library,
            encode_covariates=settings.encode_covariates,
            prior=lambda q: build_prior(settings, q, rows, low=0.0),
            posterior=None if own_posterior else posterior,
            seed=settings.seed,
        )


@contextmanager
def naming(data: str) -> Iterator[None]:
    """Context whose errors name the file, and options as the command line spells them."""
    try:
        yield
    except ValueError as error:
        words = str(error).replace("layer='counts'", "--layer counts").replace("layer=", "--layer")
        raise ValueError(f"{data}: {words}") from error


def _random_rows(adata: Any, layer: str | None, k: int) -> Tensor:
    """Return log(1 + x) of k cells at random: what the encoder sees."""
    chosen = random_rows(torch.arange(adata.n_obs), k).numpy()
    some = some_cells(adata, chosen, layer)
    x = some.X if layer is None else some.layers[layer]
    return torch.from_numpy(np.asarray(x.toarray() if issparse(x) else x, dtype=np.float32)).log1p()


def _check_keys(settings: CellSettings, adata: Any) -> None:
    """Refuse a column or a layer that is missing, by the option that names it; list those there."""
    columns = {
        "--batch-key": [settings.batch_key],
        "--labels-key": [settings.labels_key],
        "--categorical-key": settings.categorical_key or [],
        "--continuous-key": settings.continuous_key or [],
    }
    for option, names in columns.items():
        for name in names:
            if name is not None and name not in adata.obs:
                raise ValueError(
                    f"{option} {name}: {settings.data} has no such column of obs; "
                    f"it has {listed(adata.obs.columns, most=50)}"
                )
    if settings.layer is not None and settings.layer not in adata.layers:
        raise ValueError(
            f"--layer {settings.layer}: {settings.data} has no such layer; "
            f"it has {listed(adata.layers.keys(), most=50)}"
        )
