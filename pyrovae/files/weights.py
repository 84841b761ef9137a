"""The weights of a graph as the bytes of a safetensors file, in which a shared tensor is once.

header      8 bytes: its length; then JSON: name -> type, shape, place; other names as metadata
tensors     their bytes
"""

import re
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch as safetensors
import torch
from torch import Tensor, nn

from pyrovae.files.errors import FileError
from pyrovae.files.filling import plain_name
from pyrovae.files.sealed import safetensors_header

__all__ = ["header", "packed", "remove_unnamed", "unpacked"]

_AGAIN = "Save the model again"
_OURS = re.compile(r"weights-[0-9a-f]{16}\.safetensors")
_YOUNG = 3600.0  # seconds, far more than lie between the weights and their model.json


def packed(graph: nn.Module, further: Mapping[str, Tensor]) -> bytes:
    """Return the tensors of a graph, and further ones, in the format of safetensors.

    What parts share is written once, its other names as metadata. A view of another tensor is
    written as one of its own; safetensors' own `save_model` drops it, and refuses a batch
    normalization that is shared.

    Raises:
        ValueError: if a tensor has no values yet.
    """
    first: dict[int, str] = {}
    tensors, other_names = {}, {"format": "pt"}
    state = {plain_name(name): value for name, value in graph.state_dict(keep_vars=True).items()}
    for name, tensor in {**state, **further}.items():
        _check_values(name, tensor)
        if first.setdefault(id(tensor), name) == name:
            tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        else:
            other_names[name] = first[id(tensor)]
    return safetensors.save(tensors, other_names)


def _check_values(name: str, tensor: Tensor) -> None:
    """Refuse a parameter or buffer that has no values yet.

    Raises:
        ValueError: names it, and what gives it values.
    """
    if nn.parameter.is_lazy(tensor):
        raise ValueError(
            f"save: {name} has no shape yet, as its lazy module has not run: fit the graph first, "
            "or run it once, as by pyrovae.elbo(graph, x)"
        )
    if tensor.is_meta:
        raise ValueError(
            f"save: {name} is on the device meta, where it has no values: build the graph outside "
            'of "with torch.device("meta")", or call graph.to_empty(device="cpu") and load weights'
        )


def unpacked(path: Path, weights: bytes) -> dict[str, Tensor]:
    """Return the tensors by every name that they have."""
    try:
        tensors = safetensors.load(weights)
    except Exception as error:  # whatever safetensors and torch make of bytes that are anything
        raise FileError(f"{path}: not a safetensors file ({error}). {_AGAIN}") from error
    names = header(path, weights).get("__metadata__") or {}
    return tensors | {name: tensors[kept] for name, kept in names.items() if kept in tensors}


def header(path: Path, weights: bytes) -> dict[str, Any]:
    """Return the JSON header of the file of weights."""
    try:
        return safetensors_header(weights)
    except ValueError as error:
        raise FileError(f"{path}: not a safetensors file ({error}). {_AGAIN}") from error


def remove_unnamed(folder: Path, keep: Collection[Path | None]) -> None:
    """Remove weights that no model.json names: a process was killed, or two saved at a time.

    Young ones stay: another process may have written them, and not yet its model.json.
    """
    for path in folder.glob("weights-*.safetensors"):
        if path not in keep and _OURS.fullmatch(path.name):
            with suppress(OSError):  # another process removed it, or may alone
                if time.time() - path.stat().st_mtime > _YOUNG:
                    path.unlink()
