"""Dense sources: tensors, NumPy arrays, memory maps, and rows transformed when they are read."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data.placement import sent
from pyrovae.data.source import Rows, Source

__all__ = ["ArrayRows", "TensorRows", "TransformedRows", "array_rows"]


class TensorRows(Rows):
    """The rows of a tensor on any device, which is shared and not copied.

    Args:
        values: a strided tensor with shape (N, *event).
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__(values.shape, values.dtype, values.device)
        self.values = values

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Return those rows: a view for a slice, a copy for row numbers."""
        return self.values[rows if isinstance(rows, slice) else sent(rows, self.device)]

    def select(self, rows: Tensor) -> Rows:
        """Return a copy of those rows."""
        return TensorRows(self.values[rows])

    def to(self, device: torch.device | str) -> Rows:
        """Return all rows on a device."""
        return self if self.device == torch.device(device) else TensorRows(self.values.to(device))


class ArrayRows(Rows):
    """The rows of a NumPy array whose memory torch cannot share: read-only, mapped from a file.

    Only the rows asked for are copied. Unsigned integers of more than 8 bits become int64, with
    which torch can compute.

    Args:
        array: real numbers with shape (N, *event), in any order of bytes and with any strides.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.mapped = np.asarray(array), isinstance(array, np.memmap)
        self.type = _native(array.dtype)
        super().__init__(array.shape, torch.from_numpy(np.empty(0, self.type)).dtype)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Return a copy of those rows."""
        if isinstance(rows, slice):
            return torch.from_numpy(np.array(self.array[rows], self.type, order="C"))
        return torch.from_numpy(np.ascontiguousarray(self.array[rows.cpu().numpy()], self.type))

    def to(self, device: torch.device | str) -> Rows:
        """Return all rows on a device; those of a memory map stay on the disk."""
        return self if self.mapped else TensorRows(self[:].to(device))


class TransformedRows(Rows):
    """The rows of a source, transformed each time they are read.

    Args:
        source: the rows as stored.
        transform: maps floating-point rows to as many rows.
        device: where the transform runs.
        dtype: type of what it is given.
    """

    def __init__(
        self,
        source: Source,
        transform: Callable[[Tensor], Tensor],
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        self.source, self.transform, self._given = source, transform, (device, dtype)
        few = self[:2]
        super().__init__((len(source), *few.shape[1:]), few.dtype, few.device)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Return those rows transformed."""
        return self.transform(self.source[rows].to(*self._given))


def array_rows(array: np.ndarray) -> Rows:
    """Return the rows of a NumPy array, with its memory shared where torch can."""
    strides = all(stride >= 0 for stride in array.strides)
    shared = array.flags.writeable and array.dtype == _native(array.dtype) and strides
    if shared and not isinstance(array, np.memmap):
        return TensorRows(torch.from_numpy(array))
    return ArrayRows(array)


def _native(dtype: Any) -> np.dtype:
    """Return the type in which torch can hold such values."""
    if dtype.kind == "u" and dtype.itemsize > 1:
        return np.dtype(np.int64)
    return np.dtype(np.float64) if dtype.itemsize > 8 else dtype.newbyteorder("=")
