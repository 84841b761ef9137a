"""Minibatches (x, *c): arrays become sources, and rows of them float tensors on a device."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from pyrovae.data.binarizing import binarize
from pyrovae.data.dense import TensorRows, array_rows
from pyrovae.data.placement import sent
from pyrovae.data.refused import check_is_array, read_as_array
from pyrovae.data.source import Source, slices
from pyrovae.data.sparse import SparseRows, is_sparse
from pyrovae.data.threads import ThreadWatch

__all__ = [
    "Array",
    "Data",
    "Sources",
    "Transform",
    "as_source",
    "as_sources",
    "batches_in_order",
    "binarize",
    "device_and_dtype",
    "fingerprint",
    "placed",
    "read",
    "rows_at_once",
    "shuffled_batches",
    "split",
    "spread",
    "take",
    "unread_sources",
]

Array = Any  # a NumPy array, a torch tensor, a sparse matrix of SciPy's or torch's, or a Source
Data = Any  # x, or a tuple (x, *c)
Sources = Sequence[Source | Tensor]  # (x, *c), read by row numbers
Transform = Callable[[Tensor], Tensor]

_ROWS = 1024
_VALUES = 1 << 20  # of x in a minibatch; hidden maps of networks of images are several times larger
_LEAST_ROWS = 32
_OF_LIST = ". A list is read as the tuple (x, *c) is: pass minibatches as iter(batches)"
_INDICES = (torch.int32, torch.int64)  # the types that torch's Embedding takes


def as_sources(data: Data, name: str = "data", digest: bool = False) -> tuple[Source, ...]:
    """Return `x` or `(x, *c)` as sources with N rows each, checked for NaN and infinite values.

    A source is returned as it is, and not read again if it was scanned before.

    Args:
        data: x with shape (N, *event), or a tuple (x, *c) with N rows each: arrays, memory maps and
            tensors of any real type, sparse matrices, sources; or a `TensorDataset`. Types
            are kept, and nothing is copied whole.
        name: what errors call it.
        digest: take the `fingerprint` in the same pass over the values.

    Raises:
        TypeError: if a member is not an array of real numbers.
        ValueError: if it is empty, numbers of rows differ, or a value is NaN or infinite; the
            message names the place.
    """
    sources = unread_sources(data, name)
    if digest:
        fingerprint(list(sources.values()))
    for label, source in sources.items():
        _check_finite(source, label)
    return tuple(sources.values())


def unread_sources(data: Data, name: str) -> dict[str, Source]:
    """Return `x` or `(x, *c)` as sources with N rows each, by what errors call them.

    Arguments and errors are those of `as_sources`, but no value is read.
    """
    if isinstance(data, TensorDataset):
        data = data.tensors
    members = list(data) if isinstance(data, list | tuple) else [data]
    if not members:
        raise ValueError(f"{name}: got an empty tuple, expected x or (x, *c)")
    labels = [f"{name}: x", *(f"{name}: context {i}" for i in range(1, len(members)))]
    sources = {label: as_source(x, label) for label, x in zip(labels, members, strict=True)}
    rows = len(sources[labels[0]])
    for label, source in sources.items():
        if len(source) != rows:
            raise ValueError(
                f"{label} has {len(source)} rows, x has {rows}: "
                f"expected one row of context per row of x{_OF_LIST * isinstance(data, list)}"
            )
    return sources


def as_source(x: Array, label: str = "x") -> Source:
    """Return an array as a source of rows, without reading its values; a source as it is.

    Args:
        x: a NumPy array, memory map, tensor or sparse matrix of any real type, with shape
            (N, *event).
        label: what errors call it.

    Raises:
        TypeError: if x is not an array of real numbers.
        ValueError: if it holds no value.
    """
    if isinstance(x, Source):
        return x
    if not (isinstance(x, Tensor) or is_sparse(x)):
        check_is_array(x, label)
        x = x if isinstance(x, np.ndarray) else read_as_array(x, label)
    if x.is_complex() if isinstance(x, Tensor) else x.dtype.kind not in "biuf":
        raise TypeError(
            f"{label} has dtype {x.dtype}, expected real numbers in a NumPy array, "
            "a torch tensor or a sparse matrix"
        )
    if len(x.shape) == 0 or 0 in x.shape:
        raise ValueError(
            f"{label} has shape {tuple(x.shape)}, expected at least one row: (N, *event)"
        )
    if isinstance(x, Tensor) and x.is_meta:
        raise ValueError(
            f"{label} is on the device meta, where it has no values: leave the "
            '"with torch.device("meta")" block, and make the data outside of it'
        )
    if is_sparse(x):
        return SparseRows.of(x)
    return TensorRows(x) if isinstance(x, Tensor) else array_rows(x)


def _check_finite(source: Source, label: str) -> None:
    bad = source.scan().not_finite if source.dtype.is_floating_point else None
    if bad is not None:
        raise ValueError(
            f"{label}: {bad.value} in row {bad.row}, position {bad.position} ({bad.total} values "
            "are not finite). Remove those rows, or fill the values in"
        )


def fingerprint(data: Sequence[Array]) -> str:
    """Return a SHA-256 of shapes, types and values of (x, *c): it tells which data a model saw."""
    digest = hashlib.sha256()
    for source in map(as_source, data):
        digest = source.digest(digest)
    return digest.hexdigest()


def device_and_dtype(graph: object, data: Sources) -> tuple[torch.device, torch.dtype]:
    """Return device and type of the graph's parameters; x's device and torch's type without any.

    Raises:
        ValueError: if the graph is on the device meta.
    """
    first = next(iter(graph.parameters()), None) if isinstance(graph, nn.Module) else None
    if first is None:
        return data[0].device, torch.get_default_dtype()
    if first.device.type == "meta":
        raise ValueError(
            f"{type(graph).__name__} is on the device meta, where parameters have no values: build "
            'it outside torch.device("meta"), or call graph.to_empty(device="cpu") and load weights'
        )
    return first.device, first.dtype


def take(
    data: Sources,
    rows: Tensor | slice,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, ...]:
    """Return those rows of each member as dense tensors on one device, see `placed`."""
    return placed(read(data, rows), device, dtype)


def read(data: Sources, rows: Tensor | slice) -> tuple[Tensor, ...]:
    """Return those rows of each member as dense tensors, as they are stored."""
    return tuple(member[rows].detach() for member in data)


def placed(
    batch: tuple[Tensor, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Return a minibatch (x, *c) on a device.

    x gets the floating-point type, and so does context, but for integers of 32 or 64 bits: labels
    and positions, with which a network may look rows of a table up.
    """
    x, *c = batch
    kept = (part if part.dtype in _INDICES else part.to(dtype) for part in c)
    return sent(x, device).to(dtype), *(sent(part, device) for part in kept)


def batches_in_order(graph: object, data: Sources) -> Iterator[tuple[Tensor, ...]]:
    """Yield the data in order as minibatches of the device and type of the graph's parameters."""
    with ThreadWatch() as watch:
        for rows in slices(len(data[0]), rows_at_once(data[0].shape[1:])):
            yield take(data, rows, *device_and_dtype(graph, data))
            watch.look()


def rows_at_once(event: Sequence[int], most: int = _ROWS) -> int:
    """Return how many rows of x, each of shape `event`, an evaluation runs together."""
    return max(_LEAST_ROWS, min(most, _VALUES // max(1, prod(event))))


def shuffled_batches(n: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Return the row numbers of one epoch's minibatches, shuffled.

    A last minibatch of one row, which batch normalization cannot take, is joined to the one before.
    One minibatch of all rows has them in order: a guide may have parameters for each, by its place.
    """
    batches = list(torch.randperm(n, generator=generator).split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches if len(batches) > 1 else [torch.arange(n)]


def split(n: int, fraction: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the row numbers of a random training and held-out part, each in ascending order.

    Args:
        n: number of rows, at least 2.
        fraction: fraction of the rows that is held out, in (0, 1); each part has at least one row.
        seed: of the draw; the global random state is not touched.

    Raises:
        ValueError: if there are fewer than two rows or `fraction` is not in (0, 1).

    Example:
        >>> train, held_out = split(10, 0.2)
        >>> len(train), len(held_out)
        (8, 2)
    """
    if n < 2 or not 0 < fraction < 1:
        raise ValueError(
            f"split: {n} rows and a fraction of {fraction}, "
            "expected at least 2 rows and a fraction in (0, 1)"
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    held_out = min(n - 1, max(1, round(n * fraction)))
    return order[held_out:].sort().values, order[:held_out].sort().values


def spread(n: int, k: int) -> Tensor:
    """Return at most k of the row numbers 0 to n - 1, evenly spread: data may be sorted by class.

    Example:
        >>> spread(10, 4)
        tensor([0, 3, 6, 9])
    """
    k = min(n, k)
    return torch.arange(k) * (n - 1) // max(1, k - 1)
