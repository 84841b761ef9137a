"""Write a file whole or not at all: a crash leaves the file of before."""

import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pyrovae.files import write_atomically

__all__ = ["as_plain", "check_new", "json_text", "write", "write_cells", "write_json"]


def check_new(path: Path, overwrite: bool) -> None:
    """Refuse an output file that exists and may not be replaced.

    Raises:
        ValueError: It is such a file.
    """
    if path.is_file() and not overwrite:
        raise ValueError(
            f"{path} exists; choose another file with --output, or replace it with --overwrite"
        )


def write(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    """Write a file in one step.

    Args:
        path: The file.
        content: Text, bytes, or a function that writes them to the path that it is given. Of a file
            name in the text, bytes that are no UTF-8, as Linux allows, are written as numbers.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    write_atomically(path, content if callable(content) else lambda file: file.write_bytes(content))


def write_cells(adata: Any, path: Path) -> None:
    """Write an AnnData as .h5ad in one step.

    HDF5 ends the process where a disk is full, so the space is reserved first.
    """

    def content(file: Path) -> None:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            with file.open("r+b") as opened:
                os.posix_fallocate(opened.fileno(), 0, sys.getsizeof(adata))
        adata.write_h5ad(file)

    write(path, content)


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write strict JSON in one step; NaN and infinity become null."""
    write(path, json_text(content))


def json_text(content: Mapping[str, Any]) -> str:
    """Return strict JSON as a file holds it."""
    return json.dumps(as_plain(content), indent=1, allow_nan=False) + "\n"


def as_plain(value: Any) -> Any:
    """Return nested content as JSON knows it."""
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return as_plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
