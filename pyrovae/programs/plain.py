"""One switch between this library's handlers and Pyro's own.

The inner loop of a small model spends as much time in Pyro's handlers as in the mathematics. Three
short replacements (`data_plate`, `record`, `parameters_held`) use private parts of Pyro 1.9 to cut
that by half. Inside `plain_pyro()`, and under any other version of Pyro, all three do what they do
through Pyro's public interface: the same losses and gradients, more slowly.
`tests/test_programs.py` compares the two, and `benchmarks/step.py` measures them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import pyro

__all__ = ["is_plain", "plain_pyro"]

_KNOWN = ("1.9.",)  # versions of Pyro whose private parts the replacements were written for
_plain = ContextVar("plain", default=not pyro.__version__.startswith(_KNOWN))


def is_plain() -> bool:
    """Return whether Pyro's own handlers are in use."""
    return _plain.get()


@contextmanager
def plain_pyro() -> Iterator[None]:
    """Context in which plates, traces and parameters go through Pyro's public interface alone."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)
