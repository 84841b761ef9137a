"""Whether what a checkpoint holds belongs to the fit that is to continue from it.

Every check raises a ValueError that names the difference.
"""

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from torch import Tensor, optim
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from pyrovae.files import kinds
from pyrovae.training.adam import Adam, AdamW

__all__ = [
    "HOW",
    "check_data",
    "check_names",
    "check_optimizer",
    "check_same",
    "check_scheduler",
    "check_tensors",
    "plain",
    "short",
]

# What a scheduler, or the user, changes in the options of an optimizer, and what only says how the
# same step is computed.
HOW = frozenset({"foreach", "fused", "capturable", "differentiable"})
_GROUP_VARIES = HOW | {"lr", "betas", "momentum"}
# What changes in a scheduler of torch's as it goes; all else is how it was built.
_SCHEDULER_VARIES = frozenset(
    {"last_epoch", "_step_count", "_last_lr", "_get_lr_called_within_step", "_is_initial"}
    | {"best", "num_bad_epochs", "cooldown_counter", "T_cur", "T_i", "mode_worse"}
)
_NOT_ELEMENTWISE = (optim.LBFGS, optim.Adafactor)  # whose state has other shapes than parameters


def check_same(name: str, was: Any, now: Any) -> None:
    """Check that a setting is as it was."""
    if was != now:
        raise ValueError(
            f"resume: the checkpoint is of a fit with another {name} ({short(was)}, here "
            f"{short(now)}). Pass the same, or start a new fit without resume="
        )


def check_data(name: str, was: str | None, now: str | None) -> None:
    """Check that data are as they were; of rows on the disk that were not read, little is known."""
    if was and now and not (was.startswith(now) or now.startswith(was)):
        check_same(name, was, now)


def check_names(name: str, was: Mapping[Any, Any], now: Mapping[Any, Any]) -> None:
    """Check that two mappings have the same keys."""
    missing, further = now.keys() - was.keys(), was.keys() - now.keys()
    if missing or further:
        lacks = f"it lacks {_first(missing)}" if missing else f"it also holds {_first(further)}"
        raise ValueError(
            f"resume: the checkpoint is of a fit with another {name}: {lacks}. Build the same, or "
            "start a new fit without resume="
        )


def check_tensors(name: str, was: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> None:
    """Check that tensors have the same names, shapes and types."""
    check_names(name, was, now)
    for key, tensor in now.items():
        of = [f"{part.dtype} of shape {tuple(part.shape)}" for part in (was[key], tensor)]
        check_same(f"{name}: {key}", *of)


def plain(value: Any) -> Any:
    """Return a value as a checkpoint gives it back; what it cannot hold is only named."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):  # NumPy's, too
        return int(value)
    return float(value) if isinstance(value, Real) else type(value).__name__


# ----------------------------------------------------------------------- optimizers and schedulers
def check_optimizer(present: Optimizer, state: dict[str, Any]) -> None:
    """Check the state of an optimizer: its groups, their options, and the shapes of its tensors."""
    groups = kinds.Kind("a list of groups", lambda value: isinstance(value, list))
    kinds.check(state, {"state": kinds.obj, "param_groups": groups}, "optimizer")
    here, there = present.state_dict()["param_groups"], state["param_groups"]
    check_same("optimizer: number of groups", len(there), len(here))
    of_torch = type(present).__module__.startswith("torch.") or type(present) in (Adam, AdamW)
    for was, now in zip(there, here, strict=True):
        check_same("optimizer: type of a group", isinstance(was, dict), True)
        check_names("optimizer", was, now)
        if of_torch:
            _alike("optimizer", was, now, _GROUP_VARIES)
    if of_torch and not isinstance(present, _NOT_ELEMENTWISE):
        _check_slots(present, state["state"])


def _check_slots(present: Optimizer, slots: dict[Any, Any]) -> None:
    """Check what an optimizer keeps for a parameter: of each name, one sort for all parameters."""
    parameters = [p for group in present.param_groups for p in group["params"]]
    first: dict[str, Any] = next(iter(slots.values()), {})
    sorts: dict[str, Any] = {}
    for index, slot in slots.items():
        if index not in range(len(parameters)) or not isinstance(slot, dict):
            raise ValueError(f"resume: optimizer.state has an entry {index!r} of no parameter")
        check_names(f"optimizer: state of parameter {index}", slot, first)
        for key, value in slot.items():
            sort = _sort_of_slot(value, parameters[index])
            if sort is not None:
                check_same(
                    f"optimizer: {key} of parameter {index}", sort, sorts.setdefault(key, sort)
                )


def _sort_of_slot(value: Any, parameter: Tensor) -> str | None:
    """Return what a value is to its parameter; None of a parameter with one element: it is both."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.shape == parameter.shape:
        return None if parameter.numel() == 1 else f"{value.dtype}, as the parameter"
    return f"{value.dtype} of shape {tuple(value.shape)}" if value.numel() == 1 else "of no shape"


def check_scheduler(present: LRScheduler, state: dict[str, Any]) -> None:
    """Check the state of a scheduler: one of torch's must be built as it was."""
    check_names("scheduler", state, present.state_dict())
    if type(present).__module__ == lr_scheduler.__name__:
        _alike("scheduler", state, present.state_dict(), _SCHEDULER_VARIES)


def _alike(name: str, was: Any, now: Any, varies: frozenset[str], any_value: bool = False) -> None:
    """Check that two values have one structure, and are equal but where they may vary.

    Args:
        name: of the value, for errors.
        was: in the checkpoint.
        now: in the fit that is to continue.
        varies: keys whose values may differ, though not in their type.
        any_value: whether this is the value of such a key.
    """
    if isinstance(now, Mapping):
        check_same(f"{name}: type", isinstance(was, dict), True)
        check_names(name, was, now)
        for key, value in now.items():
            if key in HOW:
                check_same(f"{name}: {key}", kinds.optional(kinds.boolean).holds(was[key]), True)
            else:
                _alike(f"{name}: {key}", was[key], value, varies, any_value or key in varies)
    elif isinstance(now, list | tuple) and isinstance(was, list | tuple):
        check_same(f"{name}: length", len(was), len(now))
        for one, other in zip(was, now, strict=True):
            _alike(name, one, other, varies, any_value)
    else:
        check_same(f"{name}: type", _sort(was), _sort(now))
        if not any_value:
            check_same(name, plain(was), plain(now))


def _sort(value: Any) -> str:
    """Return what a value is: a number, a tensor and its shape, or a type."""
    if kinds.number.holds(value) or (isinstance(value, Tensor) and value.numel() == 1):
        return "a number"
    return f"tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _first(keys: Any) -> str:
    shown = sorted(map(str, keys))
    return shown[0] if len(shown) == 1 else f"{shown[0]} and {len(shown) - 1} more"


def short(value: Any) -> str:
    """Return a value as an error shows it."""
    shown = str(value)
    return shown if len(shown) <= 200 else f"{shown[:197]}..."
