"""Strings in an HDF5 file, looked at before the HDF5 library reads them.

Strings of any length lie in global heaps (HDF5 file format 3.0, section III.E): a heap begins with
"GCOL" and is a row of objects, each with its own length. A free one of length 0, as where a block
of the file was lost and is zeros, sends the library round in a loop without an end.
"""

import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["check_heaps", "check_strings"]

_HEAP = b"GCOL\x01\x00\x00\x00"
_NUMBER, _OBJECT = struct.Struct("<Q"), struct.Struct("<HHIQ")  # index, references, -, length
_FIRST = len(_HEAP) + _NUMBER.size  # of the objects in a heap
_REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("index", "<u4")])  # to a string


def check_heaps(file: Path) -> None:
    """Raise a ValueError if a heap of strings is damaged so that it could not be read to its end.

    The whole file is passed over, at some GB/s.
    """
    if not file.stat().st_size:
        return
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(_HEAP)
        while at >= 0:
            if _is_endless(data, at):
                raise ValueError(f"the strings at byte {at} are overwritten")
            at = data.find(_HEAP, at + len(_HEAP))


def check_strings(group: Any, file: Path) -> None:
    """Raise a ValueError if a string of a group of an open HDF5 file lies in a damaged heap.

    Only references to strings and the heaps that they name are read: 16 bytes for each string and
    the strings. References in compressed chunks are not looked at.
    """
    import h5py

    heaps: set[int] = set()

    def note(_: str, part: Any) -> None:
        if not isinstance(part, h5py.Dataset) or part.id.get_offset() is None:
            return
        kind = h5py.check_string_dtype(part.dtype)
        if kind is not None and kind.length is None:
            with file.open("rb") as opened:
                opened.seek(part.id.get_offset())
                content = opened.read(part.size * _REFERENCE.itemsize)
            whole = len(content) - len(content) % _REFERENCE.itemsize
            found = np.frombuffer(content[:whole], _REFERENCE)
            heaps.update(np.unique(found["heap"][found["length"] > 0]).tolist())

    if group.file.id.get_create_plist().get_sizes()[0] != _NUMBER.size:
        return  # addresses of another size, which anndata does not write
    group.visititems(note)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for at in sorted(heaps):
            if data[at : at + len(_HEAP)] == _HEAP and _is_endless(data, at):
                raise ValueError(f"the strings at byte {at} are overwritten")


def _is_endless(data: mmap.mmap, at: int) -> bool:
    """Return whether the objects of the heap at a byte do not lead to its end."""
    if at + _FIRST > len(data):
        return False
    end = min(at + _NUMBER.unpack_from(data, at + len(_HEAP))[0], len(data))
    place = at + _FIRST
    while place + _OBJECT.size <= end:
        index, _, _, length = _OBJECT.unpack_from(data, place)
        if not index and not length:
            return True
        place += (_OBJECT.size + -(-length // 8) * 8) if index else length
    return False
