"""What a step found, read at once or one step late.

A GPU works through a queue of operations. To read a loss is to wait until the queue is empty; and
then the GPU waits, until Python has queued the first operation of the next step. So the numbers are
sent to the host as soon as a step is queued, and read when the next one is queued, too. That one
cannot be taken back. A number on the GPU tells the optimizer to leave all weights as they are, from
the first loss on that is not finite; optimizers that are fused into one kernel read such a number.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from pyrovae.data import Minibatch
from pyrovae.objectives import Bound
from pyrovae.training.adam import Adam, AdamW

__all__ = ["Result", "Taken", "Unread", "can_read_late"]

_STOPPED_ON_DEVICE = (Adam, AdamW, torch.optim.Adam, torch.optim.AdamW)


class Result(NamedTuple):
    """What one optimizer step found in all processes, before it moved the weights.

    Attributes:
        rows: of the step.
        loss: mean loss per observation.
        reconstruction: summed over the rows, in nats.
        kl: by latent site, summed over the rows, in nats.
        gradient_norm: before clipping; NaN where it was not measured.
    """

    rows: int
    loss: float
    reconstruction: float
    kl: dict[str, float]
    gradient_norm: float = math.nan

    def read(self) -> "Result":
        """Return itself: it is read."""
        return self


class Unread(NamedTuple):
    """What one step found, on its way to the host.

    Attributes:
        rows: of the step.
        sites: the names of the latent sites.
        terms: loss, reconstruction, and KL of each site, on the device, with shape (2 + sites,).
        sent: the same on the host, once `arrived` is over.
        arrived: when the copy is made; None where the device is the host.
    """

    rows: int
    sites: Sequence[str]
    terms: Tensor
    sent: Tensor
    arrived: torch.cuda.Event | None

    @classmethod
    def of(cls, rows: int, loss: Tensor, bound: Bound) -> "Unread":
        """Begin to send what a step computed."""
        terms = torch.stack([loss.detach(), bound.reconstruction, *bound.kl.values()])
        sent, arrived = terms, None
        if terms.device.type == "cuda":
            sent = terms.to("cpu", non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(torch.cuda.current_stream(terms.device))
        return cls(rows, tuple(bound.kl), terms, sent, arrived)

    def read(self) -> Result:
        """Return the numbers: the one time that a step waits for a GPU."""
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, reconstruction, *kl = self.sent.tolist()
        return Result(self.rows, loss, reconstruction, dict(zip(self.sites, kl, strict=True)))

    def lost(self, before: Tensor | None) -> Tensor:
        """Return 1 on the device if this loss, or one before it, is not finite; otherwise 0."""
        now = self.terms[0].isfinite().logical_not().float()
        return now if before is None else torch.maximum(before, now)


class Taken(NamedTuple):
    """One step of an epoch, as it is kept until it is read.

    Attributes:
        position: of the step in its epoch, from 1.
        group: its minibatches.
        batches: the same as the programs got them.
        random_state: before it.
        found: its numbers.
    """

    position: int
    group: list[Minibatch]
    batches: list[tuple[Tensor, ...]]
    random_state: dict[str, Any]
    found: Result | Unread


def can_read_late(optimizer: Optimizer, parameters: Collection[Tensor]) -> bool:
    """Return whether a loss may be read late: all is on one GPU, with an optimizer that can stop.

    On the host nothing is gained.
    """
    places = {parameter.device for parameter in parameters}
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return (
        type(optimizer) in _STOPPED_ON_DEVICE
        and fused
        and len(places) == 1
        and places.pop().type == "cuda"
    )
