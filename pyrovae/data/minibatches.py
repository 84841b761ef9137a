"""Minibatches (x, *c) for training: from arrays, a torch `Dataset`, or any iterable of batches.

Arrays and data sets are shuffled here, as a function of seed and epoch, so that a fit that is
resumed sees the same minibatches. A `DataLoader` or another iterable keeps its own order.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyrovae.data.batches import (
    as_sources,
    device_and_dtype,
    fingerprint,
    shuffled_batches,
    take,
)
from pyrovae.data.source import Source

__all__ = ["ArrayMinibatches", "Minibatch", "Minibatches", "as_minibatches"]

_IN_ORDER = 1024  # rows of arrays read together in order
_SEEDS_APART = 1_000_003  # of two passes over an iterable within an epoch
_END = object()


class Minibatch(NamedTuple):
    """One minibatch.

    Attributes:
        batch: (x, *c), M rows each, on the device of the graph.
        rows: the numbers of these rows in the data; None where they are not known.
    """

    batch: tuple[Tensor, ...]
    rows: Tensor | None = None


class Minibatches(ABC):
    """The data of a fit, read as minibatches.

    Attributes:
        rows: N, the number of rows; None where it is not known.
        fingerprint: SHA-256 of the data; None where they are not read before training.
        scanned: whether all values were read and found finite; otherwise each minibatch is to be
            checked when it comes.
    """

    rows: int | None = None
    fingerprint: str | None = None
    scanned = False

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of minibatches of an epoch."""

    @abstractmethod
    def first(self) -> tuple[Tensor, ...]:
        """Return a minibatch to check programs on, without using it up."""

    @abstractmethod
    def epoch(self, seed: int, start: int = 0) -> Iterator[Minibatch]:
        """Yield the minibatches of an epoch from number `start` on; `seed` sets their order."""

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
    """

    scanned = True

    def __init__(
        self,
        sources: tuple[Source, ...],
        graph: object,
        batch_size: int,
        drop_last: bool = False,
        digest: bool = False,
    ) -> None:
        self.rows = len(sources[0])
        self.fingerprint = fingerprint(sources) if digest else None
        self.placement = device_and_dtype(graph, sources)
        self.checked = sources  # where they lie: they are scanned only once
        self.sources = tuple(source.to(self.placement[0]) for source in sources)
        self.batch_size, self.drop_last = batch_size, drop_last

    def __len__(self) -> int:
        return _number_of_batches(len(self.sources[0]), self.batch_size, self.drop_last)

    def first(self) -> tuple[Tensor, ...]:
        """Return the first rows."""
        return self._take(slice(0, self.batch_size))

    def epoch(self, seed: int, start: int = 0) -> Iterator[Minibatch]:
        """Yield shuffled minibatches."""
        for rows in _order(len(self.sources[0]), self.batch_size, self.drop_last, seed)[start:]:
            yield Minibatch(self._take(rows), rows)

    def in_order(self) -> Iterator[Minibatch]:
        """Yield the rows in order."""
        for rows in torch.arange(len(self.sources[0])).split(_IN_ORDER):
            yield Minibatch(self._take(rows), rows)

    def _take(self, rows: Tensor | slice) -> tuple[Tensor, ...]:
        return take(self.sources, rows, *self.placement)


class DatasetMinibatches(Minibatches):
    """Minibatches of a map-style torch `Dataset`, whose items are x or tuples (x, *c).

    Items are read when they are used, so that the data set may transform them at random.

    Args:
        dataset: with a length.
        graph: whose device and type the minibatches get.
        batch_size: rows of a minibatch.
        drop_last: leave out the last minibatch of an epoch if it has fewer rows.
        name: what errors call the data.
    """

    def __init__(
        self, dataset: Any, graph: object, batch_size: int, drop_last: bool, name: str
    ) -> None:
        self.rows = len(dataset)
        self.dataset, self.graph, self.name = dataset, graph, name
        self.batch_size, self.drop_last = batch_size, drop_last

    def __len__(self) -> int:
        return _number_of_batches(len(self.dataset), self.batch_size, self.drop_last)

    def first(self) -> tuple[Tensor, ...]:
        """Return the first rows."""
        with torch.random.fork_rng(devices=[]):
            return next(self._read([range(min(self.batch_size, len(self.dataset)))])).batch

    def epoch(self, seed: int, start: int = 0) -> Iterator[Minibatch]:
        """Yield shuffled minibatches."""
        order = _order(len(self.dataset), self.batch_size, self.drop_last, seed)
        return self._read([rows.tolist() for rows in order[start:]])

    def in_order(self) -> Iterator[Minibatch]:
        """Yield the rows in order."""
        rows = torch.arange(len(self.dataset)).split(self.batch_size)
        return self._read([part.tolist() for part in rows])

    def _read(self, order: list[Any]) -> Iterator[Minibatch]:
        own = torch.Generator()  # a loader draws a seed for its workers, which are none
        loader = DataLoader(self.dataset, batch_sampler=order, generator=own)
        for i, (rows, content) in enumerate(zip(order, loader, strict=True)):
            batch = _placed(content, self.graph, f"{self.name}: minibatch {i + 1}")
            yield Minibatch(batch, torch.tensor(list(rows)))


class IterableMinibatches(Minibatches):
    """Minibatches that a `DataLoader` or another iterable yields: x, or a tuple or list (x, *c).

    An iterator that can be read once only, such as a generator, continues from epoch to epoch.

    Args:
        iterable: yields minibatches.
        graph: whose device and type they get.
        steps: minibatches of an epoch; None takes the iterable's length. With more than the
            iterable has, it is read again from its beginning.
        name: what errors call the data.

    Raises:
        ValueError: if neither a length nor `steps` is given, or the iterable yields nothing.
    """

    def __init__(
        self, iterable: Iterable[Any], graph: object, steps: int | None, name: str
    ) -> None:
        self.iterable, self.graph, self.name = iterable, graph, name
        self.steps = _length(iterable) if steps is None else steps
        if self.steps is None:
            raise ValueError(
                f"{name}: a {type(iterable).__name__} without a length: pass steps_per_epoch=, the "
                "number of minibatches that count as one epoch"
            )
        if steps is None:
            self.rows = _rows_of(iterable)
        self._once = iter(iterable) is iterable
        self._rest: Iterator[Any] | None = None

    def __len__(self) -> int:
        return self.steps or 0

    def first(self) -> tuple[Tensor, ...]:
        """Return the first minibatch; an iterator still yields it in the first epoch."""
        with torch.random.fork_rng(devices=[]):
            iterator = iter(self.iterable)
            content = next(iterator, None)
        if content is None:
            raise ValueError(f"{self.name}: the {type(self.iterable).__name__} yields no minibatch")
        if self._once:
            self._rest = chain([content], iterator)
        return _placed(content, self.graph, f"{self.name}: minibatch 1")

    def epoch(self, seed: int, start: int = 0) -> Iterator[Minibatch]:
        """Yield an epoch; a loader that shuffles by torch's random stream follows `seed`."""
        contents = islice(self._contents(seed, start), len(self) - start)
        for i, content in enumerate(contents, start + 1):
            yield Minibatch(_placed(content, self.graph, f"{self.name}: minibatch {i}"))

    def in_order(self) -> Iterator[Minibatch]:
        """Yield what one pass over the iterable yields.

        Raises:
            ValueError: if it can be read once only.
        """
        if self._once:
            raise ValueError(
                f"{self.name}: a {type(self.iterable).__name__} can be read once only, but these "
                "data are read after every epoch: pass a list of arrays, a Dataset or a DataLoader"
            )
        for i, content in enumerate(islice(iter(self.iterable), len(self)), 1):
            yield Minibatch(_placed(content, self.graph, f"{self.name}: minibatch {i}"))

    def _contents(self, seed: int, start: int) -> Iterator[Any]:
        if self._once:
            yield from self._rest or iter(())
            return
        passes, skipped = divmod(start, _length(self.iterable) or (start + 1))
        for i in count(passes):
            found = False
            for content in self._one_pass(seed + i * _SEEDS_APART, skipped):
                found = True
                yield content
            if not found:
                return
            skipped = 0

    def _one_pass(self, seed: int, skipped: int) -> Iterator[Any]:
        with torch.random.fork_rng(devices=[]):  # a loader draws its order with the first item
            torch.default_generator.manual_seed(seed)
            iterator = islice(iter(self.iterable), skipped, None)
            first = next(iterator, _END)
        if first is not _END:
            yield first
            yield from iterator


def as_minibatches(
    data: Any,
    graph: object,
    *,
    batch_size: int,
    drop_last: bool = False,
    steps: int | None = None,
    name: str = "data",
    digest: bool = False,
) -> Minibatches:
    """Return data as minibatches.

    Args:
        data: arrays x or (x, *c) as for `as_sources`; a torch `Dataset`; a `DataLoader`; or any
            other iterable of minibatches.
        graph: whose device and type the minibatches get.
        batch_size: rows of a minibatch; an iterable of minibatches has its own.
        drop_last: leave out the last minibatch of an epoch if it has fewer rows.
        steps: minibatches of an epoch of an iterable.
        name: what errors call the data.
        digest: take the fingerprint of arrays.

    Raises:
        TypeError: if the data are of another kind.
        ValueError: if there is no minibatch, an array has a value that is not finite, or `steps` is
            given for data with a length of their own.
    """
    if isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size, drop_last=drop_last)
    if _is_iterable(data):
        return IterableMinibatches(data, graph, steps, name)
    if steps is not None:
        raise ValueError(
            f"{name}: steps_per_epoch is {steps}, but arrays and data sets have a number of rows: "
            "leave it out, or pass an iterable of minibatches"
        )
    result: Minibatches
    if isinstance(data, Dataset) and not isinstance(data, TensorDataset):
        result = DatasetMinibatches(data, graph, batch_size, drop_last, name)
    else:
        sources = as_sources(data, name, digest)
        result = ArrayMinibatches(sources, graph, batch_size, drop_last, digest)
    if not len(result):
        raise ValueError(
            f"{name}: {result.rows} rows and batch_size {batch_size} leave no minibatch with "
            "drop_last=True: lower batch_size"
        )
    return result


def _is_iterable(data: Any) -> bool:
    """Return whether data are an iterable of minibatches, and neither arrays nor a data set."""
    if isinstance(data, DataLoader):
        return True
    array = isinstance(data, Tensor | Source | list | tuple | str | bytes)
    array = array or any(hasattr(data, name) for name in ("__array__", "shape", "dtype"))
    return not array and not isinstance(data, Dataset) and hasattr(data, "__iter__")


def _order(n: int, batch_size: int, drop_last: bool, seed: int) -> Sequence[Tensor]:
    """Return the row numbers of an epoch's minibatches."""
    generator = torch.Generator().manual_seed(seed)
    batches = shuffled_batches(n, batch_size, generator)
    whole = not drop_last or len(batches[-1]) == batch_size
    if whole:
        return batches
    return torch.cat(batches)[: n - n % batch_size].split(batch_size) if n >= batch_size else []


def _number_of_batches(n: int, batch_size: int, drop_last: bool) -> int:
    return len(_order(n, batch_size, drop_last, seed=0))


def _length(iterable: Any) -> int | None:
    try:
        return len(iterable)
    except TypeError:
        return None


def _rows_of(iterable: Any) -> int | None:
    """Return the number of rows behind a `DataLoader`, if it is known."""
    return _length(iterable.sampler) if isinstance(iterable, DataLoader) else None


def _placed(content: Any, graph: object, name: str) -> tuple[Tensor, ...]:
    """Return a minibatch as tensors on the graph's device, checked for values not finite."""
    if isinstance(content, Mapping):
        raise TypeError(
            f"{name} is a dictionary with the keys {sorted(map(str, content))}, expected x or a "
            "tuple (x, *c): choose its members in the data set or by collate_fn="
        )
    sources = as_sources(content, name)
    return take(sources, slice(None), *device_and_dtype(graph, sources))
