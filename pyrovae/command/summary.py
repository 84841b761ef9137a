"""What there is to say of a fitted graph on held-out data: its figures, as numbers and as rows, and its pictures.

ELBO = E_q[log p(x | z)] - KL(q(z | x) || p(z))  <=  log p(x)        everything in nats a datum, beta = 1
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae import evaluation, tasks
from pyrovae.command.images import baselines
from pyrovae.command.options import Posterior, Prior, Settled
from pyrovae.command.preparation import REAL_LIKELIHOODS, UNIT_LIKELIHOODS, Preparation
from pyrovae.command.report import plots
from pyrovae.command.report.page import Picture, Row
from pyrovae.command.runs import Run
from pyrovae.data import Dataset
from pyrovae.files import History
from pyrovae.singlecell import rows_in

__all__ = ["compare", "measure", "pictures", "rows", "training", "training_rows"]

Batch = tuple[Tensor, ...]  # (x, *c)
ELBO_ROWS = 10_000
LATENT_ROWS = 2_000
SHOWN = 24
FEW = 10  # draws; below it the standard error, itself an estimate from those draws, says too little


def measure(graph: nn.Module, settings: Settled, test: Batch) -> dict[str, Any]:
    """Return the figures of a graph on test rows.

    Args:
        graph: The fitted graph.
        settings: Settled settings, which say how many importance samples and on how many rows.
        test: (x, *c), prepared.
    """
    terms = evaluation.elbo(graph, *_spread(test, ELBO_ROWS))
    figures: dict[str, Any] = {"unit": "nats per datum"}
    figures["test"] = {"rows": len(terms.elbo)} | {
        name: value.mean().item() for name, value in terms._asdict().items()
    }
    if _is_autoencoder(settings):
        return figures
    if settings.samples:
        figures["log_p"] = _evidence(graph, _spread(test, settings.test_images), settings.samples)
    figures["latents"] = _latents(graph, _spread(test, LATENT_ROWS))
    return figures


def _evidence(graph: nn.Module, test: Batch, samples: int) -> dict[str, Any]:
    """Return the mean of log p(x) over test rows, with its standard error, and with what importance sampling adds to that."""
    log_p, error, size = evaluation.log_evidence(graph, *test, samples=samples)
    return {
        "rows": len(log_p),
        "samples": samples,
        "mean": log_p.mean().item(),
        "standard_error": log_p.std(correction=0).item() / math.sqrt(len(log_p)),
        "importance_sampling_error": error.square().sum().sqrt().item() / len(log_p),
        "effective_sample_size": size.median().item(),
    }


def _latents(graph: nn.Module, test: Batch) -> dict[str, Any]:
    """Return what the latents hold."""
    summary = evaluation.latent_summary(graph, *test)
    kl = summary.kl_per_dimension
    return {
        "units": len(summary.active),
        "rows": len(test[0]),
        "active": int(summary.active.sum()),
        "mutual_information": summary.mutual_information,
        "kl_per_unit": None if kl is None else kl.tolist(),
        "warning": summary.warning,
    }


def compare(run: Run, train: Batch, validation: Batch | None, test: Batch) -> dict[str, Any]:
    """Return what probabilistic PCA and a Gaussian mixture reach on the same test rows, or why they do not compare."""
    likelihood, preparation = run.settings.likelihood, run.preparation
    if likelihood in UNIT_LIKELIHOODS:
        return {
            "why_not": f"densities of real vectors do not compare with a {likelihood.value} likelihood"
        }
    if _is_autoencoder(run.settings) or not run.settings.samples:
        return {"why_not": "log p(x) of the model was not estimated"}
    whole = likelihood not in REAL_LIKELIHOODS
    fitted, judged, measured = (
        batch[0].numpy()
        for batch in (train, validation or train, _spread(test, run.settings.test_images))
    )
    if preparation.shape and len(fitted) < 10:
        return {"why_not": "there are fewer than 10 training rows"}
    fits = {
        "probabilistic_pca": baselines.probabilistic_pca,
        "gaussian_mixture": baselines.gaussian_mixture,
    }
    found = {
        name: fit(fitted, judged, measured, whole=whole, seed=run.settings.seed)
        for name, fit in fits.items()
    }
    figures: dict[str, Any] = {
        name: {"log_p": fit.log_p, "what": fit.what} for name, fit in found.items()
    }
    return figures | {"how": DEQUANTIZED if whole else "densities of the same standardized values"}


DEQUANTIZED = (
    "densities of x + u, u uniform on the unit cell, averaged over 50 u: a lower bound on their log mass of the whole "
    "number x (Theis et al. 2016), as the VAE's figure is one on its own"
)


def training(history: History) -> dict[str, Any]:
    """Return how the fit went."""
    last = (history.best_epoch or len(history.elbo)) - 1
    return {
        "epochs": len(history.elbo),
        "best_epoch": history.best_epoch,
        "stopped": history.stopped,
        "seconds": sum(history.seconds),
        "elbo": history.elbo[last] if history.elbo else None,
        "validation_elbo": history.validation_elbo[last] if history.validation_elbo else None,
    }


# ------------------------------------------------------------------------------------------------------- as table rows
def rows(figures: dict[str, Any]) -> list[Row]:
    """Return figures as rows of a table, best read top to bottom."""
    test = figures["test"]
    terms = f"reconstruction {test['reconstruction']:.2f} - KL {test['kl']:.2f}, {test['rows']} test rows"
    table = [Row("test ELBO", f"{test['elbo']:.2f} nats", terms)]
    table += _evidence_rows(figures.get("log_p"), figures.get("baselines"))
    if "latents" in figures:
        held = figures["latents"]
        most = f"I(x; z) under q, at most log {held['rows']} = {np.log(held['rows']):.2f}"
        table.append(
            Row(
                "active units",
                f"{held['active']} of {held['units']}",
                "variance of the posterior mean above 0.01",
            )
        )
        table.append(Row("mutual information", f"{held['mutual_information']:.2f} nats", most))
    return table + training_rows(figures)


def training_rows(figures: dict[str, Any]) -> list[Row]:
    """Return how the fit went, where there was one."""
    if "training" not in figures:
        return []
    fit = figures["training"]
    best = f", weights of epoch {fit['best_epoch']} kept" if fit["best_epoch"] else ""
    return [
        Row(
            "training", f"{fit['epochs']} epochs, {fit['seconds']:.1f} s", f"{fit['stopped']}{best}"
        )
    ]


def _evidence_rows(log_p: dict[str, Any] | None, others: dict[str, Any] | None) -> list[Row]:
    """Return log p(x) and, beside it, that of simpler densities."""
    if log_p is None:
        return []
    few = (
        " (few draws decide: take it for a lower bound)"
        if log_p["effective_sample_size"] < FEW
        else ""
    )
    size = f"effective sample size {log_p['effective_sample_size']:.0f}{few}"
    error = f"± {log_p['importance_sampling_error']:.2f} by sampling"
    how = f"{log_p['rows']} test rows; {log_p['samples']} importance samples, {error}, {size}"
    table = [Row("log p(x)", f"{log_p['mean']:.2f} ± {log_p['standard_error']:.2f} nats", how)]
    if not others:
        return table
    if "why_not" in others:
        return [*table, Row("PCA, Gaussian mixture", "left out", others["why_not"])]
    names = (
        ("  probabilistic PCA", "probabilistic_pca"),
        ("  Gaussian mixture", "gaussian_mixture"),
    )
    table += [
        Row(name, f"{others[key]['log_p']:.2f} nats", others[key]["what"]) for name, key in names
    ]
    return [*table, Row("  how these compare", "", others["how"])]


# ------------------------------------------------------------------------------------------------------------ pictures
def pictures(
    run: Run, graph: nn.Module, history: History, data: Dataset, figures: dict[str, Any]
) -> list[Picture]:
    """Draw a run: curves, reconstructions, samples, walks, the latent space, KL per unit and the manifold."""
    stored, labels = run.stored(data)
    test = (run.preparation.fixed(stored), *run.preparation.context(labels, data.label_names))
    gallery = _Gallery(run, graph, test)
    drawn = [Picture("Training", plots.curves(history), _CURVES)] if history.elbo else []
    drawn += [
        gallery.pairs(),
        *gallery.samples(),
        gallery.walks(),
        gallery.space(labels, data.label_names),
    ]
    kl = figures.get("latents", {}).get("kl_per_unit")
    drawn += [Picture("KL per unit", plots.kl_per_unit(np.array(kl)), _KL)] if kl else []
    return drawn + gallery.manifold()


_CURVES = (
    "Means over an epoch while the weights move (training), and after it (validation, at beta = 1)."
)
_KL = "Units under the line hold nothing of x: their posterior is the prior."


class _Gallery:
    """Pictures of one graph, in the unit of the stored data."""

    def __init__(self, run: Run, graph: nn.Module, test: Batch) -> None:
        self.run, self.graph, self.test, self.limits = run, graph, test, run.preparation.limits

    def pairs(self) -> Picture:
        """Originals and reconstructions."""
        few = _spread(self.test, SHOWN)
        x, x_hat = (
            self.run.preparation.undo(part)
            for part in (few[0], tasks.reconstruct(self.graph, *few))
        )
        binarized = " Grey values were binarized once." if self.run.preparation.binarize else ""
        return Picture(
            "Originals and reconstructions",
            plots.pairs(x, x_hat, limits=self.limits),
            f"E[x | z] at the posterior's mean.{binarized}",
        )

    def samples(self) -> list[Picture]:
        """Means of p(x | z) at draws of the prior, if it has any."""
        if self.run.settings.prior is Prior.FLAT:
            return []
        classes = max(1, len(self.run.preparation.classes))
        columns = classes * (16 // classes) or 16  # each class keeps to its columns
        n = columns * (64 // columns)
        c = classes_in_turn(self.run.preparation, n)
        x = self.run.preparation.undo(
            tasks.generate(self.graph, n, *c, seed=self.run.settings.seed)
        )
        given = f" Classes in turn: {', '.join(self.run.preparation.classes)}." if c else ""
        figure = plots.images(x, "Samples: E[x | z], z from the prior", columns, self.limits)
        return [Picture("Samples", figure, f"Nothing of the data enters them.{given}")]

    def walks(self) -> Picture:
        """Straight walks between codes."""
        x, *c = _spread(self.test, 12)
        pairs = [(i, len(x) - 1 - i) for i in range(max(1, len(x) // 2))]
        paths = torch.stack(
            [
                tasks.interpolate(self.graph, x[a], x[b], *(part[a] for part in c), steps=10)
                for a, b in pairs
            ]
        )
        figure = plots.interpolations(self.run.preparation.undo(paths), self.limits)
        return Picture(
            "Interpolations",
            figure,
            "Each row goes straight from the code of one test datum to that of another.",
        )

    def space(self, labels: np.ndarray | None, names: tuple[str, ...]) -> Picture:
        """Codes in the plane."""
        few = _spread(self.test, LATENT_ROWS)
        kept = None if labels is None else labels[_rows(len(labels), LATENT_ROWS)]
        z = tasks.embed(self.graph, *few).cpu().numpy()
        return Picture(
            "Latent space",
            plots.latent_space(z, kept, names),
            "Posterior means of test data." if len(z) > 1 else "",
        )

    def manifold(self) -> list[Picture]:
        """What two latents decode to."""
        settings = self.run.settings
        if (
            settings.latents != 2
            or settings.condition
            or settings.prior is not Prior.STANDARD_NORMAL
        ):
            return []
        grid = self.run.preparation.undo(tasks.manifold(self.graph, steps=20))
        return [
            Picture(
                "Manifold", plots.manifold(grid, self.limits), "Kingma & Welling (2014), figure 4."
            )
        ]


def classes_in_turn(preparation: Preparation, n: int, label: str | None = None) -> Batch:
    """Return context for n rows, each of one class or all in turn; () where the model has none."""
    names = preparation.classes if label is None else (label,)
    if label is not None and not preparation.classes:
        raise ValueError(f"--label {label}: the model has no context; fit one with --condition")
    return preparation.context(np.arange(n) % max(1, len(names)), names)


def _is_autoencoder(settings: Settled) -> bool:
    """Whether the parts have no log p(x)."""
    return settings.prior is Prior.FLAT or settings.posterior is Posterior.POINT


def _rows(n: int, wanted: int) -> np.ndarray:
    """Return evenly spread row numbers: data may lie sorted by class."""
    return np.unique(np.linspace(0, n - 1, min(n, wanted)).astype(int))


def _spread(batch: Batch, wanted: int) -> Batch:
    """Return evenly spread rows of a batch."""
    index = torch.from_numpy(_rows(len(batch[0]), wanted))
    return tuple(rows_in(part, index) for part in batch)
