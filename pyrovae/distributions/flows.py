"""What autoregressive flows share: the orders in which their steps go through the dimensions."""

import torch
from torch import Tensor

__all__ = ["orders"]


def orders(d: int, steps: int, seed: int | None = None) -> list[Tensor]:
    """Return one order of the D dimensions for each step: each the reverse of the one before, or random ones.

    Args:
        d: number of dimensions D.
        steps: number of orders.
        seed: of random permutations, drawn from a stream of their own; None reverses between steps (Kingma et al. 2016, section 5).

    Raises:
        ValueError: if `d` or `steps` is below 1.

    Example:
        >>> orders(3, 2)
        [tensor([0, 1, 2]), tensor([2, 1, 0])]
    """
    if d < 1 or steps < 1:
        raise ValueError(f"orders: d is {d} and steps is {steps}, expected at least 1 of each")
    if seed is None:
        first = torch.arange(d)
        return [first.flip(0) if step % 2 else first.clone() for step in range(steps)]
    stream = torch.Generator().manual_seed(seed)
    return [torch.randperm(d, generator=stream) for _ in range(steps)]
