"""The number of threads for training: one for small steps, which two threads make slower.

On a machine that others use too, threads that wait for each other at every operation can make a
small step tens of times slower.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["threads_for"]

_PRODUCTS_PER_THREAD = 50_000_000  # multiplications of a forward pass: about 10 ms of one thread


@contextmanager
def threads_for(batch_size: int, parameters: int) -> Iterator[None]:
    """Context in which torch uses as many threads as a step is worth, at most those it had.

    Args:
        batch_size: cells per step.
        parameters: number of weights, each of which is multiplied once per cell.
    """
    before = torch.get_num_threads()
    wanted = max(1, batch_size * parameters // _PRODUCTS_PER_THREAD)
    torch.set_num_threads(min(before, wanted))
    try:
        yield
    finally:
        torch.set_num_threads(before)
