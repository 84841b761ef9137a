"""What a checkpoint says of the fit that wrote it, and is only compared with one that continues.

What is compared are the arguments, and how the graph was built, as far as both can be told. Code is
not: a transform, a function that a scheduler calls, an objective or a schedule of the user's own.
"""

from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from pyrovae.files import difference, kinds
from pyrovae.training import matching
from pyrovae.training.agreement import PARAMETERS, described, schedule

if TYPE_CHECKING:
    from pyrovae.training.loop import Loop

__all__ = ["COMPARED", "Part"]


class Part(NamedTuple):
    """One entry of a checkpoint.

    Attributes:
        kind: what its value must be, whatever is fitted.
        of: a fit -> the value that a checkpoint keeps.
        check: raises a ValueError if a value does not belong to a fit.
        put: lets a fit continue from a value; nothing is to do for one that is only compared.
        later: whether earlier versions wrote none; such a checkpoint leaves the fit as it is.
    """

    kind: kinds.Kind
    of: Callable[[Any], Any]
    check: Callable[[Any, Any], None] = lambda loop, value: None
    put: Callable[[Any, Any], None] = lambda loop, value: None
    later: bool = False


def _check_settings(loop: "Loop", was: dict[str, Any]) -> None:
    """Compare the settings that both tell: earlier versions wrote fewer."""
    for name, now in loop.description.settings.items():
        if name in was:
            if name == PARAMETERS:  # lists that are long
                one, other = (dict.fromkeys(chain.from_iterable(all_)) for all_ in (was[name], now))
                matching.check_names("set of trained parameters", one, other)
            matching.check_same(name, was[name], now)


def _graph(loop: "Loop") -> Any:
    """Return how the graph was built, None if that has changed since, as by a callback."""
    was = loop.description.graph
    return was if was == described(loop.graph) else None


def _check_graph(loop: "Loop", was: Any) -> None:
    now = loop.description.graph
    found = None if was is None or now is None else difference(was, now)
    if found is not None:
        raise ValueError(
            f"resume: the checkpoint is of a fit with another graph: {found}. Build the same, or "
            "start a new fit without resume="
        )


def _put_graph(loop: "Loop", was: Any) -> None:
    if was is None:
        loop.description = loop.description._replace(graph=None)


def _lengths(loop: "Loop") -> list[list[int | None]]:
    """Return the minibatches of an epoch and the validation rows of each process."""
    return [[one.planned, one.validation_rows] for one in loop.readings]


def _check_lengths(loop: "Loop", was: list[list[int | None]]) -> None:
    """Compare the shares of as many processes; those of another number have other lengths."""
    now = _lengths(loop)
    if len(was) == len(now):
        for i, name in enumerate(("minibatches", "validation rows")):
            before, here = ([one[i] for one in some] for some in (was, now))
            matching.check_same(f"number of {name} in each process", before, here)


def _loaders(loop: "Loop") -> list[str | None]:
    return [one.loader for one in loop.readings]


def _check_loaders(loop: "Loop", was: list[str | None]) -> None:
    now = _loaders(loop)
    if len(was) == len(now):
        matching.check_same("DataLoader in each process", was, now)


def _validation(loop: "Loop") -> str | None:
    return None if loop.held_out is None else loop.held_out.fingerprint


COMPARED: dict[str, Part] = {
    "epochs": Part(kinds.whole(1), lambda loop: loop.arguments.epochs, later=True),
    "batch_size": Part(
        kinds.whole(1),
        lambda loop: loop.arguments.batch_size,
        lambda loop, value: matching.check_same("batch_size", value, loop.arguments.batch_size),
    ),
    "kind of optimizer": Part(
        kinds.text,
        lambda loop: type(loop.svi.optimizer).__name__,
        lambda loop, value: matching.check_same(
            "optimizer", value, type(loop.svi.optimizer).__name__
        ),
    ),
    "settings": Part(
        kinds.obj, lambda loop: loop.description.settings, _check_settings, later=True
    ),
    "graph": Part(kinds.optional(kinds.obj), _graph, _check_graph, _put_graph, later=True),
    "validation": Part(
        kinds.optional(kinds.text),
        _validation,
        lambda loop, value: matching.check_data("validation data", value, _validation(loop)),
        later=True,
    ),
    "loaders": Part(
        kinds.list_of(kinds.optional(kinds.text)), _loaders, _check_loaders, later=True
    ),
    "schedule": Part(  # compared with the whole of a checkpoint, see `resuming`
        kinds.list_of(kinds.number),
        lambda loop: schedule(loop.objective, loop.fraction(loop.steps_done())),
        later=True,
    ),
    "lengths": Part(
        kinds.list_of(kinds.list_of(kinds.optional(kinds.whole(0)), 2)),
        _lengths,
        _check_lengths,
        later=True,
    ),
}
