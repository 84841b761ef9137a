"""Arguments that are checked when they are given: networks and whole numbers."""

from operator import index
from typing import Any

__all__ = ["check_network", "whole_number"]


def check_network(net: Any, where: str) -> None:
    """Check that a part is given a network, before it is called for the first time.

    Args:
        net: a module, or a function of tensors.
        where: the class that needs it, for the error.

    Raises:
        TypeError: if it is a class, or cannot be called.
    """
    if isinstance(net, type):
        raise TypeError(
            f"{where}: net is the class {net.__name__}, expected a network, an object of such a "
            "class, as nn.Linear(784, 20) is"
        )
    if not callable(net):
        raise TypeError(
            f"{where}: net is {net!r}, expected a network: an nn.Module, such as "
            "pyrovae.nets.MLP(784, [400], 20)"
        )


def whole_number(value: Any, what: str, least: int = 1) -> int:
    """Return a whole number, of Python's, NumPy's or torch's, as one of Python's.

    Args:
        value: what was given.
        what: what the error calls it, such as "embed: draws".
        least: the smallest that is right.

    Raises:
        ValueError: if it is none, or too small.
    """
    try:
        number = index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        whole = isinstance(value, float) and value >= least and value.is_integer()
        remedy = f": int({value!r})" if whole else ""
        raise ValueError(
            f"{what} is {value!r}, expected a whole number of at least {least}{remedy}"
        )
    return number
