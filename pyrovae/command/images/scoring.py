"""The table of scores of restored images, beside those of simple baselines."""

import math
from typing import Any, NamedTuple

from torch import Tensor

from pyrovae.command.report.page import Row
from pyrovae.evaluation import scores

__all__ = ["LEVEL", "Standing", "standings", "table"]

LEVEL = 0.9  # of the intervals whose coverage is measured
_LEAST_SIDE = 3  # of images that have a structural similarity


class Standing(NamedTuple):
    """How close one way of restoring images comes to the clean ones.

    Attributes:
        name: Of the way.
        psnr: Peak signal-to-noise ratio in dB, of the pixels that count.
        ssim: Structural similarity of whole images; None for rows that are no images.
        coverage: Fraction of the pixels that count within the intervals of draws, if there are.
    """

    name: str
    psnr: scores.Score
    ssim: scores.Score | None
    coverage: scores.Score | None = None

    def figures(self) -> dict[str, Any]:
        """Return means and standard errors over the images, for JSON."""
        found: dict[str, Any] = {"name": self.name}
        for score in ("psnr", "ssim", "coverage"):
            value = getattr(self, score)
            if value is not None:
                found[score] = {"mean": value.mean, "standard_error": value.standard_error}
        return found


def standings(
    restored: dict[str, Tensor],
    clean: Tensor,
    where: Tensor | None,
    interval: tuple[Tensor, Tensor] | None = None,
) -> list[Standing]:
    """Score restored images by name, all clipped to [0, 1].

    Args:
        restored: Images with shape (N, *event), the model's first.
        clean: The true ones.
        where: True at the pixels that count; None for all.
        interval: Lower and upper ends of the model's intervals.
    """
    found: list[Standing] = []
    for name, images in restored.items():
        y = images.clamp(0, 1)
        is_image = clean.ndim == 4 and min(clean.shape[-2:]) >= _LEAST_SIDE
        similarity = scores.ssim(y, clean) if is_image else None
        within = scores.coverage(clean, *interval, where) if interval and not found else None
        found.append(Standing(name, scores.psnr(y, clean, where=where), similarity, within))
    return found


def table(found: list[dict[str, Any]]) -> list[Row]:
    """Return standings, as `Standing.figures` has them, as rows of a table."""
    return [Row(each["name"], _decibels(each["psnr"]), _note(each)) for each in found]


def _decibels(score: dict[str, Any]) -> str:
    mean = score["mean"]
    if mean is None or math.isinf(mean):
        return "exact"
    return f"{mean:.2f}{_error(score, 2)} dB"


def _note(figures: dict[str, Any]) -> str:
    parts = []
    if "ssim" in figures:
        parts.append(f"SSIM {figures['ssim']['mean']:.3f}{_error(figures['ssim'], 3)}")
    if "coverage" in figures:
        share = f"{100 * figures['coverage']['mean']:.1f} %"
        parts.append(f"{100 * LEVEL:.0f} % intervals hold {share} of the true values")
    return "; ".join(parts)


def _error(score: dict[str, Any], digits: int) -> str:
    error = score["standard_error"]
    return "" if error is None or math.isnan(error) else f" ± {error:.{digits}f}"
