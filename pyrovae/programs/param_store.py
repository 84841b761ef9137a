"""The parameters of a graph in Pyro's store, under a name of their own.

The store is global and keyed by name: two models under one name share a slot, and the second does
not train. Each instance therefore gets a name of its own, kept by a weak reference: an attribute
would be copied by `copy.deepcopy`, and two models would share the name again.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar, Token
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary, finalize

import pyro
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyrovae.programs.plain import is_plain

__all__ = ["parameters_held", "parameters_used", "register"]

_IN = "$$$"  # as pyro.module names parameters: "name$$$layer.weight"
_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_numbers = count()
_held: ContextVar[frozenset[int]] = ContextVar("held", default=frozenset())


def register(graph: nn.Module) -> None:
    """Show the graph's parameters to Pyro, under a name that belongs to this instance alone.

    A graph calls it first in `model` and in `guide`; then Pyro's own `SVI` trains it. Inside
    `parameters_held(graph)` it does nothing: passing every parameter through Pyro's handlers is a
    tenth of a small model's step.
    """
    if id(graph) in _held.get() and not is_plain():
        return
    if graph not in _names:
        _names[graph] = f"{type(graph).__name__.lower()}-{next(_numbers)}"
        finalize(graph, _forget, _names[graph])
    pyro.module(_names[graph], graph)


def _forget(name: str) -> None:
    """Drop the parameters of a graph that no longer exists from Pyro's store."""
    store = pyro.get_param_store()
    of_module = [key for key in store.keys() if key.partition(_IN)[0] == name]  # noqa: SIM118
    for key in of_module:
        with suppress(KeyError):  # of a tensor that two graphs share the store knows one name only
            del store[key]


class parameters_held:  # noqa: N801 (a context manager, used like a function)
    """Context in which `graph` need not be registered: the caller holds its parameters itself.

    It can be entered more than once.
    """

    def __init__(self, graph: object) -> None:
        modules = graph.modules() if isinstance(graph, nn.Module) else ()
        self._ids = frozenset(id(module) for module in modules)
        self._tokens: list[Token] = []

    def __enter__(self) -> None:
        self._tokens.append(_held.set(_held.get() | self._ids))

    def __exit__(self, *_: object) -> None:
        _held.reset(self._tokens.pop())


def parameters_used(sites: Mapping[str, Any], networks: Iterable[nn.Module]) -> dict[str, Tensor]:
    """Return the tensors, unconstrained, that programs compute with, by their names in the store.

    A second network under the name of a first one leaves the first one's tensors in the store and
    computes with its own: by `pyro.module`, unless that has `update_module_params=True`, and in a
    `PyroModule`.

    Args:
        sites: the parameters in a trace, by name.
        networks: of the graph, and those that the programs called.
    """
    modules = [module for network in networks for module in network.modules()]
    within = {id(each) for module in modules for each in module.parameters(recurse=False)}
    of_pyro = {
        id(each)
        for module in modules
        if isinstance(module, PyroModule)
        for each in module.parameters(recurse=False)
    }
    stored = {name: site["value"].unconstrained() for name, site in sites.items()}
    updated = {name.partition(_IN)[0] for name, tensor in stored.items() if id(tensor) in within}
    for name, site in sites.items():
        module, separator, _ = name.partition(_IN)
        given = site["args"][1] if len(site["args"]) > 1 else None
        if (separator and module not in updated) or id(given) in of_pyro:
            stored[name] = given
    return stored
