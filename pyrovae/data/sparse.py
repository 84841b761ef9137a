"""A sparse table by rows (CSR).

x[i, indices[k]] = values[k]   for indptr[i] <= k < indptr[i + 1], and 0 elsewhere

A table of counts is mostly zeros. It is kept as its non-zeros; only a minibatch's rows are dense.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.dense import TensorRows
from pyrovae.data.indices import check_indices
from pyrovae.data.placement import sent
from pyrovae.data.scan import Scan
from pyrovae.data.source import AT_ONCE, Rows, Selected, Source, loaded, slices

if TYPE_CHECKING:
    from pyrovae.data.supports import Support

__all__ = ["SelectedSparse", "SparseRows", "is_sparse", "to_scipy"]

_ROWS_AT_ONCE = 4096  # whose values are in double precision together
_DENSE = 0.25  # share of stored values from which a dense copy takes at most twice their memory
_LARGEST_COPY = 1 << 30  # bytes
_NOT_IN_SCIPY = (torch.float16, torch.bfloat16)


def is_sparse(x: object) -> bool:
    """Return whether x is a sparse matrix of SciPy's or torch's, or `SparseRows`.

    SciPy is not imported for it.
    """
    return (
        isinstance(x, SparseRows)
        or hasattr(x, "tocsr")
        or (isinstance(x, Tensor) and x.layout != torch.strided)
    )


class _Stored(Rows):
    """Rows of which only some values are stored; the others are zeros."""

    def scan(self, support: Support | None = None) -> Scan:
        """Return what one pass over the stored values and the zeros between them finds."""
        if support is None or self.stored() == self.numel() or support.admits(0, 0, True):
            return super().scan(support)
        dense = Selected(self, torch.arange(len(self)))  # in which zeros have a place
        return self.scan()._replace(off=dense.scan(support).off)

    def for_epochs(self) -> Rows:
        """Return a dense copy where it is not large: its minibatches need not be filled in."""
        n = self.numel()
        if self.stored() < _DENSE * n or n * self.dtype.itemsize > _LARGEST_COPY:
            return self
        values = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        for first, rows in self._dense_blocks():
            values[first : first + len(rows)] = rows
        return TensorRows(values)


class SparseRows(_Stored):
    """A sparse table that gives dense rows: `x[rows]` is a tensor with shape (len(rows), columns).

    Args:
        indptr: where each row's values begin, with shape (N + 1,).
        indices: columns of the values, each at most once per row, with shape (K,).
        values: the non-zeros, with shape (K,).
        columns: number of columns.

    Example:
        >>> indptr, indices = torch.tensor([0, 1, 1, 3]), torch.tensor([2, 0, 1])
        >>> x = SparseRows(indptr, indices, torch.tensor([5.0, 6.0, 7.0]), columns=3)
        >>> x[torch.tensor([2, 0])]
        tensor([[6., 7., 0.],
                [0., 0., 5.]])
    """

    def __init__(self, indptr: Tensor, indices: Tensor, values: Tensor, columns: int) -> None:
        super().__init__((len(indptr) - 1, columns), values.dtype, values.device)
        self.indptr, self.indices, self.values = indptr.long(), indices, values
        self._ends = self.indptr if indptr.device.type == "cpu" else None  # kept when it moves
        self._scipy: Any = None

    @classmethod
    def of(cls, x: Any) -> SparseRows:
        """Return the rows of a sparse matrix of SciPy's or torch's; the memory of CSR is shared.

        Raises:
            ValueError: if x is not two-dimensional, or its indices contradict each other.
        """
        if isinstance(x, cls):
            return x
        if x.ndim != 2:
            raise ValueError(
                f"sparse data have shape {tuple(x.shape)}, expected two axes: (rows, columns)"
            )
        check_indices(x)
        if isinstance(x, Tensor):
            return cls._of_tensor(x)
        x = x.tocsr()
        if not x.has_canonical_format:  # a column may be there twice in a row, meaning the sum
            x = x.copy()
            x.sum_duplicates()
        indptr, indices, values = (_shared(part) for part in (x.indptr, x.indices, x.data))
        return cls(indptr, indices, values, x.shape[1])

    @classmethod
    def _of_tensor(cls, x: Tensor) -> SparseRows:
        if x.layout == torch.sparse_csr:
            return cls(x.crow_indices(), x.col_indices(), x.values(), x.shape[1])
        x = x.to_sparse(layout=torch.sparse_coo).coalesce()  # rows in order
        rows, columns = x.indices()
        ends = torch.bincount(rows, minlength=x.shape[0]).cumsum(0)
        return cls(torch.cat([ends.new_zeros(1), ends]), columns, x.values(), x.shape[1])

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Return those rows dense, with shape (R, columns)."""
        if self.device.type == "cpu" and self.dtype not in _NOT_IN_SCIPY:
            index = rows if isinstance(rows, slice) else rows.cpu().numpy()
            return torch.from_numpy(to_scipy(self)[index].toarray())
        if isinstance(rows, slice):
            rows = torch.arange(*rows.indices(len(self)))
        lengths, places = self._stored_in(rows)
        x = torch.zeros(len(lengths), self.shape[1], dtype=self.dtype, device=self.device)
        row = torch.repeat_interleave(lengths, output_size=len(places))
        x[row, self.indices[places].long()] = self.values[places]
        return x

    def select(self, rows: Tensor) -> SparseRows:
        """Return those rows, still sparse."""
        lengths, places = self._stored_in(rows)
        indptr = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        return SparseRows(indptr, self.indices[places], self.values[places], self.shape[1])

    def view(self, rows: Tensor) -> _Stored:
        """Return those rows without a copy; `select` copies them."""
        whole = len(rows) == len(self) and torch.equal(rows.cpu(), torch.arange(len(self)))
        return self if whole else SelectedSparse(self, rows)

    def to(self, device: torch.device | str) -> SparseRows:
        """Return the table on a device, still sparse."""
        indptr, indices = self.indptr.to(device), self.indices.to(device)
        moved = SparseRows(indptr, indices, self.values.to(device), self.shape[1])
        moved._ends = self._ends
        return moved

    def float(self) -> SparseRows:
        """Return the table in single precision, the type of most minibatches."""
        return SparseRows(self.indptr, self.indices, self.values.float(), self.shape[1])

    def sum(self, dim: int) -> Tensor:
        """Return the sums over the rows (0) or over the columns (1) in double precision."""
        if dim == 0:
            parts = slices(self.stored(), AT_ONCE)
            return torch.stack([self._column_sums(part) for part in parts] or [self._none()]).sum(0)
        ends = torch.arange(0, len(self) + _ROWS_AT_ONCE, _ROWS_AT_ONCE).clamp(max=len(self))
        return torch.cat([self._row_sums(*some) for some in pairwise(ends.tolist())])

    def _none(self) -> Tensor:
        return torch.zeros(self.shape[1], dtype=torch.double, device=self.device)

    def _column_sums(self, part: slice) -> Tensor:
        values = self.values[part].double()
        return torch.bincount(self.indices[part], values, minlength=self.shape[1])

    def _row_sums(self, first: int, end: int) -> Tensor:
        offsets = self.indptr[first : end + 1]
        values = self.values[offsets[0] : offsets[-1]].double()
        return torch.segment_reduce(values, "sum", offsets=offsets - offsets[0], initial=0)

    def stored(self) -> int:
        """Return the number of stored values."""
        return len(self.values)

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the stored values in order."""
        for part in slices(len(self.values), AT_ONCE):
            yield part.start, self.values[part].detach()

    def place(self, first: int, index: list[int]) -> tuple[int, tuple[int, ...]]:
        """Return row and position of a stored value."""
        k = first + index[0]
        row = int(torch.searchsorted(self.indptr, k, right=True)) - 1
        return row, (int(self.indices[k]),)

    def structure(self) -> Iterator[Tensor]:
        """Yield `indptr` and `indices` as int64, whatever they are stored as."""
        for part in (self.indptr, self.indices):
            for some in slices(len(part), AT_ONCE):
                yield part[some].long()

    def _stored_in(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many values each row stores, and where they lie, row after row.

        How many they are together is read in this process's memory, not from a device.
        """
        total = None
        if self._ends is not None and rows.device.type == "cpu":
            total = int((self._ends[rows + 1] - self._ends[rows]).sum())
        rows = sent(rows, self.device)
        starts = self.indptr[rows]
        lengths = self.indptr[rows + 1] - starts
        row = torch.repeat_interleave(lengths, output_size=total)
        before = starts - lengths.cumsum(0) + lengths
        return lengths, torch.arange(len(row), device=row.device) + before[row]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out SciPy's view of the same memory."""
        return {**super().__getstate__(), "_scipy": None}


class SelectedSparse(_Stored):
    """Some rows of a sparse table, without a copy; their digest is that of a copy.

    Args:
        source: the whole table.
        rows: numbers of the rows, in the order wanted.
    """

    def __init__(self, source: SparseRows, rows: Tensor) -> None:
        super().__init__((len(rows), *source.shape[1:]), source.dtype, source.device)
        self.source, self.rows = source, rows
        self._lengths = source.indptr[rows + 1] - source.indptr[rows]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Return rows of the selection, dense."""
        return self.source[self.rows[rows]]

    def to(self, device: torch.device | str) -> Rows:
        """Return these rows on a device; on another device than the table's, as a copy."""
        if torch.device(device) == self.device:
            return self
        return self.source.select(self.rows).to(device)

    def stored(self) -> int:
        """Return the number of stored values."""
        return int(self._lengths.sum())

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield (number of the first row, the stored values of some rows)."""
        for part in self._parts():
            yield part.start, self.source.select(self.rows[part]).values

    def place(self, first: int, index: list[int]) -> tuple[int, tuple[int, ...]]:
        """Return row and position of a stored value."""
        ends = self._lengths[first:].cumsum(0)
        row = first + int(torch.searchsorted(ends, index[0], right=True))
        before = int(ends[row - first - 1]) if row > first else 0
        k = int(self.source.indptr[self.rows[row]]) + index[0] - before
        return row, (int(self.source.indices[k]),)

    def structure(self) -> Iterator[Tensor]:
        """Yield `indptr` and `indices` as int64."""
        yield torch.cat([self._lengths.new_zeros(1), self._lengths.cumsum(0)])
        for part in self._parts():
            yield self.source.select(self.rows[part]).indices.long()

    def _parts(self) -> Iterator[slice]:
        """Yield rows in parts of about `AT_ONCE` stored values."""
        mean = self.stored() / max(1, len(self))
        return slices(len(self), max(1, int(AT_ONCE / max(1.0, mean))))


def to_scipy(source: Source) -> Any:
    """Return a table as a `scipy.sparse.csr_matrix`, which shares the memory of `SparseRows`."""
    from scipy.sparse import csr_matrix

    source = loaded(source, torch.arange(len(source))) if getattr(source, "block", None) else source
    if not isinstance(source, SparseRows):
        return csr_matrix(source[:].cpu().numpy())
    if source._scipy is None:
        wide = source.indices.dtype == torch.int64 or source.stored() >= 2**31
        index = torch.int64 if wide else torch.int32  # one type for both, or SciPy copies
        table = csr_matrix(tuple(source.shape), dtype=source.values.cpu().numpy().dtype)
        table.data = source.values.cpu().numpy()
        table.indices = source.indices.to("cpu", index).numpy()
        table.indptr = source.indptr.to("cpu", index).numpy()
        source._scipy = table
    return source._scipy


def _shared(array: np.ndarray) -> Tensor:
    """Return an array as a tensor, sharing its memory where torch can."""
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # torch computes little with these
        array = array.astype(np.int64)
    plain = array.flags.writeable and array.flags.c_contiguous
    return torch.from_numpy(array if plain else np.array(array, order="C"))
