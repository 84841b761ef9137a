"""Minified cells: each cell's posterior instead of its counts.

q(z | x, c) = N(mean, diag sd^2);      q(l | x, c) = N(mean, sd^2), or l observed

These few numbers a cell are all that expression, differential expression and predictive draws need.
They lie in `obsm` of an AnnData without counts. What needs the counts again (training, ELBO,
evidence) raises an error.
"""

import hashlib
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import programs
from pyrovae.data import as_sources, batches_in_order
from pyrovae.graphs import CountVAE, observed_library
from pyrovae.singlecell.cells import Cells
from pyrovae.singlecell.setup import MINIFIED
from pyrovae.singlecell.state import Model, State, fit_of

__all__ = ["KIND", "StoredPosteriors", "counts_of", "is_minified", "minify_adata", "read_minified"]

KIND = "latent_posterior_parameters"  # scvi-tools' name
_OF = "_pyrovae_minified_of"  # under adata.uns: the weights of the model
_Z, _L = "_pyrovae_z", "_pyrovae_l"  # under adata.obsm: means, then standard deviations


class StoredPosteriors(nn.Module):
    """A `CountVAE` of cells that are given by their posteriors: x holds (z's, l's) parameters.

    Args:
        whole: the graph of counts.
        latents: D, the dimensions of z.
    """

    def __init__(self, whole: CountVAE, latents: int) -> None:
        super().__init__()
        self.whole, self.latents = whole, latents
        self.prior, self.likelihood = whole.prior, whole.likelihood
        self.library_prior, self.library_posterior = whole.library_prior, whole.library_posterior

    def guide(self, x: Tensor, *c: Tensor) -> Tensor:
        """Draw z and l from the stored posteriors, and return z."""
        d = self.latents
        mean_z, sd_z, mean_l, sd_l = x.split([d, d, 1, 1], -1)
        with programs.data_plate(x):
            z = pyro.sample("z", dist.Normal(mean_z, sd_z).to_event(1))
            observed = self.library_posterior is None
            q_l = dist.Delta(mean_l) if observed else dist.Normal(mean_l, sd_l)
            pyro.sample("l", q_l.to_event(1))
            return z

    def model(self, x: Tensor, *c: Tensor) -> Tensor:
        """Raise: there are no counts to explain."""
        raise RuntimeError(_without_counts("the model's density of x"))


def minify_adata(model: Model, minified_data_type: str = KIND) -> None:
    """Replace the model's own cells by their posteriors, without counts.

    `model.adata` is then a new AnnData with q(z | x) and q(l | x) of each cell, which `write_h5ad`
    and `SingleCellVAE.load` take, so that a large data set need not travel with its model. The
    AnnData given before is left alone. Latents, expression, differential expression and predictive
    draws stay; training, ELBO and evidence need the counts.

    Args:
        model: the model.
        minified_data_type: "latent_posterior_parameters", the only one.

    Raises:
        RuntimeError: if the model was not trained.
        ValueError: if q(z | x) is not a diagonal normal, or the kind is another.
    """
    import anndata
    from scipy import sparse

    fit = fit_of(model, "minify_adata")
    if minified_data_type != KIND or isinstance(model.graph, StoredPosteriors):
        raise ValueError(
            f"minify_adata: minified_data_type is {minified_data_type!r}, expected {KIND!r}, of "
            "cells that are not minified yet"
        )
    own, table = model.cells.own(), _parameters(model.graph, model.cells.data)
    empty = sparse.csr_matrix((own.n_obs, own.n_vars), dtype="float32")
    layer = model.cells.encoding.setup.layer
    small = anndata.AnnData(
        empty,
        obs=own.obs.copy(),
        var=own.var.copy(),
        uns={**own.uns, MINIFIED: KIND, _OF: _digest(model.graph)},
        obsm={_Z: table[:, :-2].numpy(), _L: table[:, -2:].numpy()},
        layers={} if layer is None else {layer: empty},
    )
    whole = State(model.cells, model.graph, model.seed, fit, model.query)
    state = read_minified(whole, small)
    model.cells, model.graph = state.cells, state.graph


def read_minified(state: State, adata: Any) -> State:
    """Return a model of minified cells."""
    if adata.uns.get(_OF, own := _digest(state.graph)) != own:
        raise ValueError(
            "these cells were minified by another model, or by this one before it was trained "
            "further: load the model that minified them, or minify the cells again"
        )
    d = adata.obsm[_Z].shape[1] // 2
    cells = Cells(state.cells.encoding, adata, _stored)
    graph: Any = StoredPosteriors(state.graph, d).eval()
    return State(cells, graph, state.seed, state.fit_result, state.query)


def _digest(graph: CountVAE) -> str:
    """Return the SHA-256 of a graph's parameters and buffers."""
    taken = hashlib.sha256()
    for name, tensor in sorted(graph.state_dict().items()):
        taken.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return taken.hexdigest()


def is_minified(adata: Any) -> bool:
    """Return whether an AnnData holds posteriors instead of counts."""
    return adata is not None and MINIFIED in adata.uns


def counts_of(model: Model, method: str) -> CountVAE:
    """Return the graph of a model whose cells have counts.

    Raises:
        ValueError: if they are minified.
    """
    if isinstance(model.graph, StoredPosteriors):
        raise ValueError(_without_counts(method))
    return model.graph


def _without_counts(method: str) -> str:
    return (
        f"{method} needs the counts, and these cells are minified: load the model with the cells "
        "that have them, SingleCellVAE.load(folder, adata)"
    )


def _stored(adata: Any, layer: str | None, genes: Any) -> Tensor:
    """Return the parameters that minified cells hold; called as `counts.counts`."""
    if not is_minified(adata):
        raise ValueError(
            "these cells have counts, and the model's own are minified: use a model that is not, "
            "SingleCellVAE.load(folder, adata)"
        )
    return torch.cat([torch.as_tensor(adata.obsm[key]).float() for key in (_Z, _L)], -1)


def _parameters(graph: CountVAE, data: Any) -> Tensor:
    """Return means and standard deviations of z and of l, with shape (N, 2 D + 2)."""
    rows = []
    with programs.evaluation(graph):
        for batch in batches_in_order(graph, as_sources(data)):
            q = programs.posterior(graph, batch, "z")
            flow = hasattr(q, "transforms")
            if not isinstance(programs.leaf(q), dist.Normal) or flow:
                name = type(q if flow else programs.leaf(q)).__name__
                raise ValueError(
                    f"minify_adata: q(z | x) is a {name}, and only the "
                    "means and standard deviations of a diagonal normal can be stored"
                )
            l = _library(graph, batch)  # noqa: E741 (the paper's symbol)
            rows.append(torch.cat([q.mean, q.stddev, *l], -1).cpu())
    return torch.cat(rows)


def _library(graph: CountVAE, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of l, each with shape (B, 1)."""
    if graph.library_posterior is None:
        l = observed_library(batch[0])  # noqa: E741
        return l, torch.zeros_like(l)
    q = programs.posterior(graph, batch, "l")
    return q.mean, q.stddev
