"""Evaluate a graph without changing it: modes, random streams and Pyro's store are restored."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from operator import index
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from pyrovae.programs.first_use import prepare_process
from pyrovae.programs.one_thread import one_evaluation
from pyrovae.programs.param_store import parameters_held

__all__ = [
    "cuda_devices",
    "evaluation",
    "looking",
    "modes_restored",
    "random_stream",
    "seed_streams",
]


@contextmanager
def evaluation(graph: object, seed: int | None = 0) -> Iterator[None]:
    """Context in which a graph is evaluated: eval() mode, no gradients, its own random stream.

    One thread of the process is in it at a time.

    Pyro's store is not asked and its validation is off. On leaving, every module is back in its own
    mode and the global random state is what it was.

    Args:
        graph: an `nn.Module`, or any object whose programs call modules.
        seed: of the stream used inside; None continues the global stream.

    Raises:
        RuntimeError: if a fit runs in another thread.
    """
    prepare_process()
    devices = cuda_devices(graph)
    with (
        one_evaluation(),
        _eval_mode(graph),
        torch.no_grad(),
        parameters_held(graph),
        pyro.validation_enabled(False),
        random_stream(seed, devices),
    ):
        yield


@contextmanager
def looking(model: Any, guide: Any, batch: tuple[Tensor, ...]) -> Iterator[None]:
    """Context for runs that only look at the structure of two programs, isolated as `evaluation`.

    The programs may be methods of a graph or plain functions that call modules.
    """
    owners = [getattr(program, "__self__", program) for program in (model, guide)]
    devices = {index for owner in owners for index in cuda_devices(owner)}
    devices |= {part.device.index for part in batch if part.device.type == "cuda"}
    with ExitStack() as stack:
        for owner in owners:
            stack.enter_context(_eval_mode(owner))
        stack.enter_context(_called_modules_in_eval_mode())
        stack.enter_context(torch.no_grad())
        stack.enter_context(pyro.validation_enabled(False))
        stack.enter_context(random_stream(0, sorted(devices)))
        yield


@contextmanager
def _eval_mode(graph: object) -> Iterator[None]:
    if not isinstance(graph, nn.Module):
        with _called_modules_in_eval_mode():
            yield
        return
    with modes_restored(graph):
        for module in graph.modules():
            module.training = False
        yield


@contextmanager
def modes_restored(module: nn.Module) -> Iterator[None]:
    """Context after which every module inside is in its own mode, train() or eval(), as before."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, mode in modes:
            if part.training != mode:  # to set an attribute of a module takes microseconds
                part.training = mode


@contextmanager
def _called_modules_in_eval_mode() -> Iterator[None]:
    """Switch every module that this thread calls to eval() mode, whoever holds it, and back."""
    here, training = threading.get_ident(), list[nn.Module]()

    def switch(module: nn.Module, _: object) -> None:
        if module.training and threading.get_ident() == here:
            training.append(module)
            module.training = False

    hook = register_module_forward_pre_hook(switch)
    try:
        with warnings.catch_warnings():  # of networks that torch.compile wrapped
            warnings.filterwarnings("ignore", "Using `torch.compile.module.` when there are global")
            warnings.filterwarnings("ignore", "Dynamo does not know how to trace the builtin `_th")
            yield
    finally:
        hook.remove()
        for module in training:
            module.training = True


def cuda_devices(graph: object) -> list[int]:
    """Return the indices of the CUDA devices on which a graph may draw.

    They are those of its parameters; of a graph that shows none, all, if the process uses any.
    """
    devices = {t.device for t in graph.parameters()} if isinstance(graph, nn.Module) else set()
    if not devices and torch.cuda.is_initialized():
        return list(range(torch.cuda.device_count()))
    return sorted(device.index for device in devices if device.type == "cuda")


def seed_streams(seed: int, devices: list[int]) -> None:
    """Begin torch's random streams anew on the CPU and on these CUDA devices.

    `torch.manual_seed` begins those of all other GPUs too, which nobody would put back.
    """
    torch.default_generator.manual_seed(seed)
    for device in devices:
        torch.cuda.default_generators[device].manual_seed(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


@contextmanager
def random_stream(seed: int | None, devices: list[int]) -> Iterator[None]:
    """Context with a random stream of its own; None leaves the global one in use.

    Raises:
        ValueError: if the seed is neither a whole number nor None.
    """
    if seed is None:
        yield
        return
    try:
        number = index(seed)
    except TypeError:
        raise ValueError(f"seed is {seed!r}, expected a whole number or None") from None
    with torch.random.fork_rng(devices=devices):
        seed_streams(number, devices)
        yield
