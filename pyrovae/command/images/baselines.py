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
from typing import NamedTuple

import numpy as np

from pyrovae.command.images.components import Components

__all__ = ["Baseline", "gaussian_mixture", "probabilistic_pca"]

LATENTS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128)
COMPONENTS = (1, 2, 5, 10, 20, 40, 80)
FULL_UP_TO = 100  # dimensions; a full covariance of more has too many parameters for few rows
MIXTURE_UP_TO = 2_000_000  # values times components of a mixture, for time
ROWS = 10_000  # to fit on, for time


class Baseline(NamedTuple):
    """A density evaluated on test data.

    Attributes:
        values: log p(x) of each test row, in nats, with shape (T,).
        what: What was chosen.
    """

    values: np.ndarray
    what: str

    @property
    def log_p(self) -> float:
        """Mean log p(x) of the test rows, in nats."""
        return float(self.values.mean())


LogP = Callable[[np.ndarray], np.ndarray]  # rows with shape (N, D) -> log p of each, (N,)
Named = tuple[str, LogP]  # what was chosen, and the density


def probabilistic_pca(
    train: np.ndarray,
    validation: np.ndarray,
    test: np.ndarray,
    whole: bool,
    draws: int = 50,
    seed: int = 0,
    components: int | None = None,
    floor: float = 0.0,
) -> Baseline:
    """Fit probabilistic PCA (Tipping & Bishop 1999).

    Args:
        train: Rows to fit on, with shape (N, D).
        validation: Rows to choose the number of components by, with shape (V, D).
        test: Rows to evaluate on, with shape (T, D).
        whole: Whether values are whole numbers, each standing for its unit cell.
        draws: S, draws of u per row for whole values.
        seed: Of the draws and of the fits.
        components: Their number; None chooses it by the validation rows.
        floor: Lower bound of the standard deviation of the noise.
    """
    numbers = LATENTS if components is None else (components,)

    def candidates(x: np.ndarray) -> Iterator[Named]:
        found = Components(x)
        for k in dict.fromkeys(found.rank(k) for k in numbers):
            words = f"{k} component{'s' if k != 1 else ''}"
            yield words, functools.partial(found.log_p, k=k, floor=floor)

    return _choose(candidates, (train, validation, test), whole, draws, seed)


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

    def candidates(x: np.ndarray) -> Iterator[Named]:
        return _mixtures(x, seed)

    return _choose(candidates, (train, validation, test), whole, draws, seed)


def _choose(
    candidates: Callable[[np.ndarray], Iterator[Named]],
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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its log p decides all the same
        fitted = list(candidates(train))
    best = 0
    if len(fitted) > 1:
        scores = [_log_p(log_p, validation, 1 if whole else 0, rng).mean() for _, log_p in fitted]
        best = int(np.argmax(scores))
    what, log_p = fitted[best]
    return Baseline(_log_p(log_p, test, draws if whole else 0, rng), what)


def _log_p(log_p: LogP, x: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return log p of each row; over its unit cell if there are draws."""
    if not draws:
        return log_p(x)
    values = [log_p(x + rng.random(x.shape)) for _ in range(draws)]
    return np.logaddexp.reduce(values) - np.log(draws)


def _mixtures(x: np.ndarray, seed: int) -> Iterator[Named]:
    """Yield mixtures of rising size, with at least two rows for each component."""
    from sklearn.mixture import GaussianMixture

    n, d = x.shape
    for shape in ("diag", "full") if d <= FULL_UP_TO else ("diag",):
        for k in (k for k in COMPONENTS if 2 * k <= n and (k == 1 or k * n * d <= MIXTURE_UP_TO)):
            model = GaussianMixture(k, covariance_type=shape, reg_covar=0.01, random_state=seed)
            what = f"{k} component{'s' if k != 1 else ''}, {shape} covariance"
            yield what, model.fit(x).score_samples
