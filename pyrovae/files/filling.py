"""A graph made from a description, or one at hand compared with it, and filled with weights."""

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from pyrovae.files.comparison import difference
from pyrovae.files.construction import build, describe

__all__ = ["built", "compared", "fill", "plain_name"]


def built(described: Any, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Build the graph that was described, each tensor in the type in which it was saved."""
    graph = build(described, sum(tensor.numel() for tensor in tensors.values()))
    if not isinstance(graph, nn.Module):
        raise ValueError(
            f"it describes a {type(graph).__name__}, expected a graph. Save the model again"
        )
    floats = {name: value.dtype for name, value in tensors.items() if value.is_floating_point()}
    _give_types(graph, "", floats)
    return graph


def _give_types(module: nn.Module, prefix: str, types: Mapping[str, torch.dtype]) -> None:
    """Give the tensors of a module their types by name; a part that has one type is of that type.

    So what is not saved, such as a buffer that is not persistent, has the type of its part.
    """
    within = {dtype for name, dtype in types.items() if name.startswith(prefix)}
    if len(within) == 1:
        module.to(within.pop())
        return
    for name, child in module.named_children():
        _give_types(child, f"{prefix}{name}.", types)
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    for name, tensor in own:
        tensor.data = tensor.data.to(types.get(prefix + name, tensor.dtype))


def compared(described: Any, into: nn.Module) -> nn.Module:
    """Return `into`, if its parts were built with the arguments of the saved ones."""
    found = difference(described, describe(into))
    if found is not None:
        raise ValueError(
            f"the graph to load into is another: {found}. Build `into` as it was when saved"
        )
    return into


def fill(graph: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put the weights into a graph; if they do not fit, it is left as it was."""
    state = graph.state_dict()
    lazy = next(filter(lambda name: nn.parameter.is_lazy(state[name]), state), None)
    if lazy is not None:
        raise ValueError(
            f"{lazy} of `into` has no shape yet, as its lazy module has not run: run `into` once "
            "with some rows, as by pyrovae.elbo(into, x), then load into it"
        )
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
        unmade = _unmade(graph, given.keys() - state.keys())
        remedy = (
            f"graph.{unmade} makes its parameters when it is first called: call graph.guide(x) "
            "once with some rows x, then load into that graph"
            if unmade
            else "Build `into` as it was when saved"
        )
        raise ValueError(f"the weights do not fit the graph. {remedy}. {error}") from error
    _warn_of_rounding(state, given)


def _unmade(graph: nn.Module, names: Iterable[str]) -> str:
    """Return the part of a graph that lacks some tensors as it was never called; empty if none.

    Pyro's automatic guides have no tensors before their first call.
    """
    modules = dict(graph.named_modules())
    for name in sorted(names):
        place = name
        while place and place not in modules:
            place = place.rpartition(".")[0]
        found = modules[place]
        if place and isinstance(found, AutoGuide) and not found.state_dict():
            return place
    return ""


def _warn_of_rounding(state: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Warn of tensors whose type in the graph cannot hold the numbers that were saved."""
    types = {name: (given[name].dtype, state[name].dtype) for name in given.keys() & state.keys()}
    narrow = [name for name, (was, now) in types.items() if torch.promote_types(was, now) != now]
    if narrow:
        first = min(narrow)
        was, now = types[first]
        warnings.warn(
            f"load: {len(narrow)} tensors were saved in another type than `into` has, and were "
            f"rounded: {first} from {was} to {now}. Build `into` with .to({was}) to keep them",
            stacklevel=4,
        )


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
