"""The log p(x) of simpler densities on the same data: probabilistic PCA and a Gaussian mixture.

Both are densities of real vectors. Counts and levels are whole numbers x, each of which stands for
its unit cell:

    P(x) = int_[0,1)^D p(x + u) du  ~  log (1 / S) sum_s p(x + u_s),   u_s ~ U[0, 1)^D

With the mean outside the logarithm the right side is a lower bound for every u (Theis, van den Oord
& Bethge 2016, section 3.1). Inside, it comes closer to log P(x), as importance sampling does for a
variational autoencoder, so that all figures are nats of one kind.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np

__all__ = ["Baseline", "gaussian_mixture", "probabilistic_pca"]

LATENTS = (2, 4, 8, 12, 16, 24, 32, 48, 64, 128)
COMPONENTS = (1, 2, 5, 10, 20, 40, 80)
FULL_UP_TO = 100  # dimensions; a full covariance of more has too many parameters for few rows
ROWS = 10_000  # to fit on, for time


class Baseline(NamedTuple):
    """A density chosen on validation data and evaluated on test data.

    Attributes:
        log_p: Mean log p(x) of the test rows, in nats.
        what: What was chosen.
    """

    log_p: float
    what: str


class Density(Protocol):
    """A density of scikit-learn's."""

    def fit(self, x: np.ndarray, /) -> "Density":
        """Fit to rows."""
        ...

    def score_samples(self, x: np.ndarray, /) -> np.ndarray:
        """Return log p of each row."""
        ...


Named = tuple[str, Density]  # what was chosen, and the density


def probabilistic_pca(
    train: np.ndarray,
    validation: np.ndarray,
    test: np.ndarray,
    whole: bool,
    draws: int = 50,
    seed: int = 0,
) -> Baseline:
    """Fit probabilistic PCA (Tipping & Bishop 1999); validation rows choose its size.

    Args:
        train: Rows to fit on, with shape (N, D).
        validation: Rows to choose by, with shape (V, D).
        test: Rows to evaluate on, with shape (T, D).
        whole: Whether values are whole numbers, each standing for its unit cell.
        draws: S, draws of u per row for whole values.
        seed: Of the draws and of the fits.
    """
    return _choose(_pcas, (train, validation, test), whole, draws, seed)


def gaussian_mixture(
    train: np.ndarray,
    validation: np.ndarray,
    test: np.ndarray,
    whole: bool,
    draws: int = 50,
    seed: int = 0,
) -> Baseline:
    """Fit Gaussian mixtures, full and diagonal; validation rows choose the number of components.

    The arguments are those of `probabilistic_pca`.
    """
    return _choose(_mixtures, (train, validation, test), whole, draws, seed)


def _choose(
    candidates: Callable[[int, int, int], Iterator[Named]],
    parts: tuple[np.ndarray, ...],
    whole: bool,
    draws: int,
    seed: int,
) -> Baseline:
    """Fit every candidate, and evaluate the one with the largest log p of the validation rows."""
    from sklearn.exceptions import ConvergenceWarning

    rng = np.random.default_rng(seed)
    train, validation, test = (part.reshape(len(part), -1).astype(np.float64) for part in parts)
    train = train[np.sort(rng.permutation(len(train))[:ROWS])]
    train = train + rng.random(train.shape) if whole else train
    log_p = functools.partial(_mean_log_p, whole=whole, rng=rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its log p decides all the same
        fitted = [
            (what, density.fit(train))
            for what, density in candidates(len(train), train.shape[1], seed)
        ]
    scores = [log_p(density, validation, draws=1) for _, density in fitted]
    what, density = fitted[int(np.argmax(scores))]
    return Baseline(log_p(density, test, draws=draws), what)


def _mean_log_p(
    density: Density, x: np.ndarray, whole: bool, draws: int, rng: np.random.Generator
) -> float:
    """Return the mean of log p over rows; over their unit cells if values are whole."""
    if not whole:
        return float(density.score_samples(x).mean())
    log_p = [density.score_samples(x + rng.random(x.shape)) for _ in range(draws)]
    return float((np.logaddexp.reduce(log_p) - np.log(draws)).mean())


def _pcas(n: int, d: int, seed: int) -> Iterator[Named]:
    """Yield probabilistic PCAs of rising size, each smaller than the data's rank."""
    from sklearn.decomposition import PCA

    for k in (k for k in (1, *LATENTS) if k < min(n, d)):
        yield f"{k} components", PCA(k, svd_solver="full", random_state=seed)


def _mixtures(n: int, d: int, seed: int) -> Iterator[Named]:
    """Yield mixtures of rising size, with at least two rows for each component."""
    from sklearn.mixture import GaussianMixture

    for shape in ("diag", "full") if d <= FULL_UP_TO else ("diag",):
        for k in (k for k in COMPONENTS if 2 * k <= n):
            model = GaussianMixture(k, covariance_type=shape, reg_covar=0.01, random_state=seed)
            yield f"{k} components, {shape} covariance", model
