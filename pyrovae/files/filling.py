"""A graph made from a description, or one at hand compared with it, and filled with weights."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.files.comparison import difference
from pyrovae.files.construction import build, describe

__all__ = ["built", "compared", "fill", "plain_name"]


def built(described: Any, tensors: Iterable[Tensor]) -> nn.Module:
    """Build the graph that was described, in the weights' precision."""
    kept = list(tensors)
    graph = build(described, sum(tensor.numel() for tensor in kept))
    if not isinstance(graph, nn.Module):
        raise ValueError(
            f"it describes a {type(graph).__name__}, expected a graph. Save the model again"
        )
    floats = {tensor.dtype for tensor in kept if tensor.is_floating_point()}
    return graph.to(next(iter(floats))) if len(floats) == 1 else graph


def compared(described: Any, into: nn.Module) -> nn.Module:
    """Return `into`, if its parts were built with the arguments of the saved ones."""
    here = json.loads(json.dumps(describe(into)))  # in the types that JSON knows, as the file is
    found = difference(described, here)
    if found is not None:
        raise ValueError(
            f"the graph to load into is another: {found}. Build `into` as it was when saved"
        )
    return into


def fill(graph: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put the weights into a graph; if they do not fit, it is left as it was."""
    state = graph.state_dict()
    names = {plain_name(name): name for name in state}
    before = {name: tensor.clone() for name, tensor in state.items()}
    given = {names.get(plain_name(name), name): tensor for name, tensor in tensors.items()}
    try:
        for name in given.keys() & state.keys():
            if _sort(given[name]) != _sort(state[name]):
                raise ValueError(f"{name} is {given[name].dtype}, expected {state[name].dtype}")
        _check_tied(state, given)
        graph.load_state_dict(given)
    except Exception as error:  # a module's own hooks may raise anything, given anything
        graph.load_state_dict(before)
        raise ValueError(
            f"the weights do not fit the graph. Build `into` as it was when saved. {error}"
        ) from error


def _check_tied(state: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Raise a ValueError if one tensor of a graph, under two names, would get two values."""
    names: dict[int, str] = {}
    for name, tensor in state.items():
        first = names.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
        alike = tensor.shape == state[first].shape and {first, name} <= given.keys()
        if first != name and alike and not torch.equal(given[first], given[name]):
            raise ValueError(f"{first} and {name} are one tensor there, and two in the file")


def _sort(tensor: Tensor) -> tuple[bool, bool, bool]:
    """Return what the numbers of a tensor are: floating, complex, truth values, or whole."""
    return tensor.is_floating_point(), tensor.is_complex(), tensor.dtype == torch.bool


def plain_name(name: str) -> str:
    """Return a tensor's name without what `torch.compile` adds to it."""
    return name.replace("_orig_mod.", "")
