"""Lower bounds of standard deviations, so that no density grows without bound.

A column of real numbers has the density of its values only down to the precision to which they are
known. That is the smallest step between values that recur, as those of a column of whole numbers or
of categories do; else a thousandth of the column's spread. A constant column has no unit: it is
given a standard deviation of one.
"""

import numpy as np

__all__ = ["LEAST", "of_columns"]

LEAST = 1e-3  # of the standard deviation of a column
_ROWS = 2_000  # looked at, for time


def of_columns(x: np.ndarray) -> np.ndarray:
    """Return the least standard deviation of each column, with shape (D,).

    Args:
        x: Rows with shape (N, D), standardized.
    """
    rows = x[:: -(-len(x) // _ROWS)]
    ordered = np.sort(rows, axis=0)
    gaps = np.diff(ordered, axis=0)
    apart = gaps > np.abs(ordered[1:]) * 1e-6  # more than rounding to single precision
    distinct = 1 + apart.sum(0)
    steps = np.where(apart, gaps, np.inf).min(0, initial=np.inf)
    recur = (distinct > 1) & (distinct <= len(rows) / 2)
    uniform = np.where(recur, steps, 0.0) / np.sqrt(12)  # the spread of a value within its step
    spread = x.std(0)
    floors = np.clip(uniform, LEAST, np.maximum(LEAST, 0.3 * spread))
    return np.where(spread > 0, floors, 1.0)
