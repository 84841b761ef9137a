"""Data of any kind as minibatches."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, TensorDataset

from pyrovae.data.batches import as_sources, unread_sources
from pyrovae.data.blocks import BlockMinibatches, block_of
from pyrovae.data.minibatches import WHOLE, ArrayMinibatches, Minibatches, Share
from pyrovae.data.source import Source
from pyrovae.data.streams import DatasetMinibatches, IterableMinibatches

__all__ = ["as_minibatches"]

_OF_ALL_ROWS = "torch.utils.data.sampler"  # the module of the samplers that know one process


def as_minibatches(
    data: Any,
    graph: object,
    *,
    batch_size: int,
    drop_last: bool = False,
    steps: int | None = None,
    name: str = "data",
    digest: bool = False,
    share: Share = WHOLE,
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
        share: the part of arrays and data sets that this process reads; an iterable of minibatches
            is over the share of its process already.

    Raises:
        TypeError: if the data are of another kind.
        ValueError: if there is no minibatch, an array has a value that is not finite, `steps` is
            given for data with a length of their own, or a `DataLoader` would give every process
            all rows.
    """
    if isinstance(data, Mapping):
        raise TypeError(
            f"{name} is a dictionary with the keys {sorted(map(str, data))}, expected x or a tuple "
            "(x, *c): choose its members, as in data['x']"
        )
    if isinstance(data, IterableDataset):
        data = DataLoader(data, batch_size, drop_last=drop_last)
    if _is_iterable(data):
        if share.parts > 1:
            _check_shared(data, name)
        return IterableMinibatches(data, graph, steps, name)
    if steps is not None:
        raise ValueError(
            f"{name}: steps_per_epoch is {steps}, but arrays and data sets have a number of rows: "
            "leave it out, or pass an iterable of minibatches"
        )
    result: Minibatches
    if isinstance(data, Dataset) and not isinstance(data, TensorDataset):
        result = DatasetMinibatches(data, graph, batch_size, drop_last, name, share)
    elif any(map(block_of, data if isinstance(data, list | tuple) else [data])):
        unread = tuple(unread_sources(data, name).values())
        result = BlockMinibatches(unread, graph, batch_size, drop_last, name, share)
    else:
        sources = as_sources(data, name, digest)
        result = ArrayMinibatches(sources, graph, batch_size, drop_last, digest, share)
    if not result.rows:
        raise ValueError(f"{name}: there are no rows")
    if drop_last and not len(result):
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


def _check_shared(data: Any, name: str) -> None:
    """Refuse a loader of torch's that reads all rows in each of several processes."""
    if not isinstance(data, DataLoader) or isinstance(data.dataset, IterableDataset):
        return
    by_torch = type(data.batch_sampler) in (BatchSampler, type(None))
    if by_torch and type(data.sampler).__module__ == _OF_ALL_ROWS:
        raise ValueError(
            f"{name}: a DataLoader with a {type(data.sampler).__name__} reads all rows in each "
            "process of the job, expected a share. Pass its data set, of which fit gives each "
            "process a share, or a DataLoader with "
            "sampler=torch.utils.data.DistributedSampler(dataset)"
        )
