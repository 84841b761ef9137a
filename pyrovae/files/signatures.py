"""Whether arguments from a file are of the types that a constructor's annotations name."""

from collections.abc import Sequence
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch import Tensor, nn

__all__ = ["check_arguments"]

_LEAST = 1_000_000
_NO_SIZES = frozenset({"seed", "data_size", "total_count", "levels"})


def check_arguments(cls: type, arguments: dict[str, Any], path: str, numbers: int) -> None:
    """Check the arguments of a constructor.

    Args:
        cls: the class.
        arguments: by name.
        path: where the object stands, for errors.
        numbers: how many numbers the weights hold: no size may be larger, nor than a million.

    Raises:
        ValueError: names the first argument that is of another type, or too large.
    """
    hints = get_type_hints(cls.__init__)
    for name, value in arguments.items():
        if name in hints and not _fits(value, hints[name]):
            raise ValueError(
                f"{path}.{name} is {_shown(value)}, expected {_words(hints[name])}. The model was "
                "altered"
            )
        sizes = value if isinstance(value, tuple) else (value,)
        largest = max((size for size in sizes if isinstance(size, int)), default=0)
        if largest > max(numbers, _LEAST) and name not in _NO_SIZES:
            raise ValueError(
                f"{path}.{name} is {largest}, but the weights hold {numbers} numbers. The model "
                "was altered"
            )


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Sequence:
        return isinstance(value, tuple) and all(_fits(item, inner[0]) for item in value)
    if origin is type:
        return isinstance(value, type)
    if not isinstance(hint, type):
        return True  # Any, a callable: nothing to compare with
    return _is_a(value, hint)


def _is_a(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if issubclass(kind, Enum):
        return value in [member.value for member in kind]
    known = kind in (bool, str, NoneType, Tensor, nn.Module)
    return isinstance(value, kind) if known else True


def _words(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _shown(value: Any) -> str:
    plain = value is None or isinstance(value, bool | int | float | str | tuple)
    shown = repr(value) if plain else f"a {type(value).__name__}"
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
