"""Parameters that a graph's programs keep in Pyro's store by `pyro.param`, saved with its weights.

They belong to no module. Which are the graph's, is known once `pyrovae.fit` has run its programs;
of a graph that was trained otherwise, all in the store that belong to no module are taken, if the
graph has parts that are not of this library.
"""

import inspect
from collections.abc import Iterable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import pyro
import torch
from pyro.distributions import constraints
from pyro.distributions.constraints import Constraint
from torch import Tensor, nn
from torch.distributions import transform_to

__all__ = ["PREFIX", "Stored", "claim_parameters", "parameters_in", "parameters_of", "put"]

PREFIX = "pyro.param "  # of their names in a file of weights
_claimed: WeakKeyDictionary[nn.Module, tuple[str, ...]] = WeakKeyDictionary()


class Stored(NamedTuple):
    """A parameter of Pyro's store, as it is read from a file."""

    name: str
    unconstrained: Tensor
    value: Tensor
    constraint: Constraint


def claim_parameters(graph: object, names: Iterable[str]) -> None:
    """Note which parameters in Pyro's store a graph's programs use."""
    if isinstance(graph, nn.Module):
        _claimed[graph] = tuple(names)


def parameters_of(graph: nn.Module, foreign: bool) -> dict[str, tuple[Tensor, Any]]:
    """Return the unconstrained value and the described constraint of each parameter by name.

    Args:
        graph: the graph.
        foreign: whether it has parts that are not of this library.

    Raises:
        TypeError: if one belongs to a network that is no part of the graph, or has a constraint
            that a file cannot hold.
    """
    state = pyro.get_param_store().get_state()
    own = {id(tensor) for tensor in graph.parameters()}
    free = [name for name, value in state["params"].items() if id(value) not in own]
    names = _claimed.get(graph)
    if names is None:
        names = tuple(name for name in free if "$$$" not in name) if foreign else ()
    used = sorted(set(names).intersection(free))
    for name in used:
        if "$$$" in name:  # as pyro.module names the parameters of a network
            raise TypeError(
                f"save: the programs use a network that pyro.module calls {name.split('$$$')[0]!r} "
                "and that is no part of the graph. Make it an attribute of the graph"
            )
    return {
        name: (state["params"][name], _described(name, state["constraints"][name])) for name in used
    }


def parameters_in(constraints: dict[str, Any], tensors: dict[str, Tensor]) -> list[Stored]:
    """Take the parameters of Pyro's store out of a file's tensors.

    Raises:
        ValueError: if one is not there, or its constraint is none of torch's or Pyro's.
    """
    found = []
    for name, description in constraints.items():
        if PREFIX + name not in tensors:
            raise ValueError(f"pyro.param {name!r} is not among the weights. Save the model again")
        value, constraint = tensors.pop(PREFIX + name), _constraint(description)
        if not value.is_floating_point():
            raise ValueError(f"pyro.param {name!r} is {value.dtype}, expected a floating type")
        try:
            transform = transform_to(constraint)
            constrained = transform(value)
            transform.inv(constrained)  # which Pyro's store will ask for
            found.append(Stored(name, value, constrained, constraint))
        except Exception as error:  # a transform may raise anything, given anything
            raise ValueError(
                f"pyro.param {name!r} does not fit its constraint {constraint}"
            ) from error
    return found


def put(params: list[Stored]) -> None:
    """Give parameters in Pyro's store their values; those that are not there are made."""
    store: Any = pyro.get_param_store()
    for name, unconstrained, value, constraint in params:
        if name in store:
            fits = store[name].unconstrained().shape == unconstrained.shape
            if not fits or repr(store.get_state()["constraints"][name]) != repr(constraint):
                del store[name]
        store.setdefault(name, value, constraint)
        with torch.no_grad():  # exactly, and not up to the rounding of the constraint's transform
            store[name].unconstrained().copy_(unconstrained)


def _constraint(description: Any) -> Constraint:
    """Return the constraint that was described.

    Raises:
        ValueError: if it is none of torch's or Pyro's.
    """
    try:
        found = _named()[description["constraint"]]
        if not isinstance(found, type):
            return found
        arguments = {
            key: _constraint(value) if isinstance(value, dict) else value
            for key, value in description["arguments"].items()
        }
        return found(**arguments)
    except (KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(f"{description} is no constraint of a parameter") from error


def _described(name: str, constraint: Constraint) -> dict[str, Any]:
    for known, value in _named().items():
        if value is constraint:
            return {"constraint": known}
        if value is type(constraint):
            keys = inspect.signature(value).parameters
            given = {key: getattr(constraint, key) for key in keys}
            return {"constraint": known, "arguments": _plain(name, given)}
    raise TypeError(f"save: the constraint {constraint} of pyro.param {name!r} cannot be saved")


def _plain(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, value in arguments.items():
        if isinstance(value, Constraint):
            plain[key] = _described(name, value)
        elif isinstance(value, int | float):
            plain[key] = value
        else:
            raise TypeError(
                f"save: the constraint of pyro.param {name!r} has {key}={value!r}, expected numbers"
            )
    return plain


def _named() -> dict[str, Any]:
    """Return torch's and Pyro's constraints, and the classes of those with arguments, by name."""
    found = {name: getattr(constraints, name) for name in constraints.__all__}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, Constraint)
        or (isinstance(value, type) and issubclass(value, Constraint) and value is not Constraint)
    }
