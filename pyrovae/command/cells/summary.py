"""What there is to say of a fitted model of cells: its figures, as numbers and as rows, and its pictures.

ELBO = E_q[log p(x | z, l)] - KL(q(z) || p(z)) - KL(q(l) || p(l))  <=  log p(x)        in nats a cell, at beta = 1
"""

import warnings
from typing import Any, NamedTuple

import numpy as np

from pyrovae import evaluation
from pyrovae.command import summary
from pyrovae.command.cells import clusters
from pyrovae.command.options import Settled
from pyrovae.command.report import cell_plots
from pyrovae.command.report.cell_plots import UNLABELLED, Groups
from pyrovae.command.report.page import Picture, Row
from pyrovae.data import SparseRows
from pyrovae.singlecell import SingleCellVAE

__all__ = ["Cells", "about", "measure", "pictures", "rows"]

ELBO_CELLS, DRAWN_CELLS, MAPPED_CELLS, CLUSTERED_CELLS = 10_000, 2_000, 5_000, 20_000


class Cells(NamedTuple):
    """A model, the cells that it is asked about, and which of them.

    Attributes:
        model: a fitted model, with those cells as its own.
        settings: of the run.
        judged: rows that figures of fit are taken on: held out, where there are such.
        mapped: rows that are drawn and clustered.
        simulated: whether the truth of the cells is known.
    """

    model: SingleCellVAE
    settings: Settled
    judged: np.ndarray
    mapped: np.ndarray
    simulated: bool

    def some(self, rows: np.ndarray, most: int) -> np.ndarray:
        """Return so many of the rows, evenly spread."""
        return rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(int))]

    def groups(self, rows: np.ndarray) -> list[Groups]:
        """Return batches and labels of the cells, those that there are."""
        setup, obs = self.model.cells.encoding.setup, self.model.cells.own().obs
        keys = [
            key for key in (setup.batch_key, setup.labels_key) if key is not None and key in obs
        ]
        named = {key: _named(obs[key]) for key in keys}
        return [
            Groups(key, names.iloc[rows].to_numpy(), tuple(_sizes(names)))
            for key, names in named.items()
        ]

    def labels(self, rows: np.ndarray) -> np.ndarray | None:
        """Return the labels of the cells, None where they have none."""
        key = self.model.cells.encoding.setup.labels_key
        return next((group.names for group in self.groups(rows) if group.title == key), None)

    def batches(self, rows: np.ndarray) -> Groups | None:
        """Return the batches of the cells, None where all are of one."""
        key = self.model.cells.encoding.setup.batch_key
        return next((group for group in self.groups(rows) if group.title == key), None)

    def counts(self, rows: np.ndarray) -> Any:
        """Return the counts of the cells as a SciPy matrix of compressed rows, genes in the model's order."""
        from scipy.sparse import csr_matrix

        (x, *_) = self.model.cells.query(None, rows)
        if not isinstance(x, SparseRows):
            return csr_matrix(x.numpy())
        return csr_matrix(
            (x.values.numpy(), x.indices.numpy(), x.indptr.numpy()), shape=tuple(x.shape)
        )


def about(model: SingleCellVAE) -> dict[str, Any]:
    """Return what the data are: cells, genes, zeros, the sizes of batches and of labels."""
    x, adata, setup = model.cells.data[0], model.cells.own(), model.cells.encoding.setup
    filled = len(x.values[x.values != 0]) if isinstance(x, SparseRows) else int((x != 0).sum())
    totals = x.sum(1)
    keys = {"batches": setup.batch_key, "labels": setup.labels_key}
    return {
        "cells": adata.n_obs,
        "genes": len(model.cells.encoding.genes),
        "zeros": 1 - filled / x.numel(),
        "median_total": totals.median().item(),
        "cells_without_counts": int((totals == 0).sum()),
        "genes_without_counts": int((x.sum(0) == 0).sum()),
        **{
            name: _named(adata.obs[key]).value_counts().to_dict()
            for name, key in keys.items()
            if key is not None
        },
    }


def _named(column: Any) -> Any:
    """Return a column of obs as words; what is missing is unlabelled."""
    return column.astype(object).where(column.notna(), UNLABELLED).astype(str)


def _sizes(names: Any) -> list[str]:
    """Return the groups there are, the largest first."""
    return [name for name in names.value_counts().index if name != UNLABELLED]


# -------------------------------------------------------------------------------------------------------------- figures
def measure(asked: Cells) -> dict[str, Any]:
    """Return the figures of a model: fit on the judged cells, clusters of the mapped ones; why not, where z is not finite."""
    model, data = asked.model, asked.model.cells.query(None, asked.judged)
    if not _finite(asked):
        return {
            "unit": "nats per cell",
            "why_not": "the model's z are not finite: its weights are useless",
        }
    figures = summary.measure(model.graph, asked.settings, data)
    figures["unit"] = "nats per cell"
    if model.graph.library_prior is not None:
        kl_l = evaluation.kl_per_dimension(
            model.graph, *model.cells.query(None, asked.some(asked.judged, ELBO_CELLS)), site="l"
        )
        figures["test"] |= {"kl_l": kl_l.item(), "kl_z": figures["test"]["kl"] - kl_l.item()}
    figures["library"] = _library(asked)
    figures["predictive"] = _predictive(asked)
    if asked.simulated:
        figures["truth"] = _truth(asked)
    chosen = asked.some(asked.mapped, CLUSTERED_CELLS)
    labels = asked.labels(chosen)
    if labels is not None and (labels != UNLABELLED).any():
        chosen, labels = chosen[labels != UNLABELLED], labels[labels != UNLABELLED]
    batches = asked.batches(chosen)
    z = model.get_latent_representation(indices=chosen)
    figures["clusters"] = clusters.scores(
        z,
        asked.counts(chosen),
        labels,
        None if batches is None else batches.names,
        asked.settings.seed,
    )
    return figures


def _finite(asked: Cells) -> bool:
    """Whether the weights still encode: those that a diverged fit leaves may not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return bool(
                np.isfinite(asked.model.get_latent_representation(indices=asked.judged)).all()
            )
        except (RuntimeError, ValueError):  # of draws, which stand for a mean that is NaN
            return False


def _library(asked: Cells) -> dict[str, Any]:
    """Return how the library sizes compare with the totals."""
    if asked.model.graph.library_prior is None:
        return {"observed": True}
    totals, sizes = _libraries(asked)
    logs = np.log(totals[totals > 0]), np.log(sizes[totals > 0])
    return {
        "observed": False,
        "correlation": float(np.corrcoef(*logs)[0, 1]) if len(logs[0]) > 1 else None,
        "median_ratio": float(np.median(np.exp(logs[1] - logs[0]))) if len(logs[0]) else None,
    }


def _libraries(asked: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Return observed totals and inferred sizes of the judged cells."""
    totals = asked.model.cells.query(None, asked.judged)[0].sum(1)
    return totals.numpy(), asked.model.get_latent_library_size(indices=asked.judged).ravel()


def _moments(asked: Cells) -> tuple[cell_plots.Moments, cell_plots.Moments]:
    """Return moments of judged cells, and of one draw of the posterior predictive for each."""
    rows = asked.some(asked.judged, DRAWN_CELLS)
    drawn = asked.model.posterior_predictive_sample(indices=rows, seed=asked.settings.seed)
    return cell_plots.moments(asked.counts(rows)), cell_plots.moments(drawn)


def _predictive(asked: Cells) -> dict[str, Any]:
    """Return zeros and variances of draws beside the data's."""
    data, drawn = _moments(asked)
    seen = (data.variance > 0) & (drawn.variance > 0)
    ratio = drawn.variance[seen] / data.variance[seen]
    return {
        "cells": len(data.cell_zeros),
        "zeros_data": float(data.cell_zeros.mean()),
        "zeros_drawn": float(drawn.cell_zeros.mean()),
        "zeros_error_a_gene": float(np.abs(data.gene_zeros - drawn.gene_zeros).mean()),
        "variance_ratio": float(np.median(ratio)) if seen.any() else None,
    }


def _truth(asked: Cells) -> dict[str, Any]:
    """Return how far simulated cells are from what they were drawn from; total variation, of proportions."""
    adata, rows = asked.model.cells.own(), asked.judged
    truth, counts = adata.layers["rho"][rows], asked.counts(rows)
    rho = asked.model.get_normalized_expression(indices=rows, return_numpy=True)
    plain = counts.toarray() / np.maximum(counts.sum(1), 1)
    sizes = asked.model.get_latent_library_size(indices=rows).ravel()
    return {
        "library_correlation": float(
            np.corrcoef(np.log(sizes), np.log(adata.obs["library"].to_numpy()[rows]))[0, 1]
        ),
        "expression_error": float(np.abs(rho - truth).sum(1).mean() / 2),
        "expression_error_of_counts": float(np.abs(np.asarray(plain) - truth).sum(1).mean() / 2),
    }


# ------------------------------------------------------------------------------------------------------- as table rows
def rows(figures: dict[str, Any]) -> list[Row]:
    """Return figures as rows of a table, best read top to bottom."""
    last = summary.training_rows(figures)
    if "why_not" in figures:
        return [Row("figures", "left out", figures["why_not"]), *last]
    table = [
        _of_cells(row)
        for row in summary.rows({key: value for key, value in figures.items() if key != "training"})
    ]
    if "kl_l" in figures["test"]:
        table.insert(
            1,
            Row(
                "KL of z, of l",
                "{kl_z:.2f}, {kl_l:.2f} nats".format(**figures["test"]),
                "what either latent costs",
            ),
        )
    table += [
        *_library_rows(figures["library"]),
        *_predictive_rows(figures["predictive"]),
        *_truth_rows(figures.get("truth")),
    ]
    return [*table, *clusters.rows(figures["clusters"]), *last]


def _of_cells(row: Row) -> Row:
    """Return a row that speaks of cells where the common ones speak of rows."""
    return Row(row.name, row.value, row.note.replace("test rows", "test cells"))


def _library_rows(library: dict[str, Any]) -> list[Row]:
    if library["observed"]:
        return [Row("library size", "observed", "the total of a cell")]
    if library["correlation"] is None:
        return []
    note = f"log inferred with log observed; the median ratio is {library['median_ratio']:.2f}"
    return [Row("library size", f"correlation {library['correlation']:.3f}", note)]


def _predictive_rows(found: dict[str, Any]) -> list[Row]:
    note = f"data {found['zeros_data']:.2%}, over {found['cells']} cells; off by {found['zeros_error_a_gene']:.4f} in a mean gene"
    table = [Row("zeros, drawn", f"{found['zeros_drawn']:.2%}", note)]
    if found["variance_ratio"] is not None:
        table.append(
            Row("variance, drawn / data", f"{found['variance_ratio']:.2f}", "median over genes")
        )
    return table


def _truth_rows(truth: dict[str, Any] | None) -> list[Row]:
    if truth is None:
        return []
    plain = f"total variation to the true proportions; counts over totals have {truth['expression_error_of_counts']:.3f}"
    return [
        Row("  expression, to truth", f"{truth['expression_error']:.3f}", plain),
        Row(
            "  library, with truth",
            f"correlation {truth['library_correlation']:.3f}",
            "log inferred with log true size",
        ),
    ]


# ------------------------------------------------------------------------------------------------------------ pictures
def pictures(asked: Cells, figures: dict[str, Any]) -> list[Picture]:
    """Draw a run: curves, the map by batch and by label, library sizes, the posterior predictive, KL per unit."""
    model, latent = asked.model, asked.model.graph.library_prior is not None
    history = model.fit_history
    drawn = (
        [Picture("Training", cell_plots.curves(history, latent), CURVES)]
        if history is not None and history.elbo
        else []
    )
    if "why_not" in figures:
        return drawn
    drawn += [_map(asked), *([_library_picture(asked)] if latent else [])]
    drawn.append(
        Picture("Posterior predictive", cell_plots.predictive(*_moments(asked)), PREDICTIVE)
    )
    kl = figures.get("latents", {}).get("kl_per_unit")
    return drawn + (
        [Picture("KL per unit", cell_plots.kl_per_unit(np.array(kl)), KL)] if kl else []
    )


CURVES = "Means over an epoch while the weights move (training), and after it (validation, all weights 1). Only the KL of z is annealed."
PREDICTIVE = "One draw x' ~ p(x' | x) for each held-out cell. Points on the lines: the model makes such variances and such zeros."
KL = "Units under the line hold nothing of the cell: their posterior is the prior."


def _map(asked: Cells) -> Picture:
    """Draw the posterior means of z in the plane."""
    chosen = asked.some(asked.mapped, MAPPED_CELLS)
    where = cell_plots.plane(
        asked.model.get_latent_representation(indices=chosen), asked.settings.seed
    )
    caption = f"Posterior means of {len(chosen):,} cells: {where.how}. Batches should mix within a type, and types lie apart."
    return Picture("Latent space", cell_plots.latent_map(where, asked.groups(chosen)), caption)


def _library_picture(asked: Cells) -> Picture:
    """Draw the library sizes of the judged cells."""
    figure = cell_plots.libraries(*_libraries(asked), asked.batches(asked.judged))
    return Picture(
        "Library sizes",
        figure,
        "Held-out cells. The inferred size follows the total, and the batch's prior pulls at it.",
    )
