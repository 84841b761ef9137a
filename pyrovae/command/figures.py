"""The figures of a fitted model on held-out data that every kind of data has, and their table.

ELBO = E_q[log p(x | z)] - KL(q(z | x) || p(z))  <=  log p(x)        in nats, at beta = 1
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from pyrovae import evaluation
from pyrovae.command.report.page import Row
from pyrovae.command.settings import Settings
from pyrovae.files import History

__all__ = [
    "ELBO_ROWS",
    "collapse",
    "elbo_row",
    "evidence_rows",
    "latent_rows",
    "measure",
    "plus_minus",
    "training_figures",
    "training_rows",
]

Batch = tuple[Tensor, ...]  # (x, *c)
Figures = dict[str, Any]

ELBO_ROWS = 10_000
LATENT_ROWS = 2_000
WARM_UP = 0.25  # of training, advised against a collapse
FEW_SAMPLES = 10  # with fewer effective samples their own estimate of the error is unreliable


def measure(
    graph: nn.Module,
    rows: Callable[[int], Batch],
    *,
    samples: int,
    evidence_rows: int,
    autoencoder: bool = False,
    keep_values: bool = False,
) -> Figures:
    """Return the ELBO with its terms, log p(x), and how much of x the latents hold.

    Args:
        graph: A fitted model.
        rows: Returns at most n evaluation rows (x, *c), evenly spread.
        samples: Importance samples for log p(x); 0 leaves it out.
        evidence_rows: Number of rows on which log p(x) is estimated.
        autoencoder: Whether prior or posterior has no density: then the ELBO is all there is.
        keep_values: Whether log p(x) of each row is kept too, as "values".

    Raises:
        ValueError: The ELBO of a row is not finite; the message names the row.
    """
    batch = rows(ELBO_ROWS)
    terms = _elbo(graph, batch)
    _refuse_infinite(terms.elbo, batch)
    means = {name: value.mean().item() for name, value in terms._asdict().items()}
    figures: Figures = {"unit": "nats per observation", "test": {"rows": len(terms.elbo), **means}}
    if autoencoder:
        return figures
    if samples:
        figures["log_p"] = _evidence(graph, rows(evidence_rows), samples, keep_values)
    return {**figures, "latents": _latents(graph, rows(LATENT_ROWS))}


def _elbo(graph: nn.Module, batch: Batch) -> Any:
    """Return the ELBO of each row; where the programs break down, name the most extreme row."""
    try:
        return evaluation.elbo(graph, *batch)
    except ValueError as error:
        if "Expected parameter" not in str(error):  # torch's words for NaN in a distribution
            raise
        sizes = batch[0].flatten(1).abs().amax(1)
        row = int(sizes.argmax())
        raise ValueError(
            f"the ELBO is not finite: evaluation row {row} holds the largest value, "
            f"{sizes[row].item():g} as the model sees it. Remove such rows if they are errors, or "
            "fit a model to data with such rows"
        ) from error


def _refuse_infinite(elbo: Tensor, batch: Batch) -> None:
    """Refuse rows to which the model gives no finite density: their mean would say nothing."""
    bad = (~elbo.isfinite()).nonzero().flatten().tolist()
    if bad:
        largest = batch[0][bad[0]].abs().max().item()
        raise ValueError(
            f"the ELBO is not finite: that of evaluation row {bad[0]} is {elbo[bad[0]].item()}, "
            f"and {len(bad)} of {len(elbo)} rows have none; the largest value of that row is "
            f"{largest:g} as the model sees it. Remove such rows if they are errors, or fit a "
            "model to data with such rows"
        )


def _evidence(graph: nn.Module, batch: Batch, samples: int, keep_values: bool) -> Figures:
    """Return the mean of log p(x), and its errors over rows and by importance sampling."""
    with warnings.catch_warnings():  # the report says it in words, by the sample size
        warnings.simplefilter("ignore", evaluation.EvidenceWarning)
        evidence = evaluation.log_evidence(graph, *batch, samples=samples)
    values = {"values": evidence.log_p.tolist()} if keep_values else {}
    return values | {
        "rows": len(evidence.log_p),
        "samples": samples,
        "mean": evidence.mean,
        "standard_error": evidence.mean_standard_error,
        "importance_sampling_error": evidence.mean_monte_carlo_error,
        "effective_sample_size": evidence.effective_sample_size.median().item(),
    }


def _latents(graph: nn.Module, batch: Batch) -> Figures:
    """Return active units, mutual information and the KL of each unit."""
    summary = evaluation.latent_summary(graph, *batch)
    kl = summary.kl_per_dimension
    return {
        "units": len(summary.active),
        "rows": len(batch[0]),
        "active": int(summary.active.sum()),
        "mutual_information": summary.mutual_information,
        "kl_per_unit": None if kl is None else kl.tolist(),
        "warning": summary.warning,
    }


def training_figures(history: History, bound_name: str | None = None) -> Figures:
    """Return how the fit went; the bound has the name that the history gives it, or another."""
    last = (history.best_epoch or len(history.elbo)) - 1
    return {
        "epochs": len(history.elbo),
        "best_epoch": history.best_epoch,
        "stopped": history.stopped,
        "seconds": sum(history.seconds),
        "elbo": history.elbo[last] if history.elbo else None,
        "validation_elbo": history.validation_elbo[last] if history.validation_elbo else None,
        "warning": _still_rising(history, bound_name or history.bound_name),
    }


def _still_rising(history: History, bound_name: str) -> str | None:
    """Say that the validation bound rose until the last epoch, if it did.

    Then the last epoch is the best, and the mean slope over the last tenth of the epochs is
    positive.
    """
    values = history.validation_elbo
    if history.stopped != "all epochs ran" or len(values) < 2 or history.best_epoch != len(values):
        return None
    epochs = max(1, len(values) // 10)
    slope = (values[-1] - values[-1 - epochs]) / epochs
    if not slope > 0:
        return None
    over = "the last epoch" if epochs == 1 else f"the last {epochs} epochs"
    return (
        f"The validation {bound_name} was still rising when training ended, by {slope:.3g} "
        f"nats per epoch over {over}: these are figures of an unfinished fit. Give more --epochs."
    )


# --------------------------------------------------------------------------------- as table rows
def elbo_row(figures: Figures, what: str) -> Row:
    """Return the row of the ELBO; `what` names an evaluation row, such as "test cells"."""
    test = figures["test"]
    terms = f"reconstruction {test['reconstruction']:.2f} - KL {test['kl']:.2f}"
    return Row("test ELBO", f"{test['elbo']:.2f} nats", f"{terms}, {test['rows']} {what}")


def evidence_rows(figures: Figures, what: str) -> list[Row]:
    """Return the row of log p(x), if it was estimated."""
    if "log_p" not in figures:
        return []
    log_p = figures["log_p"]
    size = f"effective sample size {log_p['effective_sample_size']:.0f}"
    if log_p["effective_sample_size"] < FEW_SAMPLES:
        size += " (few samples dominate: read it as a lower bound)"
    error = f"± {log_p['importance_sampling_error']:.2f} by sampling"
    how = f"{log_p['rows']} {what}; {log_p['samples']} importance samples, {error}, {size}"
    return [Row("log p(x)", f"{log_p['mean']:.2f}{plus_minus(log_p['standard_error'])} nats", how)]


def plus_minus(error: float | None, digits: int = 2) -> str:
    """Return a standard error in words; nothing if there is none, as of one row."""
    return "" if error is None or math.isnan(error) else f" ± {error:.{digits}f}"


def latent_rows(figures: Figures, settings: Settings) -> list[Row]:
    """Return the rows of the latents, if they were measured."""
    if "latents" not in figures:
        return []
    latents = figures["latents"]
    active = f"{latents['active']} of {latents['units']}"
    bound = f"I(x; z) under q, at most log {latents['rows']} = {np.log(latents['rows']):.2f}"
    collapsed = f"; posterior collapse: {_remedy(settings)}" if latents.get("warning") else ""
    return [
        Row("active units", active, f"variance of the posterior mean above 0.01{collapsed}"),
        Row("mutual information", f"{latents['mutual_information']:.2f} nats", bound),
    ]


def collapse(figures: Figures, settings: Settings) -> str | None:
    """Return the warning that the posterior has collapsed, if it has, with what to try."""
    latents = figures.get("latents", {})
    if not latents.get("warning"):
        return None
    return (
        f"Posterior collapse: {latents['active']} of {latents['units']} units are active, and the "
        f"mutual information of x and z is {latents['mutual_information']:.2f} nats; "
        f"{_remedy(settings)}."
    )


def _remedy(settings: Settings) -> str:
    """Return what to try against a collapse, of the options that such a run takes."""
    if getattr(settings, "pose", ""):  # whose KL has its full weight from the first step on
        return "try more --epochs or fewer --latents"
    if settings.warm_up < WARM_UP:
        return f"try --warm-up {WARM_UP}"
    return "try a longer --warm-up or fewer --latents"


def training_rows(figures: Figures) -> list[Row]:
    """Return the row of the fit, if there was one."""
    if "training" not in figures:
        return []
    fit = figures["training"]
    best = f", weights of epoch {fit['best_epoch']} kept" if fit["best_epoch"] else ""
    length = f"{fit['epochs']} epochs, {fit['seconds']:.1f} s"
    rising = "; validation was still improving" if fit.get("warning") else ""
    return [Row("training", length, f"{fit['stopped']}{best}{rising}")]
