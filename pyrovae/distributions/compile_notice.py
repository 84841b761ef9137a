"""What a user is told while numba compiles: it takes up to half a minute, once on a machine."""

import logging
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Timer
from typing import Any

__all__ = ["said_if_compiled"]

_LOGGER = logging.getLogger("pyrovae")
_PATIENCE = 2.0  # seconds before a word is due
_called: set[Hashable] = set()  # kinds of calls that have been compiled in this process


@contextmanager
def said_if_compiled(function: Any, kind: Hashable) -> Iterator[None]:
    """Context of a call of a function of numba's: if it compiles for long, a log message says so.

    Args:
        function: as `numba.njit` returned it.
        kind: of the call's arguments; the first call with each may be compiled.
    """
    if kind in _called:
        yield
        return
    timer = Timer(_PATIENCE, _say, [function.stats])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    _called.add(kind)


def _say(stats: Any) -> None:
    """Log that a function is compiled, unless it was found on the disk."""
    if stats.cache_misses:
        _say_once(stats.cache_path)


@cache
def _say_once(folder: str | None) -> None:
    """Log it once in a process."""
    kept = "It cannot be kept, as no folder for it can be written: set NUMBA_CACHE_DIR to one"
    if folder:
        kept = f"The result is kept in {folder}, so that this happens once"
    _LOGGER.warning(
        "numba compiles the likelihood of counts, which takes up to half a minute. %s", kept
    )
