"""The optimizer of a fit: which parameters it holds, with which learning rates.

Names are those of the graph's parameters: "likelihood.net.layers.0.weight", or the name of a
`pyro.param`. A part is named by the beginning of its names: "likelihood", "posterior.net".
"""

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from pyrovae.files import History

__all__ = [
    "LearningRate",
    "MakeOptimizer",
    "MakeScheduler",
    "Scheduler",
    "frozen",
    "make_optimizer",
    "modules_named",
    "named_by",
    "scheduled_by_step",
    "step_after_epoch",
]

MakeOptimizer = Callable[[Any], Optimizer]  # parameters or groups of them -> torch optimizer
Scheduler = LRScheduler | ReduceLROnPlateau
MakeScheduler = Callable[[Optimizer], Scheduler]
LearningRate = float | Mapping[str, float] | None

_SHOWN = 5  # names that an error lists


def make_optimizer(
    make: Any, named: Mapping[str, Tensor], learning_rate: LearningRate = None
) -> Optimizer:
    """Return an optimizer over the parameters.

    Args:
        make: parameters -> torch optimizer, or an optimizer over just these parameters.
        named: the parameters that are trained, by name.
        learning_rate: of all parameters, or by part; parameters outside these parts have the
            optimizer's own.

    Raises:
        TypeError: if `make` gives no torch optimizer, or LBFGS or SparseAdam.
        ValueError: if a part is unknown, a learning rate is not positive, or the optimizer does not
            hold exactly these parameters.
    """
    if isinstance(make, Optimizer) and learning_rate is not None:
        raise ValueError(
            "fit: learning_rate is given together with an optimizer that exists already; pass the "
            "optimizer's class or a functools.partial of it, or set its own groups"
        )
    groups = _groups(named, learning_rate)
    optimizer = make(groups) if callable(make) and not isinstance(make, Optimizer) else make
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer: got {make!r}, expected a callable from parameters to a torch "
            "optimizer, e.g. torch.optim.Adagrad or functools.partial(torch.optim.SGD, lr=0.1)"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError(
            "optimizer: LBFGS evaluates the loss several times a step and expects the same value "
            "each time, which draws and minibatches do not give. Use a first-order optimizer such "
            "as torch.optim.Adam, or a loop of your own with objective.differentiable_loss"
        )
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise TypeError(
            "optimizer: SparseAdam takes sparse gradients only, and those of this fit are dense. "
            "Use torch.optim.Adam"
        )
    _check_holds(optimizer, named)
    return optimizer


def named_by(part: str, named: Mapping[str, Tensor], argument: str) -> list[str]:
    """Return the names of the parameters of a part.

    Raises:
        ValueError: if there is none.
    """
    names = [name for name in named if name == part or name.startswith(f"{part}.")]
    if not names:
        parts = sorted({name.split(".")[0] for name in named})
        raise ValueError(
            f"fit: {argument} names {part!r}, but the parameters begin with {', '.join(parts)}"
        )
    return names


def modules_named(graph: object, names: Collection[str]) -> list[nn.Module]:
    """Return the modules of a graph among some names of parts."""
    modules = dict(graph.named_modules()) if isinstance(graph, nn.Module) else {}
    return [modules[name] for name in names if name in modules]


@contextmanager
def frozen(named: Mapping[str, Tensor], names: Collection[str]) -> Iterator[None]:
    """Context in which the named parameters get no gradient."""
    held = [named[name] for name in names if named[name].requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        with warnings.catch_warnings():  # of Pyro, about each of them
            warnings.filterwarnings("ignore", ".*was not registered in the param store")
            yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def scheduled_by_step(scheduler: Scheduler | None, interval: str | None) -> bool:
    """Return whether a scheduler is stepped after each optimizer step, and not after each epoch.

    Without an interval, `OneCycleLR` and `CyclicLR` are, whose schedules are over steps.

    Raises:
        ValueError: for a `ReduceLROnPlateau` at each step.
    """
    if interval == "step" and isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError(
            'fit: scheduler_interval is "step", but a ReduceLROnPlateau judges the validation '
            "loss, which is known after an epoch; leave the interval out"
        )
    if interval is None:
        return isinstance(scheduler, OneCycleLR | CyclicLR)
    return interval == "step"


def step_after_epoch(scheduler: Scheduler | None, history: History, judged: bool = True) -> None:
    """Step a learning-rate scheduler; one that waits for a plateau gets the losses that are judged.

    During a warm-up the loss at beta = 1 is not what is trained: that it does not fall is no sign
    of a plateau, and the rate would be spent before beta has reached its target. An objective of
    Pyro's tells no terms, so its own loss is judged.
    """
    if isinstance(scheduler, ReduceLROnPlateau):
        if judged:
            bound = (history.validation_elbo or history.elbo)[-1]
            scheduler.step(history.loss[-1] if math.isnan(bound) else -bound)
    elif scheduler is not None:
        scheduler.step()


def _groups(named: Mapping[str, Tensor], learning_rate: LearningRate) -> list[Any]:
    """Return the parameters, as groups if there are learning rates."""
    if learning_rate is None:
        return list(named.values())
    rates = learning_rate if isinstance(learning_rate, Mapping) else {}
    for rate in rates.values() if rates else [learning_rate]:
        if not isinstance(rate, int | float) or not rate > 0:
            raise ValueError(f"fit: a learning_rate is {rate!r}, expected a positive number")
    if not isinstance(learning_rate, Mapping):
        return [{"params": list(named.values()), "lr": learning_rate}]
    groups, left = [], dict(named)
    for part in sorted(rates, key=len, reverse=True):  # a longer name is a smaller part
        names = [name for name in named_by(part, named, "learning_rate") if name in left]
        groups.append({"params": [left.pop(name) for name in names], "lr": rates[part]})
    return [*([{"params": list(left.values())}] if left else []), *groups]


def _check_holds(optimizer: Optimizer, named: Mapping[str, Tensor]) -> None:
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, parameter in named.items() if id(parameter) not in held]
    foreign = len(held - {id(parameter) for parameter in named.values()})
    if not missing and not foreign:
        return
    some = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
    raise ValueError(
        f"optimizer: {foreign} of its tensors are none that this fit trains, and "
        f"{len(missing)} of the {len(named)} that it trains are in none of its groups"
        f"{f' ({some})' if missing else ''}. Pass a callable such as torch.optim.Adam, which gets "
        "the parameters; hold parts constant by freeze=, and give parts their own rates by "
        "learning_rate={part: rate}"
    )
