"""From the output of a network to the parameters of a distribution: split, check, assemble."""

from typing import Any

import torch
from torch import Tensor

__all__ = ["checked_output", "cholesky_factor", "chunk_parameters", "split_parameters"]


def checked_output(y: Any, where: str) -> Tensor:
    """Return what a network returned, if it is a tensor from which parameters can be taken.

    Args:
        y: output of the network.
        where: the class that needs it, for the error.

    Raises:
        TypeError: if it is no tensor, or not one of floating-point numbers.
    """
    if isinstance(y, Tensor) and y.is_floating_point():
        return y
    kind = type(y).__name__
    what = "None" if y is None else f"a {y.dtype} tensor" if isinstance(y, Tensor) else f"a {kind}"
    raise TypeError(
        f"{where}: net returns {what}, expected one tensor of floating-point numbers. Let its "
        "forward return that, or wrap it in a module whose forward picks or converts it"
    )


def split_parameters(y: Tensor, sizes: list[int], where: str, meaning: str) -> tuple[Tensor, ...]:
    """Return consecutive pieces of the last dimension, with these sizes.

    Args:
        y: output of the network, with shape (*, sum of the sizes).
        sizes: of the pieces.
        where: the class that needs them, for the error.
        meaning: of the pieces, for the error.

    Raises:
        ValueError: if the last dimension does not have the size that the pieces add up to.
        TypeError: as `checked_output`.
    """
    y = checked_output(y, where)
    if y.shape[-1] != sum(sizes):
        raise ValueError(
            f"{where}: net outputs {y.shape[-1]} numbers, expected {sum(sizes)}: {meaning}. "
            "Change the size of its last layer"
        )
    return y.split(sizes, -1)


def chunk_parameters(y: Tensor, pieces: int, where: str, meaning: str) -> tuple[Tensor, ...]:
    """Return n equal pieces of the last dimension, with shape (*, D) each.

    Args:
        y: output of the network, with shape (*, n D).
        pieces: n.
        where: the class that needs them, for the error.
        meaning: of the pieces, for the error.

    Raises:
        ValueError: if n does not divide the size of the last dimension.
        TypeError: as `checked_output`.
    """
    y = checked_output(y, where)
    return split_parameters(y, [y.shape[-1] // pieces] * pieces, where, meaning)


def cholesky_factor(log_diagonal: Tensor, lower: Tensor) -> Tensor:
    """Return a lower triangular matrix L with a positive diagonal, with shape (*, D, D).

    Args:
        log_diagonal: logarithms of the diagonal, with shape (*, D).
        lower: what lies below the diagonal, row by row, with shape (*, D (D - 1) / 2).
    """
    d = log_diagonal.shape[-1]
    row, column = torch.tril_indices(d, d, -1, device=lower.device)
    square = lower.new_zeros(*lower.shape[:-1], d * d).index_copy(-1, row * d + column, lower)
    return square.unflatten(-1, (d, d)) + torch.diag_embed(log_diagonal.exp())
