"""A graph for more experimental batches than it was trained on, its weights kept.

Every layer that reads the context gets columns for the new batches, W = (W_z, W_old, W_new, W_rest)
with W_new = 0: the cells of the old batches are decoded as before, and those of a new batch start
as cells without a batch effect. Architectural surgery of Lotfollahi et al. 2022 (scArches): only
W_new is trained then.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pyrovae.graphs import CountVAE
from pyrovae.likelihoods import Expression
from pyrovae.nets import Blocks, WithoutContext
from pyrovae.priors import LibraryNormal

__all__ = ["Widened", "widened"]


class Widened(NamedTuple):
    """A graph for more batches.

    Attributes:
        graph: the graph.
        trained: for each parameter with new entries, by name: a mask of these, 1 where new.
    """

    graph: CountVAE
    trained: dict[str, Tensor]


class _Columns(NamedTuple):
    """How many columns of the context stand for batches, before and after."""

    before: int
    after: int

    @property
    def new(self) -> int:
        return self.after - self.before


def widened(graph: CountVAE, batches: int, more: int, library: Any = None) -> Widened:
    """Return a copy of a graph that knows more batches.

    Args:
        graph: for S batches.
        batches: S.
        more: number of further batches, at least 1.
        library: mean and standard deviation of the log library size of all S + more batches, if the
            graph infers it.

    Raises:
        ValueError: if a part of the graph that reads the context is not one of scVI's networks.
    """
    columns = _Columns(batches if batches > 1 else 0, batches + more)
    masks: dict[int, Tensor] = {}  # by the parameter's id
    result = copy.deepcopy(graph)
    result.likelihood = _likelihood(result.likelihood, columns, masks)
    for name in ("posterior", "library_posterior"):
        part = getattr(result, name)
        if part is not None and hasattr(part, "net"):
            part.net = _encoder(part.net, columns, masks)
    if library is not None:
        device = next(graph.parameters()).device
        result.library_prior = LibraryNormal(*library).to(device)
    trained = {name: masks[id(p)] for name, p in result.named_parameters() if id(p) in masks}
    return Widened(result, trained)


def _likelihood(part: Any, columns: _Columns, masks: dict[int, Tensor]) -> Expression:
    """Return the likelihood with a wider network, and a dispersion for each batch."""
    if not isinstance(part, Expression) or not isinstance(part.net, Blocks):
        raise ValueError(
            f"new batches need scVI's decoder, and the likelihood is a {type(part).__name__} of a "
            f"{type(getattr(part, 'net', None)).__name__}: train a model with these cells instead"
        )
    net = _blocks(part.net, columns, masks)
    wide = type(part)(net, part.genes, part.dispersion, columns.after, part.labels, part.bf16)
    wide.to(next(part.parameters()).device)
    own = {name: value for name, value in part.state_dict().items() if not name.startswith("net.")}
    theta = own.get("log_theta")
    if theta is not None and theta.shape != wide.log_theta.shape:  # one row per batch
        new = theta.mean(0).expand(columns.after - len(theta), -1)
        own["log_theta"] = torch.cat([theta, new])
        mask = torch.ones_like(wide.log_theta)
        mask[: len(theta)] = 0
        masks[id(wide.log_theta)] = mask
    wide.load_state_dict({**own, **{f"net.{k}": v for k, v in net.state_dict().items()}})
    return wide


def _encoder(net: nn.Module, columns: _Columns, masks: dict[int, Tensor]) -> nn.Module:
    """Return an encoder that reads the wider context, or drops it as before."""
    if isinstance(net, WithoutContext):
        if not net.keep:
            return net
        return WithoutContext(_encoder(net.net, columns, masks), net.keep + columns.new)
    if not isinstance(net, Blocks):
        raise ValueError(
            f"new batches need scVI's encoder, and there is a {type(net).__name__}: train a model "
            "with these cells instead"
        )
    return _blocks(net, columns, masks) if net.context else net


def _blocks(net: Blocks, columns: _Columns, masks: dict[int, Tensor]) -> Blocks:
    """Return the network with columns for the new batches, which are zero."""
    context = net.context + columns.new
    wide = Blocks(net.features_in, net.hidden, net.features_out, context, net.dropout, net.bf16)
    wide.to(next(net.parameters()).device)
    state = net.state_dict()
    widths = [net.features_in, *net.hidden]
    for i, width in enumerate(widths[:-1]):
        name, at = f"blocks.{i}.0.weight", width + columns.before
        new = _inserted(columns.new, at)
        mask = new(torch.zeros_like(state[name]), 1.0)
        state[name] = new(state[name], 0.0)
        masks[id(wide.get_parameter(name))] = mask
    wide.load_state_dict(state)
    return wide


def _inserted(n: int, at: int) -> Callable[[Tensor, float], Tensor]:
    """Return a function that inserts n columns with a value before column `at`."""

    def insert(weight: Tensor, value: float) -> Tensor:
        return torch.cat(
            [weight[:, :at], weight.new_full((len(weight), n), value), weight[:, at:]], 1
        )

    return insert
