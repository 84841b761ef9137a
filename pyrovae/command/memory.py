"""Memory of the process that the command line runs in; the library leaves that of others alone."""

import ctypes
import os
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's names for them, M_..., in malloc.h
_LARGE, _LESS, _ALL = 1 << 30, 1 << 25, (1 << 31) - 1  # bytes; older glibc takes at most the second


def keep_freed_memory() -> None:
    """Let glibc keep what is freed for the next step, instead of giving it back to the system.

    A step on wide data frees hundreds of megabytes. The system clears their pages before it hands
    them out again, which took a fifth to a quarter of the time of a step with 30,000 genes. Nothing
    is done elsewhere than with glibc, or where the user has set one of its `MALLOC_...` variables.
    """
    if not sys.platform.startswith("linux") or any(
        name.startswith("MALLOC_") for name in os.environ
    ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    if mallopt(_MMAP_THRESHOLD, _LARGE) or mallopt(_MMAP_THRESHOLD, _LESS):
        mallopt(_TRIM_THRESHOLD, _ALL)
