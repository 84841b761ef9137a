"""One pass over all values of a source: their range, and the first one that is not valid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pyrovae.data.supports import Support

__all__ = ["Off", "Reading", "Scan"]

_WIDE_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)  # torch has no minimum of these


class Off(NamedTuple):
    """The first value off a set: its row, its position in the row, and how many are off in all."""

    value: float
    row: int
    position: tuple[int, ...]
    total: int

    def after(self, rows: int) -> Off:
        """Return it as it is called where `rows` rows stand before."""
        return self._replace(row=self.row + rows)

    @staticmethod
    def first(one: Off | None, two: Off | None) -> Off | None:
        """Return the first of two parts' that are off, with their number in both."""
        if one is None or two is None:
            return one or two
        return one._replace(total=one.total + two.total)


class Scan(NamedTuple):
    """What one pass over all values finds.

    Attributes:
        low, high: the least and the greatest finite value.
        whole: whether all finite values are whole numbers.
        not_finite: the first NaN or infinite value, None if there is none.
        off: the first value off the support that was asked about, None if there is none.
    """

    low: float
    high: float
    whole: bool
    not_finite: Off | None = None
    off: Off | None = None

    def after(self, rows: int) -> Scan:
        """Return what was found as it is called where `rows` rows stand before."""
        bad, off = (place and place.after(rows) for place in (self.not_finite, self.off))
        return self._replace(not_finite=bad, off=off)

    def joined(self, other: Scan) -> Scan:
        """Return what was found in this part and the next one together."""
        return Scan(
            min(self.low, other.low),
            max(self.high, other.high),
            self.whole and other.whole,
            Off.first(self.not_finite, other.not_finite),
            Off.first(self.off, other.off),
        )


@dataclass
class Reading:
    """One pass over a source's values under way.

    Args:
        place: gives row and position of the value at an index of the block that begins at a number.
        support: where the values should lie.
        zeros: whether there are zeros that are not among the values.
    """

    place: Callable[[int, list[int]], tuple[int, tuple[int, ...]]]
    support: Support | None
    zeros: bool
    whole: bool = True
    not_finite: Off | None = None
    off: Off | None = None

    def __post_init__(self) -> None:
        self.low, self.high = (0.0, 0.0) if self.zeros else (inf, -inf)

    def look(self, first: int, values: Tensor) -> None:
        """Take a block of values into account; `first` is the number of its first value or row."""
        values = values.long() if values.dtype in _WIDE_UNSIGNED else values
        low, high = _range(values)
        finite = values
        if not (-inf < low and high < inf):  # NaN passes no comparison
            bad = ~values.isfinite()
            self.not_finite = self._first(self.not_finite, first, values, bad)
            finite = values[~bad]
            low, high = _range(finite)
        whole = self._is_whole(finite)
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.whole = self.whole and whole
        if self.support is None or (finite is values and self.support.admits(low, high, whole)):
            return
        self.off = self._first(self.off, first, values, ~self.support.holds(values))

    def found(self) -> Scan:
        """Return what was found, apart from the support."""
        return Scan(self.low, self.high, self.whole, self.not_finite)

    def _is_whole(self, values: Tensor) -> bool:
        if not (self.whole or (self.support is not None and self.support.whole)):
            return False  # known already, and not asked of this block
        return not values.is_floating_point() or torch.equal(values, values.floor())

    def _first(self, known: Off | None, first: int, values: Tensor, bad: Tensor) -> Off | None:
        """Return the first of all bad values so far, with their number; None if there is none."""
        total = int(bad.sum())
        if known is not None or not total:
            return known and known._replace(total=known.total + total)
        index = bad.nonzero()[0].tolist()
        return Off(values[tuple(index)].item(), *self.place(first, index), total)


def _range(values: Tensor) -> tuple[float, float]:
    """Return the least and the greatest value; both are NaN where a value is."""
    if not len(values):
        return inf, -inf
    low, high = torch.stack(values.aminmax()).tolist()  # waits for a device once
    return float(low), float(high)
