"""Terms in half precision, whose sums would lose whole nats if they were rounded to it.

bfloat16 resolves a log density of -540 to 2 nats, and float16 ends at 65504.
"""

import torch
from torch import Tensor

__all__ = ["summed", "widened"]

_HALF = torch.bfloat16, torch.float16


def widened(terms: Tensor) -> Tensor:
    """Return terms in single precision if they are in half precision, else as they are."""
    return terms.float() if terms.dtype in _HALF else terms


def summed(terms: Tensor, dimensions: tuple[int, ...]) -> Tensor:
    """Return the sum over some dimensions, in single precision if the terms are in half.

    Args:
        terms: with any shape.
        dimensions: to sum over; of none, the terms themselves are returned.

    Example:
        >>> summed(torch.full((3, 784), -0.7, dtype=torch.bfloat16), (-1,)).dtype
        torch.float32
    """
    if not dimensions:
        return widened(terms)
    return terms.sum(dimensions, dtype=torch.float32 if terms.dtype in _HALF else None)
