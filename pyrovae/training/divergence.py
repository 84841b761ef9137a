"""What to say of a fit that diverges."""

from torch import Tensor

from pyrovae import programs
from pyrovae.files import History
from pyrovae.training.step import Step

__all__ = ["TrainingError", "culprit"]

_NAMED = 5  # rows that an error lists


class TrainingError(RuntimeError):
    """A loss, or a weight, is no longer finite. The graph holds the last good weights; `history` tells what led there."""

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history


def culprit(svi: Step, batch: tuple[Tensor, ...], rows: Tensor, data: str = "data") -> str:
    """Run both programs on the batch and name the first parameter or site that is not finite; the noise is the caller's to set."""
    name = svi.broken_parameter()
    if name:
        return f"parameter {name} is not finite since the step before"
    found = programs.not_finite(svi.graph, *batch)
    if found is None:
        return "every site's density is finite, but a closed-form KL is not"
    site, bad = found
    places = f"{bad[:_NAMED].tolist()}, which are rows {rows[bad][:_NAMED].tolist()} of the {data}"
    return f"{site} has no finite density in {len(bad)} rows of the batch: {places}"
