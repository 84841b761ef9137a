"""What a value in a file must be: tables of kinds, checked before a value is used.

check({"seed": 3}, {"seed": whole(0)}, "run.json")
"""

import math
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from torch import Tensor, nn

__all__ = [
    "Kind",
    "anything",
    "boolean",
    "check",
    "list_of",
    "mapping_of",
    "number",
    "obj",
    "optional",
    "shown",
    "tensor",
    "text",
    "typed",
    "whole",
]


class Kind(NamedTuple):
    """A set of values.

    Attributes:
        words: what they are, for errors.
        holds: whether a value is one of them.
    """

    words: str
    holds: Callable[[Any], bool]


anything = Kind("anything", lambda value: True)
boolean = Kind("true or false", lambda value: isinstance(value, bool))
text = Kind("text", lambda value: isinstance(value, str))
number = Kind(
    "a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool)
)
obj = Kind("an object", lambda value: isinstance(value, dict))
tensor = Kind("a tensor", lambda value: isinstance(value, Tensor))


def whole(low: int, high: float = math.inf) -> Kind:
    """Return the whole numbers from `low` to `high`, both included."""

    def holds(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    upper = "" if high == math.inf else f" and at most {high}"
    return Kind(f"a whole number of at least {low}{upper}", holds)


def optional(kind: Kind) -> Kind:
    """Return the values of a kind, and None."""
    return Kind(f"{kind.words} or null", lambda value: value is None or kind.holds(value))


def list_of(kind: Kind, length: int | None = None) -> Kind:
    """Return lists and tuples of values of a kind; of a length, if one is given."""

    def holds(value: Any) -> bool:
        fits = isinstance(value, list | tuple) and length in (None, len(value))
        return fits and all(map(kind.holds, value))

    size = "" if length is None else f" {length}"
    return Kind(f"a list of{size}, each {kind.words}", holds)


def mapping_of(kind: Kind) -> Kind:
    """Return objects whose keys are text and whose values are of a kind."""

    def holds(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and all(isinstance(key, str) for key in value)
            and all(map(kind.holds, value.values()))
        )

    return Kind(f"an object of which each value is {kind.words}", holds)


def typed(hint: Any) -> Kind:
    """Return the values that a type annotation names; of one that is not known, all."""
    words = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
    return Kind(words, lambda value: _fits(value, hint))


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _fits(value, inner[0])
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin in (Sequence, list) or (origin is tuple and inner[-1] is ...):
        return isinstance(value, list | tuple) and all(_fits(item, inner[0]) for item in value)
    if origin is tuple:
        several = isinstance(value, list | tuple) and len(value) == len(inner)
        return several and all(map(_fits, value, inner))
    if origin is type:
        return isinstance(value, type)
    return _is_a(value, hint) if isinstance(hint, type) else True


def _is_a(value: Any, kind: type) -> bool:
    if kind is float:
        return number.holds(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if issubclass(kind, Enum):
        return value in [member.value for member in kind]
    known = kind in (bool, str, NoneType, Tensor, nn.Module)
    return isinstance(value, kind) if known else True


def check(content: Any, table: Mapping[str, Kind], place: str = "", further: bool = False) -> None:
    """Check that an object has the keys of a table, and values of their kinds.

    Args:
        content: the object.
        table: the kind of each key.
        place: where the object stands, for the error.
        further: whether other keys may be there too.

    Raises:
        ValueError: names the first key that is absent, unknown, or of another kind.
    """
    prefix = f"{place}." if place else ""
    if not isinstance(content, dict):
        raise ValueError(f"{place or 'content'} is {shown(content)}, expected an object")
    for key, kind in table.items():
        if key not in content:
            raise ValueError(f"{prefix}{key} is not there")
        if not kind.holds(content[key]):
            raise ValueError(f"{prefix}{key} is {shown(content[key])}, expected {kind.words}")
    unknown = [key for key in content if key not in table]
    if unknown and not further:
        raise ValueError(f"{prefix}{unknown[0]} is unknown, expected {', '.join(table)}")


def shown(value: Any) -> str:
    """Return a value for an error: plain values cut where they are long, of others the type."""
    plain = value is None or isinstance(value, bool | int | float | str | list | tuple)
    text = repr(value) if plain else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."
