"""How `SingleCellVAE` is trained: which cells, for how long, and what is learned of the training cells alone."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import objectives
from pyrovae.data import split
from pyrovae.files import History
from pyrovae.graphs import CountVAE
from pyrovae.priors import LibraryNormal
from pyrovae.singlecell.cells import Cells, rows_in
from pyrovae.singlecell.counts import library_prior
from pyrovae.training import TrainingError, fit

__all__ = ["CellTraining"]

_DEFAULT_EPOCHS = 400
_CELLS_IN_DEFAULT = 20_000  # so many cells see the default epochs; more cells, fewer epochs
_WARM_UP = 0.25  # share of the planned steps over which the KL of z rises to its weight


class CellTraining:
    """The part of `SingleCellVAE` that trains it and says how that went."""

    graph: CountVAE
    cells: Cells
    record: History | None
    seed: int
    _training: Tensor
    _held_out: Tensor

    def _needs_training(self, what: str) -> History:
        if self.record is None:
            raise RuntimeError(f"{what}: the model is not trained yet. Call model.train() first")
        return self.record

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
        if int(epochs) != epochs or epochs < 1 or not lr > 0:
            raise ValueError(
                f"train: max_epochs is {epochs} and lr {lr}, expected a whole number of at least 1, and a step above 0"
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
            optimizer=functools.partial(
                torch.optim.Adam, lr=lr, eps=eps, weight_decay=weight_decay, fused=True
            ),
            epochs=int(epochs),
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
        totals, codes = (
            self.cells.data[0].sum(1)[training],
            encoding.codes(self.cells.adata)[training],
        )
        prior = LibraryNormal(*library_prior(totals, codes, encoding.batches))
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
            name: pd.DataFrame({name: values}, index=pd.RangeIndex(len(values), name="epoch"))
            for name, values in lists.items()
        }

    def _data(self, rows: Tensor) -> tuple[Any, ...]:
        return tuple(rows_in(part, rows) for part in self.cells.data)


def _default_epochs(n: int) -> int:
    return max(1, min(round(_CELLS_IN_DEFAULT / n * _DEFAULT_EPOCHS), _DEFAULT_EPOCHS))


def _warm_up(epochs: int | None, planned: int) -> float | objectives.Schedule:
    """Return the weight of z's KL as a schedule over the planned steps."""
    if epochs == 0:
        return 1.0
    return objectives.warm_up(_WARM_UP if epochs is None else min(1.0, epochs / planned))


def _split(
    n: int, train_size: float, validation_size: float | None, seed: int
) -> tuple[Tensor, Tensor]:
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
    return training, others[
        split(len(others), wanted / len(others), seed)[1]
    ]  # by chance: files lie sorted by batch
