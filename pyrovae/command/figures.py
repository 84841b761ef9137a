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
