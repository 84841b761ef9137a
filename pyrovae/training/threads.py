"""The number of threads of a fit: as many as a step is worth.

On a machine that others use too, threads that wait for each other at every operation can make a
small step tens of times slower. So a step gets a thread for every 20 million multiplications of
its forward pass, which take one thread about 2 ms with the backward pass. Where they are found
waiting all the same, there are fewer (`pyrovae/data/threads.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyrovae.data import torch_threads

__all__ = ["Products", "threads_for"]

_PER_THREAD = 20_000_000


class Products(TorchFunctionMode):
    """Context that counts the multiplications of linear layers, convolutions and matrix products.

    Recurrent layers, attention and compiled functions are not seen.

    Attributes:
        total: multiplications so far.

    Example:
        >>> with Products() as counted:
        ...     _ = torch.nn.Linear(20, 5)(torch.zeros(3, 20))
        >>> counted.total
        300
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch, and count."""
        result = func(*args, **(kwargs or {}))
        name, given = getattr(func, "__name__", ""), [*args, *(kwargs or {}).values()][:2]
        if len(given) < 2 or not all(isinstance(each, Tensor) for each in given):
            return result
        first, second = given
        if name in ("linear", "matmul", "__matmul__", "mm", "bmm", "mv"):
            self.total += result.numel() * first.shape[-1]
        elif name.startswith("conv_transpose"):
            self.total += first.numel() * second[0].numel()
        elif name in ("conv1d", "conv2d", "conv3d"):
            self.total += result.numel() * second[0].numel()
        return result


@contextmanager
def threads_for(products: int) -> Iterator[None]:
    """Context in which torch uses as many threads as a step is worth, at most those it had.

    Args:
        products: multiplications of a step's forward pass.
    """
    with torch_threads(min(torch.get_num_threads(), max(1, products // _PER_THREAD))):
        yield
