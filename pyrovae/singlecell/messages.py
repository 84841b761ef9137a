"""What users read: names in a message, what to install, and warnings that point at their line."""

import importlib
import warnings
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np

from pyrovae import programs

__all__ = ["import_anndata", "listed", "of_names", "warn_user"]

_NAMED = 5  # cells, genes or categories that a message lists


def listed(names: Iterable[object], most: int = _NAMED) -> str:
    """Return the first names in quotes, and how many more there are.

    Args:
        names: in the order in which to list them.
        most: number of names to list.

    Example:
        >>> listed(["a", "b", "c"], most=2)
        "'a', 'b' and 1 more"
    """
    names = list(names)
    shown = ", ".join(repr(str(name)) for name in names[:most])
    return (f"{shown} and {len(names) - most} more" if len(names) > most else shown) or "none"


def of_names(rows: Any) -> str:
    """Return what to do with names, or a mask of objects, where rows are expected."""
    if rows.dtype.kind not in "UO" or rows.ndim != 1:
        return ""
    if any(isinstance(value, bool | np.bool_) for value in rows):
        return ". A mask of objects, as with missing values, is given as mask.isin([True])"
    return ". Names of cells become numbers by adata.obs_names.get_indexer(names)"


def warn_user(message: str) -> None:
    """Issue a UserWarning at the innermost line of code outside this library."""
    warnings.warn(message, UserWarning, stacklevel=programs.level_of_user())


def import_anndata() -> ModuleType:
    """Return the package anndata, an extra of this library.

    Raises:
        ImportError: if it is not installed; names the extra.
    """
    try:
        return importlib.import_module("anndata")
    except ModuleNotFoundError as error:
        if error.name != "anndata":
            raise
        raise ImportError(
            "cells need anndata, which is not installed: pip install 'pyrovae[cells]'"
        ) from error
