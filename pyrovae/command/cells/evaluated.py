"""The cells that a model is measured on: which rows of an AnnData, and what is read off them.

All that the command line knows of the inside of `SingleCellVAE` stands here.
"""

import warnings
from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from pyrovae.command.choices import Part
from pyrovae.command.report import cell_plots
from pyrovae.command.report.cell_plots import UNLABELLED, Groups, Moments
from pyrovae.data import as_source, batches, spread, to_scipy
from pyrovae.singlecell import SingleCellVAE, reads_as_none

__all__ = ["EvaluatedCells", "Libraries", "describe_data", "fingerprint", "select"]

DRAWN_CELLS = 2_000


def fingerprint(model: SingleCellVAE) -> str:
    """Return a SHA-256 of the counts of the model's cells."""
    return batches.fingerprint(model.cells.data[:1])


def select(model: SingleCellVAE, part: Part | None, *, own: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return which cells figures of fit are taken on, and which are drawn and clustered.

    Args:
        model: A fitted model, with the cells as its own.
        part: Which cells; None evaluates the test cells of the model's own data, and all of
            others, and draws and clusters all.
        own: Whether the model was fitted on these cells.

    Raises:
        ValueError: The part is one of cells that the model was not fitted on.
    """
    every = np.arange(model.cells.own().n_obs)
    own = own and model.fit_result is not None and model.fit_result.of_own_cells
    test = model.test_indices if own else every[:0]
    if part is None:
        return (test if len(test) else every), every
    if part is Part.ALL:
        return every, every
    if not own:
        raise ValueError(
            f"--part {part}: these are not the cells that the model was fitted on; use --part all"
        )
    rows = np.setdiff1d(every, test) if part is Part.TRAIN else test
    return rows, rows


def describe_data(model: SingleCellVAE) -> dict[str, Any]:
    """Return cells, genes, zeros, and the sizes of batches and labels."""
    x, adata, setup = as_source(model.cells.data[0]), model.cells.own(), model.cells.encoding.setup
    totals = x.sum(1)
    keys = {"batches": setup.batch_key, "labels": setup.labels_key}
    groups = {
        name: _named(adata.obs[key], name == "labels")
        for name, key in keys.items()
        if key in adata.obs
    }
    return {
        "cells": adata.n_obs,
        "genes": len(model.cells.encoding.genes),
        "zeros": 1 - x.count_nonzero() / x.shape.numel(),
        "median_total": totals.median().item(),
        "cells_without_counts": int((totals == 0).sum()),
        "genes_without_counts": int((x.sum(0) == 0).sum()),
        **{name: column.value_counts().to_dict() for name, column in groups.items()},
    }


class Libraries(NamedTuple):
    """Observed totals and posterior library sizes of cells, each with shape (N,)."""

    totals: np.ndarray
    sizes: np.ndarray


@final
class EvaluatedCells:
    """A fitted model, and the cells that it is measured on.

    Args:
        model: The model, with the cells as its own.
        rows: Rows that figures of fit are taken on.
        mapped: Rows that are drawn and clustered.
        seed: Of draws.
        simulated: Whether the true expression of the cells is known.
    """

    def __init__(
        self,
        model: SingleCellVAE,
        rows: np.ndarray,
        mapped: np.ndarray,
        *,
        seed: int,
        simulated: bool,
    ) -> None:
        self.model, self.rows, self.mapped, self.seed = model, rows, mapped, seed
        self.adata = model.cells.own()
        self.simulated = simulated and "rho" in self.adata.layers
        self.library_is_latent = model.graph.library_prior is not None

    def batch(self, at_most: int) -> tuple[Tensor, ...]:
        """Return (x, *c) of at most n evaluated cells, evenly spread."""
        return self.model.cells.query(None, self.some(self.rows, at_most))

    def some(self, rows: np.ndarray, at_most: int) -> np.ndarray:
        """Return at most n of the rows, evenly spread."""
        return rows[spread(len(rows), at_most).numpy()]

    def embed(self, rows: np.ndarray) -> np.ndarray:
        """Return posterior means of z with shape (N, D)."""
        return self.model.get_latent_representation(indices=rows)

    def counts(self, rows: np.ndarray) -> Any:
        """Return counts as a SciPy matrix of compressed rows, genes in the model's order."""
        return to_scipy(as_source(self.model.cells.query(None, rows)[0]))

    def groups(self, rows: np.ndarray) -> list[Groups]:
        """Return batches and labels of the cells, those that there are."""
        setup, obs = self.model.cells.encoding.setup, self.adata.obs
        keys = (key for key in (setup.batch_key, setup.labels_key) if key is not None)
        columns = {key: _named(obs[key], key == setup.labels_key) for key in keys if key in obs}
        return [
            Groups(key, column.iloc[rows].to_numpy(), _ranked(column), key == setup.batch_key)
            for key, column in columns.items()
        ]

    def labels(self, rows: np.ndarray) -> np.ndarray | None:
        """Return the label of each cell, None where they have none."""
        key = self.model.cells.encoding.setup.labels_key
        return next((group.names for group in self.groups(rows) if group.title == key), None)

    def batches(self, rows: np.ndarray) -> Groups | None:
        """Return the batches of the cells, None where all are of one."""
        key = self.model.cells.encoding.setup.batch_key
        return next((group for group in self.groups(rows) if group.title == key), None)

    @property
    def why_unlabelled(self) -> str:
        """Why the cells have no labels, in words."""
        key = self.model.cells.encoding.setup.labels_key
        if key is not None:
            return f"no labels: these cells have no column {key!r} of obs"
        return "no labels: `pyrovae fit` takes the name of their column, as --labels-key"

    @property
    def held_out(self) -> bool:
        """Whether the model is known to be fitted on none of the evaluated cells."""
        fit = self.model.fit_result
        if fit is None or not fit.of_own_cells:
            return False
        return not np.isin(self.rows, torch.cat([fit.training, fit.validation])).any()

    @cached_property
    def libraries(self) -> Libraries:
        """Library sizes of the evaluated cells."""
        totals = self.model.cells.query(None, self.rows)[0].sum(1).numpy()
        return Libraries(totals, self.model.get_latent_library_size(indices=self.rows).ravel())

    @cached_property
    def moments(self) -> tuple[Moments, Moments]:
        """Moments of evaluated cells, and of one draw of the posterior predictive for each."""
        rows = self.some(self.rows, DRAWN_CELLS)
        drawn = self.model.posterior_predictive_sample(indices=rows, seed=self.seed)
        return cell_plots.moments(self.counts(rows)), cell_plots.moments(drawn)

    @property
    def encodable(self) -> bool:
        """Whether z is finite; after a diverged fit it may not be."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return bool(np.isfinite(self.embed(self.rows)).all())
            except (RuntimeError, ValueError):  # from draws, where a mean is NaN
                return False


def _named(column: Any, labels: bool) -> Any:
    """Return a column of obs as words; what is missing, or a label that reads so, is unlabelled."""
    known = column.notna()
    if labels:
        known &= ~column.astype(object).map(reads_as_none)
    return column.astype(object).where(known, UNLABELLED).astype(str)


def _ranked(names: Any) -> tuple[str, ...]:
    """Return the groups that there are, the largest first."""
    return tuple(name for name in names.value_counts().index if name != UNLABELLED)
