"""The parameters of a graph in Pyro's store, under a name of their own.

The store is global and keyed by name: two models under one name share a slot, and the second does
not train. Each instance therefore gets a name of its own, kept by a weak reference: an attribute
would be copied by `copy.deepcopy`, and two models would share the name again.
"""

from contextlib import suppress
from contextvars import ContextVar, Token
from itertools import count
from weakref import WeakKeyDictionary, finalize

import pyro
from torch import nn

from pyrovae.programs.plain import is_plain

__all__ = ["parameters_held", "register"]

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
    of_module = [key for key in store.keys() if key.partition("$$$")[0] == name]  # noqa: SIM118
    for key in of_module:  # as pyro.module names them: "name$$$layer.weight"
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
