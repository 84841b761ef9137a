"""Save and load a graph as a folder: weights in safetensors, everything else in JSON. No pickle, and no code from the file.

    model.json                      how the graph was built, versions, data fingerprint, history, metrics; names the weights
    weights-<hash>.safetensors      its tensors

`model.json` is replaced in one step and last, so a crash half-way leaves the old model whole.
"""

import hashlib
import inspect as signatures
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pyrovae.files.atomic import replace
from pyrovae.files.history import History
from pyrovae.files.names import class_named, name_of

__all__ = ["inspect", "load", "save"]

FORMAT = "pyrovae-model-1"


def save(
    graph: nn.Module,
    folder: str | Path,
    *,
    history: History | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Path:
    """Write a graph to a folder, whole or not at all.

    Args:
        graph: any graph. One composed of the library's parts is rebuilt by `load`; parts of your own are named in the file, and
            `load(folder, into=graph)` fills an object that you build.
        folder: made if absent; a model in it is replaced.
        history: of the fit, kept with it; it brings the fingerprint of the data.
        metrics: numbers and strings to keep with it.

    Returns:
        The folder.

    Raises:
        TypeError: if `graph` is no `nn.Module`, a part's tensor is neither parameter nor persistent buffer, or `metrics` hold something
            that JSON cannot.
    """
    if not isinstance(graph, nn.Module):
        raise TypeError(
            f"save: got a {type(graph).__name__}, expected a graph that is an nn.Module"
        )
    folder = Path(folder)
    content = {
        "graph": _describe(
            graph, "graph", {}, {id(part) for part in graph.state_dict(keep_vars=True).values()}
        ),
        "versions": {name: metadata.version(name) for name in ("pyrovae", "torch", "pyro-ppl")},
        "data": history.data if history else None,
        "history": history.to_dict() if history else None,
        "metrics": dict(metrics or {}),
    }
    json.dumps(content)  # before anything is written
    weights = _write_weights(graph, folder)
    content["weights"] = {"file": weights.name, "sha256": _sha256(weights.read_bytes())}
    text = json.dumps(
        {"format": FORMAT, "sha256": _sha256(_canonical(content)), "content": content}, indent=1
    )
    replace(folder / "model.json", lambda file: file.write_text(text))
    for old in folder.glob("weights-*.safetensors"):
        if old != weights:
            old.unlink()
    return folder


def load(folder: str | Path, into: nn.Module | None = None) -> nn.Module:
    """Read a graph from a folder, in eval() mode and on the CPU.

    Args:
        folder: what `save` wrote.
        into: a graph of the same shape that you built, to be filled; needed if it holds parts that are not the library's.

    Raises:
        FileNotFoundError: if the folder holds no model.
        ValueError: if a file is truncated, altered or foreign, or the weights do not fit; names the file and the remedy.
    """
    folder = Path(folder)
    content = _read(folder)
    weights = _checked_weights(folder, content)
    graph = into if into is not None else _build(content["graph"], "graph", {})
    tensors = _tensors(weights)
    floats = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if into is None and len(floats) == 1:
        graph = graph.to(next(iter(floats)))
    try:
        graph.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"{folder}: the weights do not fit the graph. Build `into` as it was when saved. {error}"
        ) from error
    return graph.eval()


def inspect(folder: str | Path) -> dict[str, Any]:
    """Return what a saved model is, without building it: the content of model.json, with `tensors` (shape, dtype) and `parameters`.

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    content = _read(Path(folder))
    with safe_open(_checked_weights(Path(folder), content), framework="pt") as file:
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (no dict)
        tensors = {
            key: {"shape": list(part.get_shape()), "dtype": part.get_dtype()}
            for key, part in slices.items()
        }
    count = sum(torch.Size(tensor["shape"]).numel() for tensor in tensors.values())
    return {**content, "tensors": tensors, "parameters": count}


# --------------------------------------------------------------------------------------------- how an object was built
def _describe(value: Any, path: str, seen: dict[int, str], kept: set[int]) -> Any:
    """Return constructor calls as JSON: `{"class": ..., "arguments": {...}}`, read from attributes of the arguments' names.

    A tensor is described by shape and type; its values come with the weights, if it is among those `kept` there.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        if id(value) not in kept:
            raise TypeError(
                f"save: {path} is a tensor outside the weights. Keep it as a parameter or a persistent buffer of that name"
            )
        return {"tensor": list(value.shape), "type": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, list | tuple):
        return [_describe(item, f"{path}.{i}", seen, kept) for i, item in enumerate(value)]
    if isinstance(value, type) and _activation(value.__name__) is value:
        return {"activation": value.__name__}
    if id(value) in seen:
        return {"same as": seen[id(value)]}
    seen[id(value)] = path
    name = name_of(type(value))
    if name is None:
        return {"foreign": f"{type(value).__module__}.{type(value).__qualname__}"}
    parameters = signatures.signature(type(value)).parameters
    return {
        "class": name,
        "arguments": {
            key: _describe(getattr(value, key), f"{path}.{key}", seen, kept) for key in parameters
        },
    }


def _build(description: Any, path: str, built: dict[str, Any]) -> Any:
    """Carry out a description. Only public classes of this library and torch's activations are ever called."""
    if isinstance(description, list):
        return tuple(_build(item, f"{path}.{i}", built) for i, item in enumerate(description))
    if not isinstance(description, dict):
        return description
    if "foreign" in description:
        raise ValueError(
            f"{path} is a {description['foreign']}, not a part of this library: build the graph and call load(folder, into=graph)"
        )
    if "tensor" in description:
        kind = getattr(torch, str(description.get("type")), None)
        return torch.zeros(
            description["tensor"],
            dtype=_known(kind if isinstance(kind, torch.dtype) else None, path, description),
        )
    if "same as" in description:
        return built[description["same as"]]
    if "activation" in description:
        return _known(_activation(description["activation"]), path, description)
    cls = _known(class_named(description.get("class")), path, description)
    arguments = {
        key: _build(value, f"{path}.{key}", built)
        for key, value in description["arguments"].items()
    }
    try:
        built[path] = cls(**arguments)
    except TypeError as error:
        raise ValueError(
            f"{path}: {error}. The model is of another version of the library (see versions in model.json)"
        ) from error
    return built[path]


def _known(found: Any, path: str, description: dict[str, Any]) -> Any:
    if found is None:
        raise ValueError(
            f"{path}: {description} names nothing that this version of the library knows. Load it with the version that wrote it"
        )
    return found


def _activation(name: Any) -> type | None:
    from torch.nn.modules import activation

    return getattr(activation, name) if name in activation.__all__ else None


# --------------------------------------------------------------------------------------------------------------- files
def _write_weights(graph: nn.Module, folder: Path) -> Path:
    """Write the tensors under a name made of their hash, beside those of a model that may be there."""
    written: list[Path] = []
    first: dict[int, str] = {}
    tensors, other_names = {}, {"format": "pt"}
    for name, tensor in graph.state_dict(keep_vars=True).items():
        if first.setdefault(id(tensor), name) == name:
            tensors[name] = tensor.detach().clone(
                memory_format=torch.contiguous_format
            )  # a view of another is one of its own here
        else:
            other_names[name] = first[id(tensor)]

    def write(file: Path) -> None:
        save_file(tensors, file, metadata=other_names)
        written.append(folder / f"weights-{_sha256(file.read_bytes())[:16]}.safetensors")

    part = folder / "weights.part"
    replace(part, write)
    return part.replace(written[0])


def _tensors(weights: Path) -> dict[str, Tensor]:
    """Return the weights by every name that they have: what parts share is written once, its other names in the file's metadata.

    safetensors' own `save_model` and `load_model` drop a tensor that is a view of another, and refuse a shared batch normalization.
    """
    with safe_open(weights, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no dict)
        names = file.metadata() or {}
    return tensors | {name: tensors[kept] for name, kept in names.items() if kept in tensors}


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "model.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: no model here, expected a folder with a model.json as pyrovae.save writes it"
        )
    try:
        whole = json.loads(path.read_text())
        given, content, checksum = whole["format"], whole["content"], whole["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: truncated, or not a model of this library ({error}). Save the model again"
        ) from error
    if given != FORMAT:
        raise ValueError(
            f"{path}: format {given!r}, this version reads {FORMAT!r}. Load it with the version that wrote it"
        )
    if _sha256(_canonical(content)) != checksum:
        raise ValueError(
            f"{path}: altered since it was saved (its checksum differs). Save the model again"
        )
    return content


def _checked_weights(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / Path(str(content["weights"]["file"])).name
    if not path.is_file() or _sha256(path.read_bytes()) != content["weights"]["sha256"]:
        raise ValueError(
            f"{path}: missing, truncated or altered since it was saved. Save the model again"
        )
    try:
        safe_open(path, framework="pt").__enter__()
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a safetensors file ({error}). Save the model again"
        ) from error
    return path


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
