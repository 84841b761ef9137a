"""What it costs to run a model on a row, counted and not timed: the same on every machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from pyrovae import programs

__all__ = ["multiplications"]

_PER_VALUE = 16  # of what a layer puts out: its activation, and what is read and written for it
_TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


def multiplications(graph: Any, batch: tuple[Tensor, ...]) -> float:
    """Return the multiplications of layers with weights when both programs run on one more row.

    What a run takes whatever its rows, such as the pseudo-inputs of a VampPrior, is left out.

    Args:
        graph: The pair of model and guide.
        batch: At least two rows (x, *c), prepared.
    """
    more, fewer = (tuple(part[:n] for part in batch) for n in (len(batch[0]), 1))
    return (_of_run(graph, more) - _of_run(graph, fewer)) / (len(more[0]) - 1)


def _of_run(graph: Any, batch: tuple[Tensor, ...]) -> float:
    with programs.evaluation(graph, 0), _counted(graph) as counts:
        programs.run(graph.model, graph.guide, *batch)
    return sum(counts)


@contextmanager
def _counted(graph: Any) -> Iterator[list[float]]:
    """Context in which each layer adds what it multiplied to a list."""
    counts: list[float] = []

    def count(layer: Any, given: tuple[Tensor, ...], out: Tensor) -> None:
        if isinstance(layer, _TRANSPOSED):
            places = given[0].numel() / layer.in_channels
        else:
            places = out.numel() / len(layer.weight)
        counts.append(places * layer.weight.numel() + _PER_VALUE * out.numel())

    layers = (part for part in graph.modules() if _multiplies(part))
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def _multiplies(part: nn.Module) -> bool:
    weight = getattr(part, "weight", None)
    return isinstance(weight, Tensor) and weight.dim() > 1
