"""How an object was built, as JSON: its class, and arguments read from attributes of their names.

    {"class": "priors.Mixture", "arguments": {"d": 2, "components": 10}}
    {"foreign": "mine.Encoder", "constants": {"slope": 0.1}, "parts": {"net": ...}}

To rebuild it, only public classes of this library and torch's activations are ever called.
"""

import inspect
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.files.budget import Budget
from pyrovae.files.kinds import check, list_of, obj, text, whole
from pyrovae.files.names import class_named, name_of
from pyrovae.files.signatures import check_arguments

__all__ = ["build", "check_form", "describe", "uncompiled"]

_WHERE = frozenset({"device", "cuda", "use_cuda"})  # names of what says where a part computes
_FORMS = {
    "class": {"class": text, "arguments": obj},
    "foreign": {"foreign": text},
    "tensor": {"tensor": list_of(whole(0, 2**40)), "type": text},
    "same as": {"same as": text},
    "activation": {"activation": text},
}


def describe(graph: nn.Module) -> Any:
    """Return how a graph was built, in JSON's types; a part that is not of this library is named.

    Of such a part, its own parts are described, and those arguments of its constructor that it
    keeps as attributes and that are numbers, text, or lists of them, but for its device.

    Raises:
        TypeError: if a part's argument is a tensor that is not among the weights.
    """
    kept = {id(tensor) for tensor in graph.state_dict(keep_vars=True).values()}
    return json.loads(json.dumps(_describe(graph, "graph", {}, kept)))


def build(description: Any, numbers: int) -> Any:
    """Build the object that was described.

    Args:
        description: what `describe` returned.
        numbers: how many numbers its weights hold, which bounds what is built.

    Raises:
        ValueError: if it names something that this version does not know, an argument is not what
            the constructor takes, or the object is larger than its weights; the message says where.
    """
    with Budget(numbers) as budget:
        return _Builder(budget).build(description, "graph")


def check_form(description: Any, path: str = "graph") -> None:
    """Check that a description has the form of what `describe` returns.

    Raises:
        ValueError: names the first place that has not.
    """
    if isinstance(description, list):
        for i, item in enumerate(description):
            check_form(item, f"{path}.{i}")
    if not isinstance(description, dict):
        return
    form = next((key for key in _FORMS if key in description), None)
    if form is None:
        raise ValueError(f"{path}: expected one of {', '.join(_FORMS)}")
    check(description, _FORMS[form], path, further=form == "foreign")
    for inner in ("arguments", "parts"):
        parts = description.get(inner, {})
        if not isinstance(parts, dict):
            raise ValueError(f"{path}.{inner} is no object")
        for key, value in parts.items():
            check_form(value, f"{path}.{key}")


def uncompiled(value: Any) -> Any:
    """Return the module that `torch.compile` wrapped, or the value itself."""
    compiled = type(value).__name__ == "OptimizedModule"
    return getattr(value, "_orig_mod", value) if compiled else value


def _describe(value: Any, path: str, seen: dict[int, str], kept: set[int]) -> Any:
    """Return a value as JSON.

    Args:
        value: an argument of a constructor.
        path: where it stands, for errors and for `{"same as": path}`.
        seen: objects described before, and where.
        kept: tensors whose values are saved with the weights; shape and type are enough of them.
    """
    value = uncompiled(value)
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
        return _describe_foreign(value, path, seen, kept)
    arguments = {
        key: _describe(getattr(value, key), f"{path}.{key}", seen, kept)
        for key in inspect.signature(type(value)).parameters
    }
    return {"class": name, "arguments": arguments}


def _describe_foreign(
    value: Any, path: str, seen: dict[int, str], kept: set[int]
) -> dict[str, Any]:
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if not isinstance(value, nn.Module):
        return {"foreign": name}
    parts = {
        key: _describe(part, f"{path}.{key}", seen, kept) for key, part in value.named_children()
    }
    return {"foreign": name, "constants": _constants(value), "parts": parts}


def _constants(module: nn.Module) -> dict[str, Any]:
    """Return the constructor's arguments that a module keeps, and that are plain values."""
    try:
        names = inspect.signature(type(module)).parameters
    except ValueError:  # of a class without a readable signature
        return {}
    kept = {name: vars(module)[name] for name in names if name in vars(module).keys() - _WHERE}
    return {name: value for name, value in kept.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _describe_tensor(value: Tensor, path: str, kept: set[int]) -> dict[str, Any]:
    if id(value) not in kept:
        raise TypeError(
            f"save: {path} is a tensor outside the weights. "
            "Keep it as a parameter or a persistent buffer of that name"
        )
    return {"tensor": list(value.shape), "type": str(value.dtype).removeprefix("torch.")}


class _Builder:
    """Builds one described object, and keeps its parts by the place where they stand."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.built: dict[str, Any] = {}

    def build(self, description: Any, path: str) -> Any:
        """Build what stands at a place."""
        if isinstance(description, list):
            return tuple(self.build(item, f"{path}.{i}") for i, item in enumerate(description))
        if not isinstance(description, dict):
            return description
        if "foreign" in description:
            raise ValueError(
                f"{path} is a {description['foreign']}, which is not of this library: "
                "build the graph and call load(folder, into=graph)"
            )
        if "tensor" in description:
            return self._tensor(description, path)
        if "same as" in description:
            earlier = self.built.get(str(description["same as"]))
            return _known(earlier, path, description)
        if "activation" in description:
            return _known(_activation(description["activation"]), path, description)
        self.built[path] = self._call(description, path)
        return self.built[path]

    def _tensor(self, description: Mapping[str, Any], path: str) -> Tensor:
        dtype = getattr(torch, str(description.get("type")), None)
        known = _known(dtype if isinstance(dtype, torch.dtype) else None, path, description)
        try:
            shape = torch.Size(description["tensor"])
            self.budget.allow(shape.numel())
            return torch.zeros(shape, dtype=known)
        except (TypeError, RuntimeError) as error:
            raise ValueError(f"{path}: {description} is no shape of a tensor") from error

    def _call(self, description: Mapping[str, Any], path: str) -> Any:
        cls = _known(class_named(description.get("class")), path, description)
        given = description.get("arguments")
        if not isinstance(given, dict):
            raise ValueError(f"{path}: the arguments of {description['class']} are not there")
        arguments = getattr(cls, "BEFORE", {}) | {
            key: self.build(value, f"{path}.{key}") for key, value in given.items()
        }
        check_arguments(cls, arguments, path, self.budget.numbers)
        try:
            return cls(**arguments)
        except Exception as error:  # a constructor may raise anything, given anything
            raise ValueError(
                f"{path}: {error}. The model was altered, or is of another version of the library "
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
