"""Exponential moving average of the weights, with which validation and the result are better.

a_t = d_t a_(t-1) + (1 - d_t) w_t,     d_t = min(decay, (1 + t) / (10 + t))
                  (Polyak & Juditsky 1992; d_t rises as in TensorFlow's ExponentialMovingAverage)
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

__all__ = ["WeightAverage"]


class WeightAverage:
    """The moving average of trained tensors.

    Args:
        tensors: the tensors that training changes in place.
        decay: d, in (0, 1); the average reaches back about 1 / (1 - d) steps.
    """

    def __init__(self, tensors: list[Tensor], decay: float) -> None:
        self.tensors, self.decay, self.updates = tensors, decay, 0
        self.averages = [tensor.detach().clone() for tensor in tensors]

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = [tensor.detach() for tensor in self.tensors]
        get_ema_multi_avg_fn(decay)(self.averages, current, None)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Context in which the tensors hold their averages; after an error they are left alone."""
        weights = [tensor.detach().clone() for tensor in self.tensors]
        self.put()
        yield
        _copy(weights, self.tensors)

    def put(self) -> None:
        """Give the tensors their averages for good."""
        _copy(self.averages, self.tensors)

    def state_dict(self) -> dict[str, object]:
        """Return what `load_state_dict` needs."""
        return {"updates": self.updates, "averages": self.averages}

    def load_state_dict(self, state: dict) -> None:
        """Continue from what `state_dict` returned."""
        self.updates = state["updates"]
        _copy(state["averages"], self.averages)


@torch.no_grad()
def _copy(sources: list[Tensor], targets: list[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
