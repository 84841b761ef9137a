"""A conditional distribution p(y | given) is a module whose `forward(*given)` returns a Pyro distribution over y.

Priors p(z | c), posteriors q(z | x, c) and likelihoods p(x | z, c) are all of this one kind, so that a graph can be put
together from any of them, from this library's or from a user's.
"""

from abc import ABC, abstractmethod
from contextlib import suppress
from contextvars import ContextVar, Token
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary, finalize

import pyro
from pyro.distributions import Distribution
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor, nn

__all__ = ["Conditional", "Standardized", "held", "register", "rows"]


class Conditional(nn.Module, ABC):
    """p(y | given): the one abstract class of the library.

    A concrete part is final: to change one, wrap it (as `Standardized` does) or write another. It keeps each constructor
    argument as an attribute of the same name, from which `pyrovae.save` describes it.
    """

    @abstractmethod
    def forward(self, *given: Tensor) -> Distribution:
        """Return p(y | given) with batch shape (*), for given tensors of shape (*, D_i)."""


class Standardized(Conditional):
    """A posterior that sees (x - shift) / scale: q(z | (x - shift) / scale, c).

    For data whose numbers are far from unit size, such as counts or grey levels, while the likelihood still explains x itself.

    Args:
        part: the posterior to wrap.
        shift: what is subtracted from x.
        scale: what x - shift is divided by; not zero.

    Raises:
        ValueError: if `scale` is zero.
    """

    def __init__(self, part: nn.Module, shift: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        if scale == 0:
            raise ValueError("Standardized: scale is 0, expected the (non-zero) unit in which x is measured")
        self.part, self.shift, self.scale = part, shift, scale

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return the wrapped posterior at the standardized x."""
        return self.part((x - self.shift) / self.scale, *c)


class rows(pyro.plate):  # noqa: N801 (a context manager, used like a function)
    """The plate over the rows of x: `pyro.plate("data", len(x))` without the site that Pyro's own adds for drawing a subsample.

    Minibatches come drawn already, and that site, in model and guide, is a fifth of what Pyro's handlers cost a small step;
    broadcasting what needs none is a tenth.

    Args:
        x: what has one row a datum.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__("data", len(x))

    @staticmethod
    def _subsample(name: str, size: int, *_: object) -> tuple[int, int, None]:
        return size, size, None

    def _process_message(self, msg: Any) -> None:
        ready = msg["type"] == "sample" and not msg["cond_indep_stack"] and msg["fn"].batch_shape == (self.size,)
        if ready:  # it has one row a datum: there is nothing to broadcast
            msg["cond_indep_stack"] = (CondIndepStackFrame(self.name, self.dim, self.size, self.counter, self.size),)
        else:
            super()._process_message(msg)


# ------------------------------------------------------------------------------------------ parameters and Pyro's store
# Pyro's store is global and keyed by name: two models under one name share a slot, and the second does not train. Each
# instance therefore gets a name of its own. The names hang on the instance by a weak reference and not by an attribute,
# which a deep copy would take along.
_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_numbers = count()
_held: ContextVar[frozenset[int]] = ContextVar("held", default=frozenset())


def register(graph: nn.Module) -> None:
    """Show the graph's parameters to Pyro, under a name that belongs to this instance alone.

    A graph calls it first thing in `model` and `guide`; then plain `SVI` trains it. Inside `held(graph)` nothing needs to
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
        with suppress(KeyError):  # of a tensor that another graph has too, the store knows one name only
            del store[key]


class held:  # noqa: N801 (a context manager, used like a function)
    """Context in which the caller holds the parameters of `graph` itself and Pyro's store is not asked. It can be entered again."""

    def __init__(self, graph: object) -> None:
        self._ids = frozenset(id(module) for module in graph.modules()) if isinstance(graph, nn.Module) else frozenset()
        self._tokens: list[Token] = []

    def __enter__(self) -> None:
        self._tokens.append(_held.set(_held.get() | self._ids))

    def __exit__(self, *_: object) -> None:
        _held.reset(self._tokens.pop())
