"""Diagnosis of a fit that diverges."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Minibatch
from pyrovae.files import History
from pyrovae.training.svi import FusedSVI
from pyrovae.training.synchronized import alone

__all__ = ["TrainingError", "diagnose", "diagnose_step", "diverged"]

_NOTHING_FOUND = "every site's density is finite"
_REMEDY = (
    'Try a smaller learning rate, clip_norm="auto", data of about unit size '
    "(conditional.Standardized), or a bounded scale in the likelihood or posterior"
)
_REMEDY_OF_HALF = (
    "Its weights are float16, in which Adam's eps of 1e-8 is 0 and the square of a gradient below "
    "2e-4 too, so that a step is 0 / 0; and values above 65504 are infinite. Train in float32, as "
    'by graph.float(), with precision="bf16" if it shall be fast'
)
_LISTED = 5  # rows that an error lists


class TrainingError(RuntimeError):
    """A loss or a parameter is no longer finite.

    The graph holds the last good weights.

    Attributes:
        history: the record of the fit until then.
    """

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history


def diverged(what: str, step: int, history: History, tensors: Iterable[Tensor]) -> TrainingError:
    """Return the error of a fit that diverged in a step of the epoch after those of its history.

    Args:
        what: is not finite.
        step: number of the step in its epoch.
        history: of the fit.
        tensors: that were trained.
    """
    kept = history.best_epoch or len(history.loss)
    return TrainingError(
        f"step {step} of epoch {len(history.loss) + 1}: {what}. The graph holds the weights "
        f"{f'of epoch {kept}' if kept else 'that it began with'}. "
        + (_REMEDY_OF_HALF if any(t.dtype is torch.float16 for t in tensors) else _REMEDY),
        history,
    )


def _name(objective: Any) -> str:
    return type(getattr(objective, "elbo", objective)).__name__


def diagnose_step(
    svi: FusedSVI,
    batches: Sequence[tuple[Tensor, ...]],
    minibatches: Sequence[Minibatch],
    data: str = "data",
) -> str:
    """Return what is not finite in the first of some minibatches where something is.

    Every process calls it, and all return the words of one in which something was found.

    Args:
        svi: as for `diagnose`.
        batches: the minibatches as the programs got them; empty ones are left out.
        minibatches: the same before a transform, with the numbers of their rows.
        data: what to call the data.
    """
    words = found = ""
    with alone(svi.programs, svi.processes):
        for batch, minibatch in zip(batches, minibatches, strict=True):
            if batch and not found:
                words = diagnose(svi, batch, minibatch.rows, data)
                found = "" if words.startswith(_NOTHING_FOUND) else words
    return svi.processes.first(found) or svi.processes.first(words)


def diagnose(
    svi: FusedSVI, batch: tuple[Tensor, ...], rows: Tensor | None, data: str = "data"
) -> str:
    """Return in words the first parameter or site that is not finite, and in which rows.

    Args:
        svi: whose programs are run on the batch; the caller restores the random stream of the step.
        batch: the minibatch.
        rows: its row numbers in the data, None if they are not known.
        data: what to call the data.
    """
    name = svi.programs.broken_parameter()
    if name:
        return f"parameter {name} is not finite since the step before"
    found = programs.not_finite(svi.graph, *batch)
    if found is None:
        return (
            f"{_NOTHING_FOUND} at fresh draws, so the loss itself overflowed: a "
            f"closed-form KL, or what {_name(svi.objective)} computes of the densities"
        )
    site, bad = found
    listed = bad[:_LISTED].tolist()
    words = f"{site} has no finite density in {len(bad)} rows of the batch: {listed}"
    if rows is None:
        return words
    return f"{words}, which are rows {rows[bad][:_LISTED].tolist()} of the {data}"
