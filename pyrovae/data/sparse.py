"""Rows held sparse: row i of x is zero but for x[i, indices[k]] = values[k], indptr[i] <= k < indptr[i + 1] (CSR).

Nine tenths of a table of counts are zeros. It is kept as its non-zeros until a minibatch is asked for, which comes out dense.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["SparseRows", "is_sparse"]


def is_sparse(x: object) -> bool:
    """Whether x is a sparse matrix of SciPy's or torch's, or `SparseRows`; SciPy is not imported for it."""
    return (
        isinstance(x, SparseRows)
        or hasattr(x, "tocsr")
        or (isinstance(x, Tensor) and x.layout != torch.strided)
    )


class SparseRows:
    """A sparse table that gives dense rows: `x[rows]` is a tensor with shape (len(rows), columns). Nothing is written to.

    Args:
        indptr: where each row's stretch begins, with shape (N + 1,).
        indices: columns of the non-zeros, each at most once a row, with shape (K,).
        values: the non-zeros, with shape (K,).
        columns: how many there are.

    Example:
        >>> x = SparseRows(torch.tensor([0, 1, 1, 3]), torch.tensor([2, 0, 1]), torch.tensor([5.0, 6.0, 7.0]), columns=3)
        >>> x[torch.tensor([2, 0])]
        tensor([[6., 7., 0.],
                [0., 0., 5.]])
    """

    ndim = 2

    def __init__(self, indptr: Tensor, indices: Tensor, values: Tensor, columns: int) -> None:
        self.indptr, self.indices, self.values = indptr.long(), indices, values
        self.shape = torch.Size((len(indptr) - 1, columns))
        self.dtype, self.device = values.dtype, values.device

    @classmethod
    def of(cls, x: Any) -> "SparseRows":
        """Make them from a sparse matrix of SciPy's (any format) or torch's; memory is shared where the format is CSR.

        Raises:
            ValueError: if x has not two axes.
        """
        if isinstance(x, cls):
            return x
        if x.ndim != 2:
            raise ValueError(
                f"sparse data have shape {tuple(x.shape)}, expected two axes: (rows, columns)"
            )
        if isinstance(x, Tensor):
            x = x.coalesce() if x.layout == torch.sparse_coo else x
            x = x if x.layout == torch.sparse_csr else x.to_sparse_csr()
            return cls(x.crow_indices(), x.col_indices(), x.values(), x.shape[1])
        x = x.tocsr()
        if not x.has_canonical_format:  # a column may be there twice in a row, meaning the sum
            x = x.copy()
            x.sum_duplicates()
        indptr, indices, values = (_shared(part) for part in (x.indptr, x.indices, x.data))
        return cls(indptr, indices, values, x.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Return those rows dense, with shape (R, columns)."""
        if isinstance(rows, slice):
            rows = torch.arange(*rows.indices(len(self)))
        if self.device.type != "cpu" or self.dtype == torch.bfloat16:
            return self._gathered(rows.to(self.device))
        return self._copied(rows.cpu().numpy())

    def select(self, rows: Tensor) -> "SparseRows":
        """Return those rows, still sparse."""
        lengths, places = self._stretches(rows.to(self.device))
        indptr = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        return SparseRows(indptr, self.indices[places], self.values[places], self.shape[1])

    def to(self, device: torch.device | str) -> "SparseRows":
        """Return the same on a device."""
        return SparseRows(
            self.indptr.to(device), self.indices.to(device), self.values.to(device), self.shape[1]
        )

    def float(self) -> "SparseRows":
        """Return the same in single precision, what minibatches are made of most often."""
        return SparseRows(self.indptr, self.indices, self.values.float(), self.shape[1])

    def numel(self) -> int:
        """Return the number of values, zeros included."""
        return self.shape.numel()

    def is_floating_point(self) -> bool:
        """Whether the values are of a floating-point type."""
        return self.dtype.is_floating_point

    def is_complex(self) -> bool:
        """Whether the values are complex."""
        return self.dtype.is_complex

    def sum(self, dim: int) -> Tensor:
        """Return the sums over an axis in double precision, with shape (columns,) for 0 and (N,) for 1."""
        values = self.values.double()
        if dim == 0:
            return torch.bincount(self.indices, values, minlength=self.shape[1])
        running = torch.cat([values.new_zeros(1), values.cumsum(0)])
        return running[self.indptr[1:]] - running[self.indptr[:-1]]

    def place(self, k: int) -> tuple[int, int]:
        """Return row and column of the k-th non-zero."""
        return int(torch.searchsorted(self.indptr, k, right=True)) - 1, int(self.indices[k])

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return indptr, indices and values in types that do not hang on where they came from."""
        return self.indptr, self.indices.long(), self.values

    def _copied(self, rows: np.ndarray) -> Tensor:
        """Join the rows' stretches and write them at once: at 128 rows of 2,511, 17 % non-zero, 0.24 ms, a third of `_gathered`."""
        x = torch.zeros(len(rows), self.shape[1], dtype=self.dtype)
        indptr, indices, values = (
            part.numpy() for part in (self.indptr, self.indices, self.values)
        )
        starts, ends = indptr[rows], indptr[rows + 1]
        spans = [
            slice(start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
        if not spans:
            return x
        first = (
            np.arange(len(rows), dtype=np.int32 if x.numel() < 2**31 else np.int64) * self.shape[1]
        )
        places = np.concatenate([indices[span] for span in spans]) + np.repeat(first, ends - starts)
        x.numpy().reshape(-1)[places] = np.concatenate([values[span] for span in spans])
        return x

    def _gathered(self, rows: Tensor) -> Tensor:
        lengths, places = self._stretches(rows)
        x = torch.zeros(len(rows), self.shape[1], dtype=self.dtype, device=self.device)
        row = torch.repeat_interleave(lengths, output_size=len(places))
        x[row, self.indices[places].long()] = self.values[places]
        return x

    def _stretches(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the length of each row's stretch, and where the non-zeros of all of them lie, row after row."""
        starts = self.indptr[rows]
        lengths = self.indptr[rows + 1] - starts
        row = torch.repeat_interleave(lengths)
        return lengths, torch.arange(len(row), device=row.device) + (
            starts - lengths.cumsum(0) + lengths
        )[row]


def _shared(array: np.ndarray) -> Tensor:
    if (
        array.dtype.kind == "u" and array.dtype.itemsize > 1
    ):  # torch computes little with uint16 to uint64
        array = array.astype(np.int64)
    return torch.from_numpy(
        array if array.flags.writeable and array.flags.c_contiguous else np.array(array, order="C")
    )
