"""Contexts in which a command runs: number of threads, and warnings as lines of its output."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

from pyrovae.data import torch_threads

__all__ = ["notes", "threads"]


@contextmanager
def threads(n: int | None) -> Iterator[None]:
    """Context in which torch and scikit-learn use n threads; None leaves the number to them."""
    with torch_threads(n or torch.get_num_threads()), threadpool_limits(n):
        yield


@contextmanager
def notes(say: Callable[[str], None]) -> Iterator[list[str]]:
    """Context in which each UserWarning is told once, in one line, and kept in the list.

    Args:
        say: Called with each line.
    """
    told: list[str] = []

    def show(
        message: Warning | str, category: type[Warning], *where: object, **more: object
    ) -> None:
        text = " ".join(str(message).split())
        if issubclass(category, UserWarning) and text not in told:
            told.append(text)
            say(f"note: {text}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show  # the context restores it
        yield told
