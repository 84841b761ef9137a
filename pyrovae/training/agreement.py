"""What decides the steps of a fit: the same in all its processes, and in a fit that continues.

Every process takes the optimizer's steps by itself, and gets from the others only gradients. So
another learning rate in one of them would train another model there, in silence; and another number
of minibatches would let it wait for what nobody sends.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn
from torch.optim import Optimizer

from pyrovae.data import Minibatches
from pyrovae.files import describe
from pyrovae.objectives import Objective
from pyrovae.training import matching
from pyrovae.training.arguments import Arguments
from pyrovae.training.distributed import Processes
from pyrovae.training.svi import Optimization

if TYPE_CHECKING:
    from pyrovae.training.loop import Loop

__all__ = [
    "PARAMETERS",
    "Description",
    "Reading",
    "check_arguments",
    "check_loops",
    "described",
    "schedule",
]

_COMPARED = ("epochs", "batch_size", "drop_last", "accumulate", "scheduler_interval", "patience")
PARAMETERS = "parameters of the optimizer's groups"
_TIMES = [i / 200 for i in range(201)]  # at which two schedules of the KL's weight are compared
# Of an objective, what is compared otherwise, or found out by a run.
_NOT_SET = frozenset({"beta", "current_beta", "annealed", "parameters", "max_plate_nesting"})
_IN_GROUPS = matching.HOW | {"params", "lr", "initial_lr"}


class Reading(NamedTuple):
    """How the data of one process are read.

    Attributes:
        minibatches: of an epoch in this process.
        planned: of an epoch, however many processes divide them, if the library divides the data.
        validation_rows: None where there are none, or their number is not known.
        loader: how a `DataLoader` makes its minibatches; None of other data.
    """

    minibatches: int
    planned: int
    validation_rows: int | None
    loader: str | None

    @classmethod
    def of(cls, training: Minibatches, held_out: Minibatches | None) -> "Reading":
        """Return how what this process was given is read."""
        rows = None if held_out is None else held_out.rows
        return cls(len(training), training.planned(), rows, training.loader)


class Description(NamedTuple):
    """What decides the steps of a fit, taken before the first.

    Attributes:
        settings: what must be the same in all processes and in a fit that continues, by name.
        graph: how the graph was built, see `described`.
    """

    settings: dict[str, Any]
    graph: Any

    @classmethod
    def of(cls, loop: "Loop") -> "Description":
        """Return the description of a fit that has not begun."""
        return cls(_settings(loop), described(loop.graph))


def described(graph: object) -> Any:
    """Return how a graph was built; None if it is no module, or no file can tell."""
    try:
        return describe(graph) if isinstance(graph, nn.Module) else None
    except TypeError:
        return None


def _settings(loop: "Loop") -> dict[str, Any]:
    objective = loop.objective
    options = loop.svi.optimizer.defaults.items()
    known = [one.validation_rows for one in loop.readings if one.validation_rows is not None]
    return {
        "optimizer's options": {
            name: matching.plain(value) for name, value in options if name not in matching.HOW
        },
        "frozen": sorted(loop.svi.frozen_names),
        **_first_options(loop),
        "scheduler": type(loop.scheduler).__name__,
        "scheduler_interval": loop.scheduler and ("step" if loop.by_step else "epoch"),
        "objective": type(getattr(objective, "elbo", objective)).__name__,
        "objective's samples": objective.samples,
        "objective's data_size": objective.data_size,
        "objective's beta": objective.target,
        "objective's annealed": sorted(objective.annealed or ()),
        **_own_settings(objective),
        "precision": loop.svi.optimization.precision,
        "drop_last": loop.training.divided and loop.arguments.drop_last,
        "clip_norm": loop.svi.clipping.clip_norm,
        "accumulate": loop.arguments.accumulate,
        "ema": None if loop.average is None else loop.average.decay,
        "transform": _given(loop.arguments.transform),
        "batch_transform": _given(loop.arguments.batch_transform),
        "number of minibatches": max(one.planned for one in loop.readings),
        "number of validation rows": max(known, default=None),
        "validation": _given(loop.held_out),
    }


def _first_options(loop: "Loop") -> dict[str, Any]:
    """Return learning rates and options of the optimizer's groups as they are before a step.

    An optimizer that has taken steps, such as one at hand, does not tell: nothing is returned.
    """
    optimizer = loop.svi.optimizer
    if optimizer.state:
        return {}
    names = {id(tensor): name for name, tensor in loop.programs.named_trainable().items()}
    parts = [[names[id(one)] for one in group["params"]] for group in optimizer.param_groups]
    return {
        "learning_rate": _rates(optimizer),
        "optimizer's groups": _groups(optimizer),
        PARAMETERS: parts,
    }


def _rates(optimizer: Optimizer) -> list[float]:
    """Return the learning rate of each group before a scheduler's first step."""
    return [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]


def _groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return the options of each group but its learning rate."""
    return [
        {name: matching.plain(value) for name, value in group.items() if name not in _IN_GROUPS}
        for group in optimizer.param_groups
    ]


def _given(value: Any) -> str:
    """Return whether there is a value; of code no more can be told."""
    return "None" if value is None else "given"


def schedule(objective: Objective, start: float = 0.0) -> list[float]:
    """Return the weight of the KL at some times from `start` to 1; one number if it is constant."""
    beta: Any = objective.beta if callable(objective.beta) else lambda t: objective.beta
    betas = [float(beta(start + (1 - start) * t)) for t in _TIMES]
    return betas if len(set(betas)) > 1 else betas[:1]


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
    told |= {name: _given(value) for name, value in given.items()}
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
    optimizer, scheduler = loop.svi.optimizer, loop.scheduler
    told = {
        "optimizer": type(optimizer).__name__,
        "optimizer's learning rates": sorted(_rates(optimizer)),
        **loop.description.settings,
        "objective's beta": schedule(loop.objective),
        "optimizer's groups": sorted(_groups(optimizer), key=repr),
        "scheduler's options": matching.plain(scheduler.state_dict() if scheduler else None),
    }
    # The first two are in the order of a dictionary's parts, which may differ.
    for name in ("learning_rate", PARAMETERS, "transform", "batch_transform"):
        told.pop(name, None)
    _check_alike(loop.processes, told)


def _own_settings(objective: Objective) -> dict[str, Any]:
    """Return the settings of an objective of the library that only its class knows, by name.

    One of the user's may keep what differs by process, such as a device or a file.
    """
    if not type(objective).__module__.startswith("pyrovae."):
        return {}
    own = {name: value for name, value in vars(objective).items() if name not in _NOT_SET}
    return {
        f"objective's {name}": _in_words(value)
        for name, value in own.items()
        if not name.startswith("_")
    }


def _in_words(value: Any) -> Any:
    """Return a value as it can be compared; of an object its class and its plain attributes."""
    described = matching.plain(value)
    attributes = getattr(value, "__dict__", {})
    inner = {name: matching.plain(v) for name, v in attributes.items() if not name.startswith("_")}
    return [described, inner] if inner else described


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
