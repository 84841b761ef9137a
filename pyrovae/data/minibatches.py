"""Minibatches (x, *c) for training, as a fit reads them; those of arrays in memory.

They are shuffled as a function of seed and epoch, so that a fit that is resumed sees the same ones.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae.data.batches import (
    device_and_dtype,
    fingerprint,
    placed,
    shuffled_batches,
    take,
)
from pyrovae.data.source import Rows, Source

__all__ = [
    "WHOLE",
    "ArrayMinibatches",
    "Minibatch",
    "Minibatches",
    "Share",
    "epoch_order",
    "number_of_batches",
]

_IN_ORDER = 1024  # rows of arrays read together in order


class Share(NamedTuple):
    """The part of the rows that one of several processes reads; together they read each row once.

    Attributes:
        number: of this part, from 0.
        parts: their number; 1 is all rows.

    Example:
        >>> Share(1, 3).of_minibatch(torch.tensor([7, 4, 6, 5, 9]))
        tensor([4, 9])
        >>> Share(1, 3).in_order(5)
        tensor([2, 3])
    """

    number: int = 0
    parts: int = 1

    def of_minibatch(self, rows: Tensor) -> Tensor:
        """Return the row numbers of this part of a minibatch."""
        return rows[self.number :: self.parts]

    def in_order(self, n: int) -> Tensor:
        """Return the row numbers of this part of n rows that are read in order."""
        return torch.arange(n).tensor_split(self.parts)[self.number]


WHOLE = Share()


class Minibatch(NamedTuple):
    """One minibatch, or a share of one.

    Attributes:
        batch: (x, *c), M rows each, on the device of the graph; empty if the share has no rows.
        rows: the numbers of these rows in the data; None where they are not known.
        on_host: the same rows as they were read, where their values are not checked yet and looking
            at `batch` would be to wait for its device; otherwise empty.
    """

    batch: tuple[Tensor, ...]
    rows: Tensor | None = None
    on_host: tuple[Tensor, ...] = ()

    @classmethod
    def unchecked(
        cls, given: tuple[Tensor, ...], placement: tuple[torch.device, torch.dtype], **rows: Any
    ) -> "Minibatch":
        """Return a minibatch of rows as they were read, on the device and with the type given."""
        on_host = () if placement[0].type == "cpu" else given
        return cls(placed(given, *placement), on_host=on_host, **rows)

    @property
    def to_check(self) -> tuple[Tensor, ...]:
        """The rows where their values are best looked at."""
        return self.on_host or self.batch


class Minibatches(ABC):
    """The data of a fit, read as minibatches.

    Attributes:
        rows: N, the number of rows; None where it is not known.
        fingerprint: SHA-256 of the data; None where they are not read before training.
        scanned: whether all values were read and found finite; otherwise each minibatch is to be
            checked when it comes.
        repeatable: whether an epoch can be read again.
        share: the part of each minibatch that is read, and of the rows in order.
        divided: whether the library divides the data; otherwise each process brings its own share.
        common: whether it divides each minibatch, so that all processes have as many of them.
        loader: how a `DataLoader` makes the minibatches, in words; None of other data.
    """

    rows: int | None = None
    fingerprint: str | None = None
    scanned = False
    repeatable = True
    share = WHOLE
    divided = True
    common = True
    loader: str | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of minibatches of an epoch."""

    def planned(self) -> int:
        """Return the number of minibatches of an epoch, however many processes divide them."""
        return len(self)

    @abstractmethod
    def first(self) -> tuple[Tensor, ...]:
        """Return a minibatch to check programs on, without using it up."""

    @abstractmethod
    def epoch(self, seed: int, start: int = 0) -> Iterator[Minibatch]:
        """Yield the minibatches of an epoch from number `start` on; `seed` sets their order."""

    def skip_epochs(self, epochs: int) -> None:  # noqa: B027 (most have nothing to do)
        """Pass over whole epochs that a fit read before; only what is read once has to be."""

    @abstractmethod
    def in_order(self) -> Iterator[Minibatch]:
        """Yield all rows once, in the order of the data."""


class ArrayMinibatches(Minibatches):
    """Minibatches of arrays in memory, memory maps and sparse tables.

    Args:
        sources: (x, *c), N rows each.
        graph: whose device and type the minibatches get.
        batch_size: rows of a minibatch.
        drop_last: leave out the last minibatch of an epoch if it has fewer rows.
        digest: take the fingerprint of the data.
        share: the part that is read.
    """

    scanned = True

    def __init__(
        self,
        sources: tuple[Source, ...],
        graph: object,
        batch_size: int,
        drop_last: bool = False,
        digest: bool = False,
        share: Share = WHOLE,
    ) -> None:
        self.share = share
        self.rows = len(sources[0])
        self.fingerprint = fingerprint(sources) if digest else None
        self.placement = device_and_dtype(graph, sources)
        self.checked = sources  # where they lie: they are scanned only once
        moved = [source.to(self.placement[0]) for source in sources]
        self.sources = tuple(one.for_epochs() if isinstance(one, Rows) else one for one in moved)
        self.batch_size, self.drop_last = batch_size, drop_last

    def __len__(self) -> int:
        return number_of_batches(len(self.sources[0]), self.batch_size, self.drop_last)

    def first(self) -> tuple[Tensor, ...]:
        """Return the first rows."""
        return self._take(slice(0, self.batch_size))

    def epoch(self, seed: int, start: int = 0) -> Iterator[Minibatch]:
        """Yield shuffled minibatches."""
        order = epoch_order(len(self.sources[0]), self.batch_size, self.drop_last, seed)
        for rows in map(self.share.of_minibatch, order[start:]):
            yield Minibatch(self._take(rows) if len(rows) else (), rows)

    def in_order(self) -> Iterator[Minibatch]:
        """Yield the rows in order."""
        for rows in filter(len, self.share.in_order(len(self.sources[0])).split(_IN_ORDER)):
            yield Minibatch(self._take(rows), rows)

    def _take(self, rows: Tensor | slice) -> tuple[Tensor, ...]:
        return take(self.sources, rows, *self.placement)


def epoch_order(n: int, batch_size: int, drop_last: bool, seed: int) -> Sequence[Tensor]:
    """Return the row numbers of an epoch's minibatches."""
    generator = torch.Generator().manual_seed(seed)
    batches = shuffled_batches(n, batch_size, generator)
    whole = not drop_last or len(batches[-1]) == batch_size
    if whole:
        return batches
    return torch.cat(batches)[: n - n % batch_size].split(batch_size) if n >= batch_size else []


def number_of_batches(n: int, batch_size: int, drop_last: bool) -> int:
    """Return the number of an epoch's minibatches, as many as `epoch_order` has."""
    if drop_last:
        return n // batch_size
    joined = n > batch_size and n % batch_size == 1 % batch_size  # a last one of one row
    return -(-n // batch_size) - joined
