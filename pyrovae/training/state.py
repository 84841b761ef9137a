"""The state of a fit: the totals of an epoch, and what a checkpoint keeps.

A checkpoint is the table `PARTS`: what of a fit is kept under which name, how it is checked, and
how a fit continues from it. All of a checkpoint is checked before any of it is used.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pyrovae.files import History, checkpoint, difference, kinds
from pyrovae.training import matching
from pyrovae.training.agreement import choices, settings

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

    def add(self, loss: float, reconstruction: float, kl: float, rows: int) -> None:
        """Add a step."""
        self.loss += loss
        self.reconstruction += reconstruction
        self.kl += kl
        self.rows += rows

    def means(self) -> dict[str, float]:
        """Return the means over the rows, by the names of `History`."""
        loss, reconstruction, kl = self.loss, self.reconstruction, self.kl
        sums = {"loss": loss, "elbo": reconstruction - kl, "reconstruction": reconstruction}
        return {name: value / self.rows for name, value in {**sums, "kl": kl}.items()}


class Part(NamedTuple):
    """One entry of a checkpoint.

    Attributes:
        kind: what its value must be, whatever is fitted.
        of: a fit -> the value that a checkpoint keeps.
        put: lets a fit continue from a value.
        check: raises a ValueError if a value does not belong to a fit.
        later: whether earlier versions wrote none; such a checkpoint leaves the fit as it is.
    """

    kind: kinds.Kind
    of: Callable[[Any], Any]
    put: Callable[[Any, Any], None]
    check: Callable[[Any, Any], None] = lambda loop, value: None
    later: bool = False


# ----------------------------------------------------------------------------- checks of the parts
def _check_settings(loop: "Loop", was: dict[str, Any]) -> None:
    now = settings(loop)
    matching.check_names("settings", was, now)
    for name in now:
        matching.check_same(name, was[name], now[name])


def _check_choices(loop: "Loop", was: dict[str, Any]) -> None:
    for name, value in choices(loop).items():
        if value is not None and was.get(name) is not None:
            matching.check_same(name, was[name], value)


def _check_graph(loop: "Loop", was: dict[str, Any]) -> None:
    here = loop.svi.built
    found = difference(was["graph"], here["graph"]) if "graph" in was and here else None
    if found is not None:
        raise ValueError(f"resume: the checkpoint is of another graph: {found}. Build it as it was")


def _check_history(loop: "Loop", state: dict[str, Any]) -> None:
    history = History.from_dict(state)
    matching.check_data(history.data, loop.history.data)
    matching.check_same("bound", history.bound_name, loop.history.bound_name)


def _check_position(loop: "Loop", position: int) -> None:
    if position > loop.steps_per_epoch:
        raise ValueError(
            f"resume: position is {position}, but an epoch has {loop.steps_per_epoch} steps. Start "
            "a new fit without resume="
        )


def _lengths(loop: "Loop") -> list[list[int | None]]:
    """Return the minibatches of an epoch and the validation rows of each process."""
    return [[one.planned, one.validation_rows] for one in loop.lengths]


def _check_lengths(loop: "Loop", was: list[list[int | None]]) -> None:
    """Compare the shares of as many processes; those of another number have other lengths."""
    now = _lengths(loop)
    if len(was) == len(now):
        for i, name in enumerate(("minibatches", "validation rows")):
            before, here = ([one[i] for one in some] for some in (was, now))
            matching.check_same(f"number of {name} in each process", before, here)


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


def _put_nothing(loop: "Loop", value: Any) -> None:
    """Leave the fit as it is: the value is only compared."""


_TENSORS = kinds.mapping_of(kinds.tensor)
_LEARNED = kinds.mapping_of(
    kinds.Kind(
        "a number, a tensor or null",
        lambda value: kinds.optional(kinds.number).holds(value) or kinds.tensor.holds(value),
    )
)
PARTS: dict[str, Part] = {
    "epochs": Part(kinds.whole(1), lambda loop: loop.arguments.epochs, _put_nothing, later=True),
    "history": Part(
        kinds.obj,
        lambda loop: loop.history.to_dict(),
        lambda loop, value: setattr(loop, "history", History.from_dict(value)),
        _check_history,
    ),
    "batch_size": Part(
        kinds.whole(1),
        lambda loop: loop.arguments.batch_size,
        _put_nothing,
        lambda loop, value: matching.check_same("batch_size", value, loop.arguments.batch_size),
    ),
    "position": Part(
        kinds.whole(0),
        lambda loop: loop.position,
        lambda loop, value: setattr(loop, "position", value),
        _check_position,
    ),
    "sums": Part(
        kinds.Kind(
            "a list of 5 numbers",
            lambda value: any(kinds.list_of(kinds.number, n).holds(value) for n in (4, 5)),
        ),
        lambda loop: list(asdict(loop.totals).values()),
        _put_totals,
    ),
    "random": Part(
        kinds.Kind("the states of random streams", _is_random_state),
        lambda loop: checkpoint.random_state(loop.devices),
        lambda loop, value: checkpoint.set_random_state(value, loop.devices),
        _check_random,
    ),
    "weights": Part(
        _TENSORS,
        lambda loop: loop.programs.state(),
        lambda loop, value: loop.programs.put(value),
        lambda loop, value: matching.check_tensors("graph", value, loop.programs.named_tensors()),
    ),
    "best": Part(
        _TENSORS,
        lambda loop: loop.best,
        lambda loop, value: setattr(loop, "best", value),
        _check_best,
    ),
    "kind of optimizer": Part(
        kinds.text,
        lambda loop: type(loop.svi.optimizer).__name__,
        _put_nothing,
        lambda loop, value: matching.check_same(
            "optimizer", value, type(loop.svi.optimizer).__name__
        ),
    ),
    "settings": Part(kinds.obj, settings, _put_nothing, _check_settings, later=True),
    "choices": Part(kinds.obj, choices, _put_nothing, _check_choices, later=True),
    "graph": Part(kinds.obj, lambda loop: loop.svi.built, _put_nothing, _check_graph, later=True),
    "lengths": Part(
        kinds.list_of(kinds.list_of(kinds.optional(kinds.whole(0)), 2)),
        _lengths,
        _put_nothing,
        _check_lengths,
        later=True,
    ),
    "optimizer": Part(
        kinds.obj,
        lambda loop: loop.svi.optimizer.state_dict(),
        lambda loop, value: loop.svi.optimizer.load_state_dict(value),
        lambda loop, value: matching.check_optimizer(loop.svi.optimizer, value),
    ),
    "clipping": Part(
        kinds.mapping_of(kinds.number),
        lambda loop: loop.svi.clipping.state_dict(),
        lambda loop, value: loop.svi.clipping.load_state_dict(value),
        lambda loop, value: matching.check_names("clipping", value, loop.svi.clipping.state_dict()),
        later=True,
    ),
    "average": Part(
        kinds.optional(kinds.obj),
        lambda loop: None if loop.average is None else loop.average.state_dict(),
        _put_average,
        _check_average,
        later=True,
    ),
    "scheduler": Part(
        kinds.optional(kinds.obj),
        lambda loop: loop.scheduler.state_dict() if loop.scheduler else None,
        _put_scheduler,
        _check_scheduler,
    ),
    "objective": Part(
        _LEARNED,
        lambda loop: loop.objective.state_dict(),
        lambda loop, value: loop.objective.load_state_dict(value),
        lambda loop, value: matching.check_names("objective", value, loop.objective.state_dict()),
        later=True,
    ),
}
