"""Files that commands write: embeddings as .npy, .npz or .csv, data as .npy or as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from pyrovae.command.report import plots
from pyrovae.command.writing import check_new, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EMBEDDINGS", "PICTURES", "check", "write_data", "write_embedding"]

EMBEDDINGS = (".npy", ".npz", ".csv")
PICTURES = (".png", ".npy")


def check(path: Path, suffixes: tuple[str, ...], overwrite: bool) -> None:
    """Refuse an output file, before any work is done.

    Raises:
        ValueError: Its ending is not among those known, or it exists and may not be replaced.
    """
    if path.suffix not in suffixes:
        raise ValueError(f"--output {path}: expected a file that ends in {', '.join(suffixes)}")
    check_new(path, overwrite)


def write_embedding(
    z: np.ndarray,
    labels: np.ndarray | None,
    path: Path,
    cells: Sequence[str] | None = None,
    further: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Write latent representations, with what names their rows where the file can hold it.

    Args:
        z: Latent representations with shape (N, D).
        labels: Name of the class of each, with shape (N,).
        path: File that ends in .npy, .npz or .csv.
        cells: Name of the cell of each.
        further: Columns of numbers by name, such as a pose; an .npy has no room for them.
    """
    further = further or {}
    named = {} if labels is None else {"labels": labels.astype(str)}
    named |= {} if cells is None else {"cells": np.array(cells)}
    buffer = io.BytesIO()
    if path.suffix == ".npy":
        np.save(buffer, z)
    elif path.suffix == ".npz":
        np.savez(buffer, allow_pickle=False, z=z, **named, **further)
    else:
        _csv(z, labels, cells, further, buffer)
    write(path, buffer.getvalue())


def write_data(x: np.ndarray, path: Path, draw: Callable[[], Figure]) -> None:
    """Write data in their stored unit, as an array or as the figure that `draw` makes of them."""
    buffer = io.BytesIO()
    if path.suffix == ".npy":
        np.save(buffer, x)
    else:
        buffer.write(plots.png(draw()))
    write(path, buffer.getvalue())


def _csv(
    z: np.ndarray,
    labels: np.ndarray | None,
    cells: Sequence[str] | None,
    further: Mapping[str, np.ndarray],
    file: IO[bytes],
) -> None:
    """Write the header (cell,) z1, ..., zD (, further columns) (, label) and one line per row."""
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    columns: list[tuple[str, Iterable]] = [] if cells is None else [("cell", cells)]
    columns += [(f"z{i + 1}", column.tolist()) for i, column in enumerate(z.T)]
    columns += [(name, column.tolist()) for name, column in further.items()]
    columns += [] if labels is None else [("label", labels)]
    writer.writerow([name for name, _ in columns])
    writer.writerows(zip(*(values for _, values in columns), strict=True))
    text.detach()
