"""The cells that a model works on: its own, and those that a user passes later, encoded alike."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrovae.data import Rows
from pyrovae.singlecell.counts import counts
from pyrovae.singlecell.encoding import Encoding
from pyrovae.singlecell.library import LibrarySizes, library_sizes
from pyrovae.singlecell.masks import checked_rows
from pyrovae.singlecell.setup import check_anndata
from pyrovae.singlecell.shards import Shards

__all__ = ["Cells", "Selection", "rows_in", "some_cells"]

Data = tuple[Any, ...]  # x, or (x, c)
Read = Callable[[Any, str | None, Any], Any]


class Selection(NamedTuple):
    """Some cells of an AnnData.

    Attributes:
        data: x with shape (N, G), sparse, dense or on the disk, or (x, c) with a context c of
            shape (N, C).
        names: `obs_names` of the cells, a pandas Index.
    """

    data: Data
    names: Any


class Cells:
    """Counts and context of an AnnData, or empty if the model was loaded without data.

    Args:
        encoding: how cells become counts and context.
        adata: the model's own cells, an AnnData or `Shards`; None for none.
        read: returns x, given an AnnData, the layer and the genes; the checked counts.

    Attributes:
        data: x, or (x, c), of the model's own cells; empty without.
    """

    def __init__(self, encoding: Encoding, adata: Any = None, read: Read = counts) -> None:
        self.encoding, self.adata, self.read = encoding, adata, read
        self.names: Any = None if adata is None else adata.obs_names
        self.data: Data = () if adata is None else self._encoded(adata)
        self._genes: Any = None if adata is None else adata.var_names
        # As the columns of obs hold them, with shape (N, K).
        self._covariates = None if adata is None else encoding.continuous(adata)

    def own(self) -> Any:
        """Return the model's own AnnData.

        Raises:
            ValueError: if it has none, or its cells or genes are not those that the model was made
                for.
        """
        if self.adata is None:
            raise ValueError("the model was loaded without cells: pass adata= here, or to load")
        for now, before, words in (
            (self.adata.obs_names, self.names, "cells"),
            (self.adata.var_names, self._genes, "genes"),
        ):
            if not now.equals(before):
                raise ValueError(
                    f"the model was made of {len(before)} {words}, but its AnnData was changed in "
                    f"place and has {len(now)}, or others, or in another order. Pass adata= (a "
                    "copy of the cells to work on), or make the model again"
                )
        return self.adata

    def query(self, adata: Any, indices: Any) -> Data:
        """Return x, or (x, c), of some cells; arguments as in `select`."""
        return self.select(adata, indices).data

    def select(self, adata: Any, indices: Any) -> Selection:
        """Return some cells of an AnnData; only those are read, checked and encoded.

        Args:
            adata: cells with the model's genes in any order, in memory, backed by a file, or
                `Shards`; None for the model's own cells.
            indices: row numbers or a boolean mask; None for all cells.

        Raises:
            ValueError: if the indices or the cells do not fit.
            TypeError: if `adata` is no AnnData.
        """
        given = self.own() if adata is None else adata
        check_anndata(given)
        rows = checked_rows(given, indices)
        if rows is None:
            return Selection(self.data if adata is None else self._encoded(given), given.obs_names)
        if adata is None:
            data = tuple(rows_in(part, rows) for part in self.data)
        else:  # a file is read in order, and each row once
            unique, places = np.unique(rows.numpy(), return_inverse=True)
            data = self._encoded(some_cells(given, unique, self.encoding.setup.layer))
            if not np.array_equal(unique, rows.numpy()):
                data = tuple(rows_in(part, torch.from_numpy(places)) for part in data)
        return Selection(data, given.obs_names[rows.numpy()])

    def rescale(self, training: Tensor) -> None:
        """Standardize the continuous covariates over the training cells.

        The AnnData is not read again: its columns may have been changed since.
        """
        if self._covariates is not None and self.encoding.scales:
            self.encoding = self.encoding.scaled(self._covariates[training.numpy()])
            x, c = self.data
            self.data = (x, self.encoding.with_covariates(c, self._covariates))

    def library_sizes(self, rows: Tensor | None = None) -> LibrarySizes:
        """Return mean and standard deviation by batch of the log totals of some cells, or all."""
        x, *c = self.data
        totals = x.sum(1)
        batch = self.encoding.batch_numbers(c[0] if c else None, len(x))
        if rows is not None:
            totals, batch = totals[rows], batch[rows]
        return library_sizes(totals, batch, self.encoding.batches)

    def frame(self, values: np.ndarray, names: Any, genes: Tensor) -> Any:
        """Return a DataFrame of cells by genes, given the cells' names and the genes' columns."""
        import pandas as pd

        columns = [self.encoding.genes[i] for i in genes.tolist()]
        return pd.DataFrame(values, index=names, columns=columns, copy=False)

    def batches(self, names: Any) -> list[int | None]:
        """Return the number of one batch or of several; [None], each cell's own batch, for None."""
        if names is None:
            return [None]
        several = [names] if np.isscalar(names) else list(names)
        if not several:
            raise ValueError(
                "transform_batch is empty, expected a batch or several, or None for each cell's own"
            )
        return [self.encoding.batch(name) for name in several]

    def _encoded(self, adata: Any) -> Data:
        self.encoding.setup.check_layer(adata)
        x = self.read(adata, self.encoding.setup.layer, self.encoding.genes)
        c = self.encoding.context(adata)
        return (x,) if c is None else (x, c)


def rows_in(part: Any, rows: Tensor | None) -> Any:
    """Return some rows of x or c, or all for None; sparse ones stay sparse."""
    if rows is None:
        return part
    return part.select(rows) if isinstance(part, Rows) else part[rows]


def some_cells(adata: Any, rows: np.ndarray, layer: str | None = None) -> Any:
    """Return some cells: a view of an AnnData, or an AnnData of what is read from `Shards`.

    Of shards the counts in a layer are read; without one those that it was opened with are X.

    Raises:
        ValueError: for a view of a file, of which AnnData takes no view.
    """
    if isinstance(adata, Shards):
        if layer is not None or adata.layer is None:
            return adata.to_memory(rows, [layer])
        found = adata.to_memory(rows, [adata.layer])
        found.X = found.layers.pop(adata.layer)
        return found
    if adata.isbacked and adata.is_view:
        raise ValueError(
            "indices: these cells are a view of a file, and AnnData takes no view of a view; call "
            "adata.to_memory() first, or pass the whole AnnData with indices="
        )
    return adata[rows]
