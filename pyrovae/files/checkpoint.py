"""The state of a fit as one safetensors file, with what is no tensor as JSON in its header.

    metadata   format, state (JSON in which a tensor is named), sha256 of state and tensors
    tensors    by the place where they stand in the state

There is no pickle. A file is written whole or not at all, and read whole: its digest is compared
before anything in it is used.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch as safetensors
import torch
from torch import Tensor

from pyrovae.files.atomic import write_atomically
from pyrovae.files.errors import FileError
from pyrovae.files.sealed import parse, safetensors_header

__all__ = ["random_state", "read", "set_random_state", "write"]

FORMAT = "pyrovae-checkpoint-2"
_BEFORE = "pyrovae-checkpoint-1"  # of versions 0.1 and 0.2.0, without a digest
_REMEDY = "Start the fit again without resume="


def write(path: Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors, numbers and strings, whole or not at all.

    Raises:
        TypeError: if there is something else in them; the message names where.
    """
    tensors: dict[str, Tensor] = {}
    plain = json.dumps(_flatten(state, "", tensors))
    header = {"format": FORMAT, "state": plain, "sha256": _digest(plain, tensors)}
    write_atomically(Path(path), lambda file: safetensors.save_file(tensors, file, metadata=header))


def read(path: Path) -> dict[str, Any]:
    """Read what `write` wrote.

    A file of an earlier version has no digest: changed bytes in its tensors cannot be noticed.

    Raises:
        FileNotFoundError: if there is no such file.
        FileError: if it is truncated, altered, or not a checkpoint of this library.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no checkpoint to resume from. "
            "Pass the file that an earlier fit wrote with checkpoint="
        )
    header, tensors = _parts(path)
    given = header.get("format")
    if given not in (FORMAT, _BEFORE):
        raise FileError(
            f"{path}: not a checkpoint of this version (format {given!r}, expected {FORMAT!r}). "
            f"{_REMEDY}"
        )
    plain = header.get("state", "")
    if given == FORMAT and header.get("sha256") != _digest(plain, tensors):
        raise FileError(f"{path}: altered since it was written (its checksum differs). {_REMEDY}")
    try:
        state = _restore(parse(plain), tensors)
        if not isinstance(state, dict):
            raise ValueError("its state is no object")
        return state
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path}: truncated or not a checkpoint ({error}). {_REMEDY}") from error


def random_state(devices: list[int]) -> dict[str, Any]:
    """Return the state of torch's random streams, on the CPU and on the given CUDA devices."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device) for device in devices],
    }


def set_random_state(state: dict[str, Any], devices: list[int]) -> None:
    """Put torch's random streams back to what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    for device, cuda in zip(devices, state["cuda"], strict=False):
        torch.cuda.set_rng_state(cuda, device)


def _parts(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata of a safetensors file and its tensors, read once."""
    try:
        content = path.read_bytes()
        tensors = safetensors.load(content)
        return safetensors_header(content).get("__metadata__") or {}, tensors
    except Exception as error:  # whatever safetensors and torch make of bytes that are anything
        raise FileError(f"{path}: truncated or not a checkpoint ({error}). {_REMEDY}") from error


def _digest(plain: str, tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of a state: of its JSON, and of name, type, shape and bytes of tensors."""
    digest = hashlib.sha256(plain.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _flatten(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON, its tensors moved to `tensors` under the place where they stood."""
    if isinstance(value, Tensor):
        tensors[where] = value.detach().cpu().clone().contiguous()
        return {"tensor": where}
    if isinstance(value, dict):
        items = value.items()
        return {"items": [[key, _flatten(item, f"{where}/{key}", tensors)] for key, item in items]}
    if isinstance(value, list | tuple):
        return [_flatten(item, f"{where}/{i}", tensors) for i, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{where}: cannot keep a {type(value).__name__} in a checkpoint; "
        "it holds tensors, numbers, strings, lists and dicts"
    )


def _restore(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restore(item, tensors) for item in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _restore(item, tensors) for key, item in value["items"]}
    return value
