"""A bound on what is built from a file: no more than its weights can fill."""

import threading
from typing import Any, Self

from torch import Tensor, nn
from torch.nn.modules import module as hooks

__all__ = ["Budget"]

_ROOM = 4  # what is built may hold a few times the numbers of the weights: masks, replaced parts
_LEAST = 1_000_000
_ANY = 200  # numbers that a tensor or a module counts for: any model may have thousands of them


class Budget:
    """Context in which this thread may build modules with a bounded number of parameters.

    A file may say anything: a network of 10^12 units, or of 10^9 layers. It is refused when the
    first parameter beyond the bound is registered, before memory is filled.

    Args:
        numbers: how many numbers the weights hold.
    """

    def __init__(self, numbers: int) -> None:
        self.numbers = numbers
        self._left = _ROOM * numbers + _LEAST
        self._thread = threading.get_ident()
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        self._handles = [
            hooks.register_module_parameter_registration_hook(self._register_tensor),
            hooks.register_module_buffer_registration_hook(self._register_tensor),
            hooks.register_module_module_registration_hook(self._register_module),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def allow(self, numbers: int) -> None:
        """Take so many numbers from the budget.

        Raises:
            ValueError: if it is spent.
        """
        self._left -= numbers
        if self._left < 0:
            raise ValueError(
                f"it describes a larger model than its weights, which hold {self.numbers} numbers"
            )

    def _register_tensor(self, module: nn.Module, name: str, tensor: Tensor | None) -> None:
        if tensor is not None and threading.get_ident() == self._thread:
            self.allow(tensor.numel() + _ANY)

    def _register_module(self, module: nn.Module, name: str, part: nn.Module | None) -> None:
        if threading.get_ident() == self._thread:
            self.allow(_ANY)
