"""Whether x has the shape that the model observes: rows first, then the event of one row."""

from typing import Any

import numpy as np
import torch
from pyro.distributions.hmm import HiddenMarkovModel
from torch import Tensor

from pyrovae.programs.checks import OTHER_ROWS, check_all_rows
from pyrovae.programs.explained import explained
from pyrovae.programs.isolation import cuda_devices, random_stream
from pyrovae.programs.traces import Site, observed, record

__all__ = ["check_shape", "check_shapes"]


def check_shapes(graph: Any, *batch: Tensor) -> None:
    """Refuse an x whose rows are not those that the model observes, such as one image alone.

    A guide that reads x by `x.reshape(-1, D)` would broadcast one result to all supposed rows. A
    model that does not run on x is passed over. The random stream stays where it was.

    Args:
        graph: anything with `model` and `guide`.
        batch: (x, *c), B rows each.

    Raises:
        ValueError: if x only fits by broadcasting, a network refuses it, or a plate draws some of
            its rows by itself.
    """
    with random_stream(0, cuda_devices(graph)):
        with explained(batch):
            guide = record(graph.guide, *batch)
        check_all_rows(guide)
        try:
            model = record(graph.model, *batch, given=guide)
        except Exception:  # a user's model may want more than its guide does; none is asked here
            return
    check_all_rows(model)
    for site in observed(model):
        check_shape(site, batch[0])


def check_shape(site: Site, x: Tensor) -> None:
    """Raise a ValueError if a value and its distribution only fit each other by broadcasting.

    Each row would be judged by the values of others, or one output by several values. A hidden
    Markov model of Pyro's is left out: one step of its event shape may stand for any number.

    Args:
        site: an observed one, in a run of one draw.
        x: the data of the run.
    """
    fn, value = site["fn"], torch.as_tensor(site["value"])
    if isinstance(fn, HiddenMarkovModel):
        return
    _check_rows_of_guide(site, len(x))
    own, events = fn.batch_shape + fn.event_shape, len(fn.event_shape)
    event = value.shape[max(0, value.dim() - events) :]
    try:
        grows = np.broadcast_shapes(own, value.shape) != own
    except ValueError:
        grows = True
    is_x = value.data_ptr() == x.data_ptr() and bool(site["cond_indep_stack"])
    one_row = is_x and _has_one_row(site, value, len(x))
    if grows or one_row or (value.dim() >= events and event != fn.event_shape):
        raise ValueError(
            f'site "{site["name"]}": x has shape {tuple(value.shape)}, but the distribution has '
            f"batch shape {tuple(fn.batch_shape)} and event shape {tuple(fn.event_shape)}. Give x "
            "the shape (rows, *event): x[:, None] for one value a row, a batch of one row as "
            f"x[None], {_channels_first(x, fn.event_shape)}and as many outputs of the likelihood's "
            "network as x has features"
        )


def _check_rows_of_guide(site: Site, rows: int) -> None:
    """Raise a ValueError if the distribution has other rows than its plate, by its parents."""
    shape = site["fn"].batch_shape
    frames = [f for f in site["cond_indep_stack"] if f.vectorized and f.size == rows]
    sizes = {shape[frame.dim] for frame in frames if -frame.dim <= len(shape)} - {1, rows}
    if sizes:
        raise ValueError(
            f'site "{site["name"]}": its distribution has {max(sizes)} rows, x has {rows}. '
            f"{OTHER_ROWS}"
        )


def _has_one_row(site: Site, value: Tensor, rows: int) -> bool:
    """Return whether a value has one row, or none, in all plates as large as the rows are."""
    events = len(site["fn"].event_shape)
    if 0 < value.dim() <= events:
        return True
    frames = [f for f in site["cond_indep_stack"] if f.vectorized and f.size == rows]
    places = [frame.dim - events for frame in frames]
    sizes = [value.shape[i] for i in places if -i <= value.dim()]
    return rows > 1 and len(sizes) == len(places) > 0 and set(sizes) == {1}


def _channels_first(x: Tensor, event: tuple[int, ...]) -> str:
    """Return a remedy for images whose channels come last, empty words for other data."""
    last = x.dim() == 4 and tuple(x.movedim(-1, 1).shape[1:]) == tuple(event)
    return "images with channels last as x.movedim(-1, 1), " if last else ""
