"""How an object was built, as JSON: its class, and arguments read from attributes of their names.

    {"class": "priors.Mixture", "arguments": {"d": 2, "components": 10}}

To rebuild it, only public classes of this library and torch's activations are ever called.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.files.names import class_named, name_of

__all__ = ["build", "describe"]


def describe(graph: nn.Module) -> Any:
    """Return how a graph was built; a part that is not of this library is only named.

    Raises:
        TypeError: if a part's argument is a tensor that is not among the weights.
    """
    kept = {id(tensor) for tensor in graph.state_dict(keep_vars=True).values()}
    return _describe(graph, "graph", {}, kept)


def build(description: Any) -> Any:
    """Build the object that was described.

    Raises:
        ValueError: if it names something that this version does not know; the message says where.
    """
    return _build(description, "graph", {})


def _describe(value: Any, path: str, seen: dict[int, str], kept: set[int]) -> Any:
    """Return a value as JSON.

    Args:
        value: an argument of a constructor.
        path: where it stands, for errors and for `{"same as": path}`.
        seen: objects described before, and where.
        kept: tensors whose values are saved with the weights; shape and type are enough of them.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return _describe_tensor(value, path, kept)
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
    arguments = {
        key: _describe(getattr(value, key), f"{path}.{key}", seen, kept)
        for key in inspect.signature(type(value)).parameters
    }
    return {"class": name, "arguments": arguments}


def _describe_tensor(value: Tensor, path: str, kept: set[int]) -> dict[str, Any]:
    if id(value) not in kept:
        raise TypeError(
            f"save: {path} is a tensor outside the weights. "
            "Keep it as a parameter or a persistent buffer of that name"
        )
    return {"tensor": list(value.shape), "type": str(value.dtype).removeprefix("torch.")}


def _build(description: Any, path: str, built: dict[str, Any]) -> Any:
    if isinstance(description, list):
        return tuple(_build(item, f"{path}.{i}", built) for i, item in enumerate(description))
    if not isinstance(description, dict):
        return description
    if "foreign" in description:
        raise ValueError(
            f"{path} is a {description['foreign']}, which is not of this library: "
            "build the graph and call load(folder, into=graph)"
        )
    if "tensor" in description:
        dtype = getattr(torch, str(description.get("type")), None)
        known = _known(dtype if isinstance(dtype, torch.dtype) else None, path, description)
        return torch.zeros(description["tensor"], dtype=known)
    if "same as" in description:
        return built[description["same as"]]
    if "activation" in description:
        return _known(_activation(description["activation"]), path, description)
    built[path] = _call(description, path, built)
    return built[path]


def _call(description: Mapping[str, Any], path: str, built: dict[str, Any]) -> Any:
    cls = _known(class_named(description.get("class")), path, description)
    arguments = getattr(cls, "BEFORE", {}) | {
        key: _build(value, f"{path}.{key}", built)
        for key, value in description["arguments"].items()
    }
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ValueError(
            f"{path}: {error}. The model is of another version of the library "
            "(see versions in model.json)"
        ) from error


def _known(found: Any, path: str, description: Mapping[str, Any]) -> Any:
    if found is None:
        raise ValueError(
            f"{path}: {description} names nothing that this version of the library knows. "
            "Load it with the version that wrote it"
        )
    return found


def _activation(name: Any) -> type | None:
    """Return the class of torch's activation functions with that name, None if there is none."""
    from torch.nn.modules import activation

    return getattr(activation, name) if name in activation.__all__ else None
