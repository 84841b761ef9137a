"""The cells that a model works on: its own, and those that a query brings, encoded alike."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data import SparseRows
from pyrovae.singlecell.columns import Encoding, listed, rows_of
from pyrovae.singlecell.counts import counts

__all__ = ["Cells", "group_rows", "rows_in"]

Data = tuple[Any, ...]  # x, or (x, c)


class Cells:
    """An AnnData's counts and context; none, for a model that was loaded without.

    Args:
        encoding: what cells are encoded by.
        adata: the model's own cells; None leaves them out.
    """

    def __init__(self, encoding: Encoding, adata: Any = None) -> None:
        self.encoding, self.adata = encoding, adata
        self.names: Any = None if adata is None else adata.obs_names
        self.data = () if adata is None else self._encoded(adata)

    def own(self) -> Any:
        """Return the model's own AnnData.

        Raises:
            ValueError: if it has none, or has other cells by now.
        """
        if self.adata is None:
            raise ValueError("the model was loaded without cells: pass adata= here, or to load")
        if not self.adata.obs_names.equals(self.names):
            raise ValueError(
                f"the model was made of {len(self.names)} cells, but its AnnData was changed in place and has {self.adata.n_obs}, or "
                "others, or in another order. Pass adata= (a copy of what you want to ask about), or make the model again"
            )
        return self.adata

    def rescale(self, training: Tensor) -> None:
        """Standardize the continuous covariates on the training cells."""
        self.encoding = self.encoding.scaled(self.own(), training.numpy())
        c = self.encoding.context(self.adata)
        self.data = self.data[:1] if c is None else (self.data[0], c)

    def query(self, adata: Any, indices: Any) -> Data:
        """Return (x, *c) of the cells asked about; None is the model's own."""
        rows = rows_of(self.own() if adata is None else adata, indices)
        data = self.data if adata is None else self._encoded(adata)
        return tuple(rows_in(part, rows) for part in data)

    def _encoded(self, adata: Any) -> Data:
        self.encoding.setup.check_layer(adata)
        x, c = (
            counts(adata, self.encoding.setup.layer, self.encoding.genes),
            self.encoding.context(adata),
        )
        return (x,) if c is None else (x, c)

    def genes(self, names: Sequence[str] | None) -> Tensor:
        """Return the columns of the genes.

        Raises:
            ValueError: if the model does not know one.
        """
        if isinstance(names, str):
            raise ValueError(f"gene_list is {names!r}, expected a list of genes: [{names!r}]")
        where = {gene: i for i, gene in enumerate(self.encoding.genes)}
        unknown = [name for name in names or () if name not in where]
        if unknown:
            raise ValueError(f"gene_list: {listed(unknown)} are not among the model's genes")
        return torch.tensor([where[name] for name in (where if names is None else names)])

    def frame(self, values: np.ndarray, adata: Any, indices: Any, genes: Tensor) -> Any:
        """Return a DataFrame of cells by genes."""
        import pandas as pd

        adata = self.own() if adata is None else adata
        rows = rows_of(adata, indices)
        names = adata.obs_names if rows is None else adata.obs_names[rows.numpy()]
        return pd.DataFrame(
            values,
            index=names,
            columns=[self.encoding.genes[i] for i in genes.tolist()],
            copy=False,
        )

    def batches(self, names: Any) -> list[int | None]:
        """Return the numbers of one batch or several; [None] for None, which is each cell's own."""
        if names is None:
            return [None]
        several = [names] if np.isscalar(names) else list(names)
        if not several:
            raise ValueError(
                "transform_batch is empty, expected a batch or several, or None for each cell's own"
            )
        return [self.encoding.batch(name) for name in several]


def rows_in(part: Any, rows: Tensor | None) -> Any:
    """Return those rows of x or c, sparse ones sparse; None for all."""
    if rows is None:
        return part
    return part.select(rows) if isinstance(part, SparseRows) else part[rows]


def group_rows(
    groups: list[str | None], key: str, one: str, two: str | None
) -> tuple[Tensor, Tensor]:
    """Return the cells of group `one`, and of `two` or of all others.

    Raises:
        ValueError: if there are none of either; lists the groups.
    """
    for group in (one, two):
        if group is not None and group not in groups:
            raise ValueError(
                f"{group!r} is no group of adata.obs[{key!r}], which has {listed(sorted(set(groups) - {None}), most=50)}"
            )
    first = torch.tensor([group == one for group in groups])
    others = [
        group is not None and group != one if two is None else group == two for group in groups
    ]
    second = torch.tensor(others)
    if not second.any():
        raise ValueError(
            f"every cell is in group {one!r} of adata.obs[{key!r}]: there is nothing to compare it with"
        )
    return first.nonzero().flatten(), second.nonzero().flatten()
