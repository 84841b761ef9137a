"""Ctrl-C and SIGTERM during a fit."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Interruption", "graceful_interrupt"]

_WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


class Interruption:
    """Whether a fit was asked to end.

    Attributes:
        word: for why the fit ended, "interrupted" or "terminated"; empty while nobody asked.
    """

    def __init__(self) -> None:
        self.word = ""


@contextmanager
def graceful_interrupt(alone: bool = True) -> Iterator[Interruption]:
    """Context in which the first Ctrl-C, or SIGTERM, is noted for the loop to read between steps.

    A second one of either kind acts as usual. SIGTERM, which Slurm and Kubernetes send, is left to
    whoever handles it already, and in a job of several processes: one that waits for another, which
    has ended, would wait on.

    Args:
        alone: whether this is the only process of the fit.
    """
    asked = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before: dict[int, Any] = {signal.SIGINT: signal.getsignal(signal.SIGINT) or signal.SIG_DFL}
    if alone and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        before[signal.SIGTERM] = signal.SIG_DFL
    process = os.getpid()

    def put_back() -> None:
        for number, handler in before.items():
            if signal.getsignal(number) is on_signal:
                signal.signal(number, handler)

    def on_signal(number: int, _: object) -> None:
        put_back()
        asked.word = _WORDS[signal.Signals(number)]
        if number == signal.SIGTERM and os.getpid() != process:
            os.kill(os.getpid(), number)  # one that was forked during the fit has no loop to end

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield asked
    finally:
        put_back()
