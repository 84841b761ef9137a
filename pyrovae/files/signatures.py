"""Whether arguments from a file are of the types that a constructor's annotations name."""

from typing import Any, get_type_hints

from pyrovae.files.kinds import shown, typed

__all__ = ["check_arguments"]

_LEAST = 1_000_000
_NO_SIZES = frozenset({"seed", "data_size", "total_count", "levels"})


def check_arguments(cls: Any, arguments: dict[str, Any], path: str, numbers: int) -> None:
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
        kind = typed(hints.get(name))
        if name in hints and not kind.holds(value):
            raise ValueError(
                f"{path}.{name} is {shown(value)}, expected {kind.words}. The model was altered"
            )
        sizes = value if isinstance(value, tuple) else (value,)
        largest = max((size for size in sizes if isinstance(size, int)), default=0)
        if largest > max(numbers, _LEAST) and name not in _NO_SIZES:
            raise ValueError(
                f"{path}.{name} is {largest}, but the weights hold {numbers} numbers. The model "
                "was altered"
            )
