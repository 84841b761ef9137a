"""A graph for more batches, or categories of a covariate, than it was trained on; weights are kept.

Every layer that reads the context gets columns for what is new, W = (W_z, W_old, W_new, W_rest)
with W_new = 0: the cells of the old batches are decoded as before, and those of a new batch start
as cells without a batch effect. Architectural surgery of Lotfollahi et al. 2022 (scArches): only
W_new is trained then.
"""

import copy
from typing import Any, NamedTuple

import torch
from torch import nn

from pyrovae.graphs import CountVAE
from pyrovae.likelihoods import Expression
from pyrovae.nets import Blocks, WithoutContext
from pyrovae.priors import LibraryNormal
from pyrovae.singlecell.state import Entries

__all__ = ["Columns", "Widened", "widened"]

New = dict[int, Entries]  # by the parameter's id


class Widened(NamedTuple):
    """A graph for more batches or categories.

    Attributes:
        graph: the graph.
        trained: the new entries, by the name of the parameter.
    """

    graph: CountVAE
    trained: dict[str, Entries]


class Columns(NamedTuple):
    """Which columns of the context stand for batches or the categories of a covariate.

    One batch has no column. It gets one beside the new batches, which stays zero.

    Attributes:
        at: the first of them.
        before: their number before.
        known: the number of known batches or categories.
        after: the number of all, and of columns after.
        of_batches: whether they stand for batches.
    """

    at: int
    before: int
    known: int
    after: int
    of_batches: bool

    @property
    def new(self) -> int:
        """How many columns are added."""
        return self.after - self.before


def widened(graph: CountVAE, columns: Columns, library: Any = None) -> Widened:
    """Return a copy of a graph that knows more batches, or categories of a covariate.

    Args:
        graph: the graph.
        columns: what becomes wider.
        library: mean and standard deviation of the log library size of all batches, known and new;
            None leaves them.

    Raises:
        ValueError: if a part of the graph that reads the context is not one of scVI's networks.
    """
    new: New = {}
    result = copy.deepcopy(graph)
    result.likelihood = _likelihood(result.likelihood, columns, new)
    for name in ("posterior", "library_posterior"):
        part = getattr(result, name)
        if part is not None and hasattr(part, "net"):
            part.net = _encoder(part.net, columns, new)
    if library is not None:
        device = next(graph.parameters()).device
        result.library_prior = LibraryNormal(*library).to(device)
    trained = {name: new[id(p)] for name, p in result.named_parameters() if id(p) in new}
    return Widened(result, trained)


def _likelihood(part: Any, columns: Columns, new: New) -> Expression:
    """Return the likelihood with a wider network, and a dispersion for each batch."""
    if not isinstance(part, Expression) or not isinstance(part.net, Blocks):
        raise ValueError(
            f"what is new needs scVI's decoder, and the likelihood is a {type(part).__name__} of a "
            f"{type(getattr(part, 'net', None)).__name__}: train a model with these cells instead"
        )
    net = _blocks(part.net, columns, new)
    batches = columns.after if columns.of_batches else part.batches
    wide = type(part)(net, part.genes, part.dispersion, batches, part.labels, part.bf16)
    wide.to(next(part.parameters()).device)
    own = {name: value for name, value in part.state_dict().items() if not name.startswith("net.")}
    theta = own.get("log_theta")
    if theta is not None and theta.shape != wide.log_theta.shape:  # one row per batch
        mean = theta.mean(0).expand(columns.after - len(theta), -1)
        own["log_theta"] = torch.cat([theta, mean])
        new[id(wide.log_theta)] = Entries(0, len(theta), columns.after)
    wide.load_state_dict({**own, **{f"net.{k}": v for k, v in net.state_dict().items()}})
    return wide


def _encoder(net: nn.Module, columns: Columns, new: New) -> nn.Module:
    """Return an encoder that reads the wider context, or drops it as before."""
    if isinstance(net, WithoutContext):
        if not net.keep:
            return net
        return WithoutContext(_encoder(net.net, columns, new), net.keep + columns.new)
    if not isinstance(net, Blocks):
        raise ValueError(
            f"what is new needs scVI's encoder, and there is a {type(net).__name__}: train a model "
            "with these cells instead"
        )
    return _blocks(net, columns, new) if net.context else net


def _blocks(net: Blocks, columns: Columns, new: New) -> Blocks:
    """Return the network with new columns, which are zero."""
    context = net.context + columns.new
    wide = Blocks(net.features_in, net.hidden, net.features_out, context, net.dropout, net.bf16)
    wide.to(next(net.parameters()).device)
    state = net.state_dict()
    widths = [net.features_in, *net.hidden]
    for i, width in enumerate(widths[:-1]):
        name, first = f"blocks.{i}.0.weight", width + columns.at
        weight, at = state[name], first + columns.before
        zeros = weight.new_zeros(len(weight), columns.new)
        state[name] = torch.cat([weight[:, :at], zeros, weight[:, at:]], 1)
        new[id(wide.get_parameter(name))] = Entries(1, first + columns.known, first + columns.after)
    wide.load_state_dict(state)
    return wide
