"""Grey levels as probabilities: rows of zeros and ones, drawn anew each time they are used."""

import torch
from torch import Tensor

__all__ = ["binarize"]

_ROUNDING = 1e-6  # beyond [0, 1], as grey levels that were averaged or resized may lie


def binarize(x: Tensor) -> Tensor:
    """Return x~ in {0, 1} with P(x~ = 1) = x: grey levels in [0, 1] as Bernoulli probabilities.

    Resampled each time a row is used, it is the dynamic binarization of Salakhutdinov & Murray
    (2008).

    Args:
        x: grey levels with any shape.

    Returns:
        A tensor with the shape and type of x.

    Raises:
        ValueError: if a value is outside [0, 1], such as a grey level from 0 to 255, or NaN; on a
            GPU, where that would be to wait, floating-point rows have NaN there, and a fit says so.

    Example:
        >>> binarize(torch.tensor([0.0, 1.0]))
        tensor([0., 1.])
    """
    waits = x.device.type == "cuda" and x.is_floating_point()
    if x.numel() and not waits:
        _check_probabilities(x)
    if not x.is_floating_point():
        return x.clone()  # of 0 and 1 only
    drawn = (torch.rand_like(x) < x).to(x.dtype)  # on a CPU faster than torch.bernoulli(x)
    if not waits:
        return drawn
    beyond = _beyond(x.dtype)
    return torch.where((x >= -beyond) & (x <= 1 + beyond), drawn, torch.nan)


def _beyond(dtype: torch.dtype) -> float:
    return max(_ROUNDING, torch.finfo(dtype).eps) if dtype.is_floating_point else 0


def _check_probabilities(x: Tensor) -> None:
    low, high = torch.stack(x.detach().aminmax()).tolist()
    beyond = _beyond(x.dtype)
    if low != low:  # NaN
        raise ValueError("binarize: x holds NaN, expected grey levels in [0, 1]: leave NaN out")
    if not (low >= -beyond and high <= 1 + beyond):
        raise ValueError(
            f"binarize: x has values from {low:g} to {high:g}, expected grey levels in [0, 1], the "
            "probabilities of a 1. Divide x by its largest grey level, which is 255 for bytes"
        )
