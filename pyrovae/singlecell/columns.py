"""Columns of `adata.obs`, checked: categories as whole numbers, continuous covariates as float64.

Every error names the column, the first cells concerned and the remedy.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.singlecell.messages import listed, warn_user

__all__ = [
    "NEW_BATCH",
    "NEW_CATEGORY",
    "category_names",
    "category_numbers",
    "check_column",
    "column_named_as",
    "continuous",
    "named_as",
    "warn_of_outliers",
]

_MOST_FRACTIONS = 20  # of a column of numbers that are not whole: more are continuous
# A standard deviation of so many times that of the inner 98 % of the cells is set by outliers: it
# is up to 300 times for a lognormal variable whose logarithm has a standard deviation of 3.
_OUTLYING = 1000

# What to do with a category that was not there in training.
NEW_BATCH = (
    "Map cells of a new batch to the model by SingleCellVAE.load_query_data, train again with "
    "these cells, or leave them out"
)
NEW_CATEGORY = NEW_BATCH.replace("batch", "category")


def category_names(adata: Any, key: str, known: Sequence[str] = ()) -> list[str]:
    """Return the categories that occur in a column, sorted, and named as the known ones.

    Raises:
        ValueError: if the column does not exist, is missing in a cell, or is continuous.

    Warns:
        UserWarning: if it holds numbers and the same numbers as text, or two names that differ by
            spaces around them.
    """
    text = _as_text(adata, key)
    _check_categories(adata.obs[key], known)
    return sorted(column_named_as(text, known).unique())


def _check_categories(column: Any, known: Sequence[str]) -> None:
    """Refuse a continuous column, and warn of categories that are alike."""
    import pandas as pd

    values = pd.Series(list(column.unique()))
    if len(values) > _MOST_FRACTIONS and values.dtype.kind == "f" and (values % 1 != 0).any():
        raise ValueError(
            f"adata.obs[{column.name!r}] holds {len(values)} different numbers, expected "
            "categories. Name it among continuous_covariate_keys, or cut it into intervals by "
            "pandas.cut"
        )
    text = values.astype(str)
    if text.duplicated().any():
        warn_user(
            f"adata.obs[{column.name!r}] holds {listed(text[text.duplicated()])} both as numbers "
            "and as text, which are taken for the same. If they are not, name them differently; if "
            "they are, store the column as text"
        )
    names = {*text, *known}
    spaced = sorted(name for name in names if name != name.strip() and name.strip() in names)
    if spaced:
        warn_user(
            f"adata.obs[{column.name!r}]: {listed(spaced)} differs by spaces alone from another "
            "category. If they are the same, call .astype(str).str.strip() on the column"
        )


def category_numbers(adata: Any, key: str, known: Sequence[str], advice: str) -> Tensor:
    """Return the position in `known` of each cell's category, with shape (N,).

    Args:
        adata: the cells.
        key: column of `adata.obs`.
        known: the categories.
        advice: ends the error of an unknown category.

    Raises:
        ValueError: if the column does not exist, is missing in a cell, or holds a category that
            is not in `known`.
    """
    import pandas as pd

    column = column_named_as(_as_text(adata, key), known)
    numbers = pd.Categorical(column, categories=list(known)).codes
    unknown = sorted(column[numbers < 0].unique())
    if unknown:
        cell = adata.obs_names[(column == unknown[0]).to_numpy().argmax()]
        raise ValueError(
            f"adata.obs[{key!r}]: {listed(unknown)} was not there in training (first in cell "
            f"{cell!r}). The model knows {listed(known, most=50)}. {advice}"
        )
    return torch.from_numpy(numbers.astype(np.int64))


def continuous(adata: Any, key: str) -> np.ndarray:
    """Return a continuous covariate, with shape (N,).

    Raises:
        ValueError: if the column does not exist or holds anything but finite numbers, or numbers
            as text.
    """
    check_column(adata, key)
    kind = getattr(adata.obs[key].dtype, "kind", "O")
    if kind in "mMc":
        raise ValueError(
            f"adata.obs[{key!r}] holds {adata.obs[key].dtype}, expected real numbers. Convert it, "
            "as to days or years since a date"
        )
    try:
        values = adata.obs[key].to_numpy(dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"adata.obs[{key!r}] does not hold numbers ({error}). Name it among "
            "categorical_covariate_keys"
        ) from error
    if kind == "O":
        _check_no_text(adata.obs[key])
    bad = ~np.isfinite(values)
    _check_none(adata, key, bad, "missing or infinite")
    return values


def _check_no_text(column: Any) -> None:
    """Refuse numbers as text, which may be names of categories."""
    text = column.astype(object).map(lambda value: isinstance(value, str)).to_numpy(bool)
    if text.any():
        first = text.argmax()
        raise ValueError(
            f"adata.obs[{column.name!r}] holds text, as {column.iloc[first]!r} in cell "
            f"{column.index[first]!r}, expected numbers. If it says how much, call "
            f"adata.obs[{column.name!r}].astype(float); if it names groups, put the column among "
            "categorical_covariate_keys"
        )


def warn_of_outliers(adata: Any, key: str, values: np.ndarray) -> None:
    """Issue a warning if a few cells are so far off that, standardized, all others are alike.

    Args:
        adata: the cells.
        key: column of `adata.obs`.
        values: its values, with shape (N,).
    """
    low, high = np.quantile(values, [0.01, 0.99])
    sd, inner = values.std(), values[(low <= values) & (values <= high)].std()
    if 0 < _OUTLYING * inner < sd:
        cell = abs(values - np.median(values)).argmax()
        warn_user(
            f"adata.obs[{key!r}] is {values[cell]:g} in cell {adata.obs_names[cell]!r}, so far "
            "from the others that they have nearly one value when divided by the standard "
            f"deviation, {sd:.3g}; without the outer 2 % of the cells it is {inner:.3g}. Correct "
            "it, or use the logarithm or the rank"
        )


def _check_none(adata: Any, key: str, bad: np.ndarray, words: str) -> None:
    """Refuse a column with cells in which it cannot be used."""
    if bad.any():
        first = (
            f" (the first in {adata.file_of(bad.argmax())})" if hasattr(adata, "file_of") else ""
        )
        raise ValueError(
            f"adata.obs[{key!r}] is {words} in {bad.sum()} cells{first}: "
            f"{listed(adata.obs_names[bad])}. Fill it in, or drop them"
        )


def _as_text(adata: Any, key: str) -> Any:
    """Return a column without missing values as a Series of strings."""
    check_column(adata, key)
    _check_none(adata, key, adata.obs[key].isna().to_numpy(), "missing")
    return adata.obs[key].astype(str)


def column_named_as(column: Any, known: Sequence[str]) -> Any:
    """Return a column whose whole numbers are named as the known ones: 1.0 as 1, or 1 as 1.0.

    A column of whole numbers becomes one of floats where cells without one were joined to it.
    """
    if not known:
        return column
    given = set(column.unique()).difference(known)
    others = {name: other for name in given if (other := named_as(name, known)) != name}
    return column.replace(others) if others else column


def named_as(name: str, known: Sequence[str]) -> str:
    """Return a name, and of a whole number that which is known: 1.0 as 1, or 1 as 1.0."""
    whole = name.removesuffix(".0")
    other = f"{name}.0" if whole == name else whole
    number = whole.removeprefix("-").isdigit()
    return other if number and name not in known and other in known else name


def check_column(adata: Any, key: str, name: str = "key") -> None:
    """Refuse a column that is missing; `name` is that of the argument."""
    if not isinstance(key, str):
        raise ValueError(
            f"{name} is a {type(key).__name__}, expected the name of one column of adata.obs, "
            f"which has {listed(adata.obs.columns)}"
        )
    if key not in adata.obs:
        raise ValueError(
            f"{name} {key!r} is not in adata.obs, which has {listed(adata.obs.columns)}"
        )
    if (adata.obs.columns == key).sum() > 1:
        raise ValueError(f"adata.obs has several columns {key!r}: rename them, or drop all but one")
