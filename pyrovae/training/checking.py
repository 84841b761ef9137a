"""The checks of a fit's data, before anything is trained."""

from typing import Any

import torch

from pyrovae import programs
from pyrovae.data import ArrayMinibatches, Minibatches, TransformedRows
from pyrovae.objectives import Objective
from pyrovae.training.arguments import Arguments

__all__ = ["check_data", "check_data_size"]


def check_data_size(objective: Objective, rows: int | None) -> None:
    """Check that an objective over all rows was told how many there are.

    Raises:
        ValueError: if it was told another number.
    """
    size = objective.data_size
    if rows is not None and size not in (None, rows):
        raise ValueError(
            f"fit: the objective's data_size is {size}, but there are {rows} training rows: "
            f"give data_size={rows}"
        )


def check_data(
    graph: Any,
    training: Minibatches,
    held_out: Minibatches | None,
    arguments: Arguments,
    example: tuple[torch.Tensor, ...],
) -> None:
    """Check arrays whole, and of other data the first minibatch, `example`.

    Raises:
        TypeError: if the graph is a class.
        ValueError: if a value does not fit the graph, or held-out rows have another shape.
    """
    if isinstance(graph, type):
        raise TypeError(f"fit: graph is the class {graph.__name__}, expected an object of it")
    devices = programs.cuda_devices(graph)
    if held_out is not None:
        with programs.random_stream(0, devices):
            _check_shapes(training.first(), held_out.first())
    with programs.random_stream(0, devices):
        if isinstance(training, ArrayMinibatches) and arguments.batch_transform is None:
            x, *c = training.checked
            if arguments.transform is not None:  # block by block: never the whole data at once
                x = TransformedRows(x, arguments.transform, *training.placement)
            arguments.check(x, *c)
        else:
            arguments.check(*example)
    if isinstance(held_out, ArrayMinibatches):
        arguments.check(*held_out.checked)


def _check_shapes(training: tuple[torch.Tensor, ...], held_out: tuple[torch.Tensor, ...]) -> None:
    shapes = [[tuple(part.shape[1:]) for part in batch] for batch in (training, held_out)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"validation: rows of shape {shapes[1]}, the training data's have {shapes[0]}: pass "
            "both in the same form"
        )
