"""The figures of a fitted model of cells on held-out cells, and their table.

ELBO = E_q[log p(x | z, l)] - KL(q(z) || p(z)) - KL(q(l) || p(l))  <=  log p(x)     in nats per cell
"""

from typing import Any

import numpy as np

from pyrovae import evaluation
from pyrovae.command import figures as common
from pyrovae.command.cells import clusters, mixing
from pyrovae.command.cells.evaluated import EvaluatedCells
from pyrovae.command.cells.settings import CellSettings
from pyrovae.command.report.cell_plots import UNLABELLED
from pyrovae.command.report.page import Row

__all__ = ["measure", "table"]

Figures = dict[str, Any]

GROUPED_CELLS = 20_000


def measure(cells: EvaluatedCells, samples: int, evidence_rows: int) -> Figures:
    """Return the figures of a model, or why there are none.

    Args:
        cells: The model and the cells.
        samples: Importance samples for log p(x); 0 leaves it out.
        evidence_rows: Number of cells on which log p(x) is estimated.
    """
    if not cells.encodable:
        why_not = "the model's z are not finite: its weights are useless"
        return {"unit": "nats per cell", "why_not": why_not}
    figures = common.measure(
        cells.model.graph, cells.batch, samples=samples, evidence_rows=evidence_rows
    )
    figures["unit"] = "nats per cell"
    if cells.library_is_latent:
        batch = cells.batch(common.ELBO_ROWS)
        kl_l = evaluation.kl_per_dimension(cells.model.graph, *batch, site="l").item()
        figures["test"] |= {"kl_l": kl_l, "kl_z": figures["test"]["kl"] - kl_l}
    figures["library"] = _library(cells)
    figures["predictive"] = _predictive(cells)
    if cells.simulated:
        figures["truth"] = _truth(cells)
    return figures | _groups(cells)


def _library(cells: EvaluatedCells) -> Figures:
    """Return how the library sizes compare with the observed totals."""
    if not cells.library_is_latent:
        return {"observed": True}
    totals, sizes = cells.libraries
    seen = totals > 0
    log_total, log_size = np.log(totals[seen]), np.log(sizes[seen])
    n = len(log_total)
    return {
        "observed": False,
        "correlation": float(np.corrcoef(log_total, log_size)[0, 1]) if n > 1 else None,
        "median_ratio": float(np.median(np.exp(log_size - log_total))) if n else None,
    }


def _predictive(cells: EvaluatedCells) -> Figures:
    """Return zeros and variances of draws of the posterior predictive beside the data's."""
    data, drawn = cells.moments
    seen = (data.variance > 0) & (drawn.variance > 0)
    ratio = drawn.variance[seen] / data.variance[seen]
    return {
        "cells": len(data.cell_zeros),
        "zeros_data": float(data.cell_zeros.mean()),
        "zeros_drawn": float(drawn.cell_zeros.mean()),
        "zeros_error_a_gene": float(np.abs(data.gene_zeros - drawn.gene_zeros).mean()),
        "variance_ratio": float(np.median(ratio)) if seen.any() else None,
    }


def _truth(cells: EvaluatedCells) -> Figures:
    """Return how far simulated cells are from the truth; of proportions, in total variation."""
    truth, counts = cells.adata.layers["rho"][cells.rows], cells.counts(cells.rows)
    library = cells.adata.obs["library"].to_numpy()[cells.rows]
    rho = cells.model.get_normalized_expression(indices=cells.rows, return_numpy=True)
    observed = np.asarray(counts.toarray() / np.maximum(counts.sum(1), 1))
    log_sizes = np.log(cells.libraries.sizes)
    return {
        "library_correlation": float(np.corrcoef(log_sizes, np.log(library))[0, 1]),
        "expression_error": float(np.abs(rho - truth).sum(1).mean() / 2),
        "expression_error_of_counts": float(np.abs(observed - truth).sum(1).mean() / 2),
    }


def _groups(cells: EvaluatedCells) -> Figures:
    """Return how far labels are apart and how well batches mix, in z and by PCA."""
    rows = cells.some(cells.mapped, GROUPED_CELLS)
    labels, batches = cells.labels(rows), cells.batches(rows)
    if labels is None and batches is None:
        return {"clusters": {"why_not": cells.why_unlabelled}, "mixing": None}
    spaces = {"latents": cells.embed(rows)}
    components = clusters.components(cells.counts(rows), spaces["latents"].shape[1], cells.seed)
    if components is not None:
        spaces["pca"] = components
    mixed = None
    if batches is not None:
        mixed = mixing.scores(spaces, batches.names, _known(labels), cells.seed)
    return {"clusters": _clusters(cells, spaces, labels), "mixing": mixed}


def _known(labels: np.ndarray | None) -> np.ndarray | None:
    """Return labels with None for cells that have none."""
    if labels is None:
        return None
    known = labels.astype(object)
    known[labels == UNLABELLED] = None
    return known


def _clusters(
    cells: EvaluatedCells, spaces: dict[str, np.ndarray], labels: np.ndarray | None
) -> Figures:
    """Return clustering scores of the labelled cells, or why there are none."""
    if labels is None:
        return {"why_not": cells.why_unlabelled}
    kept = labels != UNLABELLED if (labels != UNLABELLED).any() else np.full(len(labels), True)
    return clusters.scores({name: x[kept] for name, x in spaces.items()}, labels[kept], cells.seed)


# --------------------------------------------------------------------------------- as table rows
def table(figures: Figures, settings: CellSettings) -> list[Row]:
    """Return figures as rows of a table, best read top to bottom."""
    if "why_not" in figures:
        rows = [Row("figures", "left out", figures["why_not"])]
        return [*rows, *common.training_rows(figures)]
    return [
        common.elbo_row(figures, "test cells"),
        *_kl_rows(figures["test"]),
        *common.evidence_rows(figures, "test cells"),
        *common.latent_rows(figures, settings),
        *_library_rows(figures["library"]),
        *_predictive_rows(figures["predictive"]),
        *_truth_rows(figures.get("truth")),
        *clusters.rows(figures["clusters"]),
        *mixing.rows(figures["mixing"]),
        *common.training_rows(figures),
    ]


def _kl_rows(test: Figures) -> list[Row]:
    if "kl_l" not in test:
        return []
    return [Row("KL of z, of l", f"{test['kl_z']:.2f}, {test['kl_l']:.2f} nats", "they sum to KL")]


def _library_rows(library: Figures) -> list[Row]:
    if library["observed"]:
        return [Row("library size", "observed", "the total count of a cell")]
    if library["correlation"] is None:
        return []
    note = f"log inferred with log observed; the median ratio is {library['median_ratio']:.2f}"
    return [Row("library size", f"correlation {library['correlation']:.3f}", note)]


def _predictive_rows(found: Figures) -> list[Row]:
    error = f"mean error per gene {found['zeros_error_a_gene']:.4f}"
    note = f"data {found['zeros_data']:.2%}, over {found['cells']} cells; {error}"
    rows = [Row("zeros, drawn", f"{found['zeros_drawn']:.2%}", note)]
    if found["variance_ratio"] is not None:
        ratio = f"{found['variance_ratio']:.2f}"
        rows.append(Row("variance, drawn / data", ratio, "median over genes"))
    return rows


def _truth_rows(truth: Figures | None) -> list[Row]:
    if truth is None:
        return []
    observed = f"counts over totals have {truth['expression_error_of_counts']:.3f}"
    note = f"total variation to the true proportions; {observed}"
    correlation = f"correlation {truth['library_correlation']:.3f}"
    return [
        Row("  expression, to truth", f"{truth['expression_error']:.3f}", note),
        Row("  library, with truth", correlation, "log inferred with log true size"),
    ]
