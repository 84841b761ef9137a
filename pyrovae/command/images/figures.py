"""Figures that only images and arrays have: simpler densities on the same rows, and their table."""

from collections.abc import Sequence
from math import log
from typing import Any

import numpy as np
import torch

from pyrovae.command import figures as common
from pyrovae.command.choices import Likelihood
from pyrovae.command.images import baselines, floors
from pyrovae.command.images.preparation import REAL_LIKELIHOODS, Preparation
from pyrovae.command.images.settings import ImageSettings
from pyrovae.command.images.verdict import judge
from pyrovae.command.report.page import Row

__all__ = ["compare", "table", "unit"]

Figures = dict[str, Any]

DEQUANTIZED = (
    "densities of x + u, u uniform on the unit cell, averaged over 50 u: a lower bound on their "
    "log mass of the whole number x (Theis et al. 2016), as the VAE's figure is a lower bound too"
)
DENSITIES = "densities of the same values, as the model sees them"
FEWEST_ROWS = 2  # that a density is fitted to
GREY_FLOOR = 1 / 255 / 12**0.5  # spread of a value uniform on one of the 256 levels in [0, 1]


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
    log_p: np.ndarray,
) -> Figures:
    """Return what probabilistic PCA and a Gaussian mixture reach, and a verdict.

    Args:
        settings: Of the run.
        train: Prepared rows to fit to, with shape (N, *event); binarized if the model's are.
        validation: Rows to choose the number of components by; None for the training rows.
        test: Rows to evaluate on, those of the model's log p(x).
        log_p: The model's log p(x) of those rows, with shape (T,).
    """
    if len(train) < FEWEST_ROWS:
        return {"why_not": f"there are fewer than {FEWEST_ROWS} training rows"}
    whole = settings.likelihood not in (*REAL_LIKELIHOODS, Likelihood.CONTINUOUS_BERNOULLI)
    chosen_by = train if validation is None else validation
    parts = tuple(rows.flatten(1).numpy() for rows in (train, chosen_by, test))
    constant, floor = np.zeros(parts[0].shape[1], bool), 0.0 if whole else GREY_FLOOR
    if settings.likelihood in REAL_LIKELIHOODS:
        constant, floor = _constant_and_floor(parts[0])
    fits = _fits(settings, tuple(part[:, ~constant] for part in parts), whole, floor)
    rest = _log_unit_normal(parts[2], parts[0], constant)
    found: Figures = {
        name: {"log_p": float((fit.values + rest).mean()), "what": fit.what}
        for name, fit in fits.items()
    }
    differences = log_p - fits["probabilistic_pca_same"].values - rest
    verdict = judge(settings, differences, len(train), tuple(train.shape[1:]))
    return found | {"verdict": verdict, "how": DEQUANTIZED if whole else DENSITIES}


def _fits(
    settings: ImageSettings, parts: tuple[np.ndarray, ...], whole: bool, floor: float
) -> dict[str, baselines.Baseline]:
    """Return the simpler densities by name, fitted to columns that vary."""
    train, validation, test = parts
    if not train.shape[1]:
        nothing = baselines.Baseline(np.zeros(len(test)), "no column varies")
        return {"probabilistic_pca_same": nothing}
    rows, seed, k = (train, validation, test, whole), settings.seed, settings.latents
    pca, mixture = baselines.probabilistic_pca, baselines.gaussian_mixture
    return {
        "probabilistic_pca_same": pca(*rows, seed=seed, components=k, floor=floor),
        "probabilistic_pca": pca(*rows, seed=seed, floor=floor),
        "gaussian_mixture": mixture(*rows, seed=seed),
    }


def _constant_and_floor(train: np.ndarray) -> tuple[np.ndarray, float]:
    """Return which columns are constant, and the floor of PCA's noise: that of the others.

    The noise is one for all columns, so that its floor is the root of their mean square.
    """
    least = floors.of_columns(train)
    constant = train.min(0) == train.max(0)
    return constant, 0.0 if constant.all() else float(np.sqrt(np.square(least[~constant]).mean()))


def _log_unit_normal(test: np.ndarray, train: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """Return the log density that a constant column has under the model: a normal of scale one."""
    off = test[:, constant] - train[0, constant]
    return (-0.5 * np.square(off) - 0.5 * np.log(2 * np.pi)).sum(1)


def table(figures: Figures, settings: ImageSettings) -> list[Row]:
    """Return figures as rows of a table, best read top to bottom."""
    return [
        common.elbo_row(figures, "test rows"),
        *common.evidence_rows(figures, "test rows"),
        *_baseline_rows(figures.get("baselines"), figures.get("training", {})),
        *common.latent_rows(figures, settings),
        *common.training_rows(figures),
    ]


def _baseline_rows(baselines: Figures | None, training: Figures) -> Sequence[Row]:
    """Return the rows of simpler densities, or why there are none."""
    if baselines is None:
        return []
    if "why_not" in baselines:
        return [Row("PCA, Gaussian mixture", "left out", baselines["why_not"])]
    names = {
        "probabilistic_pca_same": "probabilistic PCA",
        "probabilistic_pca": "  its best size",
        "gaussian_mixture": "Gaussian mixture",
    }
    rows = [
        Row(f"  {name}", f"{baselines[key]['log_p']:.2f} nats", baselines[key]["what"])
        for key, name in names.items()
        if key in baselines
    ]
    verdict = _verdict_row(baselines["verdict"], training)
    return [*rows, verdict, Row("  how these compare", "", baselines["how"])]


def _verdict_row(found: Figures, training: Figures) -> Row:
    """Return the row of the verdict."""
    words = {
        "better": "better than probabilistic PCA with as many components",
        "matches": "no clear difference from probabilistic PCA with as many components",
        "worse": "worse than probabilistic PCA with as many components.",
    }
    spread = common.plus_minus(found["standard_error"])
    note = f"{words[found['verdict']]} {found['what_to_try']}".strip()
    best, epochs = training.get("best_epoch"), training.get("epochs", 0)
    if found["verdict"] == "worse" and best and best > 0.9 * epochs:
        note += " The validation ELBO still rose when training ended: give more --epochs."
    return Row("  model - PCA", f"{found['difference']:+.2f}{spread} nats", note)
