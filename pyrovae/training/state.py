"""The state of a fit: its arguments, the totals of an epoch, and what a checkpoint keeps."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrovae.data import Transform
from pyrovae.files import History, checkpoint

if TYPE_CHECKING:
    from pyrovae.training.loop import Loop

__all__ = ["Arguments", "Totals", "restore", "save"]


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


def save(loop: "Loop") -> None:
    """Write the checkpoint, from which `restore` continues bit for bit, if one is wanted."""
    if loop.arguments.checkpoint is None:
        return
    state: dict[str, Any] = {
        "history": loop.history.to_dict(),
        "batch_size": loop.arguments.batch_size,
        "position": loop.position,
        "sums": list(asdict(loop.totals).values()),
        "random": checkpoint.random_state(loop.devices),
        "weights": loop.programs.state(),
        "best": loop.best,
        "kind of optimizer": type(loop.svi.optimizer).__name__,
        "optimizer": loop.svi.optimizer.state_dict(),
        "scheduler": loop.scheduler.state_dict() if loop.scheduler else None,
        "objective": loop.objective.state_dict(),
    }
    checkpoint.write(Path(loop.arguments.checkpoint), state)


def restore(loop: "Loop", state: dict[str, Any]) -> None:
    """Continue a fit from what `save` wrote.

    Raises:
        ValueError: if it belongs to other data or another batch size, or its weights do not fit the
            graph.
    """
    history = History.from_dict(state["history"])
    optimizer = loop.svi.optimizer
    for name, was, now in (
        ("data", history.data, loop.history.data),
        ("batch_size", state["batch_size"], loop.arguments.batch_size),
        ("optimizer", state["kind of optimizer"], type(optimizer).__name__),
    ):
        if was != now:
            raise ValueError(
                f"resume: the checkpoint is of a fit with another {name} ({was}, here {now}). Pass "
                "the same, or start a new fit without resume="
            )
    try:
        loop.programs.put(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise ValueError(
            "resume: the checkpoint is of a fit with another graph or optimizer "
            f"({error}). Build the same ones"
        ) from error
    if loop.scheduler and state["scheduler"]:
        loop.scheduler.load_state_dict(state["scheduler"])
    loop.objective.load_state_dict(state.get("objective", {}))
    loop.history, loop.position = history, state["position"]
    loop.totals = Totals(*state["sums"])
    loop.good, loop.best = loop.programs.state(), state["best"]
    checkpoint.set_random_state(state["random"], loop.devices)
