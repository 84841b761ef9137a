"""The state of a fit: the totals of an epoch, and what a checkpoint keeps.

A checkpoint is the table `PARTS`: what of a fit is kept under which name, how it is checked, and
how a fit continues from it. All of a checkpoint is checked before any of it is used.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrovae.files import History, checkpoint, kinds
from pyrovae.training import matching
from pyrovae.training.compared import COMPARED, Part
from pyrovae.training.results import Result

if TYPE_CHECKING:
    from pyrovae.training.loop import Loop

__all__ = ["PARTS", "Totals"]


@dataclass
class Totals:
    """Sums over the steps of an epoch so far: nats over rows, seconds, and rows."""

    loss: float = 0.0
    reconstruction: float = 0.0
    kl: float = 0.0
    seconds: float = 0.0
    rows: float = 0

    def add(self, result: Result) -> None:
        """Add a step."""
        self.loss += result.loss * result.rows
        self.reconstruction += result.reconstruction
        self.kl += sum(result.kl.values())
        self.rows += result.rows

    def means(self) -> dict[str, float]:
        """Return the means over the rows, by the names of `History`."""
        loss, reconstruction, kl = self.loss, self.reconstruction, self.kl
        sums = {"loss": loss, "elbo": reconstruction - kl, "reconstruction": reconstruction}
        return {name: value / self.rows for name, value in {**sums, "kl": kl}.items()}


# ----------------------------------------------------------------------------- checks of the parts
def _check_history(loop: "Loop", state: dict[str, Any]) -> None:
    history = History.from_dict(state)
    matching.check_data("data", history.data, loop.history.data)
    matching.check_same("bound", history.bound_name, loop.history.bound_name)


def _check_position(loop: "Loop", position: int) -> None:
    if position > loop.steps_per_epoch:
        raise ValueError(
            f"resume: position is {position}, but an epoch has {loop.steps_per_epoch} steps. Start "
            "a new fit without resume="
        )


def _check_best(loop: "Loop", best: dict[str, Tensor]) -> None:
    if best:
        matching.check_tensors("graph", best, loop.programs.named_tensors())


def _check_scheduler(loop: "Loop", state: dict[str, Any] | None) -> None:
    matching.check_same("scheduler", state is not None, loop.scheduler is not None)
    if loop.scheduler is not None and state is not None:
        matching.check_scheduler(loop.scheduler, state)


def _check_random(loop: "Loop", state: dict[str, Any]) -> None:
    devices = ["cpu", *(f"cuda:{index}" for index in loop.devices)]
    for device, stream in zip(devices, [state["cpu"], *state["cuda"]], strict=False):
        try:
            torch.Generator(device).set_state(stream)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"resume: the random stream of {device} cannot be restored ({error}). Start a new "
                "fit without resume="
            ) from error


def _is_random_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"cpu", "cuda"}
        and kinds.tensor.holds(value["cpu"])
        and kinds.list_of(kinds.tensor).holds(value["cuda"])
    )


def _check_average(loop: "Loop", state: dict[str, Any] | None) -> None:
    matching.check_same("ema", state is not None, loop.average is not None)
    if loop.average is not None and state is not None:
        numbers = {"updates": kinds.whole(0), "averages": kinds.list_of(kinds.tensor)}
        kinds.check(state, numbers, "average")
        now = {str(i): tensor for i, tensor in enumerate(loop.average.averages)}
        was = {str(i): tensor for i, tensor in enumerate(state["averages"])}
        matching.check_tensors("average", was, now)


def _put_average(loop: "Loop", state: dict[str, Any] | None) -> None:
    if loop.average is not None and state is not None:
        loop.average.load_state_dict(state)


def _put_totals(loop: "Loop", sums: list[float]) -> None:
    loop.totals = Totals(*sums)
    if len(sums) < len(asdict(loop.totals)):  # of version 0.2.0, without the rows
        loop.totals.rows = loop.position * loop.arguments.batch_size


def _put_scheduler(loop: "Loop", state: dict[str, Any] | None) -> None:
    if loop.scheduler is not None and state is not None:
        loop.scheduler.load_state_dict(state)


_TENSORS = kinds.mapping_of(kinds.tensor)
_LEARNED = kinds.mapping_of(
    kinds.Kind(
        "a number, a tensor or null",
        lambda value: kinds.optional(kinds.number).holds(value) or kinds.tensor.holds(value),
    )
)
PARTS: dict[str, Part] = {
    "history": Part(
        kinds.obj,
        lambda loop: loop.history.to_dict(),
        _check_history,
        lambda loop, value: setattr(loop, "history", History.from_dict(value)),
    ),
    "position": Part(
        kinds.whole(0),
        lambda loop: loop.position,
        _check_position,
        lambda loop, value: setattr(loop, "position", value),
    ),
    "sums": Part(
        kinds.Kind(
            "a list of 5 numbers",
            lambda value: any(kinds.list_of(kinds.number, n).holds(value) for n in (4, 5)),
        ),
        lambda loop: list(asdict(loop.totals).values()),
        put=_put_totals,
    ),
    "random": Part(
        kinds.Kind("the states of random streams", _is_random_state),
        lambda loop: checkpoint.random_state(loop.devices),
        _check_random,
        lambda loop, value: checkpoint.set_random_state(value, loop.devices),
    ),
    "weights": Part(
        _TENSORS,
        lambda loop: loop.programs.state(),
        lambda loop, value: matching.check_tensors("graph", value, loop.programs.named_tensors()),
        lambda loop, value: loop.programs.put(value),
    ),
    "best": Part(
        _TENSORS,
        lambda loop: loop.best,
        _check_best,
        lambda loop, value: setattr(loop, "best", value),
    ),
    **COMPARED,
    "optimizer": Part(
        kinds.obj,
        lambda loop: loop.svi.optimizer.state_dict(),
        lambda loop, value: matching.check_optimizer(loop.svi.optimizer, value),
        lambda loop, value: loop.svi.optimizer.load_state_dict(value),
    ),
    "clipping": Part(
        kinds.mapping_of(kinds.number),
        lambda loop: loop.svi.clipping.state_dict(),
        lambda loop, value: matching.check_names("clipping", value, loop.svi.clipping.state_dict()),
        lambda loop, value: loop.svi.clipping.load_state_dict(value),
        later=True,
    ),
    "average": Part(
        kinds.optional(kinds.obj),
        lambda loop: None if loop.average is None else loop.average.state_dict(),
        _check_average,
        _put_average,
        later=True,
    ),
    "scheduler": Part(
        kinds.optional(kinds.obj),
        lambda loop: loop.scheduler.state_dict() if loop.scheduler else None,
        _check_scheduler,
        _put_scheduler,
    ),
    "objective": Part(
        _LEARNED,
        lambda loop: loop.objective.state_dict(),
        lambda loop, value: matching.check_names("objective", value, loop.objective.state_dict()),
        lambda loop, value: loop.objective.load_state_dict(value),
        later=True,
    ),
}
