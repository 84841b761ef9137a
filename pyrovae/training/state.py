"""The state of a fit: its arguments, the totals of an epoch, and what a checkpoint keeps."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

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
    check: Callable[..., None]
    transform: Transform | None = None
    batch_transform: Callable[..., Any] | None = None
    patience: int | None = None
    accumulate: int = 1
    scheduler_interval: str | None = None
    checkpoint: str | Path | None = None
    callback: Callable[[History], bool | None] | None = None

    def transformed(self, x: Tensor, *c: Tensor) -> tuple[Tensor, ...]:
        """Return a minibatch of training data, transformed."""
        if self.transform is not None:
            x = self.transform(x)
        if self.batch_transform is None:
            return (x, *c)
        batch = self.batch_transform(x, *c)
        return (batch,) if isinstance(batch, Tensor) else tuple(batch)


@dataclass
class Totals:
    """Sums over the steps of an epoch so far: nats over rows, seconds, and rows."""

    loss: float = 0.0
    reconstruction: float = 0.0
    kl: float = 0.0
    seconds: float = 0.0
    rows: int = 0

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
        "clipping": loop.svi.clipping.state_dict(),
        "average": loop.average.state_dict() if loop.average else None,
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
    if "clipping" in state:
        loop.svi.clipping.load_state_dict(state["clipping"])
    if loop.average is not None:
        loop.average.load_state_dict(state["average"])
    loop.history, loop.position = history, state["position"]
    loop.totals = Totals(*state["sums"])
    if len(state["sums"]) < len(asdict(Totals())):  # of version 0.2.0, without the rows
        loop.totals.rows = loop.position * loop.arguments.batch_size
    loop.good, loop.best = loop.programs.state(), state["best"]
    checkpoint.set_random_state(state["random"], loop.devices)
