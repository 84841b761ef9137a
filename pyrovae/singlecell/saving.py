"""A model of cells as a folder: `pyrovae.save`'s files for the graph, and cells.json for the cells.

    cells.json      how cells are encoded, the split, the seed, and the weights that it belongs to

The data are not written. A crash leaves the model that was there, see `pyrovae.files.beside`.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyrovae import files, programs
from pyrovae.files import FileError, History, kinds
from pyrovae.graphs import CountVAE
from pyrovae.priors import LibraryNormal
from pyrovae.singlecell.cells import Cells
from pyrovae.singlecell.encoding import Encoding
from pyrovae.singlecell.minified import StoredPosteriors, is_minified, read_minified
from pyrovae.singlecell.state import Entries, FitResult, Model, Query, State, fit_of

__all__ = ["read", "saved_setup", "write"]

FORMATS = "pyrovae-cells-2", "pyrovae-cells-1"  # the earlier has no digest
_AGAIN = "Save the model again"
_READS = 20  # of a folder that another process saves to during each of them
_OTHERS = "others"  # instead of a digest, where the split is not that of the model's own cells
_LIBRARY = "expression.LibraryNormal"  # as model.json names it
_NAMES = kinds.list_of(kinds.text)
_CONTENT = {
    "weights": kinds.mapping_of(kinds.text),
    "encoding": kinds.obj,
    "seed": kinds.whole(-(2**63), 2**63 - 1),
    "training": kinds.list_of(kinds.whole(0, 2**62)),
    "held_out": kinds.list_of(kinds.whole(0, 2**62)),
    "query": kinds.optional(kinds.mapping_of(kinds.list_of(kinds.whole(0, 2**62)))),
    "cells": kinds.optional(kinds.text),
}
_ENCODING = {
    "setup": kinds.obj,
    "genes": _NAMES,
    "batches": _NAMES,
    "labels": _NAMES,
    "categories": kinds.mapping_of(_NAMES),
    "scales": kinds.mapping_of(kinds.list_of(kinds.number, 2)),
    "labelled": kinds.boolean,
}
_SETUP = {
    "layer": kinds.optional(kinds.text),
    "batch_key": kinds.optional(kinds.text),
    "labels_key": kinds.optional(kinds.text),
    "categorical_covariate_keys": _NAMES,
    "continuous_covariate_keys": _NAMES,
}


def write(
    model: Model, folder: str | Path, overwrite: bool, metrics: Mapping[str, Any] | None
) -> Path:
    """Write a model; see `SingleCellVAE.save`."""
    fit, folder = fit_of(model, "save"), Path(folder)
    if (folder / "model.json").exists() and not overwrite:
        raise FileExistsError(
            f"{folder}: holds a model already. Pass overwrite=True, or another folder"
        )
    graph = model.graph.whole if isinstance(model.graph, StoredPosteriors) else model.graph
    content: dict[str, Any] = {
        "encoding": model.cells.encoding.to_dict(),
        "seed": model.seed,
        "training": fit.training.tolist(),
        "held_out": fit.validation.tolist(),
        "cells": _digest(model.cells.names) if fit.of_own_cells else _OTHERS,
    }
    if model.query is not None:
        content["query"] = {name: new.to_list() for name, new in model.query.trained.items()}
    path = folder / "cells.json"
    files.save_beside(graph, path, FORMATS, content, history=fit.history, metrics=metrics)
    return folder


def read(folder: str | Path, adata: Any, into: nn.Module | None) -> State:
    """Read what `write` wrote; see `SingleCellVAE.load`.

    It is read again if another process saved meanwhile.
    """
    if not isinstance(folder, str | Path):
        raise TypeError(
            f"load: the folder is a {type(folder).__name__}, expected a path: load(folder, adata)"
        )
    for _ in range(_READS):
        before = _digest_of_model(folder)
        try:
            state = _read(folder, adata, into)
        except FileError:
            if before == _digest_of_model(folder):
                raise
        else:
            if before == _digest_of_model(folder):
                return state
    return _read(folder, adata, into)


def _digest_of_model(folder: str | Path) -> str:
    """Return the SHA-256 of model.json, empty if there is none."""
    path = Path(folder) / "model.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _read(folder: str | Path, adata: Any, into: nn.Module | None) -> State:
    """Read what is in the folder now."""
    path = Path(folder) / "cells.json"
    saved, content = files.inspect(folder), _content(path)
    if content["weights"] != saved["weights"]:
        raise FileError(
            f"{path}: belongs to another model than model.json beside it. Save the model again"
        )
    with _library_of(saved["graph"], into):
        graph: Any = files.load(folder, into)
    encoding = _encoding(path, content["encoding"], graph)
    training, validation = (
        torch.tensor(content[name], dtype=torch.long) for name in ("training", "held_out")
    )
    own = adata is None or content["cells"] in (None, _digest(adata.obs_names))
    fit = FitResult(History.from_dict(saved["history"] or {}), training, validation, own)
    query = _query(path, content["query"], graph)
    if is_minified(adata):
        return read_minified(State(Cells(encoding), graph, content["seed"], fit, query), adata)
    return State(Cells(encoding, adata), graph, content["seed"], fit, query)


def _digest(names: Any) -> str | None:
    """Return the SHA-256 of the names of cells in their order; None of a model without cells."""
    if names is None:
        return None
    return hashlib.sha256("\n".join(names.astype(str)).encode()).hexdigest()


def saved_setup(folder: str | Path) -> str:
    """Return in a few lines what cells a saved model takes: layer, keys, genes and batches.

    Raises:
        FileError: cells.json is truncated or altered.
    """
    path = Path(folder) / "cells.json"
    return Encoding.from_dict(_content(path)["encoding"]).described()


@contextmanager
def _library_of(description: dict[str, Any], into: Any) -> Iterator[None]:
    """Context in which a graph to be filled has the saved prior of the library size.

    It was learned from the training cells, and is no choice of whoever builds the graph. If the
    graph is refused, it gets its own back.
    """
    part = description.get("arguments", {}).get("library_prior") or {}
    own = getattr(into, "library_prior", None)
    if into is None or not isinstance(own, LibraryNormal) or part.get("class") != _LIBRARY:
        yield
        return
    with suppress(TypeError, ValueError):  # of an edited file, which `load` refuses by name
        into.library_prior = LibraryNormal(**part["arguments"])
    try:
        yield
    except FileError:
        into.library_prior = own
        raise


def _content(path: Path) -> dict[str, Any]:
    """Return what cells.json holds, with its types checked."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: not there. Expected a folder as SingleCellVAE.save writes it; pyrovae.load "
            "reads a plain model"
        )
    content = files.opened_beside(path, FORMATS, _AGAIN)
    if isinstance(content, dict):
        content.setdefault("query", None)  # of a model that is no query, it is not written
        content.setdefault("cells", None)  # by earlier versions, it was not written
    try:
        kinds.check(content, _CONTENT)
        kinds.check(content["encoding"], _ENCODING, "encoding")
        kinds.check(content["encoding"]["setup"], _SETUP, "setup")
        _check_split(content["training"], content["held_out"])
    except ValueError as error:
        raise FileError(f"{path}: not of this version ({error}). {_AGAIN}") from error
    return content


def _check_split(training: list[int], held_out: list[int]) -> None:
    """Refuse rows that are not rising, or in both parts."""
    for name, rows in (("training", training), ("held_out", held_out)):
        if any(a >= b for a, b in pairwise(rows)):
            raise ValueError(f"{name}: expected rising rows")
    if set(training).intersection(held_out):
        raise ValueError("a row is in training and held_out")


def _query(path: Path, content: dict[str, list[int]] | None, graph: CountVAE) -> Query | None:
    """Return which weights a query trains, if the graph has them."""
    if content is None:
        return None
    parameters = dict(graph.named_parameters())
    for name, numbers in content.items():
        shape = parameters[name].shape if name in parameters else ()
        axis, ends = (numbers or [0])[0], numbers[1:]
        rising = all(a < b for a, b in zip(ends[::2], ends[1::2], strict=False))
        pairs = len(ends) > 1 and len(ends) % 2 == 0 and rising
        if axis >= len(shape) or not pairs or max(ends) > shape[axis]:
            raise FileError(
                f"{path}: query: {name}, entries {ends} of axis {axis}, is not in the graph of "
                f"model.json. {_AGAIN}"
            )
    return Query({name: Entries.of(*numbers) for name, numbers in content.items()})


def _encoding(path: Path, content: dict[str, Any], graph: CountVAE) -> Encoding:
    """Return the encoding, if its parts fit each other and the graph."""
    encoding = Encoding.from_dict(content)
    setup = encoding.setup
    names = [encoding.genes, encoding.batches, encoding.labels, *encoding.categories.values()]
    facts = {
        "its names occur twice": all(len(set(some)) == len(some) for some in names),
        "its categories are not those of setup": (
            set(encoding.categories) == set(setup.categorical_covariate_keys)
        ),
        "its scales are not those of setup": (
            set(encoding.scales) == set(setup.continuous_covariate_keys)
        ),
        "its scales are not above 0": all(sd > 0 for _, sd in encoding.scales.values()),
        "it names batches without a batch_key": (
            setup.batch_key is not None or encoding.batches == [""]
        ),
    }
    wrong = next((words for words, holds in facts.items() if not holds), None)
    if wrong:
        raise FileError(f"{path}: encoding: {wrong}. {_AGAIN}")
    _check_runs(path, encoding, graph)
    return encoding


def _check_runs(path: Path, encoding: Encoding, graph: CountVAE) -> None:
    """Run the programs on two cells without counts; refuse an encoding of another width."""
    batches = len(encoding.batches) if len(encoding.batches) > 1 else 0
    columns = batches + encoding.covariates + (len(encoding.labels) if encoding.labelled else 0)
    like = next(graph.parameters())
    x, c = like.new_ones(2, len(encoding.genes)), like.new_zeros(2, columns)
    try:
        with programs.evaluation(graph):
            programs.run(graph.model, graph.guide, *((x, c) if columns else (x,)))
    except Exception as error:  # a network may raise anything for input of another shape
        words = " ".join(str(error).split())
        raise FileError(
            f"{path}: {len(encoding.genes)} genes and {columns} columns of context do not fit the "
            f"graph in model.json ({words}). {_AGAIN}"
        ) from error
