"""A saved graph and a JSON file beside it that are replaced together: both old, or both new.

    1  the weights            under a name of their own; model.json and the file are the old ones
    2  the file               the new content, and under "before" the old one and its model.json
    3  model.json             from here on the new content counts
    4  the file               the new content alone

Whatever ends the process, what model.json names is in the folder, and so is what belongs to it.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from pyrovae.files.atomic import write_atomically
from pyrovae.files.errors import FileError
from pyrovae.files.history import History
from pyrovae.files.kinds import check, obj, text
from pyrovae.files.model import description, save_with
from pyrovae.files.sealed import digest_of, opened, sealed

__all__ = ["opened_beside", "save_beside"]

_BEFORE = {
    "model": text,  # digest of the content of model.json that it belongs to
    "content": obj,
}


def save_beside(
    graph: nn.Module,
    path: Path,
    formats: tuple[str, str],
    content: Mapping[str, Any],
    *,
    history: History | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Save a graph into a folder, and into a file of this folder what belongs to it.

    Args:
        graph: as in `save`, and so are history and metrics.
        path: the file, beside model.json.
        formats: of the file, as `opened` takes them; it gets the first.
        content: of the file; what model.json says of the weights is added as "weights".
        history: see there.
        metrics: see there.

    Raises:
        TypeError: as `save`.
        OSError: if a file cannot be written; the folder holds the old model.
    """
    before, written = _now(path, formats), dict[str, str]()

    def write_both(weights: dict[str, str]) -> None:
        alone = {"weights": weights, **content}
        both = alone if before is None else {**alone, "before": before}
        texts = {"alone": alone, "both": both}.items()
        written.update({name: json.dumps(sealed(formats[0], whole)) for name, whole in texts})
        write_atomically(path, lambda file: file.write_text(written["both"]))

    save_with(graph, path.parent, write_both, history=history, metrics=metrics)
    if before is None:
        return
    # The new model is whole. Where this fails, the old content goes when it is next saved.
    with suppress(OSError):
        if path.read_text() == written["both"]:  # no other process has saved since
            write_atomically(path, lambda file: file.write_text(written["alone"]))


def opened_beside(path: Path, formats: tuple[str, str], remedy: str) -> dict[str, Any]:
    """Return the content of a file that belongs to the model.json beside it.

    Args:
        path: the file.
        formats: see `opened`.
        remedy: see `opened`.

    Raises:
        FileError: as `opened`.
    """
    content = opened(path, formats, remedy)
    before = content.pop("before", None)
    if before is None:
        return content
    try:
        check(before, _BEFORE, "before")
    except ValueError as error:
        raise FileError(f"{path}: not of this version ({error}). {remedy}") from error
    return before["content"] if before["model"] == _digest(path.parent) else content


def _now(path: Path, formats: tuple[str, str]) -> dict[str, Any] | None:
    """Return what a folder holds before it is saved to, None if it is no whole model."""
    try:
        return {"model": _digest(path.parent), "content": opened_beside(path, formats, "")}
    except (FileNotFoundError, ValueError):
        return None


def _digest(folder: Path) -> str:
    return digest_of(description(folder))
