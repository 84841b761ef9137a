"""The two-latent count model on AnnData, under scverse's names: a face, whose mathematics is all in `pyrovae.graphs.count`.

SingleCellVAE.setup_anndata(adata, batch_key="batch")
model = SingleCellVAE(adata)
model.train()
adata.obsm["X_pyrovae"] = model.get_latent_representation()
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from pyrovae import files, graphs, objectives, programs
from pyrovae.data import device_and_dtype, take
from pyrovae.files import History, write_atomically
from pyrovae.likelihoods import expression
from pyrovae.singlecell.cells import Cells
from pyrovae.singlecell.columns import Encoding, Setup
from pyrovae.singlecell.counts import say_what_is_empty
from pyrovae.singlecell.queries import CellQueries
from pyrovae.training import parameters

__all__ = ["SingleCellVAE"]

FORMAT = "pyrovae-cells-1"
_LIKELIHOODS: dict[str, type[expression.Expression]] = {
    "zinb": expression.ZeroInflated,
    "nb": expression.NegativeBinomial,
    "poisson": expression.Poisson,
}


class SingleCellVAE(CellQueries):
    """scVI's model (Lopez et al. 2018) of the raw counts of an AnnData.

    **The library size is a latent variable here, as in the paper.** scvi-tools' default is the observed total instead:
    `use_observed_lib_size=True` gives that model. Figures of the two kinds (ELBO, evidence) are not comparable.

    Every value is checked when the model is made. No method writes to an AnnData. Genes are matched by name wherever one comes in.

    Args:
        adata: set up by `setup_anndata`.
        n_hidden: units of a hidden layer.
        n_latent: dimensions of z.
        n_layers: hidden layers of encoder and decoder.
        dropout_rate: of the encoders.
        dispersion: "gene", "gene-batch", "gene-label" or "gene-cell".
        gene_likelihood: "zinb", "nb" or "poisson".
        use_observed_lib_size: take the total as the library size, instead of inferring it.
        encode_covariates: let the encoders see batch and covariates.
        prior: p(z), any of the library's, or a function of the posterior that makes it; standard normal by default.
        posterior: q(z | log(1 + x), c), any of the library's, or a function of `encoder` that makes it, see `graphs.count_vae`;
            diagonal normal by default.
        seed: of the first weights and of the split; the global random state is left alone.

    Raises:
        ValueError: if the data cannot be counts, or an argument names nothing known; says which cell, gene or key.
    """

    def __init__(
        self,
        adata: Any,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene",
        gene_likelihood: Literal["zinb", "nb", "poisson"] = "zinb",
        use_observed_lib_size: bool = False,
        *,
        encode_covariates: bool = False,
        prior: nn.Module | Callable[[nn.Module], nn.Module] | None = None,
        posterior: nn.Module | Callable[[graphs.Encoder], nn.Module] | None = None,
        seed: int = 0,
    ) -> None:
        _check_choice("gene_likelihood", gene_likelihood, list(_LIKELIHOODS))
        _check_choice("dispersion", dispersion, [kind.value for kind in expression.Dispersion])
        if min(n_hidden, n_latent, n_layers) < 1 or not 0 <= dropout_rate < 1:
            sizes = f"n_hidden is {n_hidden}, n_latent {n_latent}, n_layers {n_layers} and dropout_rate {dropout_rate}"
            raise ValueError(f"{sizes}: expected at least 1 of each, and a share in [0, 1)")
        labelled = dispersion == "gene-label"
        self.cells = Cells(Encoding.of(adata, labelled), adata)
        encoding = self.cells.encoding
        say_what_is_empty(self.cells.data[0], adata.obs_names, encoding.genes)
        self.seed, self.record = seed, None
        self._training, self._held_out = torch.arange(0), torch.arange(0)
        with programs.random_stream(seed, []):
            self.graph = graphs.count_vae(
                len(encoding.genes),
                batches=len(encoding.batches),
                covariates=encoding.covariates,
                labels=len(encoding.labels),
                hidden=n_hidden,
                latents=n_latent,
                layers=n_layers,
                dropout=dropout_rate,
                likelihood=_LIKELIHOODS[gene_likelihood],
                dispersion=expression.Dispersion(dispersion),
                library=None
                if use_observed_lib_size
                else ([0.0] * len(encoding.batches), [1.0] * len(encoding.batches)),
                prior=prior,
                posterior=posterior,
                encode_covariates=encode_covariates,
            )

        if prior is not None or posterior is not None:
            self._check_parts(n_latent)

    def _check_parts(self, n_latent: int) -> None:
        """Refuse a prior and a posterior that do not fit each other: a ValueError."""
        try:
            parameters(
                self.graph,
                objectives.SGVB_B(),
                *take(self.cells.data, slice(0, 2), *device_and_dtype(self.graph, self.cells.data)),
            )
        except (ValueError, RuntimeError) as error:
            words = " ".join(str(error).split())
            raise ValueError(
                f"prior and posterior do not fit each other or the cells (n_latent is {n_latent}): {words}"
            ) from error

    @staticmethod
    def setup_anndata(
        adata: Any,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
    ) -> None:
        """Say where things are; kept under `adata.uns["_pyrovae_setup"]`, the one place in an AnnData that is written to.

        Args:
            adata: the cells.
            layer: of `adata.layers` with raw counts; None for `adata.X`.
            batch_key: column of `adata.obs` with the batch.
            labels_key: with cell types, used by dispersion "gene-label".
            size_factor_key: refused: the library size is inferred, or the total.
            categorical_covariate_keys: columns that enter the decoder as one-hots.
            continuous_covariate_keys: columns that enter it standardized.

        Raises:
            ValueError: if a key is not there; lists those that are.
        """
        if size_factor_key is not None:
            raise ValueError(
                "size_factor_key: the library size is inferred here, or with use_observed_lib_size=True the total. Leave it out"
            )
        keys = tuple(categorical_covariate_keys or ()), tuple(continuous_covariate_keys or ())
        Setup(layer, batch_key, labels_key, *keys).write(adata)

    # ------------------------------------------------------------------------------------------------------------- files
    def save(
        self,
        folder: str | Path,
        overwrite: bool = False,
        *,
        metrics: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the model to a folder: `pyrovae.save`'s files (with its `metrics`) and cells.json, without the data.

        Raises:
            RuntimeError: if the model was not trained.
            FileExistsError: if the folder holds a model and `overwrite` is false.
        """
        self._needs_training("save")
        folder = Path(folder)
        if (folder / "model.json").exists() and not overwrite:
            raise FileExistsError(
                f"{folder}: holds a model already. Pass overwrite=True, or another folder"
            )
        files.save(self.graph, folder, history=self.record, metrics=metrics)
        content = {
            "format": FORMAT,
            "weights": files.inspect(folder)["weights"],  # the model that it belongs to
            "encoding": self.cells.encoding.to_dict(),
            "seed": self.seed,
            "training": self.train_indices.tolist(),
            "held_out": self.validation_indices.tolist(),
        }
        write_atomically(folder / "cells.json", lambda file: file.write_text(json.dumps(content)))
        return folder

    @classmethod
    def load(
        cls, folder: str | Path, adata: Any = None, into: nn.Module | None = None
    ) -> "SingleCellVAE":
        """Read a model that `save` wrote.

        Args:
            folder: where it is.
            adata: cells to work on when a method is given none; without, each call needs its own.
            into: a graph to be filled, where it holds parts that are not the library's (see `pyrovae.load`).

        Raises:
            FileNotFoundError, ValueError: if it is not there, truncated, or the cells do not fit it.
        """
        path = Path(folder) / "cells.json"
        graph: Any = files.load(folder, into)
        content = _read(path)
        if content["weights"] != files.inspect(folder)["weights"]:
            raise ValueError(
                f"{path}: belongs to another model than model.json beside it. Save the model again"
            )
        model = cls.__new__(cls)
        model.graph, model.seed = graph, content["seed"]
        model.cells = Cells(Encoding.from_dict(content["encoding"]), adata)
        model.record = History.from_dict(files.inspect(folder)["history"])
        model._training, model._held_out = (
            torch.tensor(content[name], dtype=torch.long) for name in ("training", "held_out")
        )
        return model


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, known))}")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not there. Expected a folder as SingleCellVAE.save writes it; pyrovae.load reads a plain model"
        )
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}, this version reads {FORMAT!r}")
        return content
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: truncated, or not of this library ({error}). Save the model again"
        ) from error
