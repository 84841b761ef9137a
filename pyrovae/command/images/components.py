"""Principal components: probabilistic PCA in closed form, and how much of x they leave unexplained.

p(x) = N(m, W W^T + s^2 I)        W of the k largest principal components (Tipping & Bishop 1999)

log p(x) = -1/2 [ D log 2 pi + sum_(i<=k) log l_i + (D - k) log s^2
                  + sum_(i<=k) y_i^2 / l_i + (|x - m|^2 - sum_(i<=k) y_i^2) / s^2 ]

y_i = v_i (x - m), with l_i, v_i the eigenvalues and eigenvectors of the covariance, and s^2 the
mean of the eigenvalues that are left out. Nothing of size D x D is built for data of few rows.
"""

from dataclasses import dataclass, field

import numpy as np

__all__ = ["Components"]

_LEAST = 1e-12  # variance, relative to the mean variance of a value: rounding errors of float64


@dataclass
class Components:
    """The principal components of rows with shape (N, D).

    Attributes:
        x: The rows.
        mean: Their mean m, with shape (D,).
        variances: Eigenvalues l of the covariance, largest first.
        axes: Eigenvectors v, with shape (rank, D).
    """

    x: np.ndarray
    mean: np.ndarray = field(init=False)
    variances: np.ndarray = field(init=False)
    axes: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        """Decompose the covariance, or the products of the rows where there are fewer rows."""
        n, d = self.x.shape
        self.mean = self.x.mean(0)
        centred = self.x - self.mean
        if d <= n:
            values, vectors = np.linalg.eigh(centred.T @ centred / n)
            self.variances, self.axes = values[::-1].clip(0), vectors[:, ::-1].T
            return
        values, vectors = np.linalg.eigh(centred @ centred.T / n)
        values, vectors = values[::-1].clip(0), vectors[:, ::-1]
        kept = values > _LEAST * max(values[0], np.finfo(float).tiny)
        self.variances = values[kept]
        self.axes = (vectors[:, kept] / np.sqrt(n * self.variances)).T @ centred

    def rank(self, k: int) -> int:
        """Return how many of k components leave some of the rows unexplained."""
        n, d = self.x.shape
        return max(0, min(k, d - 1, n - 2, len(self.variances) - 1))

    def project(self, x: np.ndarray, k: int) -> np.ndarray:
        """Return what k components keep of rows, with shape (N, D)."""
        axes = self.axes[: self.rank(k)]
        return self.mean + (x - self.mean) @ axes.T @ axes

    def log_p(self, x: np.ndarray, k: int, floor: float = 0.0) -> np.ndarray:
        """Return log p of rows under probabilistic PCA, with shape (N,).

        Args:
            x: Rows with shape (N, D).
            k: Number of components; fewer where the rows have no more.
            floor: Lower bound of the standard deviation s.
        """
        d, k = self.x.shape[1], self.rank(k)
        noise = self.variances[k:].sum() / (d - k)
        noise = max(noise, floor**2, _LEAST * self.variances.sum() / d, np.finfo(float).tiny)
        large = np.maximum(self.variances[:k], noise)
        centred = x - self.mean
        y = np.square(centred @ self.axes[:k].T)
        inside, rest = (y / large).sum(1), np.square(centred).sum(1) - y.sum(1)
        volume = d * np.log(2 * np.pi) + np.log(large).sum() + (d - k) * np.log(noise)
        return -0.5 * (volume + inside + rest.clip(0) / noise)
