"""Data of any kind as minibatches."""

from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from pyrovae.data.batches import as_sources
from pyrovae.data.minibatches import ArrayMinibatches, Minibatches
from pyrovae.data.source import Source
from pyrovae.data.streams import DatasetMinibatches, IterableMinibatches

__all__ = ["as_minibatches"]


def as_minibatches(
    data: Any,
    graph: object,
    *,
    batch_size: int,
    drop_last: bool = False,
    steps: int | None = None,
    name: str = "data",
    digest: bool = False,
) -> Minibatches:
    """Return data as minibatches.

    Args:
        data: arrays x or (x, *c) as for `as_sources`; a torch `Dataset`; a `DataLoader`; or any
            other iterable of minibatches.
        graph: whose device and type the minibatches get.
        batch_size: rows of a minibatch; an iterable of minibatches has its own.
        drop_last: leave out the last minibatch of an epoch if it has fewer rows.
        steps: minibatches of an epoch of an iterable.
        name: what errors call the data.
        digest: take the fingerprint of arrays.

    Raises:
        TypeError: if the data are of another kind.
        ValueError: if there is no minibatch, an array has a value that is not finite, or `steps` is
            given for data with a length of their own.
    """
    if isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size, drop_last=drop_last)
    if _is_iterable(data):
        return IterableMinibatches(data, graph, steps, name)
    if steps is not None:
        raise ValueError(
            f"{name}: steps_per_epoch is {steps}, but arrays and data sets have a number of rows: "
            "leave it out, or pass an iterable of minibatches"
        )
    result: Minibatches
    if isinstance(data, Dataset) and not isinstance(data, TensorDataset):
        result = DatasetMinibatches(data, graph, batch_size, drop_last, name)
    else:
        sources = as_sources(data, name, digest)
        result = ArrayMinibatches(sources, graph, batch_size, drop_last, digest)
    if not len(result):
        raise ValueError(
            f"{name}: {result.rows} rows and batch_size {batch_size} leave no minibatch with "
            "drop_last=True: lower batch_size"
        )
    return result


def _is_iterable(data: Any) -> bool:
    """Return whether data are an iterable of minibatches, and neither arrays nor a data set."""
    if isinstance(data, DataLoader):
        return True
    array = isinstance(data, Tensor | Source | list | tuple | str | bytes)
    array = array or any(hasattr(data, name) for name in ("__array__", "shape", "dtype"))
    return not array and not isinstance(data, Dataset) and hasattr(data, "__iter__")
