"""A classifier of cells as a folder: `pyrovae.save`'s files for its graph, and what belongs to it.

    labels.json     the labels, the temperature, and in which folder the model of the cells is
    cells/          the model of the cells; cells-2/ after every second save

A crash leaves the classifier that was there, since the model of the cells is never written over.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import nn

from pyrovae import files
from pyrovae.files import FileError, History, kinds
from pyrovae.singlecell.saving import write
from pyrovae.singlecell.state import Model

__all__ = ["read_labels", "write_labels"]

_AGAIN = "Save the classifier again"
_FORMATS = "pyrovae-labels-1", "pyrovae-labels-1"
_MODEL = "model.json", "cells.json"  # the files of a model, but for its weights
_FOLDERS = "cells", "cells-2"  # in turn of the model of a classifier
_CONTENT = {
    "weights": kinds.mapping_of(kinds.text),
    "names": kinds.list_of(kinds.text),
    "temperature": kinds.number,
    "cells": kinds.Kind("cells or cells-2", lambda value: value in _FOLDERS),
}


def write_labels(
    model: Model,
    graph: nn.Module,
    folder: str | Path,
    overwrite: bool,
    content: Mapping[str, Any],
    history: History | None,
) -> Path:
    """Write a classifier, and the model of its cells into another folder than the one in use."""
    folder = Path(folder)
    path, places = folder / "labels.json", [folder, *(folder / name for name in _FOLDERS)]
    if any((place / "model.json").exists() for place in places) and not overwrite:
        raise FileExistsError(
            f"{folder}: holds a model already. Pass overwrite=True, or another folder"
        )
    used = ""
    with suppress(FileNotFoundError, ValueError):  # nothing is there, or nothing of use
        used = read_labels(path)["cells"]
    free = _FOLDERS[1] if used == _FOLDERS[0] else _FOLDERS[0]
    write(model, folder / free, True, None)
    whole = {**content, "cells": free}
    files.save_beside(graph, path, _FORMATS, whole, history=history)
    if used and read_labels(path)["cells"] == free:  # no other process has saved since
        _remove(folder / used)
    return folder


def _remove(folder: Path) -> None:
    """Remove a model of cells, and its folder if nothing else is in it."""
    for path in (*folder.glob("weights-*.safetensors"), *map(folder.joinpath, _MODEL)):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def read_labels(path: Path) -> dict[str, Any]:
    """Return what labels.json holds, with its types checked.

    Raises:
        FileNotFoundError: if it is not there.
        FileError: if it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not there. Expected a folder as CellLabels.save writes")
    content = files.opened_beside(path, _FORMATS, _AGAIN)
    content.setdefault("cells", _FOLDERS[0])  # by earlier versions, it was not written
    try:
        kinds.check(content, _CONTENT)
    except ValueError as error:
        raise FileError(f"{path}: not of this version ({error}). {_AGAIN}") from error
    return content
