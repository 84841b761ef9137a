"""The table of scores of restored images, beside those of simple baselines."""

from typing import Any, NamedTuple

from torch import Tensor

from pyrovae.command.figures import plus_minus
from pyrovae.command.report.page import Row
from pyrovae.evaluation import scores

__all__ = ["Intervals", "Standing", "intervals", "standings", "table"]

LEVEL = 0.9  # of the intervals whose coverage is measured
_LEAST_SIDE = 3  # of images that have a structural similarity


class Intervals(NamedTuple):
    """Intervals in which the true values should lie.

    Attributes:
        level: The probability with which a further draw lies in them.
        low: Their lower ends, with shape (N, *event).
        high: Their upper ends.
    """

    level: float
    low: Tensor
    high: Tensor


def intervals(draws: Tensor) -> Intervals:
    """Return intervals of 90 %, or of as much as so few draws can hold: (K - 1) / (K + 1)."""
    level = min(LEVEL, (len(draws) - 1) / (len(draws) + 1))
    return Intervals(level, *scores.interval(draws, level))


class Standing(NamedTuple):
    """How close one way of restoring images comes to the clean ones.

    Attributes:
        name: Of the way.
        psnr: Peak signal-to-noise ratio in dB, of the pixels that count.
        ssim: Structural similarity of whole images; None for rows that are no images.
        coverage: Fraction of the pixels that count within the intervals of draws, if there are.
        log_p: log p of the pixels that count given the others, in nats a pixel, if there is one.
        level: Of the intervals.
    """

    name: str
    psnr: scores.Score
    ssim: scores.Score | None
    coverage: scores.Score | None = None
    log_p: scores.Score | None = None
    level: float = LEVEL

    def figures(self) -> dict[str, Any]:
        """Return means and standard errors over the images, for JSON.

        Images of which no pixel counts have no score, and an infinite one cannot be averaged: the
        means are over the others, `rows` of them, and `exact` more were restored without an error.
        """
        found: dict[str, Any] = {"name": self.name}
        for score in ("psnr", "ssim", "coverage", "log_p"):
            value = getattr(self, score)
            if value is not None:
                found[score] = _summary(value)
        if self.coverage is not None:
            found["coverage"]["level"] = self.level
        return found


def standings(
    restored: dict[str, Tensor],
    clean: Tensor,
    where: Tensor | None,
    interval: Intervals | None = None,
    log_p: scores.Score | None = None,
) -> list[Standing]:
    """Score restored images by name, all clipped to [0, 1].

    Args:
        restored: Images with shape (N, *event), the model's first.
        clean: The true ones.
        where: True at the pixels that count; None for all.
        interval: The model's intervals.
        log_p: The model's log p of the pixels that count given the others.
    """
    found: list[Standing] = []
    is_image = clean.ndim == 4 and min(clean.shape[-2:]) >= _LEAST_SIDE
    for name, images in restored.items():
        y = images.clamp(0, 1)
        similarity = scores.ssim(y, clean) if is_image else None
        found.append(Standing(name, scores.psnr(y, clean, where=where), similarity))
    if interval is not None:
        level, low, high = interval
        within = scores.coverage(clean, low, high, where)
        found[0] = found[0]._replace(coverage=within, level=level)
    return [found[0]._replace(log_p=log_p), *found[1:]]


def table(found: list[dict[str, Any]]) -> list[Row]:
    """Return standings, as `Standing.figures` has them, as rows of a table."""
    return [Row(each["name"], _decibels(each["psnr"]), _note(each)) for each in found]


def _summary(score: scores.Score) -> dict[str, Any]:
    finite = scores.Score(score.values[score.values.isfinite()])
    rows, exact = len(finite.values), int(score.values.isposinf().sum())
    mean = finite.mean if rows else None
    return {"mean": mean, "standard_error": finite.standard_error, "rows": rows, "exact": exact}


def _decibels(score: dict[str, Any]) -> str:
    if score["mean"] is None:
        return "exact" if score["exact"] else "no pixel to score"
    return f"{score['mean']:.2f}{plus_minus(score['standard_error'])} dB"


def _note(figures: dict[str, Any]) -> str:
    parts = []
    psnr = figures["psnr"]
    if psnr["mean"] is not None and psnr["exact"]:
        parts.append(f"{psnr['exact']} images exact, the others counted")
    if "ssim" in figures:
        ssim = figures["ssim"]
        parts.append(f"SSIM {ssim['mean']:.3f}{plus_minus(ssim['standard_error'], 3)}")
    coverage, log_p = figures.get("coverage"), figures.get("log_p")
    if coverage and coverage["mean"] is not None:
        share = f"{100 * coverage['mean']:.1f} %"
        parts.append(f"{100 * coverage['level']:.0f} % intervals hold {share} of the true values")
    if log_p and log_p["mean"] is not None:
        value = f"{log_p['mean']:.3f}{plus_minus(log_p['standard_error'], 3)}"
        parts.append(f"log p of the hidden values given the others {value} nats a value")
    return "; ".join(parts)
