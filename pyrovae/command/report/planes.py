"""Latent representations in two dimensions: as they are, by PCA, or by UMAP."""

from typing import Any, NamedTuple

import numpy as np

__all__ = ["Plane", "find_umap", "principal_plane", "umap_plane"]

_NEIGHBOURS = 15  # UMAP's own default; it needs more rows than that


class Plane(NamedTuple):
    """Points in two dimensions.

    Attributes:
        points: with shape (N, 2).
        axes: names of both axes.
        how: how the points were made of z, in words; empty if they are z.
    """

    points: np.ndarray
    axes: tuple[str, str]
    how: str


def principal_plane(z: np.ndarray, row: str = "row of the data") -> Plane:
    """Return z with shape (N, D) as points: as they are for D <= 2, else principal components.

    Args:
        z: latent representations.
        row: name of the second axis for D = 1, along which the points lie in order.
    """
    n, d = z.shape
    if d == 1:
        return Plane(np.stack([z[:, 0], np.arange(n)], 1), ("z1", row), "")
    if d == 2:
        return Plane(z, ("z1", "z2"), "")
    points, fractions = _components(z)
    first, second = (f"PC {i + 1} ({100 * f:.0f} % of variance)" for i, f in enumerate(fractions))
    return Plane(points, (first, second), f"first two principal components of {d} latents")


def _components(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two principal components of z, and the fraction of variance that each explains."""
    from sklearn.decomposition import PCA

    pca = PCA(min(2, *z.shape), svd_solver="full")
    with np.errstate(all="ignore"):  # rows that are all alike have no variance to divide by
        found = pca.fit_transform(z)
        fractions = np.nan_to_num(pca.explained_variance_ratio_)
    missing = 2 - found.shape[1]
    return np.pad(found, [(0, 0), (0, missing)]), np.pad(fractions, (0, missing))


def umap_plane(z: np.ndarray, seed: int = 0) -> Plane:
    """Return cells in the plane: by UMAP (McInnes et al. 2018) if it is installed, else by PCA.

    Args:
        z: latent representations with shape (N, D); for D <= 2 they are shown as they are.
        seed: of UMAP.
    """
    n, d = z.shape
    if d > 2 and n > _NEIGHBOURS and (umap := find_umap()) is not None:
        points = umap(n_neighbors=_NEIGHBOURS, random_state=seed, n_jobs=1).fit_transform(z)
        return Plane(points, ("UMAP 1", "UMAP 2"), f"UMAP of {d} latents")
    return principal_plane(z, "cell")


def find_umap() -> Any:
    """Return umap-learn's class, or None if it is not installed."""
    try:
        from umap import UMAP
    except ImportError:
        return None
    return UMAP
