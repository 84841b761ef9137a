"""What graphs share: the type of a module that is their attribute, and the check of data by it."""

from typing import Any

__all__ = ["Submodule", "check_part", "check_parts"]

Submodule = Any  # torch types an nn.Module's attributes as Tensor | Module, which has no `check`


def check_parts(graph: object, **parts: object) -> None:
    """Check that the parts of a graph are objects that can be called.

    Raises:
        TypeError: if one is a class, or something else; names it.
    """
    for name, part in parts.items():
        if isinstance(part, type) or not callable(part):
            what = f"the class {part.__name__}" if isinstance(part, type) else repr(part)
            raise TypeError(
                f"{type(graph).__name__}: {name} is {what}, expected an object of one of "
                "pyrovae's parts, or a module of your own that returns a distribution"
            )


def check_part(part: object, *data: Any) -> None:
    """Call `part.check(*data)` if the part has that method; a user's own part needs none.

    Raises:
        ValueError: whatever the part raises, such as a likelihood for data outside its support.
    """
    check = getattr(part, "check", None)
    if check is not None:
        check(*data)
