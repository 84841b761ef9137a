"""The values that data may take: supports, the search for values off them, and the likelihoods that fit given data.

Torch's count densities return finite nonsense off their support where validation is off. Data are therefore looked
through once before training, every value of them, about 2^20 at a time.
"""

from collections.abc import Iterator
from math import inf, prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["BINARY", "COUNTS", "REAL", "UNIT", "Off", "Support", "levels", "suggest_likelihoods"]

Array = Tensor | np.ndarray


class Off(NamedTuple):
    """The first value off a support: its row, its position in the row, and how many values are off in all."""

    value: float
    row: int
    position: tuple[int, ...]
    total: int


class Support(NamedTuple):
    """The finite numbers from `low` to `high`, only the whole ones if `whole`; `words` says so."""

    words: str
    low: float
    high: float
    whole: bool

    def holds(self, x: Tensor) -> Tensor:
        """Whether each value is in the set, elementwise."""
        inside = (x >= self.low) & (x <= self.high) & x.isfinite()
        return inside & (x == x.floor()) if self.whole else inside

    def holds_all(self, x: Tensor) -> bool:
        """Whether every value is in the set; far cheaper than `holds`, for the usual case that it is so."""
        low, high = (
            v.item() for v in x.aminmax()
        )  # NaN where there is one, which no comparison lets pass
        inside = self.low <= low and high <= self.high and -inf < low and high < inf
        return inside and (not self.whole or not x.is_floating_point() or torch.equal(x, x.floor()))

    def first_off(self, x: Array) -> Off | None:
        """The first value of the data x, with shape (N, *event), that is off the support; None if none is."""
        first, total = None, 0
        for start, values in _chunks(x):
            if self.holds_all(values):
                continue
            off = ~self.holds(values)
            if first is None:
                row, *position = off.nonzero()[0].tolist()
                first = Off(values[(row, *position)].item(), start + row, tuple(position), 0)
            total += int(off.sum())
        return first and first._replace(total=total)


BINARY = Support("0 or 1", 0, 1, whole=True)
UNIT = Support("values in [0, 1]", 0, 1, whole=False)
REAL = Support("finite real numbers", -inf, inf, whole=False)
COUNTS = Support("whole numbers from 0", 0, inf, whole=True)


def levels(high: int) -> Support:
    """The whole numbers from 0 to `high`."""
    return Support(f"whole numbers from 0 to {high}", 0, high, whole=True)


def suggest_likelihoods(x: Array) -> tuple[str, ...]:
    """Which likelihoods fit the data, the most fitting first; none if the data hold infinities or NaN.

    Args:
        x: data with shape (N, *event), of any real or integer type.

    Example:
        >>> suggest_likelihoods(np.array([[0, 1], [1, 1]]))
        ('Bernoulli', 'Gaussian')
        >>> suggest_likelihoods(torch.tensor([0.0, 0.5]))
        ('ContinuousBernoulli', 'Gaussian')
    """
    low, high, whole = inf, -inf, True
    for _, values in _chunks(x):
        if not REAL.holds_all(values):
            return ()
        low, high = min(low, values.min().item()), max(high, values.max().item())
        whole = whole and bool((values == values.floor()).all())
    if whole and low >= 0:
        return _fitting_counts(int(high))
    return ("ContinuousBernoulli", "Gaussian") if low >= 0 and high <= 1 else ("Gaussian",)


def _fitting_counts(high: int) -> tuple[str, ...]:
    """Likelihoods for whole numbers from 0 to `high`: up to 64 they are taken for counts, up to 255 for grey levels."""
    if high <= 1:
        return ("Bernoulli", "Gaussian")
    if high <= 64:
        return (
            f"Binomial(total_count={high})",
            f"Categorical(levels={high + 1})",
            "Poisson",
            "Gaussian",
        )
    if high <= 255:
        return ("DiscretizedLogistic", "Categorical", "Poisson", "Gaussian")
    return ("Poisson", "Gaussian")


def _chunks(x: Array) -> Iterator[tuple[int, Tensor]]:
    """(number of the first row, rows) of the data, about 2^20 values at a time."""
    rows = max(1, 2**20 // max(1, prod(x.shape[1:])))
    for start in range(0, len(x), rows):
        yield start, _numbers(x[start : start + rows])


def _numbers(x: Array) -> Tensor:
    """The values as uint8, float32 or float64, in which they can be compared."""
    if not isinstance(x, Tensor):
        kept = x.dtype == np.uint8 or x.dtype == np.float32
        return torch.from_numpy(
            x.astype(x.dtype if kept else np.float64)
        )  # a copy: a read-only array would warn
    if x.dtype in (torch.uint8, torch.float32, torch.float64):
        return x.detach()
    return x.detach().to(torch.float32 if x.is_floating_point() else torch.float64)
