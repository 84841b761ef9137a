"""Simulated cells with known truth, drawn from the model that is fitted to them.

rho_kbg  proportional to exp( base_g + marker_kg + shift_bg )        of cell type k in batch b
l_n ~ N(mean_b, 0.4^2),    x_ng ~ ZINB(e^l_n rho_ng, theta_g, pi)

(Lopez et al. 2018, section 2)
"""

from typing import Any, NamedTuple

import numpy as np
import torch

from pyrovae.distributions import ZeroInflatedNegativeBinomial
from pyrovae.singlecell.messages import import_anndata

__all__ = ["Simulation", "simulate"]

_MARKERS = 0.1  # fraction of the genes that mark a type
_DROPOUT = 0.03  # probability of an excess zero


class Simulation(NamedTuple):
    """Counts and their truth, for N cells and G genes.

    Attributes:
        counts: whole numbers, with shape (N, G).
        rho: expression as proportions, with shape (N, G).
        library: e^l, the expected total of each cell, with shape (N,).
        theta: inverse dispersion of each gene, with shape (G,).
        dropout: probability of an excess zero, the same for all genes.
        cell_type: number of each cell's type, with shape (N,).
        batch: number of each cell's batch, with shape (N,).
        markers: whether a gene marks a type, with shape (K, G).
    """

    counts: np.ndarray
    rho: np.ndarray
    library: np.ndarray
    theta: np.ndarray
    dropout: float
    cell_type: np.ndarray
    batch: np.ndarray
    markers: np.ndarray

    def to_anndata(self) -> Any:
        """Return an AnnData: CSR counts in X, "batch" and "cell_type" in obs, and the truth.

        The truth is in obs["library"], var["theta"], var["marker_of"] and layers["rho"].
        """
        anndata = import_anndata()
        import pandas as pd
        from scipy.sparse import csr_matrix

        obs = {
            "batch": [f"batch {b}" for b in self.batch],
            "cell_type": [f"type {k}" for k in self.cell_type],
            "library": self.library,
        }
        var = {
            "theta": self.theta,
            "marker_of": [" ".join(f"type {k}" for k in np.flatnonzero(m)) for m in self.markers.T],
        }
        return anndata.AnnData(
            csr_matrix(self.counts.astype(np.float32)),
            obs=pd.DataFrame(obs, index=[f"cell {n}" for n in range(len(self.counts))]),
            var=pd.DataFrame(var, index=[f"gene {g}" for g in range(self.counts.shape[1])]),
            layers={"rho": self.rho},
        )


def simulate(
    cells: int = 2000, genes: int = 500, types: int = 4, batches: int = 2, seed: int = 0
) -> Simulation:
    """Draw cells of several types in several batches, which shift expression and depth.

    Args:
        cells: N.
        genes: G.
        types: K; a tenth of the genes mark each type, in which they are about four times as high.
        batches: number of batches; each multiplies every gene by a factor of its own, whose
            logarithm has a standard deviation of 0.3.
        seed: of all draws; the global random state is left alone.

    Raises:
        ValueError: if a number is below 1.

    Example:
        >>> simulate(cells=10, genes=20).counts.shape
        (10, 20)
    """
    if min(cells, genes, types, batches) < 1:
        raise ValueError(
            f"simulate: {cells} cells, {genes} genes, {types} types, {batches} batches: expected "
            "at least 1 of each"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cell_type, batch = torch.randint(types, (cells,)), torch.randint(batches, (cells,))
        markers = torch.rand(types, genes) < _MARKERS
        marked = markers * (1.4 + 0.3 * torch.randn(types, genes))
        logits = (
            1.2 * torch.randn(genes) + marked[cell_type] + 0.3 * torch.randn(batches, genes)[batch]
        )
        rho, theta = torch.softmax(logits, -1), torch.exp(0.5 + 0.5 * torch.randn(genes))
        library = torch.exp(7.0 + 0.3 * torch.randn(batches)[batch] + 0.4 * torch.randn(cells))
        gate = torch.logit(torch.tensor(_DROPOUT)).expand(cells, genes)
        counts = ZeroInflatedNegativeBinomial(library[:, None] * rho, theta, gate).sample()
    truth = (counts.int().numpy(), rho.numpy(), library.numpy(), theta.numpy())
    return Simulation(*truth, _DROPOUT, cell_type.numpy(), batch.numpy(), markers.numpy())
