"""The number of threads that torch uses, and fewer of them while the machine is busy.

The threads of an operation wait for the slowest. Where one of them waits for a processor that
another program has, all wait for some milliseconds, at every operation: on two processors of which
one is busy, two threads make a step ten times slower than one.

Linux tells how long each thread has waited: the second number of /proc/self/task/*/schedstat, in
nanoseconds. Elsewhere nothing is known, and the number of threads stays.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

__all__ = ["ThreadWatch", "torch_threads"]

_LOGGER = logging.getLogger("pyrovae")
_TASKS = Path("/proc/self/task")
_WINDOW = 0.3  # seconds between looks
_AT_MOST = 0.1  # of the time, which a thread waits: 0.01 alone, 0.35 where it shares its processor


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Context in which torch uses n threads; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ThreadWatch:
    """Context in which torch gets half as many threads whenever one is found waiting for long.

    `look` is to be called between operations. Afterwards there are as many threads as before.
    """

    def __init__(self) -> None:
        self._given: int | None = None  # before the first change
        self._begin()

    def __enter__(self) -> "ThreadWatch":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._given is not None:
            torch.set_num_threads(self._given)

    def look(self) -> None:
        """Halve the number of threads if, since the last look, one waited for a processor."""
        seconds, threads = time.perf_counter() - self._since, torch.get_num_threads()
        if threads == 1 or seconds < _WINDOW:
            return
        before = self._waited
        self._begin()
        waited = (now - before.get(task, now) for task, now in self._waited.items())
        if max(waited, default=0.0) > _AT_MOST * seconds:
            self._given = self._given or threads
            torch.set_num_threads(threads // 2)
            _say_once()

    def _begin(self) -> None:
        self._since, self._waited = time.perf_counter(), _waited()


def _waited() -> dict[str, float]:
    """Return for how many seconds each thread of this process has waited for a processor."""
    found = {}
    for task in _TASKS.glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # it has ended; nothing is told
            found[task.parent.name] = int(task.read_text().split()[1]) / 1e9
    return found


@cache
def _say_once() -> None:
    """Log it once in a process."""
    _LOGGER.warning(
        "other programs use this machine's processors, so that torch's threads would wait for each "
        "other: fewer are used, until this work is done. Results differ by rounding from those of "
        "more threads. torch.set_num_threads(1) gives the same number at all times"
    )
