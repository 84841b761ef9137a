"""The parameters of a distribution, cut from what a network puts out."""

from torch import Tensor

__all__ = ["chunk_parameters", "split_parameters"]


def split_parameters(y: Tensor, sizes: list[int], where: str, meaning: str) -> tuple[Tensor, ...]:
    """Return pieces of these sizes of the last axis.

    Raises:
        ValueError: if the network puts out another number than they add up to.
    """
    if y.shape[-1] != sum(sizes):
        raise ValueError(
            f"{where}: net puts out {y.shape[-1]} numbers, expected {sum(sizes)}: {meaning}. Change its last layer"
        )
    return y.split(sizes, -1)


def chunk_parameters(y: Tensor, pieces: int, where: str, meaning: str) -> tuple[Tensor, ...]:
    """Return so many equal pieces of the last axis, with D numbers each.

    Raises:
        ValueError: if the network's outputs do not divide so.
    """
    return split_parameters(y, [y.shape[-1] // pieces] * pieces, where, meaning)
