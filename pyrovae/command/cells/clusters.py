"""How well codes hold the labels of cells: k-means with as many clusters as labels, scored, beside the common shortcut.

ARI (Hubert & Arabie 1985) and NMI compare clusters with labels; 1 is perfect, 0 chance (ARI). The silhouette (Rousseeuw 1987),
in [-1, 1], asks without clustering how far labels lie apart; of batches it should be near 0, or below: they lie mixed.
"""

from typing import Any

import numpy as np

from pyrovae.command.report.page import Row

__all__ = ["rows", "scores"]

_SILHOUETTE_CELLS = 5_000  # its work grows with their square
_PER = 1e4  # transcripts a cell is brought to before the logarithm


def scores(
    z: np.ndarray, counts: Any, labels: np.ndarray | None, batches: np.ndarray | None, seed: int
) -> dict[str, Any]:
    """Return ARI, NMI and silhouettes of codes, and those of principal components of log-normalized counts.

    Args:
        z: codes with shape (N, D).
        counts: SciPy sparse matrix with shape (N, G).
        labels: name of each cell's type, with shape (N,).
        batches: name of its batch, with shape (N,).
        seed: of k-means and PCA.
    """
    if labels is None:
        return {"why_not": "no labels: name their column with --labels-key"}
    types = len(set(labels))
    if not 1 < types < len(labels):
        return {"why_not": f"{types} labels in {len(labels)} cells: nothing to tell apart"}
    figures = {"cells": len(z), "clusters": types, "latents": _scores(z, labels, batches, seed)}
    components = _components(counts, min(z.shape[1], min(counts.shape) - 1), seed)
    return figures | (
        {"pca": _scores(components, labels, batches, seed)} if components is not None else {}
    )


def _scores(
    z: np.ndarray, labels: np.ndarray, batches: np.ndarray | None, seed: int
) -> dict[str, Any]:
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    found = KMeans(len(set(labels)), n_init=10, random_state=seed).fit_predict(z)
    return {
        "ari": float(adjusted_rand_score(labels, found)),
        "nmi": float(normalized_mutual_info_score(labels, found)),
        "silhouette": _silhouette(z, labels),
        "batch_silhouette": None if batches is None else _silhouette(z, batches),
    }


def _silhouette(z: np.ndarray, groups: np.ndarray) -> float | None:
    """Return the mean silhouette over evenly spread cells; None where they are of one group."""
    from sklearn.metrics import silhouette_score

    some = np.unique(np.linspace(0, len(z) - 1, min(len(z), _SILHOUETTE_CELLS)).astype(int))
    groups = groups[some]
    return float(silhouette_score(z[some], groups)) if 1 < len(set(groups)) < len(groups) else None


def _components(counts: Any, d: int, seed: int) -> np.ndarray | None:
    """Return the first principal components of log(1 + 10^4 x / total), which stays sparse."""
    from scipy.sparse import diags
    from sklearn.decomposition import PCA

    totals = np.asarray(counts.sum(1)).ravel()
    logs = (diags(_PER / np.maximum(totals, 1)) @ counts.astype(np.float64)).log1p()
    return (
        PCA(d, svd_solver="arpack", random_state=seed).fit_transform(logs)
        if d > 0 and logs.nnz
        else None
    )


def rows(found: dict[str, Any]) -> list[Row]:
    """Return the scores as rows of a table."""
    if "why_not" in found:
        return [Row("clusters", "left out", found["why_not"])]
    z, pca = found["latents"], found.get("pca", {})

    def row(name: str, key: str, note: str) -> list[Row]:
        if z[key] is None:
            return []
        beside = (
            f"; {pca[key]:.3f} on principal components of log counts"
            if pca.get(key) is not None
            else ""
        )
        return [Row(name, f"{z[key]:.3f}", note + beside)]

    means = (
        f"k-means on z with {found['clusters']} clusters against labels, {found['cells']:,} cells"
    )
    return [
        *row("clusters, ARI", "ari", means),
        *row("clusters, NMI", "nmi", "the same"),
        *row("silhouette of labels", "silhouette", "1: far apart"),
        *row("silhouette of batches", "batch_silhouette", "0 or below: mixed"),
    ]
