"""What a process does once, before its first fit or evaluation, so that all later ones are fast."""

import math
from functools import cache

import torch

__all__ = ["prepare_process"]

_LARGEST_KEPT = (32 << 20) - 8192  # bytes: what glibc keeps at most, less what it adds to a block


def prepare_process() -> None:
    """Refuse to compute on the device meta; the first time, prepare what makes others fast.

    Raises:
        RuntimeError: within `torch.device("meta")`, where new tensors have no values.
    """
    if torch.get_default_device().type == "meta":
        raise RuntimeError(
            'new tensors are made on the device meta, where they have no values: leave the "with '
            'torch.device("meta")" block, or call torch.set_default_device("cpu"), before fits '
            "and evaluations"
        )
    _prepare_once()


@cache
def _prepare_once() -> None:
    """Let freed memory be kept for the next step, and touch the constants of log(1 + x).

    glibc gives blocks back to the system that are larger than the largest one which was freed
    before, up to 32 MiB (man 3 mallopt, M_MMAP_THRESHOLD), and clearing their pages at each step
    takes up to a third of the time. One block of that size, which is never written, is enough.

    torch's log1p loads constants for its special cases in each vector instruction, masked, and one
    that lies in a page which was never read makes it seven times slower under AVX-512. So each
    special case is computed once.
    """
    torch.empty(_LARGEST_KEPT, dtype=torch.uint8, device="cpu")
    for value in (-0.0, -1.0, -2.0, math.inf, math.nan):
        torch.full((64,), value, dtype=torch.float32, device="cpu").log1p()
