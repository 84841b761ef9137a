"""Save, read and restore the state of a fit: a checkpoint continues it bit for bit, or is refused.

All of a checkpoint is checked before the graph or the optimizer is touched.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyro

from pyrovae.files import FileError, History, checkpoint, kinds
from pyrovae.training import matching
from pyrovae.training.agreement import schedule
from pyrovae.training.state import PARTS

if TYPE_CHECKING:
    from pyrovae.training.loop import Loop

__all__ = ["Checkpoint", "read", "restore", "save", "store_kept_on_refusal"]

_SEEDS = -(2**63), 2**63 - 1


class Checkpoint(NamedTuple):
    """What was read from a checkpoint.

    Attributes:
        path: the file.
        state: its content by the names of `PARTS`.
    """

    path: Path
    state: dict[str, Any]

    @property
    def seed(self) -> int:
        """Of the fit that wrote it."""
        return self.state["history"]["seed"]


def save(loop: "Loop") -> None:
    """Write the checkpoint, from which `restore` continues bit for bit, if one is wanted.

    Of several processes the first writes it; it holds what all need.

    Raises:
        TrainingError: if a step that is read only now had a loss that is not finite.
    """
    loop.read()
    if loop.arguments.checkpoint is not None and loop.processes.is_writer:
        state = {name: part.of(loop) for name, part in PARTS.items()}
        checkpoint.write(Path(loop.arguments.checkpoint), state)


def read(path: str | Path) -> Checkpoint:
    """Read a checkpoint, and check all that can be checked without a graph.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: if it is truncated, altered, or not a checkpoint.
    """
    path = Path(path)
    state = checkpoint.read(path)
    expected = {name: part.kind for name, part in PARTS.items() if name in state or not part.later}
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
    parts = [(PARTS[name], value) for name, value in saved.state.items()]
    before = copy.deepcopy(loop.svi.optimizer.state_dict())
    try:
        for part, value in parts:
            part.check(loop, value)
        _check_schedule(loop, saved.state)
        _check_number(loop, saved.state)
        for part, value in parts:
            part.put(loop, value)
    except Exception as error:  # an optimizer of the user's may raise anything
        loop.programs.put(loop.good)
        loop.svi.optimizer.load_state_dict(before)
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise FileError(f"{saved.path}: {reason}") from error
    loop.good = loop.programs.state()


@contextmanager
def store_kept_on_refusal(refusal: type[ValueError] = FileError) -> Iterator[None]:
    """Context after which, if it was refused, Pyro's store holds no new parameters.

    Before a checkpoint, or a graph, can be refused, the programs have run once, and made theirs.
    """
    store = pyro.get_param_store()
    before = set(store.keys())
    try:
        yield
    except refusal:
        for name in set(store.keys()) - before:
            with suppress(KeyError):  # of a tensor with two names the store knows one
                del store[name]
        raise


def _check_schedule(loop: "Loop", state: dict[str, Any]) -> None:
    """Refuse a weight of the KL that would jump, or in as many epochs follow another schedule."""
    planned, here = state.get("epochs", loop.arguments.epochs), loop.arguments.epochs
    done = len(state["history"]["loss"]) * loop.steps_per_epoch + state["position"]
    if done >= here * loop.steps_per_epoch:
        return
    was, now = (schedule(loop.objective, loop.fraction(done, n)) for n in (planned, here))
    was = state.get("schedule", was)
    if planned == here:
        matching.check_same("schedule of beta", was, now)
    elif not math.isclose(was[0], now[0]):
        raise ValueError(
            f"resume: the weight of the KL follows a schedule over all epochs, which were {planned}"
            f" and are {here} here, so that it would jump from {was[0]:g} to {now[0]:g}. Pass "
            f"epochs={planned}, or start a new fit without resume="
        )


def _check_number(loop: "Loop", state: dict[str, Any]) -> None:
    """Refuse another number of processes within an epoch of which each reads rows of its own."""
    here, was = loop.processes.size, len(state.get("lengths", loop.readings))
    if state["position"] and not loop.training.common and was != here:
        raise ValueError(
            f"resume: the checkpoint was written within an epoch by a fit in {was} processes, and "
            f"there are {here} here. Of files and of iterables each process reads rows of its own, "
            "so that some would be left out of the epoch and others read twice. Continue in "
            f"{was} processes, or start a new fit without resume="
        )
