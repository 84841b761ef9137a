"""What simpler densities reach on the same data: probabilistic PCA and a Gaussian mixture, by scikit-learn.

Both are densities of real vectors. Counts and levels are whole numbers, so x is met as a unit cell:

    P(x) = int_[0,1)^D p(x + u) du  ~  log (1 / S) sum_s p(x + u_s),   u_s ~ U[0, 1)^D

With the mean outside the logarithm it is a lower bound for every u (Theis, van den Oord & Bethge 2016, section 3.1); inside,
it comes closer to log P(x), as importance sampling does for a variational autoencoder. So all figures are nats of one kind.
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

__all__ = ["Baseline", "gaussian_mixture", "probabilistic_pca"]

LATENTS = (2, 4, 8, 12, 16, 24, 32, 48, 64, 128)
COMPONENTS = (1, 2, 5, 10, 20, 40, 80)
FULL_UP_TO = 100  # dimensions; a full covariance of more has too many numbers for the rows at hand
ROWS = 10_000  # to fit on: more change the third digit and cost minutes


@dataclass(frozen=True)
class Baseline:
    """A density chosen on validation data and judged on test data.

    Attributes:
        log_p: Mean log p(x) of the test rows, in nats.
        what: What was chosen.
    """

    log_p: float
    what: str


def probabilistic_pca(
    train: np.ndarray,
    validation: np.ndarray,
    test: np.ndarray,
    whole: bool,
    draws: int = 50,
    seed: int = 0,
) -> Baseline:
    """Fit probabilistic PCA (Tipping & Bishop 1999), its number of components chosen on validation rows.

    Args:
        train: Rows to fit on, with shape (N, D).
        validation: Rows to choose by, with shape (V, D).
        test: Rows to judge by, with shape (T, D).
        whole: Whether values are whole numbers, each standing for its unit cell.
        draws: S, noise draws a row for whole values.
        seed: Of the noise and of the fits.
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
    """Fit Gaussian mixtures, full and diagonal, their number of components chosen on validation rows.

    The arguments are those of `probabilistic_pca`.
    """
    return _choose(_mixtures, (train, validation, test), whole, draws, seed)


class Density(Protocol):
    """What scikit-learn's densities have in common."""

    def fit(self, x: np.ndarray, /) -> "Density":
        """Fit to rows."""
        ...

    def score_samples(self, x: np.ndarray, /) -> np.ndarray:
        """Return log p of each row."""
        ...


Candidates = Callable[
    [int, int, int], Iterator[tuple[str, Density]]
]  # rows, dimensions, seed -> (what, density) ...


def _choose(
    candidates: Candidates, parts: tuple[np.ndarray, ...], whole: bool, draws: int, seed: int
) -> Baseline:
    """Fit every candidate and judge the one that explains the validation rows best."""
    from sklearn.exceptions import ConvergenceWarning

    rng = np.random.default_rng(seed)
    train, validation, test = (part.reshape(len(part), -1).astype(np.float64) for part in parts)
    train = train[np.sort(rng.permutation(len(train))[:ROWS])]
    train = train + rng.random(train.shape) if whole else train
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ConvergenceWarning
        )  # one that has not converged is judged as it is
        fitted = [
            (what, model.fit(train)) for what, model in candidates(len(train), train.shape[1], seed)
        ]
    scores = [_score(model, validation, whole, 1, rng) for _, model in fitted]
    what, model = fitted[int(np.argmax(scores))]
    return Baseline(_score(model, test, whole, draws, rng), what)


def _score(
    model: Density, x: np.ndarray, whole: bool, draws: int, rng: np.random.Generator
) -> float:
    """Return the mean of log p over rows; over their unit cells where values are whole."""
    if not whole:
        return float(model.score_samples(x).mean())
    log_p = [model.score_samples(x + rng.random(x.shape)) for _ in range(draws)]
    return float((np.logaddexp.reduce(log_p) - np.log(draws)).mean())


def _pcas(n: int, d: int, seed: int) -> Iterator[tuple[str, Density]]:
    """Yield probabilistic PCAs of rising size, none so large that no noise is left."""
    from sklearn.decomposition import PCA

    for k in (k for k in (1, *LATENTS) if k < min(n, d)):
        yield f"{k} components", PCA(k, svd_solver="full", random_state=seed)


def _mixtures(n: int, d: int, seed: int) -> Iterator[tuple[str, Density]]:
    """Yield mixtures of rising size, with at least two rows for each component."""
    from sklearn.mixture import GaussianMixture

    for shape in ("diag", "full") if d <= FULL_UP_TO else ("diag",):
        for k in (k for k in COMPONENTS if 2 * k <= n):
            model = GaussianMixture(k, covariance_type=shape, reg_covar=0.01, random_state=seed)
            yield f"{k} components, {shape} covariance", model
