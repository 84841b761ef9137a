"""What is given as data and is no array of rows: the errors say where its rows are."""

from numbers import Real
from os import PathLike
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

__all__ = ["check_is_array", "read_as_array"]


def check_is_array(x: Any, label: str) -> None:
    """Refuse what holds rows, or makes them, and is no array of them.

    Raises:
        TypeError: that says where the rows are.
    """
    where = _where_rows_are(x)
    if where:
        raise TypeError(f"{label} is {where}")


def _where_rows_are(x: Any) -> str:
    """Return what x is and what to give instead; nothing for what may be an array."""
    kind = type(x).__name__
    if isinstance(x, Dataset | DataLoader):
        return (
            f"a {kind}, expected an array: only fit takes data sets and loaders. Stack the rows, "
            "for example torch.stack([x for x, *_ in dataset])"
        )
    if isinstance(x, str | PathLike):
        return (
            f"the path {str(x)!r}, expected an array: read the file first, as by numpy.load; "
            "`pyrovae fit` reads files itself"
        )
    if isinstance(x, np.ma.MaskedArray):
        return (
            "a masked array, whose mask would be lost. Give x with the masked values filled in, "
            "np.ma.filled(x, 0), and to leave them out, what is observed as context: "
            "pyrovae.Missing"
        )
    if isinstance(x, Real) and not hasattr(x, "dtype"):
        return (
            f"the number {x}, expected rows. pyrovae.batches.split(n, fraction) draws which rows "
            "to hold out"
        )
    if hasattr(type(x), "obs_names"):  # not the column of a table
        return (
            f"of type {kind}, expected an array: give its counts, such as adata.X, or all of it to "
            "pyrovae.singlecell.SingleCellVAE"
        )
    if hasattr(type(x), "__array__"):
        return ""
    if isinstance(getattr(x, "x", None), np.ndarray):
        return f"a data set, expected an array: give its rows, such as {getattr(x, 'name', 'it')}.x"
    if hasattr(x, "guide"):
        return f"a graph, {kind}, expected an array: the graph comes first, as in fit(graph, data)"
    if callable(x):
        return f"a function, {kind}, expected an array: call it, and give what it returns"
    return ""


def read_as_array(x: Any, label: str) -> np.ndarray:
    """Return a list of numbers, or another object that NumPy reads, as an array.

    Raises:
        TypeError: if NumPy cannot read it.
    """
    try:
        return np.asarray(x)
    except (ValueError, TypeError, RuntimeError) as error:
        raise TypeError(
            f"{label} is a {type(x).__name__} that is no array ({error}). Data in a list or tuple "
            "are (x, *c), arrays of N rows: stack the rows of pairs, as by torch.stack([x for x, _ "
            "in pairs]), and pass minibatches as iter(batches)"
        ) from error
