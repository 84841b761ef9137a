"""Ctrl-C during a fit."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["graceful_interrupt"]


@contextmanager
def graceful_interrupt() -> Iterator[threading.Event]:
    """Context in which the first Ctrl-C sets a flag that the loop reads between steps.

    A second Ctrl-C interrupts as usual.
    """
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = signal.getsignal(signal.SIGINT) or signal.SIG_DFL

    def on_interrupt(*_: object) -> None:
        flag.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)
