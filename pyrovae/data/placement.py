"""Where tensors lie: copies to a GPU that the host does not wait for."""

import torch
from torch import Tensor

__all__ = ["sent"]


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a copy to a GPU is queued there, as all that reads it is.

    A copy to the host is waited for: nothing would tell its reader when it is made.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")
