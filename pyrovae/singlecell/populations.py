"""Populations of cells in the latent space, and genes that vary together.

q_A(z) = 1 / |A| sum over cells n of A of q(z | x_n)          the aggregated posterior of cells A

differential abundance     log q_A(z) at every cell, for every sample A: where a sample has cells
feature correlation        of the expression of pairs of genes over cells, without counting noise
"""

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Gamma, MixtureSameFamily

from pyrovae import programs, tasks
from pyrovae.data import as_sources, batches_in_order, spread
from pyrovae.distributions import whole_number
from pyrovae.singlecell import decoding
from pyrovae.singlecell.cells import rows_in
from pyrovae.singlecell.correlation import pearson, spearman
from pyrovae.singlecell.decoding import Batch
from pyrovae.singlecell.groups import groups_of
from pyrovae.singlecell.state import Model, selected

__all__ = [
    "differential_abundance",
    "get_aggregated_posterior",
    "get_feature_correlation_matrix",
]

_AT_ONCE = 1 << 21  # values of a block of the N x M table behind a mixture


def get_aggregated_posterior(model: Model, adata: Any = None, indices: Any = None) -> Distribution:
    """Return q_A(z) of some cells: a mixture with one component per cell, event shape (D,).

    Arguments as in `get_normalized_expression`.

    Raises:
        ValueError: if q(z | x) is a flow, whose density of a mixture would take a pass per cell.
    """
    data = selected(model, "get_aggregated_posterior", adata, indices).data
    return _mixture(model, data)


def differential_abundance(
    model: Model,
    sample_key: str,
    adata: Any = None,
    max_cells: int | None = None,
) -> Any:
    """Return log q_A(z_n) of every cell n under every sample A, a DataFrame of cells by samples.

    A cell that lies where sample A has more cells than sample B has a larger value under A. z_n is
    the posterior mean. (scvi-tools' method of this name; Boyeau et al. 2024.)

    Args:
        model: the model.
        sample_key: column of `adata.obs` that names the sample of each cell; a cell without a
            name is in no sample.
        adata: see `SingleCellVAE`.
        max_cells: cells of a sample, evenly spread, that make its mixture; None takes all.

    Raises:
        ValueError: if the column does not exist or is continuous.
    """
    import pandas as pd

    selection = selected(model, "differential_abundance", adata, None)
    cells = model.cells.own() if adata is None else adata
    of_text = f"store names as text, by adata.obs[{sample_key!r}].astype(str)"
    samples = groups_of(cells, sample_key, "sample_key", of_text)
    z = tasks.embed(model.graph, *selection.data, site="z").cpu()
    columns = {}
    for name in sorted(set(samples.dropna())):
        rows = torch.from_numpy((samples == name).to_numpy().nonzero()[0])
        rows = rows if max_cells is None else rows[spread(len(rows), max_cells)]
        mixture = _mixture(model, tuple(rows_in(part, rows) for part in selection.data))
        columns[name] = _log_density(mixture, z).numpy()
    return pd.DataFrame(columns, index=selection.names)


def get_feature_correlation_matrix(
    model: Model,
    adata: Any = None,
    indices: Any = None,
    n_samples: int = 10,
    batch_size: int = 64,
    rna_size_factor: int = 1000,
    transform_batch: Any = None,
    correlation_type: Literal["spearman", "pearson"] = "spearman",
    gene_list: Any = None,
    seed: int | None = 0,
) -> Any:
    """Return the correlation of genes over cells and draws of their expression: genes by genes.

    A draw is Gamma with mean mu = rho times `rna_size_factor` and shape theta, what the negative
    binomial counts: the correlation is that of expression without Poisson noise.

    "pearson" holds no more than the result. "spearman" holds all draws, 4 bytes for each draw, cell
    and gene: above 1 GB in a temporary file, in the folder that the environment variable TMPDIR
    names.

    Args:
        model: the model.
        adata: see `SingleCellVAE`.
        indices: see `SingleCellVAE`.
        n_samples: draws of z, and of the expression, per cell.
        batch_size: cells decoded at once.
        rna_size_factor: the library size of all cells.
        transform_batch: as in `get_normalized_expression`; several are averaged.
        correlation_type: "spearman" of ranks or "pearson".
        gene_list: genes to compare; None for all.
        seed: of the draws.

    Raises:
        OSError: if that file has no space.
    """
    import pandas as pd

    whole_number(n_samples, "get_feature_correlation_matrix: n_samples")
    if correlation_type not in ("spearman", "pearson"):
        raise ValueError(
            f"correlation_type is {correlation_type!r}, expected 'spearman' or 'pearson'"
        )
    data = selected(model, "get_feature_correlation_matrix", adata, indices).data
    genes = model.cells.encoding.gene_columns(gene_list)
    batches, n_batches = model.cells.batches(transform_batch), len(model.cells.encoding.batches)

    def draw(batch: Batch) -> np.ndarray:
        at = decoding.latents(model.graph, batch, n_samples, mean=False)
        c = batch[1:]
        rho = decoding.proportions(model.graph, at.z, c, batches, n_batches)
        theta = decoding.dispersions(model.graph, at, c, batches, n_batches)
        mu = (rna_size_factor * rho)[..., genes]
        if theta is None:  # a Poisson: no variance but that of counting
            return mu.flatten(0, 1).cpu().numpy()
        shape = theta.expand(*mu.shape[:-1], -1)[..., genes]
        return Gamma(shape, shape / mu).sample().flatten(0, 1).cpu().numpy()

    drawn = (x for _, x in decoding.mapped(model.graph, data, batch_size, seed, draw))
    if correlation_type == "spearman":
        table = spearman(drawn, n_samples * len(data[0]), len(genes))
    else:
        table = pearson(drawn)
    names = [model.cells.encoding.genes[i] for i in genes.tolist()]
    return pd.DataFrame(table, index=names, columns=names)


def _mixture(model: Model, data: tuple[Any, ...]) -> MixtureSameFamily:
    means, sds = [], []
    with programs.evaluation(model.graph):
        for batch in batches_in_order(model.graph, as_sources(data)):
            q = programs.posterior(model.graph, batch, "z")
            if not isinstance(programs.leaf(q), torch.distributions.Normal) or _is_flow(q):
                raise ValueError(
                    f"the posterior is a {type(q if _is_flow(q) else programs.leaf(q)).__name__}: "
                    "aggregated posteriors "
                    "are mixtures of diagonal normals, the default posterior"
                )
            means.append(q.mean.cpu())
            sds.append(q.stddev.cpu())
    normal = torch.distributions.Normal(torch.cat(means), torch.cat(sds))
    weights = Categorical(logits=torch.zeros(len(normal.loc)))
    return MixtureSameFamily(weights, torch.distributions.Independent(normal, 1))


def _log_density(mixture: MixtureSameFamily, z: Tensor) -> Tensor:
    """Return log q_A(z_n) of many points, where the exponents are one product of matrices.

    sum_d (z_d - m_kd)^2 / s_kd^2 = (z^2, z) . (1 / s_k^2, -2 m_k / s_k^2) + sum_d m_kd^2 / s_kd^2
    """
    cells: Any = mixture.component_distribution
    mean, precision = cells.mean.double(), 1 / cells.variance.double()
    constant = 0.5 * ((precision / (2 * math.pi)).log() - mean.square() * precision).sum(1)
    constant = constant - math.log(len(mean))
    factors = torch.cat([-0.5 * precision, mean * precision], 1).T  # (2 D, K)
    block = max(1, _AT_ONCE // len(mean))
    parts = [
        torch.addmm(constant, torch.cat([part.square(), part], 1), factors).logsumexp(1)
        for part in z.double().split(block)
    ]
    return torch.cat(parts).to(z.dtype)


def _is_flow(q: Any) -> bool:
    return bool(getattr(q, "transforms", ()))
