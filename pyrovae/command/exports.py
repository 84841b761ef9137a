"""Files that the command line writes: codes as .npy, .npz, .csv or (of cells) .h5ad, data as .npy or as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from pyrovae.command.report import plots
from pyrovae.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CELLS", "CODES", "PICTURES", "cells", "check", "codes", "data"]

CODES = (".npy", ".npz", ".csv")
CELLS = (*CODES, ".h5ad")
PICTURES = (".png", ".npy")


def check(path: Path, suffixes: tuple[str, ...]) -> None:
    """Refuse a file name whose ending says nothing known, before any work is done."""
    if path.suffix not in suffixes:
        raise ValueError(f"--output {path}: expected a file that ends in {', '.join(suffixes)}")


def codes(
    z: np.ndarray,
    labels: np.ndarray | None,
    names: tuple[str, ...],
    path: Path,
    cells: Sequence[str] | None = None,
) -> None:
    """Write codes with shape (N, D), and the label of each, and the name of its cell, where the file can hold them."""
    named = {} if labels is None else {"labels": np.array(names)[labels]}
    named |= {} if cells is None else {"cells": np.array(cells)}
    buffer = io.BytesIO()
    if path.suffix == ".npy":
        np.save(buffer, z)
    elif path.suffix == ".npz":
        np.savez(buffer, allow_pickle=False, z=z, **named)
    else:
        _csv(z, named.get("labels"), cells, buffer)
    _write(buffer, path)


def data(x: np.ndarray, path: Path, draw: Callable[[], Figure]) -> None:
    """Write data in their stored unit, as an array or as the figure that `draw` makes of them."""
    buffer = io.BytesIO()
    if path.suffix == ".npy":
        np.save(buffer, x)
    else:
        buffer.write(plots.png(draw()))
    _write(buffer, path)


def cells(adata: Any, path: Path) -> None:
    """Write an AnnData."""
    write_atomically(path, adata.write_h5ad)


def _csv(
    z: np.ndarray, labels: np.ndarray | None, cells: Sequence[str] | None, file: IO[bytes]
) -> None:
    """Write a header (cell, ) z1, ..., zD (, label) and one line a row."""
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    before, after = [] if cells is None else ["cell"], [] if labels is None else ["label"]
    writer.writerow([*before, *(f"z{i + 1}" for i in range(z.shape[1])), *after])
    for i, row in enumerate(z.tolist()):
        writer.writerow(
            [*([] if cells is None else [cells[i]]), *row, *([] if labels is None else [labels[i]])]
        )
    text.detach()


def _write(buffer: io.BytesIO, path: Path) -> None:
    """Write a file in one step."""
    write_atomically(path, lambda file: file.write_bytes(buffer.getvalue()))
