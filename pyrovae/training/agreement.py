"""What decides the steps of a fit: the same in all its processes, and in a fit that continues.

Every process takes the optimizer's steps by itself, and gets from the others only gradients. So
another learning rate in one of them would train another model there, in silence; and another number
of minibatches would let it wait for what nobody sends.
"""

import inspect
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pyrovae.data import Minibatches
from pyrovae.objectives import Objective
from pyrovae.training import matching
from pyrovae.training.arguments import Arguments
from pyrovae.training.distributed import Processes
from pyrovae.training.svi import Optimization

if TYPE_CHECKING:
    from pyrovae.training.loop import Loop

__all__ = ["Lengths", "check_arguments", "check_loops", "choices", "settings"]

_COMPARED = ("epochs", "batch_size", "drop_last", "accumulate", "scheduler_interval", "patience")
_TIMES = [i / 200 for i in range(201)]  # at which two schedules of the KL's weight are compared
_NOT_SET = frozenset({"beta", "current_beta", "annealed", "parameters"})  # or compared otherwise

_IN_GROUPS = matching.HOW | {"params", "lr"}


class Lengths(NamedTuple):
    """How long the data of one process are.

    Attributes:
        minibatches: of an epoch in this process.
        planned: of an epoch, however many processes divide them, if the library divides the data.
        validation_rows: None where there are none, or their number is not known.
    """

    minibatches: int
    planned: int
    validation_rows: int | None

    @classmethod
    def of(cls, training: Minibatches, held_out: Minibatches | None) -> "Lengths":
        """Return the lengths of what this process was given."""
        rows = None if held_out is None else held_out.rows
        return cls(len(training), training.planned(), rows)


def settings(loop: "Loop") -> dict[str, Any]:
    """Return what must be the same in a fit that continues, by name."""
    objective = loop.objective
    options = loop.svi.optimizer.defaults.items()
    known = [one.validation_rows for one in loop.lengths if one.validation_rows is not None]
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
        "clip_norm": loop.svi.clipping.clip_norm,
        "accumulate": loop.arguments.accumulate,
        "ema": None if loop.average is None else loop.average.decay,
        "frozen": sorted(loop.svi.frozen_names),
        "number of minibatches": max(one.planned for one in loop.lengths),
        "number of validation rows": max(known, default=None),
    }


def choices(loop: "Loop") -> dict[str, Any]:
    """Return what else must be the same in a fit that continues, by name, in the types of JSON.

    None is a default, which another value may equal. A schedule over other epochs is compared by
    its value where the fit continues (see `resuming.py`).
    """
    objective, how = loop.objective, loop.svi.how
    learned = {name.replace(" ", "_") for name in objective.state_dict()}
    own = _own_settings(objective)
    told = {
        "learning_rate": how.learning_rate,
        "precision": how.precision,
        "scheduler_interval": loop.arguments.scheduler_interval,
        f"objective's schedule of beta in {loop.arguments.epochs} epochs": _schedule(objective),
        **{name: value for name, value in own.items() if name.split()[-1] not in learned},
    }
    return {name: json.loads(json.dumps(matching.plain(value))) for name, value in told.items()}


def _schedule(objective: Objective) -> list[float]:
    beta = objective.beta
    return [float(beta(t)) for t in _TIMES] if callable(beta) else [float(beta)]


# ------------------------------------------------------------------------------- between processes
def check_arguments(
    processes: Processes, arguments: Arguments, how: Optimization, validation: Any
) -> None:
    """Check that all processes were called with the same arguments, before data are read.

    Data, seed (the first process's counts), transforms, hooks, files to write and the progress bar
    may differ.

    Raises:
        ValueError: in all of them, if an argument differs; it names both values.
    """
    if processes.size == 1:
        return
    told = {name: getattr(arguments, name) for name in _COMPARED}
    given = {"scheduler": arguments.scheduler, "resume": arguments.resume, "validation": validation}
    told |= {name: "None" if value is None else "given" for name, value in given.items()}
    told |= {
        "learning_rate": matching.plain(how.learning_rate),
        "freeze": sorted(map(str, how.freeze)),
        "clip_norm": how.clip_norm,
        "precision": how.precision,
        "ema": how.ema,
    }
    _check_alike(processes, told)


def check_loops(loop: "Loop") -> None:
    """Check that optimizer, scheduler and objective are built alike in all processes.

    Raises:
        ValueError: in all of them, if they are not; it names the difference and both values.
    """
    if loop.processes.size == 1:
        return
    optimizer, objective, scheduler = loop.svi.optimizer, loop.objective, loop.scheduler
    rates = sorted(float(group["lr"]) for group in optimizer.param_groups)
    told: dict[str, Any] = {
        "optimizer": type(optimizer).__name__,
        "optimizer's learning rates": rates,
    }
    told |= settings(loop)
    groups = [
        {name: matching.plain(value) for name, value in group.items() if name not in _IN_GROUPS}
        for group in optimizer.param_groups
    ]
    told["optimizer's groups"] = sorted(groups, key=repr)  # in the order of a dictionary's parts
    told["scheduler's options"] = matching.plain(scheduler.state_dict() if scheduler else None)
    told["objective's beta"] = _schedule(objective)
    _check_alike(loop.processes, told | _own_settings(objective))


def _own_settings(objective: Objective) -> dict[str, Any]:
    """Return the settings of an objective of the library that only its class knows, by name.

    One of the user's may keep what differs by process, such as a device or a file.
    """
    if not type(objective).__module__.startswith("pyrovae."):
        return {}
    own = {name: value for name, value in vars(objective).items() if name not in _NOT_SET}
    return {
        f"objective's {name}": _described(value)
        for name, value in own.items()
        if not name.startswith("_")
    }


def _described(value: Any) -> Any:
    """Return a value as it can be compared; of an object its class and constructor's arguments."""
    described, attributes = matching.plain(value), getattr(value, "__dict__", {})
    if not attributes:
        return described
    names = inspect.signature(type(value)).parameters.keys() & attributes.keys()
    return [described, {name: matching.plain(attributes[name]) for name in sorted(names)}]


def _check_alike(processes: Processes, told: Mapping[str, Any]) -> None:
    first, *others = processes.gathered(_words(told))
    for number, other in enumerate(others, 1):
        for name in [*first, *other]:
            one, another = (some.get(name, "nothing") for some in (first, other))
            if one != another:
                raise ValueError(
                    f"fit: {name} is {matching.short(one)} in process 0 of the job, and "
                    f"{matching.short(another)} in process {number}. All take the same optimizer "
                    "steps: pass the same in each"
                )


def _words(told: Mapping[str, Any]) -> dict[str, str]:
    """Return values as texts that are equal where the values are: keys sorted, plain numbers."""
    plain = {name: matching.plain(value) for name, value in told.items()}
    return {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for name, value in plain.items()
    }
