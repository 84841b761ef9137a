"""Columns of `adata.obs` that hold a label for each cell, or none."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.singlecell.columns import check_column, column_named_as
from pyrovae.singlecell.messages import listed, warn_user

__all__ = ["known_labels", "label_weights", "reads_as_none"]

_UNKNOWN = "Unknown"  # the default, which need not occur
_NO_LABEL = {"", "unknown", "unlabeled", "unlabelled", "unassigned", "nan", "none", "na", "<na>"}
_LOGGER = logging.getLogger("pyrovae")


def label_weights(adata: Any, key: str, known: Sequence[str]) -> Tensor:
    """Return the one-hot of each cell's label, and 1 / L in all columns where it is not known.

    What depends on the label is then the mean over the labels for that cell. A message of the
    logger "pyrovae" says how many cells have no label, or one that is not in `known`.

    Args:
        adata: the cells.
        key: column of `adata.obs`, which may be missing.
        known: the L labels, one for each column of what is returned, with shape (N, L).
    """
    import pandas as pd

    column = adata.obs[key] if key in adata.obs else pd.Series([None] * adata.n_obs, dtype=object)
    there, numbers = column.notna().to_numpy(), np.full(adata.n_obs, -1)
    names = column_named_as(column[there].astype(str), known)
    numbers[there] = pd.Categorical(names, categories=list(known)).codes
    weights = torch.full((len(numbers), len(known)), 1 / len(known))
    labelled = torch.from_numpy(numbers >= 0)
    weights[labelled] = torch.eye(len(known))[torch.from_numpy(numbers)[labelled]]
    if not labelled.all():
        new = sorted(set(names).difference(known))
        _LOGGER.warning(
            "adata.obs[%r]: %d of %d cells have no label that the model knows%s, and take the mean "
            "of its log dispersions over its labels",
            key,
            (~labelled).sum(),
            len(numbers),
            f" ({listed(new)} was not there in training)" if new else "",
        )
    return weights


def reads_as_none(label: object) -> bool:
    """Return whether a label says that there is none.

    Example:
        >>> reads_as_none("Unknown"), reads_as_none("T cell")
        (True, False)
    """
    return str(label).strip().lower() in _NO_LABEL


def known_labels(adata: Any, key: str, unknown: object) -> tuple[list[str], Tensor]:
    """Return the known labels, sorted, and the number of each cell's; -1 for none.

    Whole numbers are named without a decimal point, also where missing values made them floats.

    Raises:
        ValueError: if the column does not exist, or has fewer than two labels.

    Warns:
        UserWarning: if no cell has the label `unknown`, which is not the default, or another label
            reads as if it said that there is none.
    """
    import pandas as pd

    check_column(adata, key)
    unknown, column = str(unknown), adata.obs[key].astype(object)
    text = column.astype(str).where(column.notna(), unknown)
    if column.map(lambda value: isinstance(value, float)).all():
        text = text.str.removesuffix(".0")
    if unknown != _UNKNOWN and not (text == unknown).any():
        warn_user(
            f"CellLabels: unlabeled_category is {unknown!r}, which no cell of adata.obs[{key!r}] "
            "has: every cell counts as labelled"
        )
    names = sorted(set(text) - {unknown})
    if len(names) < 2:
        raise ValueError(
            f"adata.obs[{key!r}] has the labels {names} beside {unknown!r}: a classifier needs at "
            "least two"
        )
    none = [name for name in names if reads_as_none(name)]
    if none:
        warn_user(
            f"CellLabels: {listed(none)} in adata.obs[{key!r}] is learned and predicted as a cell "
            f"type. If it says that the type is not known, pass unlabeled_category={none[0]!r}"
            + (", and give all such cells that label" if len(none) > 1 else "")
        )
    numbers = pd.Categorical(text, categories=names).codes.astype(np.int64)
    return names, torch.from_numpy(numbers)
