"""From an AnnData to an untrained model: encoded cells, and scVI's networks around `CountVAE`."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from pyrovae import graphs, programs
from pyrovae.data import device_and_dtype, take
from pyrovae.likelihoods import Dispersion, Expression, expression
from pyrovae.singlecell.cells import Cells
from pyrovae.singlecell.encoding import Encoding
from pyrovae.singlecell.messages import warn_user
from pyrovae.singlecell.remarks import empty_cells_and_genes, genes_absent_from_batches
from pyrovae.singlecell.state import State

__all__ = ["new_state"]

_LIKELIHOODS: dict[str, type[Expression]] = {
    "zinb": expression.ZeroInflated,
    "nb": expression.NegativeBinomial,
    "poisson": expression.Poisson,
}


def new_state(
    adata: Any,
    *,
    n_hidden: int,
    n_latent: int,
    n_layers: int,
    dropout_rate: float,
    dispersion: str,
    gene_likelihood: str,
    use_observed_lib_size: bool,
    encode_covariates: bool,
    prior: nn.Module | Callable[[nn.Module], nn.Module] | None,
    posterior: nn.Module | Callable[[graphs.Encoder], nn.Module] | None,
    seed: int,
) -> State:
    """Check and encode the cells and build the graph; arguments as in `SingleCellVAE`.

    The library prior is that of all cells; training replaces it by that of the training cells.
    """
    if gene_likelihood == "normal":
        raise ValueError(
            "gene_likelihood is 'normal', which is no density of counts, expected 'zinb', 'nb' or "
            "'poisson'. For log-normalised values build "
            "pyrovae.VAE(..., pyrovae.likelihoods.Gaussian(net)) and train it by pyrovae.fit"
        )
    _check_one_of("gene_likelihood", gene_likelihood, list(_LIKELIHOODS))
    _check_one_of("dispersion", dispersion, [kind.value for kind in Dispersion])
    _check_sizes(n_hidden, n_latent, n_layers, dropout_rate)
    cells = Cells(Encoding.of(adata, Dispersion(dispersion) is Dispersion.LABEL), adata)
    encoding = cells.encoding
    for message in _remarks(cells):
        warn_user(message)
    with programs.random_stream(seed, []):
        graph = graphs.count_vae(
            len(encoding.genes),
            batches=len(encoding.batches),
            covariates=encoding.covariates,
            labels=len(encoding.labels),
            hidden=n_hidden,
            latents=n_latent,
            layers=n_layers,
            dropout=dropout_rate,
            likelihood=_LIKELIHOODS[gene_likelihood],
            dispersion=Dispersion(dispersion),
            library=None if use_observed_lib_size else cells.library_sizes()[:2],
            prior=prior,
            posterior=posterior,
            encode_covariates=encode_covariates,
        )
    if prior is not None or posterior is not None:
        _check_prior_and_posterior(graph, cells, n_latent)
    return State(cells, graph, seed)


def _remarks(cells: Cells) -> list[str]:
    """Return what a user should know about empty cells, and genes without counts."""
    (x, *c), encoding = cells.data, cells.encoding
    batch = encoding.batch_numbers(c[0] if c else None, len(x))
    return [
        *empty_cells_and_genes(x, cells.names, encoding.genes),
        *genes_absent_from_batches(x, batch, encoding.batches, encoding.genes),
    ]


def _check_one_of(name: str, value: str, known: list[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, known))}")


def _check_sizes(n_hidden: int, n_latent: int, n_layers: int, dropout_rate: float) -> None:
    sizes = n_hidden, n_latent, n_layers
    whole = all(isinstance(size, int | np.integer) and size >= 1 for size in sizes)
    if not whole or not 0 <= dropout_rate < 1:
        raise ValueError(
            f"n_hidden is {n_hidden!r}, n_latent {n_latent!r}, n_layers {n_layers!r} and "
            f"dropout_rate {dropout_rate}: expected whole numbers of at least 1, and a fraction in "
            "[0, 1)"
        )


def _check_prior_and_posterior(graph: graphs.CountVAE, cells: Cells, n_latent: int) -> None:
    """Run the programs on two cells; raise a ValueError if prior and posterior do not fit."""
    batch = take(cells.data, slice(0, 2), *device_and_dtype(graph, cells.data))
    try:
        with programs.evaluation(graph):
            p, q = programs.run(graph.model, graph.guide, *batch)
            programs.check_sites(p, q)
            shapes = [tuple(trace["z"]["fn"].event_shape) for trace in (p, q)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"z has shape {shapes[0]} under the prior, {shapes[1]} under the posterior"
                )
    except (ValueError, RuntimeError) as error:
        words = " ".join(str(error).split())
        raise ValueError(
            f"prior and posterior do not fit each other or the cells (n_latent is {n_latent}): "
            f"{words}"
        ) from error
