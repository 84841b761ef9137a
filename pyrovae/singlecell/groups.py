"""Two groups of cells to compare: of a column of `adata.obs`, by masks, row numbers or queries."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrovae.singlecell.columns import check_column, named_as
from pyrovae.singlecell.masks import check_order
from pyrovae.singlecell.messages import listed, of_names

__all__ = ["Pair", "groups_of", "pairs_by_column", "pairs_by_rows"]

# Groups of a column of numbers: more are continuous. Whole numbers became floats where cells
# without a group were joined to them; of a total, as of transcripts, few cells share a value.
_MOST_FRACTIONS, _MOST_WHOLE, _CELLS_A_GROUP = 20, 100, 10


class Pair(NamedTuple):
    """Two groups of cells.

    Attributes:
        name1, name2: what they are called.
        rows1, rows2: their row numbers.
    """

    name1: str
    name2: str
    rows1: Tensor
    rows2: Tensor


def pairs_by_column(
    adata: Any,
    key: str,
    group1: str | Sequence[str] | None,
    group2: str | Sequence[str] | None,
) -> list[Pair]:
    """Return the comparisons of groups in a column.

    Args:
        adata: the cells.
        key: column of `adata.obs`; cells in which it is missing belong to no group.
        group1: a group or several, each of which is compared; None for all. Of a column of whole
            numbers, 1 and 1.0 are the same group.
        group2: another group, or a list of one; None for all remaining cells.

    Raises:
        ValueError: if the column does not exist or is continuous, a group has no cell, or `group2`
            lists several; lists the groups.
    """
    groups = groups_of(adata, key, "groupby: key", "compare masks by idx1= and idx2=")
    known = sorted(set(groups.dropna()))
    if not known:
        raise ValueError(f"groupby: adata.obs[{key!r}] is missing in every cell: fill it in")
    second = [] if group2 is None else _named(group2, known)
    if group2 is not None and len(second) != 1:
        raise ValueError(
            f"group2 is {group2!r}, expected one group or None for all remaining cells. Compare "
            "with several by masks, idx1= and idx2="
        )
    two = second[0] if second else None
    first = [g for g in known if g != two] if group1 is None else _named(group1, known)
    if not first:
        raise ValueError(f"no group1 to compare: adata.obs[{key!r}] has {listed(known, most=50)}")
    for group in (*first, *second):
        if group not in known:
            raise ValueError(
                f"{group!r} is no group of adata.obs[{key!r}], which has {listed(known, most=50)}"
            )
    return [_pair(groups, one, two) for one in first]


def pairs_by_rows(adata: Any, idx1: Any, idx2: Any) -> list[Pair]:
    """Return one comparison, of cells given by a mask, row numbers, or a query of `adata.obs`.

    Args:
        adata: the cells.
        idx1: the first group.
        idx2: the second group; None for all remaining cells.

    Raises:
        ValueError: if a group is empty, or rows do not exist.
    """
    one = _mask(adata, idx1, "idx1")
    two = ~one if idx2 is None else _mask(adata, idx2, "idx2")
    if not two.any():
        raise ValueError("idx1 holds every cell: there is nothing to compare it with")
    name2 = "Rest" if idx2 is None else "group 2"
    return [Pair("group 1", name2, _rows(one), _rows(two))]


def _named(given: Any, known: Sequence[str]) -> list[str]:
    """Return one group or several as they are known."""
    several = [given] if np.isscalar(given) else list(given)
    return [named_as(str(group), known) for group in several]


def _pair(groups: Any, one: str, two: str | None) -> Pair:
    if one == two:
        raise ValueError(f"group1 and group2 are both {one!r}: name two different groups")
    first = (groups == one).to_numpy()
    second = groups.notna().to_numpy() & ~first if two is None else (groups == two).to_numpy()
    if not second.any():
        raise ValueError(
            f"every cell is in group {one!r} of adata.obs[{groups.name!r}]: there is nothing to "
            "compare it with"
        )
    return Pair(one, "Rest" if two is None else two, _rows(first), _rows(second))


def groups_of(adata: Any, key: str, name: str, otherwise: str) -> Any:
    """Return the group of each cell as a Series of strings; None where it is missing.

    Args:
        adata: the cells.
        key: column of `adata.obs`.
        name: of the argument, for errors.
        otherwise: what else to do with a continuous column.

    Raises:
        ValueError: if the column does not exist or is continuous.
    """
    check_column(adata, key, name)
    column = adata.obs[key]
    if column.dtype.kind in "fiu" and column.nunique() > _most_groups(column.dropna()):
        raise ValueError(
            f"{name}: adata.obs[{key!r}] holds {column.nunique()} different numbers, expected "
            f"groups. Cut it into intervals by pandas.cut, or {otherwise}"
        )
    return column.astype(str).astype(object).where(column.notna(), None)


def _most_groups(column: Any) -> int:
    """Return how many groups a column of numbers may have, none of them missing."""
    if column.dtype.kind in "iu":
        return _MOST_WHOLE
    labels = (column % 1 == 0).all() and len(column) >= _CELLS_A_GROUP * column.nunique()
    return _MOST_WHOLE if labels else _MOST_FRACTIONS


def _mask(adata: Any, cells: Any, name: str) -> np.ndarray:
    n = adata.n_obs
    rows = _answers(adata, cells, name) if isinstance(cells, str) else np.asarray(cells)
    if rows.dtype == bool and rows.shape == (n,):
        check_order(cells, adata.obs_names, name, "reindex(adata.obs_names)")
        mask = rows.copy()
    else:
        numbers = rows.ndim == 1 and rows.dtype.kind in "iu" and len(rows) > 0
        if not numbers or rows.min() < -n or rows.max() >= n:
            raise ValueError(
                f"{name}: expected a mask of {n} cells, row numbers below {n} or a query of "
                f"adata.obs, got {rows.dtype} with shape {rows.shape}{of_names(rows)}"
            )
        mask = np.zeros(n, bool)
        mask[rows] = True
    if not mask.any():
        raise ValueError(f"{name} holds no cell")
    return mask


def _answers(adata: Any, query: str, name: str) -> np.ndarray:
    """Return for each cell whether a query of `adata.obs` holds."""
    columns = listed(adata.obs.columns, most=50)
    try:
        answers = adata.obs.eval(query)
    except Exception as error:  # pandas raises many kinds
        raise ValueError(
            f"{name}: {query!r} is no query of adata.obs ({error}), which has {columns}"
        ) from error
    if getattr(answers, "dtype", None) not in (np.dtype(bool), "boolean"):
        raise ValueError(
            f"{name}: {query!r} is neither true nor false of a cell; write a comparison, such as "
            f"\"leiden == '3'\", of columns of adata.obs: {columns}"
        )
    return (
        answers.to_numpy(bool, na_value=False) if answers.dtype == "boolean" else answers.to_numpy()
    )


def _rows(mask: np.ndarray) -> Tensor:
    return torch.from_numpy(mask.nonzero()[0])
