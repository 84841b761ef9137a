"""Figures that only images and arrays have: simpler densities on the same rows, and their table."""

from collections.abc import Sequence
from math import log
from typing import Any

import torch

from pyrovae.command import figures as common
from pyrovae.command.images import baselines
from pyrovae.command.images.preparation import REAL_LIKELIHOODS, UNIT_LIKELIHOODS, Preparation
from pyrovae.command.images.settings import ImageSettings
from pyrovae.command.report.page import Row

__all__ = ["compare", "table", "unit"]

Figures = dict[str, Any]

DEQUANTIZED = (
    "densities of x + u, u uniform on the unit cell, averaged over 50 u: a lower bound on their "
    "log mass of the whole number x (Theis et al. 2016), as the VAE's figure is a lower bound too"
)
FEWEST_ROWS = 10  # that a density is fitted to


def unit(preparation: Preparation) -> str:
    """Return the unit of the figures."""
    scale = preparation.scale
    if not preparation.is_scaled:
        return "nats per observation"
    volume = sum(map(log, scale)) * (torch.Size(preparation.shape).numel() / len(scale))
    return (
        "nats per observation of scaled values; for densities in the data's own unit add "
        f"{-volume:.2f}"
    )


def compare(
    settings: ImageSettings,
    train: torch.Tensor,
    validation: torch.Tensor | None,
    test: torch.Tensor,
) -> Figures:
    """Return what probabilistic PCA and a Gaussian mixture reach, or why they do not compare.

    Args:
        settings: Of the run.
        train: Prepared rows to fit to, with shape (N, *event).
        validation: Rows to choose the number of components by; None for the training rows.
        test: Rows to evaluate on, those of the model's log p(x).
    """
    likelihood = settings.likelihood
    if likelihood in UNIT_LIKELIHOODS:
        name = likelihood.value
        return {"why_not": f"densities of real vectors do not compare with a {name} likelihood"}
    if len(train) < FEWEST_ROWS:
        return {"why_not": f"there are fewer than {FEWEST_ROWS} training rows"}
    whole = likelihood not in REAL_LIKELIHOODS
    parts = train.numpy(), (train if validation is None else validation).numpy(), test.numpy()
    fits = {
        "probabilistic_pca": baselines.probabilistic_pca(*parts, whole=whole, seed=settings.seed),
        "gaussian_mixture": baselines.gaussian_mixture(*parts, whole=whole, seed=settings.seed),
    }
    found: Figures = {name: {"log_p": fit.log_p, "what": fit.what} for name, fit in fits.items()}
    return found | {"how": DEQUANTIZED if whole else "densities of the same standardized values"}


def table(figures: Figures) -> list[Row]:
    """Return figures as rows of a table, best read top to bottom."""
    return [
        common.elbo_row(figures, "test rows"),
        *common.evidence_rows(figures, "test rows"),
        *_baseline_rows(figures.get("baselines")),
        *common.latent_rows(figures),
        *common.training_rows(figures),
    ]


def _baseline_rows(baselines: Figures | None) -> Sequence[Row]:
    """Return the rows of simpler densities, or why there are none."""
    if baselines is None:
        return []
    if "why_not" in baselines:
        return [Row("PCA, Gaussian mixture", "left out", baselines["why_not"])]
    names = {"probabilistic_pca": "probabilistic PCA", "gaussian_mixture": "Gaussian mixture"}
    rows = [
        Row(f"  {name}", f"{baselines[key]['log_p']:.2f} nats", baselines[key]["what"])
        for key, name in names.items()
    ]
    return [*rows, Row("  how these compare", "", baselines["how"])]
