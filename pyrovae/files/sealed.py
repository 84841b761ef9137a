"""JSON files that carry a digest of their content, read so that no file can do harm.

{"format": ..., "sha256": digest of the rest, ...}

A file is parsed, and its digest compared, before anything in it is used.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyrovae.files.errors import FileError

__all__ = ["digest_of", "opened", "parse", "read_json", "safetensors_header", "sealed"]

_DEPTH = 100  # of lists and objects within each other; what the library writes has about ten
_LARGEST = 2**64  # of whole numbers: a seed is below it


def read_json(path: Path, what: str, remedy: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: the file.
        what: what it should be, for the error.
        remedy: what to do about a file that cannot be read, for the error.

    Raises:
        FileError: if it holds no JSON object, or one that is nested too deeply, or has a whole
            number beyond 64 bits.
    """
    try:
        return parse(path.read_text())
    except (OSError, ValueError) as error:
        raise FileError(f"{path}: truncated or not {what} ({error}). {remedy}") from error


def parse(text: bytes | str) -> dict[str, Any]:
    """Return the object in a JSON text.

    Raises:
        ValueError: as `read_json`.
    """
    try:
        content = json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, got {type(content).__name__}")
    _check_depth(content)
    return content


def safetensors_header(content: bytes) -> dict[str, Any]:
    """Return the JSON header of a safetensors file: its length in 8 bytes, then the text.

    Raises:
        ValueError: as `read_json`.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    return parse(content[8:end])


def sealed(format: str, content: dict[str, Any]) -> dict[str, Any]:
    """Return content with its format and digest, to be written as JSON."""
    return {"format": format, "sha256": digest_of(content), **content}


def opened(path: Path, formats: tuple[str, str], remedy: str) -> dict[str, Any]:
    """Read what `sealed` made, and return the content.

    Args:
        path: the file.
        formats: the format of today, and that of the files before it, which have no digest.
        remedy: what to do about a file that cannot be used, for the error.

    Raises:
        FileError: if it cannot be read, has another format, or differs from what was written.
    """
    content = read_json(path, "of this version", remedy)
    given = content.pop("format", None)
    if given not in formats:
        raise FileError(
            f"{path}: truncated or not of this version (its format is {given!r}, expected "
            f"{formats[0]!r}). {remedy}"
        )
    if given == formats[0] and content.pop("sha256", None) != digest_of(content):
        raise FileError(f"{path}: altered since it was written (its checksum differs). {remedy}")
    return content


def digest_of(content: Any) -> str:
    """Return the SHA-256 of content as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _whole(text: str) -> int:
    number = int(text) if len(text) < 40 else _LARGEST
    if abs(number) >= _LARGEST:
        raise ValueError(f"the number {text[:20]}... is too large")
    return number


def _check_depth(content: Any) -> None:
    """Refuse content that the recursive functions which read it could not go through."""
    level: list[Any] = [content]
    for _ in range(_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return
    raise ValueError(f"nested more than {_DEPTH} deep")


def _inside(outer: Any) -> Iterable[Any]:
    values = outer.values() if isinstance(outer, dict) else outer
    return (value for value in values if isinstance(value, dict | list))
