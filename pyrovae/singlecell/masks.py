"""Row numbers and masks of cells, and masks of genes, as users give them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.singlecell.messages import listed, of_names

__all__ = ["check_order", "checked_rows"]


def check_order(mask: Any, names: Any, argument: str, remedy: str) -> None:
    """Refuse a mask that is a Series and names the cells or genes in another order, or others.

    A mask is read by position, as AnnData does. A Series that is numbered, as after `reset_index`,
    or whose index has none of the names, says nothing of their order.

    Args:
        mask: as it was given, with one value per name.
        names: of the cells or genes, a pandas Index.
        argument: what the mask was given as.
        remedy: what to call on the mask.

    Raises:
        ValueError: names the first that differ.
    """
    import pandas as pd

    if not isinstance(mask, pd.Series) or mask.index.equals(names):
        return
    if mask.index.equals(pd.RangeIndex(len(mask))):
        return
    given, names = (pd.Index([str(name) for name in index]) for index in (mask.index, names))
    if given.equals(names) or not given.isin(names).any():
        return
    raise ValueError(
        f"{argument}: the index of the mask is {listed(given)}, expected {listed(names)}, in this "
        f"order. Pass mask.{remedy}, or mask.to_numpy() if it is in the order of these"
    )


def checked_rows(adata: Any, indices: Any) -> Tensor | None:
    """Return row numbers of cells from row numbers or a mask; None for all.

    Raises:
        ValueError: if a row number is out of range, a mask has another length, or is a Series that
            names the cells in another order.
    """
    if indices is None:
        return None
    n, rows = adata.n_obs, np.asarray(indices)
    if rows.dtype == bool and rows.shape == (n,) and rows.any():
        check_order(indices, adata.obs_names, "indices", "reindex(adata.obs_names)")
        return torch.from_numpy(rows.nonzero()[0])
    numbers = rows.ndim == 1 and len(rows) > 0 and rows.dtype.kind in "iu"
    if not numbers or rows.min() < -n or rows.max() >= n:
        raise ValueError(
            f"indices: expected row numbers below {n} or a mask of {n} with a cell, "
            f"got {_described(rows)}"
        )
    return torch.from_numpy(rows.astype(np.int64) % n)


def _described(rows: np.ndarray) -> str:
    """Return what is wrong with rows, in words."""
    if rows.size == 0 or (rows.dtype == bool and not rows.any()):
        return (
            "no cell. A model has no test_indices if train_size and validation_size leave no cell: "
            "lower them"
        )
    return f"{rows.dtype} with shape {rows.shape}{of_names(rows)}"
