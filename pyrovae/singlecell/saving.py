"""A model of cells as a folder: `pyrovae.save`'s files for the graph, and cells.json for the cells.

    cells.json      how cells are encoded, the split, the seed, and the weights that it belongs to

The data are not written.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyrovae import files
from pyrovae.files import History, write_atomically
from pyrovae.singlecell.cells import Cells
from pyrovae.singlecell.encoding import Encoding
from pyrovae.singlecell.state import FitResult, Model, State, fit_of

__all__ = ["read", "write"]

FORMAT = "pyrovae-cells-1"


def write(
    model: Model, folder: str | Path, overwrite: bool, metrics: Mapping[str, Any] | None
) -> Path:
    """Write a model; see `SingleCellVAE.save`."""
    fit, folder = fit_of(model, "save"), Path(folder)
    if (folder / "model.json").exists() and not overwrite:
        raise FileExistsError(
            f"{folder}: holds a model already. Pass overwrite=True, or another folder"
        )
    files.save(model.graph, folder, history=fit.history, metrics=metrics)
    content = {
        "format": FORMAT,
        "weights": files.inspect(folder)["weights"],  # the model that this file belongs to
        "encoding": model.cells.encoding.to_dict(),
        "seed": model.seed,
        "training": fit.training.tolist(),
        "held_out": fit.validation.tolist(),
    }
    write_atomically(folder / "cells.json", lambda file: file.write_text(json.dumps(content)))
    return folder


def read(folder: str | Path, adata: Any, into: nn.Module | None) -> State:
    """Read what `write` wrote; see `SingleCellVAE.load`."""
    path = Path(folder) / "cells.json"
    graph: Any = files.load(folder, into)
    content, saved = _content(path), files.inspect(folder)
    if content["weights"] != saved["weights"]:
        raise ValueError(
            f"{path}: belongs to another model than model.json beside it. Save the model again"
        )
    training, validation = (
        torch.tensor(content[name], dtype=torch.long) for name in ("training", "held_out")
    )
    fit = FitResult(History.from_dict(saved["history"]), training, validation)
    cells = Cells(Encoding.from_dict(content["encoding"]), adata)
    return State(cells, graph, content["seed"], fit)


def _content(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not there. Expected a folder as SingleCellVAE.save writes it; pyrovae.load "
            "reads a plain model"
        )
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}, this version reads {FORMAT!r}")
        return content
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: truncated, or not of this library ({error}). Save the model again"
        ) from error
