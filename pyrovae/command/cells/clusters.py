"""How well latent representations separate the labels of cells, beside those of PCA.

k-means with as many clusters as labels is compared with the labels by ARI (Hubert & Arabie 1985)
and NMI: 1 is perfect agreement, and an ARI of 0 that of random clusters. The silhouette (Rousseeuw
1987), in [-1, 1], measures without clustering how far apart labels are.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyrovae.command.report.page import Row
from pyrovae.data import spread

__all__ = ["compared", "components", "rows", "scores"]

_SILHOUETTE_CELLS = 5_000  # its work grows with their square
_COUNTS_PER_CELL = 1e4  # to which each cell is scaled before the logarithm


def scores(spaces: Mapping[str, np.ndarray], labels: np.ndarray, seed: int) -> dict[str, Any]:
    """Return ARI, NMI and silhouette of the labels in each space.

    Args:
        spaces: coordinates of the cells in each space, by its name, with shape (N, D).
        labels: name of each cell's type, with shape (N,).
        seed: of k-means.
    """
    types = len(set(labels))
    if not 1 < types < len(labels):
        return {"why_not": f"{types} labels in {len(labels)} cells: no groups to separate"}
    found = {name: _scores(space, labels, seed) for name, space in spaces.items()}
    return {"cells": len(labels), "clusters": types, **found}


def _scores(space: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, Any]:
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    found = KMeans(len(set(labels)), n_init=10, random_state=seed).fit_predict(space)
    return {
        "ari": float(adjusted_rand_score(labels, found)),
        "nmi": float(normalized_mutual_info_score(labels, found)),
        "silhouette": _silhouette(space, labels),
    }


def _silhouette(z: np.ndarray, groups: np.ndarray) -> float | None:
    """Return the mean silhouette over evenly spread cells; None where they are of one group."""
    from sklearn.metrics import silhouette_score

    some = spread(len(z), _SILHOUETTE_CELLS).numpy()
    groups = groups[some]
    return float(silhouette_score(z[some], groups)) if 1 < len(set(groups)) < len(groups) else None


def components(counts: Any, d: int, seed: int) -> np.ndarray | None:
    """Return d principal components of log(1 + 10^4 x / total); None if there are none.

    Args:
        counts: SciPy sparse matrix with shape (N, G).
        d: number of components; fewer if the counts have not as many.
        seed: of the solver.
    """
    from scipy.sparse import diags
    from sklearn.decomposition import PCA

    d = min(d, min(counts.shape) - 1)
    totals = np.asarray(counts.sum(1)).ravel()
    scaled = diags(_COUNTS_PER_CELL / np.maximum(totals, 1)) @ counts.astype(np.float64)
    logs = scaled.log1p()  # sparse, as the counts are
    if d < 1 or not logs.nnz:
        return None
    return PCA(d, svd_solver="arpack", random_state=seed).fit_transform(logs)


def rows(found: dict[str, Any]) -> list[Row]:
    """Return the scores as rows of a table."""
    if "why_not" in found:
        return [Row("clusters", "left out", found["why_not"])]
    cells = f"{found['cells']:,} cells"
    names = {
        "ari": ("clusters, ARI", f"k-means on z, {found['clusters']} clusters, {cells}"),
        "nmi": ("clusters, NMI", "the same clusters"),
        "silhouette": ("silhouette of labels", "1: far apart; 0: they overlap"),
    }
    return compared(found, names)


def compared(found: dict[str, Any], names: Mapping[str, tuple[str, str]]) -> list[Row]:
    """Return scores of z as rows of a table, those of principal components in their notes.

    Args:
        found: scores by key, of z and perhaps of principal components.
        names: name and note of each row, by key.
    """
    z, pca = found["latents"], found.get("pca", {})
    table = []
    for key, (name, note) in names.items():
        if pca.get(key) is not None:
            note += f"; {pca[key]:.3f} on principal components of log counts"
        if z[key] is not None:
            table.append(Row(name, f"{z[key]:.3f}", note))
    return table
