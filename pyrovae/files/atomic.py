"""Write a file whole or not at all: into a temporary file beside it, which then takes its name."""

import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

__all__ = ["check_writable", "remove_temporary", "write_atomically"]

_TEMPORARY = re.compile(r"\..+-[0-9a-f]{8}")  # as `write_atomically` names them


def write_atomically(path: Path, write_to: Callable[[Path], object]) -> None:
    """Write a file so that `path` holds either its old content or all of the new.

    A symbolic link stays, and the file that it leads to is written. A device or pipe, such as
    /dev/stdout, is no file to replace: it gets the content once that is whole.

    Args:
        path: the file; its folder is made if absent.
        write_to: writes the content to a temporary path in that folder, which then replaces `path`.

    Raises:
        OSError: if it cannot be written, as on a full disk; names the path.
    """
    if _is_stream(path):
        _write_stream(path, write_to)
        return
    path = _behind_link(path)
    part, mode = _begun(path)
    try:
        write_to(part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.chmod(mode)  # in case that `write_to` made a file of its own
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError | SafetensorError):
            raise OSError(
                f"{path} cannot be written ({error}). Free space there, or write to another "
                "folder; a file of this name is as it was"
            ) from error
        raise


def check_writable(path: Path) -> None:
    """Check that a file can be written later; its folder is made if absent, and the file is not.

    Raises:
        OSError: if it cannot; names the path.
    """
    if _is_stream(path):
        return
    part, _ = _begun(_behind_link(path))
    part.unlink()
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"{path} is a folder, expected the name of a file")


def _is_stream(path: Path) -> bool:
    """Return whether a path is a device, a pipe, or a file that this process has open already."""
    try:
        if not path.exists():  # False too for links that lead in a circle
            return False
    except OSError:  # too long a name
        return False
    return _descriptor(path) is not None or not (path.is_file() or path.is_dir())


def _descriptor(path: Path) -> int | None:
    """Return the number of the open file that an existing path stands for, as /dev/stdout does."""
    own = Path(f"/proc/{os.getpid()}/fd")
    while path.parent.resolve() != own:
        if not path.is_symlink():
            return None
        path = path.parent / os.readlink(path)
    return int(path.name)


def _write_stream(path: Path, write_to: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / path.name
        whole.touch()
        write_to(whole)
        try:
            number = _descriptor(path)
            opened = path.open("wb") if number is None else os.fdopen(os.dup(number), "wb")
            with whole.open("rb") as source, opened as stream:
                shutil.copyfileobj(source, stream)
        except BrokenPipeError:  # whoever read it has seen enough
            raise
        except OSError as error:
            raise OSError(
                error.errno, f"{path} cannot be written ({error.strerror or error})"
            ) from error


def _behind_link(path: Path) -> Path:
    """Return the path that a symbolic link leads to, else the path as it is."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


def _begun(path: Path) -> tuple[Path, int]:
    """Make the temporary file that is to replace `path`; return it and its permissions."""
    part = path.parent / f".{path.name}-{secrets.token_hex(4)}"  # "" is a folder, and has no name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return part, _create(part)
    except OSError as error:
        raise OSError(  # of the same class, by its number
            error.errno,
            f"{path} cannot be written ({error.strerror}). Write to a folder where you may, under "
            "a shorter name if it is too long",
        ) from error


def remove_temporary(folder: Path) -> None:
    """Remove the temporary files that a killed process left; no other may be writing there now."""
    for path in folder.glob(".*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _create(path: Path) -> int:
    """Make a new empty file with the permissions that the process gives its files; return them."""
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)
