"""Show a graph's parameters to Pyro under a name of its own."""

from contextlib import suppress
from contextvars import ContextVar, Token
from itertools import count
from weakref import WeakKeyDictionary, finalize

import pyro
from torch import nn

__all__ = ["parameters_held", "register"]


# Pyro's store is global and keyed by name: two models under one name share a slot, and the second does not train. Each
# instance therefore gets a name of its own. The names hang on the instance by a weak reference and not by an attribute,
# which a deep copy would take along.
_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


_numbers = count()


_held: ContextVar[frozenset[int]] = ContextVar("parameters_held", default=frozenset())


def register(graph: nn.Module) -> None:
    """Show the graph's parameters to Pyro, under a name that belongs to this instance alone.

    A graph calls it first thing in `model` and `guide`; then plain `SVI` trains it. Inside `parameters_held(graph)` nothing needs to
    be shown, and walking every parameter through Pyro's handlers (a tenth of a small model's step) is left out.
    """
    if id(graph) in _held.get():
        return
    if graph not in _names:
        _names[graph] = f"{type(graph).__name__.lower()}-{next(_numbers)}"
        finalize(graph, _forget, _names[graph])
    pyro.module(_names[graph], graph)


def _forget(name: str) -> None:
    """Drop the parameters of a graph that no longer exists: the store would keep them for the life of the process."""
    store = pyro.get_param_store()
    for key in [key for key in store.keys() if key.startswith(f"{name}$$$")]:  # noqa: SIM118 (the store is no dict)
        with suppress(
            KeyError
        ):  # of a tensor that another graph has too, the store knows one name only
            del store[key]


class parameters_held:  # noqa: N801 (a context manager, used like a function)
    """Context in which the caller holds the parameters of `graph` itself and Pyro's store is not asked. It can be entered again."""

    def __init__(self, graph: object) -> None:
        self._ids = (
            frozenset(id(module) for module in graph.modules())
            if isinstance(graph, nn.Module)
            else frozenset()
        )
        self._tokens: list[Token] = []

    def __enter__(self) -> None:
        self._tokens.append(_held.set(_held.get() | self._ids))

    def __exit__(self, *_: object) -> None:
        _held.reset(self._tokens.pop())
