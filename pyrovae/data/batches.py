"""Minibatches (x, *c) from arrays: what comes in is checked once, over all values; float tensors on one device go out.

Sparse matrices, SciPy's or torch's, stay sparse (as `pyrovae.sparse.SparseRows`) until a minibatch is taken from them.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae.data.sparse import SparseRows, is_sparse

__all__ = [
    "Data",
    "as_tensors",
    "batches_in_order",
    "binarize",
    "chunks",
    "device_and_dtype",
    "fingerprint",
    "shuffled_batches",
    "split",
    "take",
]

Array = Any  # a NumPy array, a torch tensor, or a sparse matrix of SciPy's or torch's
Data = Any  # x, or a tuple (x, *c)
Transform = Callable[[Tensor], Tensor]

_ROWS = 1024
_CHECKED_AT_ONCE = 1 << 22  # values looked at together: 16 MiB in float32


def as_tensors(data: Data, name: str = "data") -> tuple[Tensor, ...]:
    """Return `x` or `(x, *c)` as tensors with one common first axis, after looking at every value.

    Args:
        data: x with shape (N, *event), or a tuple (x, *c) of arrays with N rows each; NumPy or torch, any real type. A sparse
            matrix stays one, as `SparseRows`, which gives dense rows when indexed.
        name: what to call it in errors.

    Raises:
        TypeError: if a member is not an array of real numbers.
        ValueError: if it is empty, rows differ, or a value is NaN or infinite; the message names the place.
    """
    members: list[Any] = list(data) if isinstance(data, list | tuple) else [data]
    if not members:
        raise ValueError(f"{name}: got an empty tuple, expected x or (x, *c)")
    names = [f"{name}: x", *(f"{name}: context {i}" for i in range(1, len(members)))]
    tensors = tuple(_as_tensor(member, label) for member, label in zip(members, names, strict=True))
    for tensor, label in zip(tensors[1:], names[1:], strict=True):
        if len(tensor) != len(tensors[0]):
            raise ValueError(
                f"{label} has {len(tensor)} rows, x has {len(tensors[0])}: expected one row of context a row of x"
            )
    return tensors


def _as_tensor(member: Array, label: str) -> Any:
    if is_sparse(member):
        return _as_rows(member, label)
    if not isinstance(member, Tensor):
        array = np.asarray(member)
        if array.dtype.kind not in "biuf":
            raise TypeError(
                f"{label} has dtype {array.dtype}, expected real numbers in a NumPy array or a torch tensor"
            )
        if (
            array.dtype.kind == "u" and array.dtype.itemsize > 1
        ):  # torch computes little with uint16 to uint64
            array = array.astype(np.int64)
        plain = array.flags.c_contiguous and array.flags.writeable  # torch shares no other memory
        member = torch.from_numpy(array if plain else np.array(array, order="C"))
    if member.is_complex():
        raise TypeError(f"{label} is complex, expected real numbers")
    if member.ndim == 0 or member.numel() == 0:
        raise ValueError(
            f"{label} has shape {tuple(member.shape)}, expected at least one row: (N, *event)"
        )
    if member.is_floating_point():
        _check_finite(member, label)
    return member


def _as_rows(member: Any, label: str) -> SparseRows:
    kind = getattr(member.dtype, "device_and_dtype", "f")  # a torch type has none
    if kind not in "biuf" or (isinstance(member, Tensor) and member.is_complex()):
        raise TypeError(
            f"{label} has dtype {member.dtype}, expected real numbers in a sparse matrix"
        )
    rows = SparseRows.of(member)
    if rows.numel() == 0:
        raise ValueError(
            f"{label} has shape {tuple(rows.shape)}, expected at least one row and one column"
        )
    if rows.is_floating_point():
        bad = (~torch.isfinite(rows.values)).nonzero()
        if len(bad):
            (row, column), value = rows.place(int(bad[0])), rows.values[bad[0]].item()
            raise ValueError(
                f"{label}: {value} in row {row}, position ({column},) ({len(bad)} such values). Drop or impute them before fitting"
            )
    return rows


def _check_finite(tensor: Tensor, label: str) -> None:
    for start, rows in chunks(tensor, _CHECKED_AT_ONCE):
        bad = ~torch.isfinite(rows)
        if bad.any():
            place = bad.nonzero()[0].tolist()
            value = rows[tuple(place)].item()
            raise ValueError(
                f"{label}: {value} in row {start + place[0]}, position {tuple(place[1:])} "
                f"({int(bad.sum())} such values in rows {start} to {start + len(rows) - 1}). Drop or impute them before fitting"
            )


def chunks(tensor: Tensor, values: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, rows) so that no piece holds more than `values` numbers, and each at least one row."""
    rows = max(1, values // max(1, tensor.shape[1:].numel()))
    for start in range(0, len(tensor), rows):
        yield start, tensor[start : start + rows]


def device_and_dtype(graph: object, data: tuple[Tensor, ...]) -> tuple[torch.device, torch.dtype]:
    """Return the device and type of the graph's parameters: what minibatches are turned into."""
    first = next(iter(graph.parameters()), None) if isinstance(graph, nn.Module) else None
    return (
        (data[0].device, torch.get_default_dtype())
        if first is None
        else (first.device, first.dtype)
    )


def take(
    tensors: tuple[Tensor, ...], rows: Tensor | slice, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Return those rows of each array as floats of one type on one device."""
    return tuple(tensor[rows].to(device, dtype) for tensor in tensors)


def shuffled_batches(n: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Return the row numbers of one epoch's minibatches, shuffled.

    A last minibatch of one row, which batch normalization cannot take, joins the one before it: every row is seen.
    """
    batches = list(torch.randperm(n, generator=generator).split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def split(n: int, fraction: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the row numbers of a training and a held-out part, by chance and in rising order.

    Args:
        n: number of rows, at least 2.
        fraction: share held out, in (0, 1); at least one row on either side.
        seed: of the draw; the global random state is left alone.

    Raises:
        ValueError: if there is nothing to split or `fraction` is not in (0, 1).

    Example:
        >>> train, held_out = split(10, 0.2)
        >>> len(train), len(held_out)
        (8, 2)
    """
    if n < 2 or not 0 < fraction < 1:
        raise ValueError(
            f"split: {n} rows and a fraction of {fraction}, expected at least 2 rows and a fraction in (0, 1)"
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    held_out = min(n - 1, max(1, round(n * fraction)))
    return order[held_out:].sort().values, order[:held_out].sort().values


def binarize(x: Tensor) -> Tensor:
    """Return x~ in {0, 1} with P(x~ = 1) = x: grey levels in [0, 1] as Bernoulli probabilities.

    Drawn anew at each visit it is the dynamic binarization of Salakhutdinov & Murray (2008). A uniform draw is compared
    with x: four times as fast on a CPU as `torch.bernoulli`, of the same law.

    Example:
        >>> binarize(torch.tensor([0.0, 1.0]))
        tensor([0., 1.])
    """
    return (torch.rand_like(x) < x).to(x.dtype)


def fingerprint(tensors: tuple[Tensor, ...]) -> str:
    """Return a SHA-256 of shapes, types and values: which data a model saw."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype};".encode())
        for part in tensor.parts() if isinstance(tensor, SparseRows) else (tensor,):
            for _, rows in chunks(part, _CHECKED_AT_ONCE):
                digest.update(rows.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def batches_in_order(graph: object, data: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Yield minibatches one at a time: sparse rows are dense only in theirs."""
    for start in range(0, len(data[0]), _ROWS):
        yield take(data, slice(start, start + _ROWS), *device_and_dtype(graph, data))
