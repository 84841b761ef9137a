"""What a step found, read at once or one step late.

A GPU works through a queue of operations. To read a loss is to wait until the queue is empty; and
then the GPU waits, until Python has queued the first operation of the next step. So the numbers are
sent to the host as soon as a step is queued, and read when the next one is queued, too. That one
cannot be taken back. A number on the GPU tells the optimizer to leave all weights as they are, from
the first loss or measured gradient on that is not finite; optimizers that are fused into one kernel
read such a number.
"""

import functools
import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from pyrovae.data import Minibatch
from pyrovae.objectives import Bound
from pyrovae.training.adam import Adam, AdamW

__all__ = ["Result", "Several", "Taken", "Unread", "can_read_late"]

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
    """What one minibatch gave, on its way to the host.

    Attributes:
        rows: of the minibatch.
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
        """Begin to send what was computed of a minibatch."""
        terms = torch.stack([loss.detach(), bound.reconstruction, *bound.kl.values()])
        return cls(rows, tuple(bound.kl), terms, *_on_its_way(terms))

    def read(self) -> Result:
        """Return the numbers, the gradient's norm not being one."""
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, reconstruction, *kl = self.sent.tolist()
        return Result(self.rows, loss, reconstruction, dict(zip(self.sites, kl, strict=True)))


class Several(NamedTuple):
    """What the minibatches of one step gave together, on its way to the host.

    Attributes:
        parts: of each minibatch.
        norm: of the gradient before clipping, on the device; None where it is not measured.
        sent: the same on the host, once `arrived` is over.
        arrived: when the copy is made; None where the device is the host.
    """

    parts: Sequence[Unread]
    norm: Tensor | None = None
    sent: Tensor | None = None
    arrived: torch.cuda.Event | None = None

    def measured(self, norm: Tensor) -> "Several":
        """Return it with the norm of the gradient, and begin to send that."""
        return Several(self.parts, norm, *_on_its_way(norm))

    def read(self) -> Result:
        """Return the numbers: the one time that a step waits for a GPU."""
        result = _combined([part.read() for part in self.parts])
        if self.sent is None:
            return result
        if self.arrived is not None:
            self.arrived.synchronize()
        return result._replace(gradient_norm=self.sent.item())

    def lost(self, before: Tensor | None) -> Tensor:
        """Return 1 on the device if a loss or the norm is not finite or `before` is 1, else 0."""
        numbers = [part.terms[0] for part in self.parts]
        numbers += [] if self.norm is None else [self.norm]
        flags = [number.isfinite().logical_not().float() for number in numbers]
        return functools.reduce(torch.maximum, flags if before is None else [before, *flags])


class Taken(NamedTuple):
    """One step of an epoch, as it is kept until it is read.

    Attributes:
        position: of the step in its epoch, from 1.
        group: its minibatches.
        batches: the same as the programs got them.
        random_state: before it.
        found: its numbers, read or on their way.
    """

    position: int
    group: list[Minibatch]
    batches: list[tuple[Tensor, ...]]
    random_state: dict[str, Any]
    found: Result | Several


def _combined(results: Sequence[Result]) -> Result:
    """Return what minibatches gave as one result, the loss as the mean over all rows."""
    if len(results) == 1:
        return results[0]
    rows = sum(result.rows for result in results)
    total = Result(rows, 0.0, 0.0, {})
    for result in results:
        kl = {site: total.kl.get(site, 0.0) + value for site, value in result.kl.items()}
        loss = total.loss + result.rows / max(1, rows) * result.loss
        total = Result(rows, loss, total.reconstruction + result.reconstruction, kl)
    return total


def _on_its_way(numbers: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Return a copy on the host and the event of its arrival; on the host, the numbers alone."""
    if numbers.device.type != "cuda":
        return numbers, None
    sent, arrived = numbers.to("cpu", non_blocking=True), torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(numbers.device))
    return sent, arrived


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
