"""One thread of a process runs programs at a time.

Pyro's stack of handlers and torch's random stream belong to the process: programs that run in two
threads at once see each other's plates and draws, mostly without an error.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyrovae.programs.interrupted import handlers_restored

__all__ = ["one_evaluation", "one_fit"]

_WAIT = 0.05  # seconds, between two looks at whether a fit has begun

_lock = threading.RLock()
_forked = False  # whether this process is the fork of another one
_fitting: list[int] = []  # the thread of the fit that runs, once for each fit inside another


@contextmanager
def one_fit() -> Iterator[None]:
    """Context of a fit, in which other threads may not run programs.

    Raises:
        RuntimeError: if another thread fits; an evaluation there is waited for.
    """
    with one_evaluation():
        _fitting.append(threading.get_ident())
        try:
            yield
        finally:
            _fitting.pop()


@contextmanager
def one_evaluation() -> Iterator[None]:
    """Context of an evaluation: those of other threads wait for it.

    Raises:
        RuntimeError: if another thread fits, which may take long and may itself wait for this one.
    """
    while not _lock.acquire(timeout=_WAIT):
        if _fitting:  # by another thread: this one would have the lock
            raise RuntimeError(
                "a fit runs in another thread of this process, and Pyro's handlers and torch's "
                "random stream are of the process: both results would be wrong. Wait for it "
                "(thread.join()), or use a process for each fit, as by multiprocessing with the "
                'start method "spawn"'
            )
    try:
        with handlers_restored(), _threads_that_exist():
            yield
    finally:
        _lock.release()


@contextmanager
def _threads_that_exist() -> Iterator[None]:
    """Context in which a forked process computes in one thread.

    A fork has none of the threads of OpenMP that its parent had, and an operation that is divided
    among several waits for them forever.
    """
    before = torch.get_num_threads()
    if _forked:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if _forked:
            torch.set_num_threads(before)


def _after_fork() -> None:
    """Take a new lock where a thread that is not in the child held the parent's."""
    global _lock, _forked
    _forked = True
    if _lock.acquire(blocking=False):
        _lock.release()
    else:
        _lock = threading.RLock()
        _fitting.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
