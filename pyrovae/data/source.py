"""A source is N rows of real numbers, wherever they are kept, with two ways to read them.

    source[rows]       those rows as a dense tensor
    source.scan()      one pass over all values: their range, and the first one that is not valid

Fitting, evaluation and tasks ask for nothing else. Tensors, NumPy arrays, memory maps and sparse
tables have a class each; a further kind, such as rows on disk, is one more class.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.scan import Off, Reading, Scan
from pyrovae.data.threads import torch_threads

if TYPE_CHECKING:
    from pyrovae.data.supports import Support

__all__ = ["Rows", "Selected", "Source", "loaded", "row_numbers", "rows_within", "slices"]

AT_ONCE = 1 << 20  # values in memory together while data are scanned: 4 MiB in float32
Hash = Any  # what hashlib.sha256() returns


@runtime_checkable
class Source(Protocol):
    """N rows of real numbers with shape (N, *event), read by number; nothing is written to them.

    `Rows` brings all members but `__getitem__`.
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def __len__(self) -> int:
        """Return N."""
        ...

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Return those rows as a dense tensor of type `dtype`."""
        ...

    def select(self, rows: Tensor) -> Source:
        """Return those rows as a source of the same kind, or as a view of this one."""
        ...

    def to(self, device: torch.device | str) -> Source:
        """Return the rows on a device, or the source itself if its rows are moved when taken."""
        ...

    def sum(self, dim: int) -> Tensor:
        """Return the sums over the rows (0) or columns (1) of a table, in double precision."""
        ...

    def count_nonzero(self) -> int:
        """Return the number of values that are not zero."""
        ...

    def scan(self, support: Support | None = None) -> Scan:
        """Return what one pass over all values finds; the result is kept."""
        ...

    def digest(self, before: Hash) -> Hash:
        """Return the SHA-256 of what came before and of this source; the result is kept."""
        ...


class Rows(ABC):
    """What the library's sources share: one pass over the values, in blocks of bounded memory.

    A kind of source calls `super().__init__` and writes `__getitem__`. Where values are not stored
    as dense rows, it writes `blocks`, `place`, `stored` and `structure` too.

    Args:
        shape: (N, *event).
        dtype: type of the values.
        device: where `__getitem__` returns them.

    Attributes:
        block: how many neighbouring rows are quick to read together, where single rows are slow, as
            in compressed files; None where any row is as quick.

    Example:
        >>> class Squares(Rows):
        ...     def __getitem__(self, rows):
        ...         return torch.arange(len(self))[rows].unsqueeze(1) ** 2
        >>> Squares((5, 1), torch.int64).scan()
        Scan(low=0.0, high=16.0, whole=True, not_finite=None, off=None)
    """

    block: int | None = None

    def __init__(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self.shape, self.dtype, self.device = torch.Size(shape), dtype, torch.device(device)
        self._scan: Scan | None = None
        self._off: dict[Support, Off | None] = {}
        self._digests: dict[bytes, Hash] = {}  # what came before: the state after this source

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what Python cannot copy, the states of hashlib."""
        return {**self.__dict__, "_digests": {}}

    def __len__(self) -> int:
        return self.shape[0]

    @abstractmethod
    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Return those rows as a dense tensor of type `dtype`."""

    def select(self, rows: Tensor) -> Rows:
        """Return those rows as a view of this source."""
        return Selected(self, rows)

    def view(self, rows: Tensor) -> Rows:
        """Return those rows without a copy."""
        return Selected(self, rows)

    def load(self, rows: Tensor) -> Source:
        """Return those rows in memory; it is quick for rows in ascending order."""
        return self.select(rows)

    def to(self, device: torch.device | str) -> Rows:
        """Return this source: each minibatch is moved when it is taken."""
        return self

    def for_epochs(self) -> Rows:
        """Return the same rows as they are read fastest many times: a copy, or this source."""
        return self

    def numel(self) -> int:
        """Return the number of values, zeros that are not stored included."""
        return self.shape.numel()

    def sum(self, dim: int) -> Tensor:
        """Return a table's sums over the rows (0) or the columns (1), in double precision."""
        sums = [rows.double().sum(dim) for _, rows in self._dense_blocks()]
        return torch.cat(sums) if dim else torch.stack(sums).sum(0)

    def count_nonzero(self) -> int:
        """Return the number of values that are not zero."""
        return sum(int(values.count_nonzero()) for _, values in self.blocks())

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield (number of the first value or row, values) of at most `AT_ONCE` stored values."""
        return self._dense_blocks()

    def place(self, first: int, index: list[int]) -> tuple[int, tuple[int, ...]]:
        """Return row and position of the value at `index` of the block that begins at `first`."""
        return first + index[0], tuple(index[1:])

    def stored(self) -> int:
        """Return the number of values that `blocks` yields; the others are zeros."""
        return self.numel()

    def structure(self) -> Iterator[Tensor]:
        """Yield the tensors that the digest covers before the stored values."""
        return iter(())

    def scan(self, support: Support | None = None) -> Scan:
        """Return the range of all values, the first not finite, and the first off the support.

        The values are read at the first call. A later one reads them again only if their range
        shows that some are off its support.
        """
        if self._scan is None:
            self._read(support)
        found: Any = self._scan
        if support is None or (found.not_finite is None and support.admits(*found[:3])):
            return found
        if support not in self._off:
            self._read(support)
        return found._replace(off=self._off[support])

    def digest(self, before: Hash) -> Hash:
        """Return the SHA-256 of what came before and of this source; the same pass is a scan."""
        key = before.digest()
        if key not in self._digests:
            after = before.copy()
            self._read(digest=after)
            self._digests[key] = after
        return self._digests[key].copy()

    def _read(self, support: Support | None = None, digest: Hash = None) -> None:
        if digest is not None:
            digest.update(f"{tuple(self.shape)} {self.dtype};".encode())
            for part in self.structure():
                digest.update(_bytes(part))
        reading = Reading(self.place, support, zeros=self.stored() < self.numel())
        with torch_threads(1):  # two that share a busy machine take ten times as long for a block
            for first, values in self.blocks():
                if digest is not None:
                    digest.update(_bytes(values))
                reading.look(first, values)
        self._scan = reading.found()
        if support is not None:
            self._off[support] = reading.off

    def _dense_blocks(self) -> Iterator[tuple[int, Tensor]]:
        for rows in slices(len(self), rows_within(self.shape, AT_ONCE)):
            yield rows.start, self[rows].detach()


class Selected(Rows):
    """Some rows of a source, without a copy.

    Args:
        source: the whole.
        rows: numbers of the rows, in the order wanted, or a mask.
    """

    def __init__(self, source: Source, rows: Tensor) -> None:
        rows = row_numbers(rows, len(source))
        super().__init__((len(rows), *source.shape[1:]), source.dtype, source.device)
        self.source, self.rows = source, rows
        self.block = getattr(source, "block", None)

    @property
    def known_digest(self) -> str | None:
        """A SHA-256 of these rows, if the source knows its own."""
        whole = getattr(self.source, "known_digest", None)
        return whole and hashlib.sha256(whole.encode() + _bytes(self.rows)).hexdigest()

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Return rows of the selection."""
        return self.source[self.rows[rows]]

    def load(self, rows: Tensor) -> Source:
        """Return rows of the selection in memory."""
        return loaded(self.source, self.rows[rows])


def row_numbers(rows: Any, n: int) -> Tensor:
    """Return the numbers of some of n rows, given as numbers, a mask or a slice.

    Raises:
        IndexError: if there is no such row, a mask has another length, or they are no integers.

    Example:
        >>> row_numbers([2, -1], 5), row_numbers(torch.arange(5) > 2, 5)
        (tensor([2, 4]), tensor([3, 4]))
    """
    if isinstance(rows, slice):
        return torch.arange(*rows.indices(n))
    rows = rows if isinstance(rows, Tensor) else torch.tensor(np.ascontiguousarray(rows))
    if rows.dtype == torch.bool:
        if rows.shape != (n,):
            raise IndexError(f"a mask of shape {tuple(rows.shape)}, expected ({n},)")
        return rows.nonzero().flatten()
    if not rows.numel():
        return rows.long().flatten()
    if rows.is_floating_point() or rows.is_complex() or rows.dim() != 1:
        given = f"rows of type {rows.dtype} and shape {tuple(rows.shape)}"
        raise IndexError(f"{given}, expected row numbers, which are integers, or a mask ({n},)")
    low, high = (int(v) for v in rows.aminmax())
    if low < -n or high >= n:
        raise IndexError(f"row {low if low < -n else high} of {n} rows")
    return rows.long() if low >= 0 else rows.long() % n


def loaded(source: Source, rows: Tensor) -> Source:
    """Return some rows of a source in memory, if it can load them, else as a view."""
    return source.load(rows) if isinstance(source, Rows) else source.select(rows)


def rows_within(shape: Sequence[int], values: int) -> int:
    """Return how many rows of data with that shape hold at most `values` numbers; at least one.

    Example:
        >>> rows_within((60_000, 28, 28), 10_000)
        12
    """
    return max(1, values // max(1, prod(shape[1:])))


def slices(n: int, size: int) -> Iterator[slice]:
    """Yield the numbers 0 to n - 1 in order, `size` at a time and the remainder last.

    Example:
        >>> list(slices(5, 2))
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _bytes(values: Tensor) -> Any:
    """Return the memory of a tensor on the CPU, in row-major order."""
    return values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
