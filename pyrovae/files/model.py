"""Save and load a graph as a folder: weights in safetensors, everything else in JSON.

    model.json                    how the graph was built, versions, data fingerprint, history,
                                  metrics, name and checksum of the weights
    weights-<hash>.safetensors    the weights

`model.json` is replaced in one step and last, so a crash leaves the old model whole. There is no
pickle, and no code is read from a file.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import nn

from pyrovae.files import stored
from pyrovae.files.atomic import write_atomically
from pyrovae.files.construction import check_form, describe
from pyrovae.files.errors import FileError
from pyrovae.files.filling import built, compared, fill
from pyrovae.files.history import History
from pyrovae.files.kinds import check, list_of, mapping_of, obj, optional, text, whole
from pyrovae.files.sealed import digest_of, read_json
from pyrovae.files.weights import header, packed, remove_unnamed, unpacked

__all__ = ["description", "inspect", "load", "save", "save_with"]

FORMAT = "pyrovae-model-1"
_AGAIN = "Save the model again"
_READS = 50  # of a folder that another process saves to at each of them
_CONTENT = {
    "graph": obj,
    "versions": mapping_of(text),
    "data": optional(text),
    "history": optional(obj),
    "metrics": obj,
    "weights": mapping_of(text),
    "constraints": obj,  # of parameters in Pyro's store; absent where there are none
}


def save(
    graph: nn.Module,
    folder: str | Path,
    *,
    history: History | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Path:
    """Write a graph to a folder; a crash leaves the model that was there.

    Args:
        graph: any graph. `load` rebuilds one composed of the library's parts; parts of your own are
            named in the file, and `load(folder, into=graph)` fills an object that you build.
            Parameters that its programs make by `pyro.param` are written too: those that
            `pyrovae.fit` found, or, of a graph with parts of your own that it did not train, all in
            Pyro's store that belong to no module.
        folder: made if absent; a model in it is replaced. No other file is touched but weights that
            no model.json names, of a process that was killed, after an hour.
        history: of the fit, kept with the model; it holds the fingerprint of the data.
        metrics: numbers and strings to keep with it.

    Returns:
        The folder.

    Raises:
        TypeError: if `graph` is no `nn.Module`, a part's tensor is neither parameter nor persistent
            buffer, a network of the programs is no part of the graph, or `metrics` hold something
            that JSON cannot.
        ValueError: if a parameter has no values yet: on the device meta, or of a lazy module that
            has not run.
    """
    return save_with(graph, folder, lambda weights: None, history=history, metrics=metrics)


def save_with(
    graph: nn.Module,
    folder: str | Path,
    before: Callable[[dict[str, str]], object],
    *,
    history: History | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Path:
    """Save a graph as `save` does, and something that belongs to it in the same folder.

    Args:
        graph: as in `save`, and so are folder, history and metrics.
        folder: see there.
        before: writes what belongs to the graph. It is called with what model.json will say of the
            weights, when they are written and model.json is still the old one; an error in it
            leaves the model that was there.
        history: see there.
        metrics: see there.
    """
    if not isinstance(graph, nn.Module):
        raise TypeError(
            f"save: got a {type(graph).__name__}, expected a graph that is an nn.Module"
        )
    described = describe(graph)
    params = stored.parameters_of(graph, foreign='"foreign"' in json.dumps(described))
    content = {
        "graph": described,
        "versions": {name: metadata.version(name) for name in ("pyrovae", "torch", "pyro-ppl")},
        "data": history.data if history else None,
        "history": history.to_dict() if history else None,
        "metrics": dict(metrics or {}),
    }
    if params:
        content["constraints"] = {name: constraint for name, (_, constraint) in params.items()}
    json.dumps(content)  # what JSON cannot hold is an error before anything is written
    values = {stored.PREFIX + name: value for name, (value, _) in params.items()}
    _write(Path(folder), content, packed(graph, values), before)
    return Path(folder)


def load(folder: str | Path, into: nn.Module | None = None) -> nn.Module:
    """Read a graph from a folder, in eval() mode and on the CPU.

    Parameters that the programs keep by `pyro.param` are put into Pyro's store.

    Args:
        folder: what `save` wrote.
        into: a graph that you built as the saved one was, to be filled; needed if it has parts that
            are not of this library. The arguments of its parts are compared with the file's.

    Raises:
        FileNotFoundError: if the folder holds no model.
        FileError: if a file is truncated, altered or foreign, or `into` was built with other
            arguments or other shapes; a ValueError that names the file and the remedy. `into` is
            then as it was.
    """
    folder = Path(folder)
    content, path, weights = _content_and_weights(folder)
    tensors = unpacked(path, weights)
    described = content["graph"]
    try:
        params = stored.parameters_in(content.get("constraints", {}), tensors)
        graph = built(described, tensors) if into is None else compared(described, into)
        fill(graph, tensors)
    except ValueError as error:
        raise FileError(f"{folder / 'model.json'}: {error}") from error
    if params:
        stored.put(params)
        stored.claim_parameters(graph, [param.name for param in params])
    return graph.eval()


def inspect(folder: str | Path) -> dict[str, Any]:
    """Return what a saved model is, without building it.

    Returns:
        The content of model.json, with `tensors` (shape and dtype of each) and `parameters` (how
        many numbers they hold).

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    content, path, weights = _content_and_weights(Path(folder))
    entries = header(path, weights)
    entries.pop("__metadata__", None)
    try:
        for name, entry in entries.items():
            check(entry, {"shape": list_of(whole(0, 2**40)), "dtype": text}, name, further=True)
    except ValueError as error:
        raise FileError(f"{path}: not a safetensors file ({error}). {_AGAIN}") from error
    tensors = {
        name: {"shape": entry["shape"], "dtype": entry["dtype"]} for name, entry in entries.items()
    }
    count = sum(math.prod(tensor["shape"]) for tensor in tensors.values())
    return {**content, "tensors": tensors, "parameters": count}


def description(folder: str | Path) -> dict[str, Any]:
    """Return the checked content of model.json; the weights are not read.

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    path = Path(folder) / "model.json"
    if not path.is_file():
        inside = Path(folder).name == path.name and Path(folder).is_file()
        remedy = f". Give the folder, {Path(folder).parent}" if inside else ""
        raise FileNotFoundError(
            f"{folder}: no model here, "
            f"expected a folder with a model.json as pyrovae.save writes it{remedy}"
        )
    sealed = read_json(path, "a model of this library", _AGAIN)
    try:
        given, content, checksum = sealed["format"], sealed["content"], sealed["sha256"]
    except KeyError as error:
        raise FileError(
            f"{path}: truncated or not a model of this library ({error} is not there). {_AGAIN}"
        ) from error
    if given != FORMAT:
        raise FileError(
            f"{path}: format {given!r}, this version reads {FORMAT!r}. "
            "Load it with the version that wrote it"
        )
    if digest_of(content) != checksum:
        raise FileError(f"{path}: altered since it was saved (its checksum differs). {_AGAIN}")
    _check(path, content)
    return content


def _check(path: Path, content: Any) -> None:
    """Check the types of what model.json holds."""
    try:
        if not isinstance(content, dict):
            raise ValueError("its content is no object")
        check({"constraints": {}} | content, _CONTENT, further=True)
        check_form(content["graph"])
        check(content["weights"], {"file": text, "sha256": text}, "weights", further=True)
        if content["history"] is not None:
            History.from_dict(content["history"])
    except ValueError as error:
        raise FileError(f"{path}: not a model of this library ({error}). {_AGAIN}") from error


# ------------------------------------------------------------------------------------------- files
def _write(
    folder: Path,
    content: dict[str, Any],
    weights: bytes,
    write_before: Callable[[dict[str, str]], object],
) -> None:
    """Write the weights under a name made of their hash, then model.json, which names them."""
    before, checksum = _weights_before(folder), _sha256(weights)
    path = folder / f"weights-{checksum[:16]}.safetensors"
    entry = {"file": path.name, "sha256": checksum}
    content = {**content, "weights": entry}
    sealed = {"format": FORMAT, "sha256": digest_of(content), "content": content}
    write_atomically(path, lambda file: file.write_bytes(weights))
    superseded: Path | None = path
    try:
        write_before(entry)
        write_atomically(
            folder / "model.json", lambda file: file.write_text(json.dumps(sealed, indent=1))
        )
        superseded = before
    finally:
        if before != path and superseded is not None:
            superseded.unlink(missing_ok=True)
    remove_unnamed(folder, keep=(path, _weights_before(folder)))


def _weights_before(folder: Path) -> Path | None:
    """Return the weights of the model that is there, None if there is none that can be read."""
    try:
        name = str(description(folder)["weights"]["file"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    path = folder / Path(name).name
    return path if path.match("weights-*.safetensors") else None


def _content_and_weights(folder: Path) -> tuple[dict[str, Any], Path, bytes]:
    """Return the content of model.json, the path of the weights and their bytes.

    Both are read again if another process has saved between the two, and has removed the weights.
    """
    content = description(folder)
    for _ in range(_READS):
        try:
            return content, *_checked_weights(folder, content)
        except FileError:
            before, content = content, description(folder)
            if content == before:
                raise
    return content, *_checked_weights(folder, content)


def _checked_weights(folder: Path, content: dict[str, Any]) -> tuple[Path, bytes]:
    """Return the path of the weights and their bytes, read once."""
    path = folder / Path(str(content["weights"]["file"])).name
    try:
        weights = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        weights = b""
    if _sha256(weights) != content["weights"]["sha256"]:
        raise FileError(f"{path}: missing, truncated or altered since it was saved. {_AGAIN}")
    return path, weights


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
