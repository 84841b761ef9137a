"""The values that data may take: supports, the search for values off them, and the likelihoods that fit given data.

Torch's count densities return finite nonsense off their support where validation is off. Data are therefore looked
through once before training, every value of them, about 2^20 at a time.
"""

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["BINARY", "COUNTS", "REAL", "UNIT", "Off", "Support", "fitting", "levels"]

Array = Tensor | np.ndarray


class Off(NamedTuple):
    """The first value off a support: its row, its position in the row, and how many values are off in all."""

    value: float
    row: int
    position: tuple[int, ...]
    count: int


class Support(NamedTuple):
    """A set of numbers: how to say it, and how to test for it."""

    words: str
    constraint: constraints.Constraint

    def holds(self, x: Tensor) -> Tensor:
        """Whether each value is a finite number of the set, elementwise."""
        return self.constraint.check(x) & x.isfinite()

    def first_off(self, x: Array) -> Off | None:
        """The first value of the data x, with shape (N, *event), that is off the support; None if none is."""
        first, count = None, 0
        for start, values in _chunks(x):
            off = ~self.holds(values)
            n = int(off.sum())
            if n and first is None:
                row, *position = off.nonzero()[0].tolist()
                first = Off(values[(row, *position)].item(), start + row, tuple(position), 0)
            count += n
        return first and first._replace(count=count)


BINARY = Support("0 or 1", constraints.boolean)
UNIT = Support("values in [0, 1]", constraints.unit_interval)
REAL = Support("finite real numbers", constraints.real)
COUNTS = Support("whole numbers from 0", constraints.nonnegative_integer)


def levels(high: int) -> Support:
    """The whole numbers from 0 to `high`."""
    return Support(f"whole numbers from 0 to {high}", constraints.integer_interval(0, high))


def fitting(x: Array) -> tuple[str, ...]:
    """Which likelihoods fit the data, the most fitting first; none if the data hold infinities or NaN.

    Args:
        x: data with shape (N, *event), of any real or integer type.

    Example:
        >>> fitting(np.array([[0, 1], [1, 1]]))
        ('Bernoulli', 'Gaussian')
        >>> fitting(torch.tensor([0.0, 0.5]))
        ('ContinuousBernoulli', 'Gaussian')
    """
    low, high, whole = float("inf"), -float("inf"), True
    for _, values in _chunks(x):
        if not values.isfinite().all():
            return ()
        low, high = min(low, values.min().item()), max(high, values.max().item())
        whole = whole and bool((values % 1 == 0).all())
    if whole and low >= 0:
        return _fitting_counts(int(high))
    return ("ContinuousBernoulli", "Gaussian") if low >= 0 and high <= 1 else ("Gaussian",)


def _fitting_counts(high: int) -> tuple[str, ...]:
    """Likelihoods for whole numbers from 0 to `high`: up to 64 they are taken for counts, up to 255 for grey levels."""
    if high <= 1:
        return ("Bernoulli", "Gaussian")
    if high <= 64:
        return (f"Binomial(total_count={high})", f"Categorical(levels={high + 1})", "Poisson", "Gaussian")
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
        return torch.from_numpy(x.astype(x.dtype if kept else np.float64))  # a copy: a read-only array would warn
    if x.dtype in (torch.uint8, torch.float32, torch.float64):
        return x.detach()
    return x.detach().to(torch.float32 if x.is_floating_point() else torch.float64)
