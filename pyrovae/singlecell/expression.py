"""Gene expression of cells from a trained model: methods of `SingleCellVAE`, as functions of it.

rho = softmax f(z, c), the proportions;      mu = e^l rho, the mean counts;      x' ~ p(x | z, l, c)

Cells are decoded in minibatches, so that only the result is held for all of them.
"""

import reprlib
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any, Literal

import numpy as np
from torch import Tensor

from pyrovae.distributions import whole_number
from pyrovae.singlecell import decoding
from pyrovae.singlecell.decoding import Batch, Parameters
from pyrovae.singlecell.state import Model, selected

__all__ = [
    "get_likelihood_parameters",
    "get_normalized_expression",
    "normalized_expression_chunks",
    "posterior_predictive_sample",
]

LibrarySize = float | Literal["latent"]


def get_normalized_expression(
    model: Model,
    adata: Any = None,
    indices: Any = None,
    transform_batch: str | Sequence[str] | None = None,
    gene_list: Any = None,
    library_size: LibrarySize = 1,
    n_samples: int = 1,
    return_mean: bool = True,
    batch_size: int = 128,
    return_numpy: bool = False,
    out: Any = None,
    seed: int | None = 0,
) -> Any:
    """Return expression without noise and library size: rho, which sums to one over all genes.

    Dropout (zero inflation) is not applied.

    Args:
        model: the model.
        adata: see `SingleCellVAE`.
        indices: see `SingleCellVAE`.
        transform_batch: the batch to decode all cells in, or several, which are averaged; None
            decodes each cell in its own batch.
        gene_list: names of the genes to return, as a list, Index, array or Series, or a mask over
            the model's genes; None for all.
        library_size: a number to scale rho by, or "latent" for the cell's inferred library size,
            which gives mu.
        n_samples: 1 decodes the posterior mean of z; more decode that number of draws of z (and l).
        return_mean: average over the draws.
        batch_size: cells decoded at once.
        return_numpy: return an array instead of a DataFrame.
        out: an object with shape (N, G) that rows can be assigned to, such as a memory map or an
            h5py dataset; it is filled in chunks and returned, so that a large result need not be
            held in memory. See also `normalized_expression_chunks`.
        seed: of the draws.

    Returns:
        A DataFrame of cells by genes; with `return_mean=False` and several draws an array with
        shape (K, N, G).
    """
    method = "get_normalized_expression"
    whole_number(n_samples, f"{method}: n_samples")
    data, names = selected(model, method, adata, indices)
    genes = model.cells.encoding.gene_columns(gene_list)
    chunks = _chunks(model, data, transform_batch, genes, library_size, n_samples, batch_size, seed)
    if n_samples > 1 and not return_mean:
        if out is not None:
            raise ValueError(
                f"{method}: out= is filled with means. With return_mean=False leave it out, and "
                "take the array that is returned"
            )
        return np.concatenate([rho for _, rho in chunks], 1)
    shape = (len(data[0]), len(genes))
    filled = np.empty(shape, np.float32) if out is None else out
    if tuple(filled.shape) != shape:
        raise ValueError(f"{method}: out has shape {tuple(filled.shape)}, expected {shape}")
    for rows, rho in chunks:
        filled[rows] = rho.mean(0)
    if return_numpy or out is not None:
        return filled
    return model.cells.frame(filled, names, genes)


def normalized_expression_chunks(
    model: Model,
    adata: Any = None,
    indices: Any = None,
    transform_batch: str | Sequence[str] | None = None,
    gene_list: Any = None,
    library_size: LibrarySize = 1,
    n_samples: int = 1,
    batch_size: int = 128,
    seed: int | None = 0,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (rows of the selected cells, their normalized expression with shape (B, G)).

    Arguments as in `get_normalized_expression`.
    """
    data = selected(model, "normalized_expression_chunks", adata, indices).data
    genes = model.cells.encoding.gene_columns(gene_list)
    for rows, rho in _chunks(
        model, data, transform_batch, genes, library_size, n_samples, batch_size, seed
    ):
        yield rows, rho.mean(0)


def get_likelihood_parameters(
    model: Model,
    adata: Any = None,
    indices: Any = None,
    n_samples: int = 1,
    batch_size: int = 128,
    seed: int | None = 0,
) -> dict[str, np.ndarray]:
    """Return {"mean": mu, "dispersions": theta, "dropout": pi}, each with shape (N, G).

    Parameters that the likelihood does not have are left out. With one sample they are those at the
    posterior mean of z and l, with K samples averages over K draws. Arguments as in
    `get_normalized_expression`.
    """
    whole_number(n_samples, "get_likelihood_parameters: n_samples")
    data = selected(model, "get_likelihood_parameters", adata, indices).data
    graph = model.graph

    def decode(batch: Batch) -> Parameters:
        at = decoding.latents(graph, batch, n_samples, mean=n_samples == 1)
        return decoding.parameters(graph, at, batch[1:])

    found: dict[str, np.ndarray] = {}
    for rows, parameters in decoding.mapped(graph, data, batch_size, seed, decode):
        for name, value in parameters._asdict().items():
            if value is not None:
                shape = (len(data[0]), value.shape[-1])
                filled = found.setdefault(name, np.empty(shape, np.float32))
                filled[rows] = value.mean(0).cpu().numpy()
    return found


def posterior_predictive_sample(
    model: Model,
    adata: Any = None,
    indices: Any = None,
    n_samples: int = 1,
    gene_list: Any = None,
    batch_size: int = 128,
    seed: int | None = 0,
) -> Any:
    """Return new counts x' ~ p(x' | x): a CSR matrix of cells by genes.

    With K > 1 samples an array with shape (N, G, K). Arguments as in `get_normalized_expression`.
    """
    from scipy import sparse

    whole_number(n_samples, "posterior_predictive_sample: n_samples")
    data = selected(model, "posterior_predictive_sample", adata, indices).data
    genes = model.cells.encoding.gene_columns(gene_list)

    def draw(batch: Batch) -> Any:
        x = decoding.counts_drawn(model.graph, batch, n_samples)[..., genes].cpu().numpy()
        return x if n_samples > 1 else sparse.csr_matrix(x[0])  # dense for one minibatch only

    drawn = [x for _, x in decoding.mapped(model.graph, data, batch_size, seed, draw)]
    if n_samples > 1:
        return np.concatenate(drawn, 1).transpose(1, 2, 0)
    return sparse.vstack(drawn, format="csr")


def _chunks(
    model: Model,
    data: tuple[Any, ...],
    transform_batch: Any,
    genes: Tensor,
    library_size: LibrarySize,
    draws: int,
    batch_size: int,
    seed: int | None,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (rows, scaled rho with shape (K, B, G))."""
    number = isinstance(library_size, Real) and 0 < library_size < float("inf")
    if not number and not (isinstance(library_size, str) and library_size == "latent"):
        raise ValueError(
            f"library_size is {reprlib.repr(library_size)}, expected one number above 0, or "
            "'latent'"
        )
    batches = model.cells.batches(transform_batch)
    graph, n_batches = model.graph, len(model.cells.encoding.batches)

    def decode(batch: Batch) -> np.ndarray:
        at = decoding.latents(graph, batch, draws, mean=draws == 1)
        rho = decoding.proportions(graph, at.z, batch[1:], batches, n_batches)[..., genes]
        scale = at.l.exp() if isinstance(library_size, str) else library_size
        return (rho * scale).cpu().numpy()

    yield from decoding.mapped(graph, data, batch_size, seed, decode)
