"""The first difference between a saved description of a graph and that of a graph at hand."""

import inspect
from typing import Any

from pyrovae.files.names import class_named

__all__ = ["difference"]

_ACTIVATIONS = "torch.nn.modules.activation."


def difference(saved: Any, here: Any, path: str = "graph") -> str | None:
    """Return where two descriptions differ and how, None if they do not.

    Of parts that are not of this library only what both descriptions hold is compared: their own
    parts, and arguments of their constructors. A class that was renamed is no difference; another
    activation function of torch's is one.
    """
    if isinstance(saved, dict) and isinstance(here, dict):
        return _of_parts(saved, here, path)
    if isinstance(saved, list) and isinstance(here, list) and len(saved) == len(here):
        both = zip(saved, here, strict=True)
        return _first(difference(a, b, f"{path}.{i}") for i, (a, b) in enumerate(both))
    same = type(saved) is type(here) or {type(saved), type(here)} <= {int, float}
    return None if same and _equal(saved, here) else _said(path, saved, here)


def _of_parts(saved: dict[str, Any], here: dict[str, Any], path: str) -> str | None:
    if "foreign" in saved and "foreign" in here:
        names = saved["foreign"], here["foreign"]
        if names[0] != names[1] and all(str(name).startswith(_ACTIVATIONS) for name in names):
            return _said(path, *names)
        return _first(
            difference(saved[kind][key], here[kind][key], f"{path}.{key}")
            for kind in ("constants", "parts")
            for key in _shared(saved.get(kind), here.get(kind))
        )
    if "class" in saved and "class" in here:
        cls = class_named(saved["class"])
        if cls is not class_named(here["class"]):
            return _said(path, saved["class"], here["class"])
        first, second = (_complete(cls, one.get("arguments")) for one in (saved, here))
        return _first(difference(first[key], second.get(key), f"{path}.{key}") for key in first)
    return None if saved == here else _said(path, saved, here)


def _shared(one: Any, other: Any) -> list[str]:
    both = isinstance(one, dict) and isinstance(other, dict)
    return [key for key in one if key in other] if both else []


def _complete(cls: type | None, arguments: Any) -> dict[str, Any]:
    """Return arguments with the defaults of those that an earlier version did not have."""
    parameters = inspect.signature(cls).parameters if cls else {}
    empty = inspect.Parameter.empty
    defaults = {name: one.default for name, one in parameters.items() if one.default is not empty}
    plain = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in defaults.items()
        if value is None or isinstance(value, bool | int | float | str | tuple)
    }
    return plain | (arguments if isinstance(arguments, dict) else {})


def _equal(saved: Any, here: Any) -> bool:
    return saved == here or (saved != saved and here != here)  # NaN is NaN


def _first(found: Any) -> str | None:
    return next((one for one in found if one is not None), None)


def _said(path: str, saved: Any, here: Any) -> str:
    return f"{path} was {_short(saved)} when saved, and is {_short(here)} here"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        value = value.get("class") or next(iter(value.values()), value)
    shown = str(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
