"""The state of a fit as one safetensors file, with what is no tensor as JSON in its header.

There is no pickle, and a file is written whole or not at all.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pyrovae.files.atomic import write_atomically

__all__ = ["random_state", "read", "set_random_state", "write"]

FORMAT = "pyrovae-checkpoint-1"


def write(path: Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors, numbers and strings, whole or not at all.

    Raises:
        TypeError: if there is something else in them; the message names where.
    """
    tensors: dict[str, Tensor] = {}
    plain = _flatten(state, "", tensors)
    header = {"format": FORMAT, "state": json.dumps(plain)}
    write_atomically(Path(path), lambda file: save_file(tensors, file, metadata=header))


def read(path: Path) -> dict[str, Any]:
    """Read what `write` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is truncated or not a checkpoint of this library.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{path}: no checkpoint to resume from. "
            "Pass the file that an earlier fit wrote with checkpoint="
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise ValueError(
                    f"{path}: not a checkpoint of this version "
                    f"(format {header.get('format')!r}, expected {FORMAT!r})"
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no dict)
            return _restore(json.loads(header["state"]), tensors)
    except (SafetensorError, json.JSONDecodeError, KeyError) as error:
        raise ValueError(
            f"{path}: truncated or not a checkpoint ({error}). Start the fit again without resume="
        ) from error


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
