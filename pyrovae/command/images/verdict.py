"""How the model compares with probabilistic PCA of as many components, and what to try if it loses.

d_i = log p(x_i) of the model - log p(x_i) of probabilistic PCA, over the same test rows
"""

from math import prod, sqrt
from typing import Any

import numpy as np

from pyrovae.command.choices import Likelihood
from pyrovae.command.images.settings import ImageSettings

__all__ = ["judge"]

Figures = dict[str, Any]

BETTER, MATCHES, WORSE = "better", "matches", "worse"
STANDARD_ERRORS = 2  # within which two figures match
PER_VALUE = 0.01  # nats per value of x that are no difference worth a word
FEW_ROWS = 1_000
FEW = 0.02  # fraction of the test rows that a sentence calls a few
FAR = 10.0  # standard deviations of the others at which a few rows are far off


def judge(
    settings: ImageSettings, differences: np.ndarray, rows: int, shape: tuple[int, ...]
) -> Figures:
    """Return the mean difference, its standard error over the rows, and what it means.

    Args:
        settings: Of the run.
        differences: d_i, in nats, with shape (N,).
        rows: Number of training rows.
        shape: Shape of a row.
    """
    mean, n = float(differences.mean()), len(differences)
    error = float(differences.std(ddof=1)) / sqrt(n) if n > 1 else float("nan")
    margin = max(STANDARD_ERRORS * error if n > 1 else 0.0, PER_VALUE * prod(shape))
    verdict = WORSE if not mean >= -margin else BETTER if mean > margin else MATCHES
    reasons = _reasons(settings, rows, shape) if verdict == WORSE else []
    outliers = _lost_rows(differences, PER_VALUE * prod(shape))
    if outliers and verdict != BETTER:  # their error is as large as the loss, and hides it
        verdict, reasons = WORSE, [outliers]
    text = " ".join(reasons)
    return {"difference": mean, "standard_error": error, "verdict": verdict, "what_to_try": text}


def _lost_rows(differences: np.ndarray, margin: float) -> str:
    """Return what to say if the model loses by a few rows alone; empty if it does not."""
    n = len(differences)
    few = max(1, round(FEW * n))
    if n <= few or not differences.mean() < -margin:
        return ""
    worst, others = np.split(np.sort(differences), [few])
    far = worst.mean() < others.mean() - FAR * others.std()
    if not far or worst.sum() > differences.sum() / 2:
        return ""
    return (
        f"{few} of {n} test rows make most of the difference, which is {others.mean():+.2f} nats "
        "without them: they lie far from the training rows, where a network extrapolates. Look at "
        "these rows, transform heavy tails (for example by arcsinh), or give more training rows."
    )


def _reasons(settings: ImageSettings, rows: int, shape: tuple[int, ...]) -> list[str]:
    """Return why the model may lose, and what to try: what concerns the data first."""
    found = []
    if settings.likelihood is Likelihood.CONTINUOUS_BERNOULLI:
        found.append(
            "A continuous Bernoulli is wide at grey values in between; try --likelihood gaussian."
        )
    if settings.likelihood in (Likelihood.POISSON, Likelihood.BINOMIAL):
        found.append(
            f"The variance of a {settings.likelihood.value} likelihood follows from its mean; "
            "try --likelihood gaussian."
        )
    if rows < FEW_ROWS or rows < prod(shape):
        found.append(
            f"{rows} training rows of {prod(shape)} values are few for a network, while PCA has "
            "one solution that needs no search; try --latents 2, --hidden 32, or more rows."
        )
    found.append(
        "If the values scatter around a plane with equal noise, PCA is the true model, which a "
        "network comes near to only slowly; try --epochs twice as large and "
        f"--learning-rate {settings.learning_rate / 3:.1g}."
    )
    return found
