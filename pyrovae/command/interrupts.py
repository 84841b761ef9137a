"""Ctrl-C while modules are imported.

KeyboardInterrupt may be lost there, or become another error: the C code of numpy's and torch's
modules goes on after some exceptions. Nothing has begun that would have to be left whole.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = ["effective_interrupts"]

_EXIT_STATUS = 130  # of Ctrl-C, as in a shell
_IMPORTING = "<frozen importlib._bootstrap>"  # the file of the frames of an import


@contextmanager
def effective_interrupts() -> Iterator[None]:
    """Context in which Ctrl-C ends the process at once during an import, and is as usual else."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # of whoever calls
        yield
        return
    signal.signal(signal.SIGINT, _on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    if not _is_importing(frame):
        signal.default_int_handler(number, frame)
    with suppress(RuntimeError):  # in the middle of a write
        sys.stdout.flush()
    os.write(2, b"pyrovae: interrupted\n")
    os._exit(_EXIT_STATUS)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            return True
        frame = frame.f_back
    return False
