"""The two-latent count model on AnnData, under scverse's names: a face, whose mathematics is all in `pyrovae.graphs.count`.

SingleCellVAE.setup_anndata(adata, batch_key="batch")
model = SingleCellVAE(adata)
model.train()
adata.obsm["X_pyrovae"] = model.get_latent_representation()
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae import cells, expression, files, graphs, objectives, traces
from pyrovae.batches import split
from pyrovae.celldata import Cells, rows_in
from pyrovae.checkpoint import replace
from pyrovae.encoding import Encoding, Setup
from pyrovae.fit import TrainingError, fit
from pyrovae.history import History
from pyrovae.queries import CellQueries

__all__ = ["SingleCellVAE"]

FORMAT = "pyrovae-cells-1"
_LIKELIHOODS: dict[str, type[expression.Expression]] = {
    "zinb": expression.ZeroInflated,
    "nb": expression.NegativeBinomial,
    "poisson": expression.Poisson,
}
_DEFAULT_EPOCHS = 400
_CELLS_IN_DEFAULT = 20_000  # so many cells see the default epochs; more cells, fewer epochs
_WARM_UP = 0.25  # share of the planned steps over which the KL of z rises to its weight


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
        labelled = dispersion == "gene-label"
        self.cells = Cells(Encoding.of(adata, labelled), adata)
        encoding = self.cells.encoding
        cells.say_what_is_empty(self.cells.data[0], adata.obs_names, encoding.genes)
        self.seed, self.record = seed, None
        self._training, self._held_out = torch.arange(0), torch.arange(0)
        with traces.random_stream(seed, []):
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
                library=None if use_observed_lib_size else ([0.0] * len(encoding.batches), [1.0] * len(encoding.batches)),
                prior=prior,
                posterior=posterior,
                encode_covariates=encode_covariates,
            )

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

    # ---------------------------------------------------------------------------------------------------------- training
    def train(
        self,
        max_epochs: int | None = None,
        train_size: float = 0.9,
        validation_size: float | None = None,
        batch_size: int = 128,
        early_stopping: bool = False,
        early_stopping_patience: int = 45,
        lr: float = 1e-3,
        weight_decay: float = 1e-6,
        eps: float = 0.01,
        n_epochs_kl_warmup: int | None = None,
        seed: int | None = None,
        checkpoint: str | Path | None = None,
        resume: str | Path | None = None,
        progress: bool = True,
        callback: Callable[[History], bool | None] | None = None,
    ) -> History:
        """Train by `pyrovae.fit`. Ctrl-C ends it after the step in hand, and the model is usable.

        With validation cells, the weights kept are those of the epoch with their best ELBO after the warm-up.

        Args:
            max_epochs: passes over the training cells; by default 400, and fewer above 20,000 cells: min(8e6 / N, 400).
            train_size: share of the cells to train on, in (0, 1].
            validation_size: share to judge by; by default the rest.
            batch_size: cells a step, at least 2 (batch normalization).
            early_stopping: end when the validation ELBO has not risen for `early_stopping_patience` epochs.
            early_stopping_patience: see there.
            lr: step size of Adam.
            weight_decay: of Adam.
            eps: of Adam.
            n_epochs_kl_warmup: epochs over which the weight of z's KL (not l's) rises; by default a quarter of those planned, 0 for none.
            seed: of the fit; None takes the model's.
            checkpoint: file for the state, written after each epoch and when interrupted.
            resume: file written by `checkpoint=`.
            progress: show a bar.
            callback: called with the history after each epoch; a true value ends the fit.

        Raises:
            ValueError: if an argument is out of range.
            TrainingError: if the loss becomes NaN; the last good weights are put back.
        """
        n = self.cells.own().n_obs
        epochs = max_epochs if max_epochs is not None else _default_epochs(n)
        training, held_out = _split(n, train_size, validation_size, self.seed)
        if batch_size < 2 or len(training) < 2:
            raise ValueError(
                f"train: {len(training)} training cells and batch_size {batch_size}: batch normalization needs at least 2 of each"
            )
        if early_stopping and not len(held_out):
            raise ValueError("train: early_stopping needs validation cells: lower train_size")
        self._learn_scales(training)
        self._training, self._held_out = training, held_out
        record = self._fitted(
            self.graph,
            self._data(training),
            validation=self._data(held_out) if len(held_out) else None,
            objective=objectives.SGVB_B(beta=_warm_up(n_epochs_kl_warmup, epochs), annealed={"z"}),
            optimizer=functools.partial(torch.optim.Adam, lr=lr, eps=eps, weight_decay=weight_decay, fused=True),
            epochs=epochs,
            batch_size=batch_size,
            patience=early_stopping_patience if early_stopping else None,
            seed=self.seed if seed is None else seed,
            checkpoint=checkpoint,
            resume=resume,
            callback=callback,
            progress=progress,
        )
        self.record = record
        self.graph.eval()
        return record

    def _fitted(self, *data: Any, **settings: Any) -> History:
        """Fit the graph; where the loss becomes NaN the last good weights are those of a trained model."""
        try:
            return fit(*data, **settings)
        except TrainingError as error:
            self.record = error.history
            self.graph.eval()
            raise

    def _learn_scales(self, training: Tensor) -> None:
        """Fix what is learned of the training cells alone: the prior of the library sizes, the covariates' scales."""
        self.cells.rescale(training)
        if self.graph.library_prior is None:
            return
        encoding = self.cells.encoding
        totals, codes = self.cells.data[0].sum(1)[training], encoding.codes(self.cells.adata)[training]
        prior = expression.LibraryNormal(*cells.library_prior(totals, codes, encoding.batches))
        self.graph.library_prior = prior.to(next(self.graph.parameters()).device)

    @property
    def is_trained(self) -> bool:
        """Whether `train` has ended, by itself or by Ctrl-C."""
        return self.record is not None

    @property
    def train_indices(self) -> np.ndarray:
        """Rows of the AnnData that the model was trained on."""
        self._needs_training("train_indices")
        return self._training.numpy()

    @property
    def validation_indices(self) -> np.ndarray:
        """Rows of the AnnData that it was judged by."""
        self._needs_training("validation_indices")
        return self._held_out.numpy()

    @property
    def history(self) -> dict[str, Any]:
        """The fit's record: a DataFrame by epoch for each of `History`'s lists (an ELBO is higher when better)."""
        import pandas as pd

        self._needs_training("history")
        lists = {
            name: values
            for name, values in self._needs_training("history").to_dict().items()
            if isinstance(values, list) and values
        }
        return {
            name: pd.DataFrame({name: values}, index=pd.RangeIndex(len(values), name="epoch")) for name, values in lists.items()
        }

    # ------------------------------------------------------------------------------------------------------------- files
    def save(self, folder: str | Path, overwrite: bool = False, *, metrics: Mapping[str, Any] | None = None) -> Path:
        """Write the model to a folder: `pyrovae.save`'s files (with its `metrics`) and cells.json, without the data.

        Raises:
            RuntimeError: if the model was not trained.
            FileExistsError: if the folder holds a model and `overwrite` is false.
        """
        self._needs_training("save")
        folder = Path(folder)
        if (folder / "model.json").exists() and not overwrite:
            raise FileExistsError(f"{folder}: holds a model already. Pass overwrite=True, or another folder")
        files.save(self.graph, folder, history=self.record, metrics=metrics)
        content = {
            "format": FORMAT,
            "weights": files.inspect(folder)["weights"],  # the model that it belongs to
            "encoding": self.cells.encoding.to_dict(),
            "seed": self.seed,
            "training": self.train_indices.tolist(),
            "held_out": self.validation_indices.tolist(),
        }
        replace(folder / "cells.json", lambda file: file.write_text(json.dumps(content)))
        return folder

    @classmethod
    def load(cls, folder: str | Path, adata: Any = None, into: nn.Module | None = None) -> "SingleCellVAE":
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
            raise ValueError(f"{path}: belongs to another model than model.json beside it. Save the model again")
        model = cls.__new__(cls)
        model.graph, model.seed = graph, content["seed"]
        model.cells = Cells(Encoding.from_dict(content["encoding"]), adata)
        model.record = History.from_dict(files.inspect(folder)["history"])
        model._training, model._held_out = (torch.tensor(content[name], dtype=torch.long) for name in ("training", "held_out"))
        return model

    def _data(self, rows: Tensor) -> tuple[Any, ...]:
        return tuple(rows_in(part, rows) for part in self.cells.data)


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, known))}")


def _default_epochs(n: int) -> int:
    return max(1, min(round(_CELLS_IN_DEFAULT / n * _DEFAULT_EPOCHS), _DEFAULT_EPOCHS))


def _warm_up(epochs: int | None, planned: int) -> float | objectives.Schedule:
    """Return the weight of z's KL as a schedule over the planned steps."""
    if epochs == 0:
        return 1.0
    return objectives.warm_up(_WARM_UP if epochs is None else min(1.0, epochs / planned))


def _split(n: int, train_size: float, validation_size: float | None, seed: int) -> tuple[Tensor, Tensor]:
    """Return the rows of training and validation cells, by chance; neither is larger than asked for."""
    rest = 1 - train_size if validation_size is None else validation_size
    if not 0 < train_size <= 1 or rest < 0 or train_size + rest > 1 + 1e-9:
        raise ValueError(
            f"train: train_size {train_size} and validation_size {validation_size}, expected shares that sum to at most 1"
        )
    if train_size == 1 or n < 2:
        return torch.arange(n), torch.arange(0)
    training, others = split(n, 1 - train_size, seed)
    wanted = len(others) if validation_size is None else min(len(others), round(rest * n))
    if wanted in (0, len(others)):
        return training, others[:wanted]
    return training, others[split(len(others), wanted / len(others), seed)[1]]  # by chance: files lie sorted by batch


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
        raise ValueError(f"{path}: truncated, or not of this library ({error}). Save the model again") from error
