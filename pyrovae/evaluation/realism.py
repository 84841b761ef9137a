"""How real generated rows look: a classifier's confidence, and the distance to the training rows.

confidence(x) = max_k p(k | x),     p(k | x) = softmax(l(x) / T)_k
distance(x)   = min_n |x - x_n|     over training rows x_n

Each sees what the other does not. A blurred mean of two images is near to training images, but a
classifier hesitates between their classes; a sharp copy with a stroke in the wrong place is
classified with confidence, but far from any training image. Neither is a probability of being real:
a classifier may be sure of noise, and a distance of zero is a copy. Compare them with those of
held-out rows, as `passing` does for both at once.

The temperature T is fitted to rows that the classifier was not trained on, so that of the rows with
a confidence of 0.9 nine in ten are classified rightly (Guo, Pleiss, Sun & Weinberger 2017, "On
calibration of modern neural networks", section 4.2).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyrovae.data import Array
from pyrovae.evaluation.scores import Score

__all__ = [
    "Judge",
    "Realism",
    "calibration_error",
    "confidence",
    "nearest",
    "passing",
    "temperature",
]

_AT_ONCE = 1_000  # rows that are judged together, for memory
_LARGEST = 100.0  # temperature, and the inverse of the least


class Realism(NamedTuple):
    """Both scores of N rows.

    Attributes:
        confidence: probability of the most probable class, between 1 / K and 1.
        distance: Euclidean distance to the nearest training row, in units of x.
    """

    confidence: Score
    distance: Score


class Judge:
    """Scores rows by a classifier and by the training rows; fitted once, used for every model.

    Args:
        classifier: maps rows (N, *event) to logits or log probabilities (N, K); trained by you, on
            rows that are not among `held_out`. A torch network must be in `eval()` mode.
        train: training rows of the models to judge, with shape (M, *event).
        held_out: other rows, by which the confidence is calibrated, with shape (H, *event).
        labels: their classes, whole numbers below K, with shape (H,).

    Attributes:
        temperature: T of the calibrated classifier; above 1 where it was too sure.

    Example:
        >>> x = torch.tensor([[-1.0], [-0.2], [0.3], [1.0]])
        >>> judge = Judge(lambda x: torch.cat([-x, x], 1), x, x, torch.tensor([0, 1, 0, 1]))
        >>> score = judge(torch.tensor([[3.0]]))
        >>> score.distance.mean
        2.0
    """

    def __init__(
        self, classifier: Callable[[Tensor], Tensor], train: Array, held_out: Array, labels: Array
    ) -> None:
        self.classifier, self.train = classifier, torch.as_tensor(train)
        self.temperature = temperature(self._logits(torch.as_tensor(held_out)), labels)

    def __call__(self, x: Array) -> Realism:
        """Return confidence and distance of rows with shape (N, *event)."""
        rows = torch.as_tensor(x)
        return Realism(confidence(self.logits(rows)), nearest(rows, self.train))

    def logits(self, x: Array) -> Tensor:
        """Return the calibrated logits of rows, with shape (N, K)."""
        return self._logits(torch.as_tensor(x)) / self.temperature

    def _logits(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self.classifier(rows) for rows in x.split(_AT_ONCE)]).double()


def passing(found: Realism, real: Realism, level: float = 0.95) -> Score:
    """Return for each row whether it passes for real by both scores at once, 1 or 0.

    It does if its confidence is not below the quantile 1 - level of that of real rows, and its
    distance not above their quantile `level`. Of other real rows 2 level - 1 to level pass.

    Args:
        found: of the rows to judge.
        real: of real rows that neither model nor classifier was fitted to.
        level: fraction of the real rows that passes each of the scores.

    Raises:
        ValueError: if the level is not between 0 and 1.

    Example:
        >>> real = Realism(confidence(torch.eye(3)), Score(torch.tensor([1.0, 2.0, 3.0])))
        >>> blur = Realism(confidence(torch.zeros(2, 3)), Score(torch.tensor([0.5, 0.5])))
        >>> passing(blur, real).mean
        0.0
    """
    if not 0 < level < 1:
        raise ValueError(f"passing: level is {level}, expected a number between 0 and 1")
    least = real.confidence.values.double().quantile(1 - level)
    most = real.distance.values.double().quantile(level)
    sure, near = found.confidence.values >= least, found.distance.values <= most
    return Score((sure & near).double())


def confidence(logits: Array) -> Score:
    """Return the probability of the most probable class of each row.

    Args:
        logits: with shape (N, K), up to a constant of each row.

    Example:
        >>> round(confidence(torch.tensor([[0.6, 0.3, 0.1]]).log()).mean, 4)
        0.6
    """
    return Score(torch.as_tensor(logits).detach().cpu().double().softmax(-1).amax(-1))


def nearest(x: Array, train: Array) -> Score:
    """Return the Euclidean distance of each row to the nearest training row.

    Args:
        x: rows with shape (N, *event).
        train: training rows with shape (M, *event).

    Raises:
        ValueError: if rows of both have different shapes, or there is no training row.

    Example:
        >>> nearest(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [6.0, 8.0]])).mean
        5.0
    """
    rows, known = (torch.as_tensor(part).detach().cpu() for part in (x, train))
    if rows.shape[1:] != known.shape[1:] or not len(known):
        raise ValueError(
            f"nearest: rows have shape {tuple(rows.shape[1:])}, the {len(known)} training rows "
            f"{tuple(known.shape[1:])}; give at least one training row of the same shape"
        )
    flat = known.flatten(1).float()
    parts = rows.flatten(1).float().split(_AT_ONCE)
    apart = [part - flat[torch.cdist(part, flat).argmin(1)] for part in parts]  # exact, also at 0
    return Score(torch.cat(apart).double().norm(dim=1))


def temperature(logits: Array, labels: Array) -> float:
    """Return the T that makes softmax(logits / T) most probable for the labels, from 0.01 to 100.

    Args:
        logits: of rows that the classifier was not trained on, with shape (N, K).
        labels: their classes, whole numbers below K, with shape (N,).

    Raises:
        ValueError: if there is not one label below K for each row.
    """
    from scipy.optimize import minimize_scalar

    values, classes = _checked("temperature", logits, labels)

    def loss(log_t: float) -> float:
        return nn.functional.cross_entropy(values / torch.tensor(log_t).exp(), classes).item()

    most = torch.tensor(_LARGEST).log().item()
    found = minimize_scalar(loss, bounds=(-most, most), method="bounded", options={"xatol": 1e-6})
    return float(torch.tensor(found.x, dtype=torch.double).exp())


def calibration_error(logits: Array, labels: Array, bins: int = 10) -> float:
    """Return the mean difference between confidence and accuracy, over bins of the confidence.

    sum_b n_b / N |accuracy of bin b - mean confidence of bin b|  (Guo et al. 2017, equation 3)

    Args:
        logits: with shape (N, K).
        labels: classes, with shape (N,).
        bins: number of bins of equal width.

    Raises:
        ValueError: if there is not one label below K for each row.
    """
    values, classes = _checked("calibration_error", logits, labels)
    sure = confidence(values).values
    right = (values.argmax(-1) == classes).double()
    number = (sure * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.double).index_add(0, number, right - sure)
    return (gaps.abs().sum() / len(sure)).item()


def _checked(name: str, logits: Array, labels: Array) -> tuple[Tensor, Tensor]:
    """Return logits in double precision and labels, if there is one for each row."""
    values, classes = torch.as_tensor(logits).detach().cpu().double(), torch.as_tensor(labels).cpu()
    fit = values.ndim == 2 and classes.shape == values.shape[:1] and len(classes)
    if not fit or not 0 <= int(classes.min()) <= int(classes.max()) < values.shape[1]:
        raise ValueError(
            f"{name}: logits of shape {tuple(values.shape)} and labels of shape "
            f"{tuple(classes.shape)}; expected (N, K) and N whole numbers from 0 to K - 1"
        )
    return values, classes.long()
