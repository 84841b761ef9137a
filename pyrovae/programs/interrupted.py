"""Put Pyro's and torch's global state back after an exception within a handler's own code."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pyro.poutine import runtime

from pyrovae.programs.plain import is_plain

__all__ = ["handlers_restored"]


@contextmanager
def handlers_restored() -> Iterator[None]:
    """Context after which, if it was interrupted, no handler or plate of inside stays installed.

    Handlers remove themselves, but Ctrl-C may strike while one does: its plate then stays, and all
    later programs of the process fail at a "duplicate plate". In the same way gradients may stay
    switched off.
    """
    if is_plain():
        yield
        return
    handlers, plates = list(runtime._PYRO_STACK), list(runtime._DIM_ALLOCATOR._stack)
    enabled = torch.is_grad_enabled()
    try:
        yield
    except GeneratorExit:  # of a generator that is dropped, maybe within other handlers
        raise
    except BaseException:
        runtime._PYRO_STACK[:], runtime._DIM_ALLOCATOR._stack[:] = handlers, plates
        torch.set_grad_enabled(enabled)
        raise
