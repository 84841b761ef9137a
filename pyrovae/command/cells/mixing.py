"""How well batches mix in latent representations, beside those of PCA.

    ASW batch   mean over labels of  mean over the label's cells of  1 - |s|
    iLISI       median over cells of  1 / sum_b p_b^2

s is the silhouette of a cell by batch among the cells of its label (Luecken et al. 2022, scIB): 0
if the cell is as near to the nearest other batch as to its own, near 1 if that is far. p_b is the
fraction of batch b among the nearest neighbours of a cell (Korsunsky et al. 2019, here with equal
weights): the index is 1 if all are of one batch, and the number of batches if they are equally
many. It needs no labels, and takes all batches into account.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyrovae.command.cells.clusters import compared
from pyrovae.command.report.page import Row
from pyrovae.data import spread

__all__ = ["inverse_simpson", "rows", "scores", "within_labels"]

_NEIGHBOURS = 50
_APART = 0.1  # of the way from one batch to perfect mixing: below it they are said to be apart
_LABEL_CELLS = 5_000  # of one label; the work of a silhouette grows with their square


def scores(
    spaces: Mapping[str, np.ndarray], batches: np.ndarray, labels: np.ndarray | None, seed: int
) -> dict[str, Any]:
    """Return iLISI, and with labels the mixing of batches within them, in each space.

    iLISI is given also scaled to [0, 1], and with the batches of the cells shuffled, which is what
    perfect mixing reaches: less than the number of batches if their sizes differ.

    Args:
        spaces: coordinates of the cells in each space, by its name, with shape (N, D).
        batches: name of each cell's batch, with shape (N,).
        labels: name of its type, None where it has none, with shape (N,); None without labels.
        seed: of the shuffled batches.
    """
    number, k = len(set(batches)), min(_NEIGHBOURS, len(batches) - 1)
    most = min(number, k)
    figures: dict[str, Any] = {"cells": len(batches), "batches": number, "neighbours": k}
    if most < 2:
        return figures
    shuffled = np.random.default_rng(seed).permutation(batches)
    for name, space in spaces.items():
        near = _neighbours(space, k)
        ilisi = float(np.median(inverse_simpson(near, batches)))
        figures[name] = {
            "ilisi": ilisi,
            "ilisi_scaled": (ilisi - 1) / (most - 1),
            "ilisi_shuffled": float(np.median(inverse_simpson(near, shuffled))),
            "asw_batch": None if labels is None else within_labels(space, batches, labels),
        }
    return figures


def _neighbours(space: np.ndarray, k: int) -> np.ndarray:
    """Return the rows of the k nearest other cells of each cell, with shape (N, k)."""
    from sklearn.neighbors import NearestNeighbors

    # In 10 dimensions a tree takes five times as long.
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(space)
    return search.kneighbors(return_distance=False)


def inverse_simpson(near: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """Return 1 / sum_b p_b^2 of each cell's neighbours, with shape (N,).

    Args:
        near: rows of the neighbours of each cell, with shape (N, k).
        batches: name of each cell's batch, with shape (N,).
    """
    names, number = np.unique(batches, return_inverse=True)
    found = number[near]
    squares = sum(np.square((found == batch).mean(1)) for batch in range(len(names)))
    return 1 / np.asarray(squares)


def within_labels(space: np.ndarray, batches: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the mean over labels of 1 - |silhouette of batches|; None if no label has several.

    As in scIB, labels with one batch, or with a batch for each cell, are left out.

    Args:
        space: coordinates with shape (N, D).
        batches: name of each cell's batch, with shape (N,).
        labels: name of its type, None where it has none, with shape (N,).
    """
    from sklearn.metrics import silhouette_samples

    found = []
    for label in sorted({name for name in labels if name is not None}):
        rows = np.flatnonzero(labels == label)
        rows = rows[spread(len(rows), _LABEL_CELLS).numpy()]
        if 1 < len(set(batches[rows])) < len(rows):
            s = silhouette_samples(space[rows], batches[rows])
            found.append(float((1 - np.abs(s)).mean()))
    return float(np.mean(found)) if found else None


def rows(found: dict[str, Any] | None) -> list[Row]:
    """Return the scores as rows of a table; none without several batches."""
    if not found or "latents" not in found:
        return []
    z = found["latents"]
    most = min(found["batches"], found["neighbours"])
    ilisi = (
        f"inverse Simpson index of batches among {found['neighbours']} neighbours, median over "
        f"{found['cells']:,} cells, from 1 (one batch) to {most} (equally many of each); "
        f"scaled to [0, 1] {z['ilisi_scaled']:.2f}; {z['ilisi_shuffled']:.2f} with shuffled batches"
    )
    if z["ilisi"] - 1 < _APART * (z["ilisi_shuffled"] - 1):
        ilisi += (
            "; the batches lie apart: either their cells are of other types, or the fit has not "
            "taken the effect of the batch out"
        )
    asw = (
        "1 - |silhouette of batches| within each label, mean over labels: 1 if cells are as near "
        "to another batch as to their own, towards 0 the farther batches are apart"
    )
    return compared(found, {"asw_batch": ("batches in labels", asw), "ilisi": ("iLISI", ilisi)})
