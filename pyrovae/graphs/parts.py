"""What graphs share: the type of a module that is their attribute, and the check of data by it."""

from typing import Any

__all__ = ["Submodule", "check_part"]

Submodule = Any  # torch types an nn.Module's attributes as Tensor | Module, which has no `check`


def check_part(part: object, *data: Any) -> None:
    """Call `part.check(*data)` if the part has that method; a user's own part needs none.

    Raises:
        ValueError: whatever the part raises, such as a likelihood for data outside its support.
    """
    check = getattr(part, "check", None)
    if check is not None:
        check(*data)
