"""Minibatches of rows on the disk, shuffled by blocks: neighbours are read together.

    blocks of neighbouring rows, in random order  ->  buffers of several blocks, read at once
    rows of a buffer, in random order             ->  minibatches

Row by row in random order, a file is read at a hundredth of its speed. Rows of a minibatch come
from all the blocks of a buffer, which lie anywhere in the data. Of several processes each reads its
own blocks, so that together they read each row once an epoch.
"""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.data.batches import device_and_dtype, read, take
from pyrovae.data.minibatches import WHOLE, Minibatch, Minibatches, Share
from pyrovae.data.source import Source, loaded, slices

__all__ = ["BlockMinibatches", "block_of"]

BLOCKS = 32  # of a buffer, of which there are two: 80 MB each for 1024 cells of 300 non-zeros
_IN_ORDER = 1024  # rows read together in order
_LEAST_BLOCKS = 8  # in each process; few rows are divided into smaller blocks


class _Buffer(NamedTuple):
    """Rows that were read together.

    Attributes:
        rows: their numbers, shuffled, but for those that are not wanted.
        places: where they lie in the sources.
        sources: (x, *c) of all rows that were read.
    """

    rows: Tensor
    places: Tensor
    sources: tuple[Source, ...]


class BlockMinibatches(Minibatches):
    """Minibatches of sources of which some are quick to read in blocks only.

    A value that is not finite is found when its block is read.

    Args:
        sources: (x, *c), N rows each.
        graph: whose device and type the minibatches get.
        batch_size: rows of a minibatch, over all processes.
        drop_last: leave out the last minibatch of an epoch if it has fewer rows.
        name: what errors call the data.
        share: the part of the blocks, and of each minibatch's size, that is read.
        blocks: of a buffer.

    Attributes:
        block: rows of a block: as many as are quick to read together, or fewer.
    """

    rows: int
    common = False

    def __init__(
        self,
        sources: tuple[Source, ...],
        graph: object,
        batch_size: int,
        drop_last: bool = False,
        name: str = "data",
        share: Share = WHOLE,
        blocks: int = BLOCKS,
    ) -> None:
        self.sources, self.name, self.share, self.blocks = sources, name, share, blocks
        self.rows = len(sources[0])
        self.fingerprint = _fingerprint(sources)
        self.placement = device_and_dtype(graph, sources)
        self.batch_size, self.drop_last = batch_size, drop_last
        block = min(block for block in map(block_of, sources) if block)
        self.block = min(block, max(1, self.rows // (_LEAST_BLOCKS * share.parts)))
        if batch_size < share.parts:
            raise ValueError(
                f"{name}: batch_size is {batch_size} over {share.parts} processes, expected at "
                "least one row for each: they read blocks of their own"
            )

    def __len__(self) -> int:
        return len(self._sizes())

    def planned(self) -> int:
        """Return the number of minibatches in one process."""
        return -(-self.rows // self.batch_size)

    def first(self) -> tuple[Tensor, ...]:
        """Return the first rows."""
        return take(self.sources, slice(0, self.batch_size), *self.placement)

    def in_order(self) -> Iterator[Minibatch]:
        """Yield the rows of this share in order."""
        number, parts = self.share
        start, end = (share * self.rows // parts for share in (number, number + 1))
        for part in slices(end - start, _IN_ORDER):
            rows = torch.arange(start + part.start, start + part.stop)
            given = read(self._loaded(rows), slice(None))
            yield Minibatch.unchecked(given, self.placement, rows=rows)

    def epoch(self, seed: int, start: int = 0) -> Iterator[Minibatch]:
        """Yield shuffled minibatches of this share; those before `start` are not read."""
        sizes = self._sizes()
        wanted = iter(sizes[start:])
        size, pieces = next(wanted, 0), list[Minibatch]()
        for buffer in self._read_ahead(seed, sum(sizes[:start])):
            at = 0
            while size and at < len(buffer.rows):
                missing = size - sum(len(piece.batch[0]) for piece in pieces)
                pieces.append(self._piece(buffer, slice(at, at + missing)))
                at += missing
                if at <= len(buffer.rows):
                    yield _joined(pieces)
                    size, pieces = next(wanted, 0), []

    def _piece(self, buffer: "_Buffer", some: slice) -> Minibatch:
        given = read(buffer.sources, buffer.places[some])
        return Minibatch.unchecked(given, self.placement, rows=buffer.rows[some])

    def _read_ahead(self, seed: int, skipped: int) -> Iterator["_Buffer"]:
        """Yield the buffers of an epoch; while one is used, another thread reads the next."""
        with ThreadPoolExecutor(1) as reader:
            ahead: Future[_Buffer] | None = None
            for rows in self._buffers(seed):
                if skipped >= len(rows):
                    skipped -= len(rows)
                    continue
                now, ahead = ahead, reader.submit(self._read, rows, skipped)
                skipped = 0
                if now is not None:
                    yield now.result()
            if ahead is not None:
                yield ahead.result()

    def _read(self, rows: Tensor, skipped: int) -> "_Buffer":
        """Read a buffer, the first rows of which were used before."""
        order = rows.argsort()
        places = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
        return _Buffer(rows[skipped:], places[skipped:], self._loaded(rows[order]))

    def _own(self, generator: torch.Generator) -> Tensor:
        """Return the numbers of this share's blocks in the order of an epoch.

        Its whole blocks are as many in each epoch, and a shorter last block is always in one share.
        """
        whole = self.rows // self.block
        own = self.share.of_minibatch(torch.randperm(whole, generator=generator))
        if not self._has_rest():
            return own
        place = int(torch.randint(len(own) + 1, (), generator=generator))
        return torch.cat([own[:place], torch.tensor([whole]), own[place:]])

    def _has_rest(self) -> bool:
        whole, rest = divmod(self.rows, self.block)
        return rest > 0 and whole % self.share.parts == self.share.number

    def _buffers(self, seed: int) -> Iterator[Tensor]:
        """Yield the row numbers of each buffer of an epoch, shuffled."""
        generator = torch.Generator().manual_seed(seed)
        for numbers in self._own(generator).split(self.blocks):
            starts = (numbers * self.block).tolist()
            rows = [torch.arange(start, min(self.rows, start + self.block)) for start in starts]
            some = torch.cat(rows)
            yield some[torch.randperm(len(some), generator=generator)]

    def _sizes(self) -> list[int]:
        """Return the sizes of the minibatches of an epoch in this share."""
        number, parts = self.share
        size = self.batch_size // parts + (number < self.batch_size % parts)
        whole, rest = divmod(self.rows, self.block)
        rows = len(range(number, whole, parts)) * self.block + rest * self._has_rest()
        sizes, remaining = [size] * (rows // size), rows % size
        if remaining == 1 and sizes and parts == 1:  # which batch normalization cannot take
            sizes[-1] += 1
        elif remaining and not self.drop_last:
            sizes.append(remaining)
        return sizes

    def _loaded(self, rows: Tensor) -> tuple[Source, ...]:
        """Return some rows, in ascending order, in the memory of the graph's device.

        Raises:
            ValueError: if a value is not finite.
        """
        read = tuple(loaded(source, rows).to(self.placement[0]) for source in self.sources)
        for i, source in enumerate(read):
            bad = source.scan().not_finite if source.dtype.is_floating_point else None
            if bad is not None:
                raise ValueError(
                    f"{self.name}: {'x' if i == 0 else f'context {i}'}: {bad.value} in row "
                    f"{rows[bad.row]}, position {bad.position}. Remove those rows, or fill "
                    "the values in"
                )
        return read


def block_of(source: object) -> int | None:
    """Return how many rows of a source are quick to read together; None if each row is."""
    return getattr(source, "block", None)


def _fingerprint(sources: Sequence[Source]) -> str:
    """Return what is known of (x, *c) without reading them: of rows on the disk a digest, if any.

    It stands at the end, so that it begins as one that is taken before they were read.
    """
    unread = [source for source in sources if block_of(source)]
    shapes = hashlib.sha256(str([tuple(source.shape) for source in unread]).encode())
    for source in sources:
        shapes = shapes if block_of(source) else source.digest(shapes)
    known = [getattr(source, "known_digest", None) for source in unread]
    return " ".join([shapes.hexdigest(), *(digest for digest in known if digest)])


def _joined(pieces: list[Minibatch]) -> Minibatch:
    """Return one minibatch of the pieces of it that lie in different buffers."""
    if len(pieces) == 1:
        return pieces[0]
    batch, on_host = (
        tuple(torch.cat(members) for members in zip(*parts, strict=True))
        for parts in ([piece.batch for piece in pieces], [piece.on_host for piece in pieces])
    )
    rows = [piece.rows for piece in pieces if piece.rows is not None]
    return Minibatch(batch, torch.cat(rows), on_host)
