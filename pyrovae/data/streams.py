"""Minibatches of what torch users bring: a `Dataset`, a `DataLoader`, any iterable of minibatches.

A data set is shuffled here, as a function of seed and epoch; an iterable keeps its own order. Their
values are not known before training, so each minibatch is checked when it comes.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, count, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from pyrovae.data.batches import as_sources, device_and_dtype, read
from pyrovae.data.minibatches import (
    WHOLE,
    Minibatch,
    Minibatches,
    Share,
    epoch_order,
    number_of_batches,
)

__all__ = ["DatasetMinibatches", "IterableMinibatches"]

_SEEDS_APART = 1_000_003  # of two passes over an iterable within an epoch
_UNSTACKED = ("default_collate", "stack expects", "not resizable")  # in torch's messages


class DatasetMinibatches(Minibatches):
    """Minibatches of a map-style torch `Dataset`, whose items are x or tuples (x, *c).

    Items are read when they are used, so that the data set may transform them at random.

    Args:
        dataset: with a length.
        graph: whose device and type the minibatches get.
        batch_size: rows of a minibatch.
        drop_last: leave out the last minibatch of an epoch if it has fewer rows.
        name: what errors call the data.
        share: the part that is read.
    """

    def __init__(
        self,
        dataset: Any,
        graph: object,
        batch_size: int,
        drop_last: bool,
        name: str,
        share: Share = WHOLE,
    ) -> None:
        self.share = share
        if not hasattr(dataset, "__len__"):
            raise TypeError(
                f"{name}: the data set {type(dataset).__name__} has no length: give it a __len__, "
                "or make it an IterableDataset and pass steps_per_epoch="
            )
        self.rows = len(dataset)
        self.dataset, self.graph, self.name = dataset, graph, name
        self.batch_size, self.drop_last = batch_size, drop_last

    def __len__(self) -> int:
        return number_of_batches(len(self.dataset), self.batch_size, self.drop_last)

    def first(self) -> tuple[Tensor, ...]:
        """Return the first rows."""
        with torch.random.fork_rng(devices=[]):
            return next(self._read([range(min(self.batch_size, len(self.dataset)))])).batch

    def epoch(self, seed: int, start: int = 0) -> Iterator[Minibatch]:
        """Yield shuffled minibatches."""
        order = epoch_order(len(self.dataset), self.batch_size, self.drop_last, seed)
        return self._read([self.share.of_minibatch(rows).tolist() for rows in order[start:]])

    def in_order(self) -> Iterator[Minibatch]:
        """Yield the rows in order."""
        rows = self.share.in_order(len(self.dataset)).split(self.batch_size)
        return self._read([part.tolist() for part in rows if len(part)])

    def _read(self, order: list[Any]) -> Iterator[Minibatch]:
        own = torch.Generator()  # a loader draws a seed for its workers, which are none
        some = [rows for rows in order if len(rows)]
        contents = iter(DataLoader(self.dataset, batch_sampler=some, generator=own))
        for i, rows in enumerate(order, 1):
            numbers = torch.tensor(list(rows), dtype=torch.int64)
            if not len(rows):
                yield Minibatch((), numbers)
                continue
            with self._explained():
                content = next(contents)
            yield _placed(content, self.graph, f"{self.name}: minibatch {i}", rows=numbers)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Context in which items that cannot be stacked are an error with a remedy."""
        try:
            yield
        except (TypeError, RuntimeError) as error:
            if not any(words in str(error) for words in _UNSTACKED):
                raise
            raise TypeError(
                f"{self.name}: the items of the {type(self.dataset).__name__} cannot be stacked "
                f"({error}). Let it return arrays or tensors of one shape, as by torchvision's "
                "Resize and ToTensor"
            ) from error


class IterableMinibatches(Minibatches):
    """Minibatches that a `DataLoader` or another iterable yields: x, or a tuple or list (x, *c).

    An iterator that can be read once only, such as a generator, continues from epoch to epoch; a
    fit that is resumed is given it from its beginning, and skips what it read before. Of several
    processes, each brings an iterable over its own share of the data.

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
                f"{name}: a {type(iterable).__name__} without a length: for training data pass "
                "steps_per_epoch=, the number of minibatches that count as one epoch; validation "
                "data must be arrays, a Dataset, or an iterable with a length"
            )
        if steps is None:
            self.rows = _rows_of(iterable)
        self.divided = self.common = False
        self.loader = _in_words(iterable) if isinstance(iterable, DataLoader) else None
        # Only an iterator is asked for one: a loader would start its workers, and draw their seed.
        self.repeatable = not (isinstance(iterable, Iterator) and iter(iterable) is iterable)
        self._first: tuple[Tensor, ...] | None = None
        self._rest: Iterator[Any] | None = None

    def __len__(self) -> int:
        return self.steps or 0

    def first(self) -> tuple[Tensor, ...]:
        """Return the first minibatch; an iterator still yields it in the first epoch."""
        if self._first is None:
            self._first = self._read_first()
        return self._first

    def _read_first(self) -> tuple[Tensor, ...]:
        with torch.random.fork_rng(devices=[]):
            iterator = iter(self.iterable)
            content = next(iterator, None)
        if content is None:
            raise ValueError(f"{self.name}: the {type(self.iterable).__name__} yields no minibatch")
        if not self.repeatable:
            self._rest = chain([content], iterator)
        return _placed(content, self.graph, f"{self.name}: minibatch 1").batch

    def skip_epochs(self, epochs: int) -> None:
        """Read the minibatches of whole epochs, if that can be done once only, and drop them."""
        if not self.repeatable:
            self._skip(epochs * len(self))

    def epoch(self, seed: int, start: int = 0) -> Iterator[Minibatch]:
        """Yield an epoch; a loader that shuffles by torch's random stream follows `seed`.

        Some of the last step's minibatches may be missing, so that `start` may be past the end.
        """
        start = min(start, len(self))
        if not self.repeatable:
            self._skip(start)
        contents = islice(self._contents(seed, start), len(self) - start)
        for i, content in enumerate(contents, start + 1):
            yield _placed(content, self.graph, f"{self.name}: minibatch {i}")

    def in_order(self) -> Iterator[Minibatch]:
        """Yield what one pass over the iterable yields.

        Raises:
            ValueError: if it can be read once only.
        """
        if not self.repeatable:
            raise ValueError(
                f"{self.name}: a {type(self.iterable).__name__} can be read once only, but these "
                "data are read after every epoch: pass a list of arrays, a Dataset or a DataLoader"
            )
        for i, content in enumerate(islice(iter(self.iterable), len(self)), 1):
            yield _placed(content, self.graph, f"{self.name}: minibatch {i}")

    def _contents(self, seed: int, start: int) -> Iterator[Any]:
        if not self.repeatable:
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

    def _skip(self, minibatches: int) -> None:
        """Drop the next minibatches of an iterator; the random stream of the fit stays."""
        with torch.random.fork_rng(devices=[]):
            deque(islice(self._rest or iter(()), minibatches), maxlen=0)

    def _one_pass(self, seed: int, skipped: int) -> Iterator[Any]:
        """Yield one pass over the iterable without the first `skipped` minibatches.

        Its first minibatch is drawn in a stream of its own, since a loader draws its order with it,
        and each further one in the stream of the fit, whether or not those before it were skipped.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            _shuffle_again(self.iterable, seed)
            iterator = iter(self.iterable)
            deque(islice(iterator, skipped), maxlen=0)  # read, and not kept
            first = [] if skipped else list(islice(iterator, 1))
        yield from first
        yield from iterator


def _length(iterable: Any) -> int | None:
    try:
        return len(iterable)
    except TypeError:
        return None


def _in_words(loader: DataLoader) -> str:
    """Return how a loader makes its minibatches, as far as it says so."""
    own = loader.batch_sampler if loader.batch_size is None else None  # of the user's
    sampler = type(own or loader.sampler).__name__
    return f"batch_size {loader.batch_size}, {sampler}, drop_last {loader.drop_last}"


def _shuffle_again(iterable: Any, seed: int) -> None:
    """Give a distributed sampler, which shuffles by a seed and an epoch of its own, the pass."""
    set_epoch = getattr(getattr(iterable, "sampler", None), "set_epoch", None)
    if set_epoch is not None:
        set_epoch(seed)


def _rows_of(iterable: Any) -> int | None:
    """Return the number of rows behind a `DataLoader`, if it is known.

    It is not where the loader's items are whole minibatches, or a sampler of the user's makes them.
    """
    batches = iterable.batch_sampler if isinstance(iterable, DataLoader) else None
    return _length(batches.sampler) if type(batches) is BatchSampler else None


def _placed(content: Any, graph: object, name: str, rows: Tensor | None = None) -> Minibatch:
    """Return what was read as a minibatch on the graph's device, its values found finite."""
    if isinstance(content, Mapping):
        raise TypeError(
            f"{name} is a dictionary with the keys {sorted(map(str, content))}, expected x or a "
            "tuple (x, *c): choose its members in the data set or by collate_fn="
        )
    sources = as_sources(content, name)
    given = read(sources, slice(None))
    return Minibatch.unchecked(given, device_and_dtype(graph, sources), rows=rows)
