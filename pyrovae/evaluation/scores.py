"""Scores of restored or encoded data, one number for each row.

PSNR = 10 log10( R^2 / mean (x - y)^2 )                            R the range of the values
SSIM = (2 m_x m_y + c_1)(2 s_xy + c_2) / ((m_x^2 + m_y^2 + c_1)(s_x^2 + s_y^2 + c_2))
coverage of intervals = the fraction of the true values that lie in them

Wang, Bovik, Sheikh & Simoncelli (2004), "Image quality assessment: from error visibility to
structural similarity".
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrovae.data import Array, rows_at_once

__all__ = ["Score", "circular_correlation", "coverage", "interval", "knn_accuracy", "psnr", "ssim"]

_WINDOW = 7  # side of the window of `ssim`, scikit-image's default


class Score(NamedTuple):
    """A score of N rows.

    Attributes:
        values: of each row, with shape (N,), in double precision.

    Example:
        >>> Score(torch.tensor([20.0, 22.0, 24.0]))
        Score: mean 22, standard error 1.15, of 3 rows
    """

    values: Tensor

    @property
    def mean(self) -> float:
        """Mean over the rows."""
        return self.values.mean().item()

    @property
    def standard_error(self) -> float:
        """Standard error of the mean for rows that are a random sample; NaN for one row."""
        n = len(self.values)
        return self.values.std().item() / math.sqrt(n) if n > 1 else math.nan

    def __repr__(self) -> str:
        error = f"standard error {self.standard_error:.3g}"
        return f"Score: mean {self.mean:.4g}, {error}, of {len(self.values)} rows"


def psnr(y: Array, x: Array, value_range: float = 1.0, where: Array | None = None) -> Score:
    """Return the peak signal-to-noise ratio 10 log10(R^2 / mean (x - y)^2) of each row, in dB.

    Args:
        y: restored rows, with shape (N, *event).
        x: the true rows, of the same shape.
        value_range: R, the largest value that can occur minus the smallest.
        where: True at the values that count, such as the hidden ones, with shape (N, *event) or
            (*event); by default all.

    Returns:
        The score; infinite where a row is restored exactly, NaN where none of its values counts.

    Raises:
        ValueError: if the shapes differ, a value is NaN, or the range is not positive.

    Example:
        >>> psnr(torch.full((1, 4), 0.5), torch.zeros(1, 4), value_range=5.0).mean
        20.0
    """
    restored, true = _pair("psnr", y, x)
    _check_range("psnr", value_range)
    mask = _mask("psnr", where, true)
    error = _mean_where(mask, lambda y, x: (y - x).square(), restored, true)
    return Score(10 * torch.log10(value_range**2 / error))


def ssim(y: Array, x: Array, value_range: float = 1.0) -> Score:
    """Return the structural similarity of each image to the true one, at most 1.

    It is scikit-image's `structural_similarity`: the mean over all windows of 7 x 7 pixels, or of
    the largest odd side that fits, and over channels.

    Args:
        y: restored images, with shape (N, H, W) or (N, C, H, W).
        x: the true images, of the same shape.
        value_range: R, the largest value that can occur minus the smallest.

    Raises:
        ValueError: if the shapes differ, are not those of images of at least 3 x 3 pixels, a value
            is NaN, or the range is not positive.
    """
    from skimage.metrics import structural_similarity

    restored, true = _pair("ssim", y, x)
    _check_range("ssim", value_range)
    if true.ndim not in (3, 4) or min(true.shape[-2:]) < 3:
        raise ValueError(
            f"ssim: the shape is {tuple(true.shape)}, expected images (N, H, W) or (N, C, H, W) of "
            "at least 3 x 3 pixels; reshape rows that are vectors"
        )
    side = min(_WINDOW, *true.shape[-2:])
    options = {
        "win_size": side - 1 + side % 2,
        "data_range": value_range,
        "channel_axis": 0 if true.ndim == 4 else None,
    }
    pairs = zip(restored, true, strict=True)
    values = [
        structural_similarity(a.double().numpy(), b.double().numpy(), **options) for a, b in pairs
    ]
    return Score(torch.tensor(values, dtype=torch.double))


def interval(draws: Array, level: float = 0.9) -> tuple[Tensor, Tensor]:
    """Return the central interval of K draws, (low, high), each with the shape of one draw.

    The quantile p is the draw of rank p (K + 1), interpolated between two ranks. A further draw of
    the same distribution then lies in the interval with probability `level`, if
    (1 - level) (K + 1) / 2 is at least 1; with fewer draws the interval is from the least to the
    greatest, and the probability is (K - 1) / (K + 1). For 0.9 this needs 19 draws.

    Args:
        draws: with shape (K, *), K at least 2.
        level: probability, between 0 and 1.

    Raises:
        ValueError: if there are fewer than two draws, or the level is not between 0 and 1.

    Example:
        >>> interval(torch.arange(19.0), level=0.9)
        (tensor(0.), tensor(18.))
    """
    values = torch.as_tensor(draws)
    if values.ndim < 1 or len(values) < 2:
        raise ValueError(f"interval: {tuple(values.shape)} holds no two draws; give draws (K, *)")
    if not 0 < level < 1:
        raise ValueError(f"interval: level is {level}, expected a number between 0 and 1")
    ordered = values.sort(0).values
    low, high = (_of_rank(ordered, p) for p in ((1 - level) / 2, (1 + level) / 2))
    return low, high


def coverage(x: Array, low: Array, high: Array, where: Array | None = None) -> Score:
    """Return the fraction of the values of each row that lie in their intervals, ends included.

    Values of one row are dependent, so its fraction may be far from the level; the mean over the
    rows is to be compared with it.

    Args:
        x: the true rows, with shape (N, *event).
        low: lower ends of the intervals, of the same shape.
        high: upper ends.
        where: True at the values that count, as for `psnr`.

    Raises:
        ValueError: if the shapes differ, or a value is NaN.

    Example:
        >>> x = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
        >>> coverage(x, torch.zeros(1, 4), torch.full((1, 4), 2.0)).mean
        0.75
    """
    true, least = _pair("coverage", x, low)
    _, greatest = _pair("coverage", x, high)

    def within(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return ((low <= x) & (x <= high)).double()

    return Score(_mean_where(_mask("coverage", where, true), within, true, least, greatest))


def knn_accuracy(
    codes: Array, labels: Array, test_codes: Array, test_labels: Array, neighbours: int = 5
) -> Score:
    """Return for each test row whether most of its nearest codes have its label, 1 or 0.

    Args:
        codes: with shape (N, D).
        labels: of the codes, with shape (N,): numbers or text, as a column of `adata.obs`.
        test_codes: with shape (M, D).
        test_labels: with shape (M,).
        neighbours: number of nearest codes that decide.

    Raises:
        ValueError: if the shapes do not fit, or there are fewer codes than `neighbours`.
    """
    from sklearn.neighbors import KNeighborsClassifier

    if len(codes) < neighbours:
        raise ValueError(f"knn_accuracy: {len(codes)} codes, expected at least {neighbours}")
    classifier = KNeighborsClassifier(neighbours).fit(_numpy(codes), _numpy(labels))
    found = classifier.predict(_numpy(test_codes))
    expected = _numpy(test_labels)
    if found.shape != expected.shape:
        raise ValueError(
            f"knn_accuracy: {len(found)} test codes and labels of shape {expected.shape}; "
            "give one label for each"
        )
    return Score(torch.from_numpy(found == expected).double())


def circular_correlation(found: Array, true: Array) -> float:
    """Return the correlation of two sets of angles, from -1 to 1, after Fisher & Lee 1983.

    rho = sum_ij sin(a_i - a_j) sin(b_i - b_j) / sqrt(sum_ij sin^2(a_i - a_j) sum_ij sin^2(b_i -
    b_j)), their equation 2.1: 1 for angles that differ by a constant, -1 for b = constant - a; near
    0 for angles that are independent. Of latents it is to be taken within the classes, since each
    class of contents has an upright of its own.

    Args:
        found: in radians, with N values in any shape.
        true: with as many values.

    Returns:
        rho, computed in O(N); NaN where all angles of one set are equal up to half turns.

    Raises:
        ValueError: if the shapes differ, or a value is NaN.

    Example:
        >>> a = torch.tensor([0.1, 2.0, -1.0])
        >>> round(circular_correlation(a + 3.0, a), 6)
        1.0
    """
    a, b = (angles.flatten().double() for angles in _pair("circular_correlation", found, true))
    products = (a.cos() * b.cos()).sum() * (a.sin() * b.sin()).sum()
    crossed = (a.cos() * b.sin()).sum() * (a.sin() * b.cos()).sum()
    spread = [
        len(t) ** 2 - (2 * t).cos().sum().square() - (2 * t).sin().sum().square() for t in (a, b)
    ]
    return float(4 * (products - crossed) / (spread[0] * spread[1]).sqrt())


def _numpy(values: Array) -> np.ndarray:
    if not isinstance(values, Tensor):  # of labels that are text, torch makes no tensor
        return np.asarray(values)
    return values.detach().cpu().numpy()


def _pair(name: str, a: Array, b: Array) -> tuple[Tensor, Tensor]:
    """Return two arrays of rows on the CPU, checked."""
    one, other = (torch.as_tensor(part).detach().cpu() for part in (a, b))
    if one.shape != other.shape or one.ndim < 1:
        shapes = f"{tuple(one.shape)} and {tuple(other.shape)}"
        raise ValueError(f"{name}: the shapes are {shapes}, expected the same, rows first")
    if any(part.isnan().any() for both in _blocks(one, other) for part in both):
        raise ValueError(f"{name}: a value is NaN; restore or remove it first")
    return one, other


def _blocks(*parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield so many rows of each part that copies of them in double precision are small."""
    size = rows_at_once(parts[0].shape[1:])
    return zip(*(part.split(size) for part in parts), strict=True)


def _check_range(name: str, value_range: float) -> None:
    if not value_range > 0:
        raise ValueError(f"{name}: value_range is {value_range}, expected a positive number")


def _mask(name: str, where: Array | None, like: Tensor) -> Tensor:
    """Return which values count, with shape (N, *event)."""
    if where is None:
        return torch.ones((), dtype=torch.bool).expand_as(like)
    mask = torch.as_tensor(where).cpu()
    if mask.dtype != torch.bool or mask.shape not in (like.shape, like.shape[1:]):
        raise ValueError(
            f"{name}: where has shape {tuple(mask.shape)} and type {mask.dtype}, expected booleans "
            f"of shape {tuple(like.shape)} or {tuple(like.shape[1:])}"
        )
    return mask.expand_as(like)


def _mean_where(mask: Tensor, f: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """Return the mean of those values of f(*rows) of each row that count, with shape (N,).

    In double precision, a block of rows at a time.
    """
    means = []
    for counted, *parts in _blocks(mask, *rows):
        values = f(*(part.double() for part in parts)).unsqueeze(-1).flatten(1)
        counted = counted.unsqueeze(-1).flatten(1)
        means.append(torch.where(counted, values, 0.0).sum(1) / counted.sum(1))
    return torch.cat(means)


def _of_rank(ordered: Tensor, p: float) -> Tensor:
    """Return the quantile p of sorted draws, at rank p (K + 1)."""
    last = len(ordered) - 1
    at = min(max(round(p * (len(ordered) + 1) - 1, 9), 0.0), float(last))  # 0.95 * 20 is below 19
    below = math.floor(at)
    ends = ordered[below].double(), ordered[min(below + 1, last)].double()
    return torch.lerp(*ends, at - below).to(ordered.dtype)
