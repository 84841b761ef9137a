"""The state of a fit: its arguments, the totals of an epoch, and what a checkpoint keeps.

A checkpoint is the table `_PARTS`: what of a fit is kept under which name, how it is checked, and
how a fit continues from it. All of a checkpoint is checked before any of it is used.
"""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pyrovae.data import Transform
from pyrovae.files import FileError, History, checkpoint, kinds
from pyrovae.training import matching

if TYPE_CHECKING:
    from pyrovae.training.loop import Loop

__all__ = ["Arguments", "Checkpoint", "Totals", "read", "restore", "save"]


@dataclass(frozen=True)
class Arguments:
    """The arguments of `fit` that the loop follows."""

    epochs: int
    batch_size: int
    transform: Transform | None
    patience: int | None
    checkpoint: str | Path | None
    callback: Callable[[History], bool | None] | None
    progress: bool


@dataclass
class Totals:
    """Sums over the minibatches of an epoch so far: nats over rows, and seconds."""

    loss: float = 0.0
    reconstruction: float = 0.0
    kl: float = 0.0
    seconds: float = 0.0


class Checkpoint(NamedTuple):
    """What was read from a checkpoint.

    Attributes:
        path: the file.
        state: its content by the names of `_PARTS`.
    """

    path: Path
    state: dict[str, Any]

    @property
    def seed(self) -> int:
        """Of the fit that wrote it."""
        return self.state["history"]["seed"]


class _Part(NamedTuple):
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


# ---------------------------------------------------------------------------------- read and write
def save(loop: "Loop") -> None:
    """Write the checkpoint, from which `restore` continues bit for bit, if one is wanted."""
    if loop.arguments.checkpoint is not None:
        state = {name: part.of(loop) for name, part in _PARTS.items()}
        checkpoint.write(Path(loop.arguments.checkpoint), state)


def read(path: str | Path) -> Checkpoint:
    """Read a checkpoint, and check all that can be checked without a graph.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: if it is truncated, altered, or not a checkpoint.
    """
    path = Path(path)
    state = checkpoint.read(path)
    expected = {name: part.kind for name, part in _PARTS.items() if name in state or not part.later}
    try:
        kinds.check(state, expected)
        history = History.from_dict(state["history"])
        kinds.check({"seed": history.seed}, {"seed": kinds.whole(*_SEEDS)}, "history")
        if (history.best_epoch is None) != (not state["best"]):
            raise ValueError("history.best_epoch does not fit the best weights")
    except ValueError as error:
        raise FileError(
            f"{path}: not a checkpoint of this version ({error}). Start the fit again without "
            "resume="
        ) from error
    return Checkpoint(path, state)


def restore(loop: "Loop", saved: Checkpoint) -> None:
    """Continue a fit from what `save` wrote.

    Raises:
        FileError: if it belongs to another fit; the graph, the optimizer and the random streams are
            then as they were.
    """
    parts = [(_PARTS[name], value) for name, value in saved.state.items()]
    before = copy.deepcopy(loop.svi.optimizer.state_dict())
    try:
        for part, value in parts:
            part.check(loop, value)
        _check_schedule(loop, saved.state)
        for part, value in parts:
            part.put(loop, value)
    except Exception as error:  # an optimizer of the user's may raise anything
        loop.programs.put(loop.good)
        loop.svi.optimizer.load_state_dict(before)
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise FileError(f"{saved.path}: {reason}") from error
    loop.good = loop.programs.state()


# ------------------------------------------------------------------------------ the fit's settings
def _settings(loop: "Loop") -> dict[str, Any]:
    """Return what must be the same in a fit that continues, by name."""
    objective, held_out = loop.objective, loop.held_out
    options = loop.svi.optimizer.defaults.items()
    return {
        "optimizer's options": {
            name: matching.plain(value) for name, value in options if name not in matching.HOW
        },
        "scheduler": type(loop.scheduler).__name__,
        "objective": type(getattr(objective, "elbo", objective)).__name__,
        "objective's samples": objective.samples,
        "objective's data_size": objective.data_size,
        "objective's beta": objective.target,
        "objective's annealed": sorted(objective.annealed or ()),
        "clip_norm": loop.svi.clip_norm,
        "number of validation rows": None if held_out is None else len(held_out[0]),
    }


def _check_settings(loop: "Loop", was: dict[str, Any]) -> None:
    now = _settings(loop)
    matching.names("settings", was, now)
    for name in now:
        matching.same(name, was[name], now[name])


def _check_schedule(loop: "Loop", state: dict[str, Any]) -> None:
    """Refuse another number of epochs if the weight of the KL would jump by it."""
    planned, here = state.get("epochs", loop.arguments.epochs), loop.arguments.epochs
    steps = loop.steps_per_epoch
    done = len(state["history"]["loss"]) * steps + state["position"]
    before, after = (
        loop.objective.at(min(1.0, done / max(1, epochs * steps - 1))) for epochs in (planned, here)
    )
    if before != after and done < here * steps:
        raise ValueError(
            f"resume: the weight of the KL follows a schedule over all epochs, which were {planned}"
            f" and are {here} here, so that it would jump from {before:g} to {after:g}. Pass "
            f"epochs={planned}, or start a new fit without resume="
        )


# ----------------------------------------------------------------------------- checks of the parts
def _check_history(loop: "Loop", state: dict[str, Any]) -> None:
    history = History.from_dict(state)
    matching.same("data", history.data, loop.history.data)
    matching.same("bound", history.bound_name, loop.history.bound_name)


def _check_position(loop: "Loop", position: int) -> None:
    if position > loop.steps_per_epoch:
        raise ValueError(
            f"resume: position is {position}, but an epoch has {loop.steps_per_epoch} steps. Start "
            "a new fit without resume="
        )


def _check_best(loop: "Loop", best: dict[str, Tensor]) -> None:
    if best:
        matching.tensors("graph", best, loop.programs.named_tensors())


def _check_scheduler(loop: "Loop", state: dict[str, Any] | None) -> None:
    matching.same("scheduler", state is not None, loop.scheduler is not None)
    if loop.scheduler is not None and state is not None:
        matching.scheduler(loop.scheduler, state)


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


def _put_scheduler(loop: "Loop", state: dict[str, Any] | None) -> None:
    if loop.scheduler is not None and state is not None:
        loop.scheduler.load_state_dict(state)


def _put_nothing(loop: "Loop", value: Any) -> None:
    """Leave the fit as it is: the value is only compared."""


_SEEDS = -(2**63), 2**63 - 1
_TENSORS = kinds.mapping_of(kinds.tensor)
_STATE = kinds.Kind("an object", lambda value: isinstance(value, dict))
_LEARNED = kinds.mapping_of(
    kinds.Kind(
        "a number, a tensor or null",
        lambda value: kinds.optional(kinds.number).holds(value) or kinds.tensor.holds(value),
    )
)
_PARTS: dict[str, _Part] = {
    "settings": _Part(_STATE, _settings, _put_nothing, _check_settings, later=True),
    "epochs": _Part(kinds.whole(1), lambda loop: loop.arguments.epochs, _put_nothing, later=True),
    "history": _Part(
        _STATE,
        lambda loop: loop.history.to_dict(),
        lambda loop, value: setattr(loop, "history", History.from_dict(value)),
        _check_history,
    ),
    "batch_size": _Part(
        kinds.whole(1),
        lambda loop: loop.arguments.batch_size,
        _put_nothing,
        lambda loop, value: matching.same("batch_size", value, loop.arguments.batch_size),
    ),
    "position": _Part(
        kinds.whole(0),
        lambda loop: loop.position,
        lambda loop, value: setattr(loop, "position", value),
        _check_position,
    ),
    "sums": _Part(
        kinds.list_of(kinds.number, 4),
        lambda loop: list(asdict(loop.totals).values()),
        lambda loop, value: setattr(loop, "totals", Totals(*value)),
    ),
    "random": _Part(
        kinds.Kind("the states of random streams", _is_random_state),
        lambda loop: checkpoint.random_state(loop.devices),
        lambda loop, value: checkpoint.set_random_state(value, loop.devices),
        _check_random,
    ),
    "weights": _Part(
        _TENSORS,
        lambda loop: loop.programs.state(),
        lambda loop, value: loop.programs.put(value),
        lambda loop, value: matching.tensors("graph", value, loop.programs.named_tensors()),
    ),
    "best": _Part(
        _TENSORS,
        lambda loop: loop.best,
        lambda loop, value: setattr(loop, "best", value),
        _check_best,
    ),
    "kind of optimizer": _Part(
        kinds.text,
        lambda loop: type(loop.svi.optimizer).__name__,
        _put_nothing,
        lambda loop, value: matching.same("optimizer", value, type(loop.svi.optimizer).__name__),
    ),
    "optimizer": _Part(
        _STATE,
        lambda loop: loop.svi.optimizer.state_dict(),
        lambda loop, value: loop.svi.optimizer.load_state_dict(value),
        lambda loop, value: matching.optimizer(loop.svi.optimizer, value),
    ),
    "scheduler": _Part(
        kinds.optional(_STATE),
        lambda loop: loop.scheduler.state_dict() if loop.scheduler else None,
        _put_scheduler,
        _check_scheduler,
    ),
    "objective": _Part(
        _LEARNED,
        lambda loop: loop.objective.state_dict(),
        lambda loop, value: loop.objective.load_state_dict(value),
        lambda loop, value: matching.names("objective", value, loop.objective.state_dict()),
        later=True,
    ),
}
