"""Look at a graph without touching it: modes, random streams and Pyro's store are put back afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch
from torch import nn

from pyrovae.programs.param_store import parameters_held

__all__ = ["cuda_devices", "evaluation", "random_stream"]


@contextmanager
def evaluation(graph: object, seed: int | None = 0) -> Iterator[None]:
    """Context for looking at a graph without touching it: eval(), no gradients, own random stream, store left alone.

    On leaving, every module is back in its own mode and the global random state is what it was.

    Args:
        graph: the graph; its modules are switched to eval().
        seed: of the stream used inside; None continues the global stream (and leaves it moved on).
    """
    modules = list(graph.modules()) if isinstance(graph, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        with (
            torch.no_grad(),
            parameters_held(graph),
            pyro.validation_enabled(False),
            random_stream(seed, cuda_devices(graph)),
        ):
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def cuda_devices(graph: object) -> list[int]:
    """Return the indices of the CUDA devices on which the graph's parameters lie."""
    tensors = graph.parameters() if isinstance(graph, nn.Module) else ()
    return sorted({t.device.index for t in tensors if t.device.type == "cuda"})


@contextmanager
def random_stream(seed: int | None, devices: list[int]) -> Iterator[None]:
    """Context with a random stream of its own; None leaves the global one in use."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
