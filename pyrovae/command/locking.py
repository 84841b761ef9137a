"""One run at a time writes to an output folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from errno import EACCES, EAGAIN
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["alone_in"]


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Context in which no other process may be in this context of the same folder.

    The folder is made, with those above it, and what was made is removed where it is left empty.
    It is locked by itself (man 2 flock): no file stays, and the system lets go of it however the
    process ends. Where that cannot be done, as on Windows or some network disks, nothing is locked.

    Raises:
        ValueError: if another process is in it.
        OSError: if there can be no such folder.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # of the same class, by its number
        raise OSError(
            error.errno, f"{folder} cannot be made ({error.strerror}); choose another --output"
        ) from error
    handle = _locked(folder)
    try:
        yield
    finally:
        with suppress(OSError):  # one holds something
            for each in made:
                each.rmdir()
        if handle is not None:
            os.close(handle)


def _locked(folder: Path) -> int | None:
    """Return the handle of a locked folder, None where folders cannot be locked."""
    try:
        fcntl: Any = import_module("fcntl")
        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if error.errno not in (EACCES, EAGAIN):
            return None
        raise ValueError(
            f"{folder} is the output of another `pyrovae fit` that still runs; wait for it, or "
            "choose another folder with --output"
        ) from error
    return handle
