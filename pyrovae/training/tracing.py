"""What a traced loss may not do, because the compiled one would not do it, and where tensors go.

Python runs once, at tracing: what it leaves in attributes and lists stays as it was then.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from traceback import extract_tb
from typing import Any, NamedTuple

from torch import Tensor, nn

from pyrovae.objectives import Objective
from pyrovae.programs import Programs
from pyrovae.training.precision import BFloat16Products

__all__ = [
    "PLAIN",
    "Attribute",
    "CompileError",
    "hooks_that_compute",
    "in_every_place",
    "plain_attributes",
    "reason_of",
    "unchanged",
]

PLAIN = (bool, int, float, str)
_ABSENT = object()


class Attribute(NamedTuple):
    """Something that a module or an objective holds, which is compiled in.

    Attributes:
        now: returns its present value.
        then: its value when the loss was traced.
        name: what to call it.
    """

    now: Callable[[], Any]
    then: Any
    name: str


class CompileError(ValueError):
    """Why a fit cannot be compiled."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"fit: compile is True, but the loss cannot be compiled: {reason}. Leave compile out"
        )


def reason_of(error: Exception) -> str:
    """Return in one line why torch's tracer or compiler failed."""
    first, *_ = [*str(error).strip().splitlines(), ""]
    if "convert all Tensors to FakeTensors" in first:
        return (
            "a tensor that is no parameter, buffer or part of the minibatch is used, such as a "
            "constant that a module holds; register it by register_buffer"
        )
    frames = [each for each in extract_tb(error.__traceback__) if _is_code(Path(each.filename))]
    if "DataDependent" in type(error).__name__ and frames:
        file, line, _, code = frames[-1]
        return f"{file}, line {line}, needs the value of a tensor: {code}"
    return f"{type(error).__name__}: {first}"


def _is_code(file: Path) -> bool:
    """Return whether a file holds a program or a layer, and is not of torch's tracer."""
    torch = Path(nn.__file__).parents[1]
    return not file.is_relative_to(torch) or file.is_relative_to(torch / "nn")


@contextmanager
def unchanged(programs: Programs) -> Iterator[None]:
    """Context in which no module may get another attribute; each has its own again afterwards.

    The compiled function would not change it: a counter, a list that grows, or a tensor that is no
    buffer.

    Raises:
        CompileError: if one did.
    """
    before = [
        (name, module, {key: (value, _content(value)) for key, value in vars(module).items()})
        for name, module in programs.named_modules()
    ]
    changed = ""
    try:
        yield
    finally:
        for name, module, had in before:
            for key in vars(module).keys() | had.keys():
                value, content = had.get(key, (_ABSENT, None))
                if vars(module).get(key, _ABSENT) is not value or _put_back(value, content):
                    changed = f"{name}.{key}".removeprefix("graph.")
            vars(module).clear()
            vars(module).update({key: value for key, (value, _) in had.items()})
    if "._flat_weight" in changed:  # of torch's own recurrent layers
        raise CompileError(
            f"torch's tracer does not take the recurrent layer {changed.rpartition('.')[0]}"
        )
    if changed:
        raise CompileError(
            f"each step changes {changed}, which a compiled one cannot; make it a buffer that is "
            "changed in place"
        )


def _content(value: Any) -> Any:
    """Return a copy of a list or a dictionary; None of anything else."""
    return value.copy() if type(value) in (list, dict) else None


def _put_back(value: Any, content: Any) -> bool:
    """Give a list or a dictionary the content that it had; return whether it had changed."""
    if content is None or _parts(value) == _parts(content):
        return False
    value.clear()
    value.update(content) if isinstance(value, dict) else value.extend(content)
    return True


def _parts(value: list | dict) -> list[int]:
    """Return what identifies the entries."""
    flat = [each for pair in value.items() for each in pair] if isinstance(value, dict) else value
    return [id(each) for each in flat]


@contextmanager
def hooks_that_compute(programs: Programs) -> Iterator[None]:
    """Context in which a module's forward hooks must return something, or change a tensor.

    One that only looks, such as a hook that keeps activations, would be called at tracing alone.

    Raises:
        CompileError: if one did neither.
    """
    looked: list[str] = []
    replaced = []
    for name, module in programs.named_modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                if not _is_ours(hook):
                    replaced.append((hooks, key, hook))
                    hooks[key] = _noting(hook, name.removeprefix("graph."), looked)
    try:
        yield
    finally:
        for hooks, key, hook in replaced:
            hooks[key] = hook
    if looked:
        raise CompileError(
            f"a forward hook of {looked[0]} returns nothing and changes no tensor, so it would be "
            "called at the first step alone; remove it, or look at activations in a hook of fit's"
        )


def _noting(hook: Callable[..., Any], name: str, looked: list[str]) -> Callable[..., Any]:
    """Return a hook that notes the module's name if the hook has no effect on tensors."""

    def noting(module: nn.Module, *given: Any) -> Any:
        tensors = [*_tensors(given), *_tensors([*vars(module).values()])]
        before = [tensor._version for tensor in tensors]
        attributes = dict(vars(module))
        result = hook(module, *given)
        same = all(vars(module).get(key, _ABSENT) is value for key, value in attributes.items())
        if result is None and same and before == [tensor._version for tensor in tensors]:
            looked.append(name)
        return result

    return noting


def _tensors(values: Any) -> list[Tensor]:
    """Return the tensors among values, and those in tuples and dictionaries among them."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, tuple | list | dict):
            found += _tensors(value.values() if isinstance(value, dict) else value)
    return found


def in_every_place(programs: Programs, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by each place that they are to take, of modules that may share some.

    `functional_call` itself, where a module is reached by two names, as the posterior of a
    `priors.Vamp` is, takes its tensors' places twice and does not put the module's own back.

    Args:
        programs: the module.
        tensors: by the names of its `named_parameters` and `named_buffers`, of which each tensor
            has one.
    """
    named = {**dict(programs.named_parameters()), **dict(programs.named_buffers())}
    new = {id(own): tensors[name] for name, own in named.items()}
    return {
        f"{prefix}.{key}".removeprefix("."): new[id(own)]
        for prefix, module in programs.named_modules()
        for key, own in (*module._parameters.items(), *module._buffers.items())
        if own is not None
    }


def plain_attributes(programs: Programs, objective: Objective) -> list[Attribute]:
    """Return what a graph and an objective hold beside tensors, which is compiled in.

    That is numbers and texts, also in lists, dictionaries and plain objects; which modules there
    are; and their forward hooks.
    """
    found = list[Attribute]()
    for path, module in programs.named_modules():
        if module is programs:
            continue
        name = path.removeprefix("graph").removeprefix(".")
        for key, value in vars(module).items():
            if not key.startswith("_"):
                found += _plain_in(vars(module), key, value, f"{name}.{key}".removeprefix("."))
        name = name or "the graph"
        if module._modules:
            children = dict(module._modules)
            found.append(
                Attribute(partial(dict, module._modules), children, f"the modules of {name}")
            )
        for held in (module._forward_pre_hooks, module._forward_hooks):
            hooks = partial(_hooks_of_others, held)
            found.append(Attribute(hooks, hooks(), f"the forward hooks of {name}"))
    kind = type(objective).__name__
    for key, value in vars(objective).items():
        if not key.startswith("_") and key != "current_beta":
            found += _plain_in(vars(objective), key, value, f"{kind}.{key}")
    return found


def _hooks_of_others(held: dict[int, Any]) -> list[Any]:
    """Return hooks but those of `precision="bf16"`, which are there during each step."""
    return [hook for hook in held.values() if not _is_ours(hook)] if held else []


def _is_ours(hook: Any) -> bool:
    return isinstance(getattr(hook, "__self__", None), BFloat16Products)


def _plain_in(own: dict[str, Any], key: str, value: Any, name: str) -> list[Attribute]:
    """Return the numbers and texts of one attribute, at most one level deep."""
    if isinstance(value, PLAIN):
        return [Attribute(partial(own.get, key, _ABSENT), value, name)]
    if isinstance(value, list) and all(isinstance(each, PLAIN) for each in value):
        return [Attribute(partial(list, value), [*value], name)]
    inside = value if isinstance(value, dict) else getattr(value, "__dict__", None)
    if not isinstance(inside, dict) or isinstance(value, Tensor | nn.Module | type):
        return []
    return [
        Attribute(partial(inside.get, each, _ABSENT), entry, f"{name}.{each}")
        for each, entry in inside.items()
        if isinstance(entry, PLAIN)
    ]
