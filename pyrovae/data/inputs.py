"""What a model is given when it runs forwards: an x without values, or rows to read, and contexts.

Most models only count the rows of x. One that reads its shape or values, such as the number of time
steps or an observed library size, needs rows of data: `like`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae.data.batches import Array, Sources, as_sources, device_and_dtype, take
from pyrovae.data.source import Source

__all__ = ["Inputs", "inputs_of"]

_NO_VALUES = (
    "{task}: {what} when it was given an x without values. If the model reads x, as by x.shape[1] "
    "or x[:, t], pass rows of data as an example: like=x"
)
_MISMATCH = "shape mismatch"  # how Pyro begins a ValueError about shapes


class Inputs(NamedTuple):
    """The arguments (x, *c) of a model, by row numbers.

    Attributes:
        graph: whose device and type they get.
        rows: sources with n rows each, of which the first only counts them; then the contexts.
        like: rows of x, any number of them; None for an x without values.
    """

    graph: Any
    rows: Sources
    like: Source | None

    def at(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return (x, *c) at these rows; those of `like` begin again after its last."""
        device, dtype = device_and_dtype(self.graph, (torch.empty(0),))
        context = take(self.rows, rows, device, dtype)[1:] if len(self.rows) > 1 else ()
        if self.like is None:
            return torch.empty(len(rows), 0, device=device, dtype=dtype), *context
        return *take((self.like,), rows % len(self.like), device, dtype), *context

    def first(self, n: int) -> tuple[Tensor, ...]:
        """Return (x, *c) at n times the first row."""
        return self.at(torch.zeros(n, dtype=torch.long))

    @contextmanager
    def hint(self, task: str) -> Iterator[None]:
        """Context in which an error of a model that misses the values of x names the remedy.

        Raises:
            ValueError: for an error of indices or shapes in the model, if `like` is not given.
        """
        try:
            yield
        except NotImplementedError:
            raise
        except (IndexError, RuntimeError, ValueError, ZeroDivisionError) as error:
            ours = isinstance(error, ValueError) and not str(error).lower().startswith(_MISMATCH)
            if self.like is not None or ours:
                raise
            what = f"the model raised {type(error).__name__}: {error},"
            raise ValueError(_NO_VALUES.format(task=task, what=what)) from error

    def check_drawn(self, task: str, sites: Sequence[Tensor]) -> None:
        """Raise a ValueError if nothing was drawn, or nothing in it."""
        if not sites or not all(value.numel() for value in sites):
            what = "the model drew no value"
            raise ValueError(_NO_VALUES.format(task=task, what=what))


def inputs_of(graph: Any, n: int, c: Sequence[Array], like: Array | None, task: str) -> Inputs:
    """Return the arguments of a model for n rows.

    Raises:
        ValueError: if a context has not n rows, or a value is not finite.
    """
    rows = as_sources((torch.zeros(n, 1), *c), task)
    return Inputs(graph, rows, None if like is None else as_sources(like, f"{task}: like")[0])
