"""How well held-out rows are reconstructed from their codes: what an autoencoder can be judged by.

MSE  = mean of (x - x_hat)^2 over values and rows
PSNR = mean over rows of 10 log10(range^2 / MSE of the row)      in dB

An autoencoder is no density of x, so there is no log p(x) to compare. Its reconstructions compare
with those of principal components, the best linear ones, and with the mean of the training rows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae import programs, tasks
from pyrovae.command.choices import Prior
from pyrovae.command.images.components import Components
from pyrovae.command.images.model import ImageModel
from pyrovae.command.images.settings import ImageSettings
from pyrovae.command.report.page import Row
from pyrovae.evaluation import scores
from pyrovae.graphs import Denoising

__all__ = ["corrupted", "measure", "table"]

Batch = tuple[Tensor, ...]  # (x, *c), prepared
Figures = dict[str, Any]
Reconstruct = Callable[[Tensor], Tensor]  # prepared rows -> their reconstructions

_ROWS = 10_000  # that principal components are computed from, for time


def corrupted(graph: Any, x: Tensor) -> Tensor | None:
    """Return rows with the noise that the encoder saw in training; None if it saw none.

    Args:
        graph: The model.
        x: Prepared rows with shape (N, *event).
    """
    if not isinstance(graph, Denoising):
        return None
    with programs.random_stream(0, []):
        return graph.corrupt(x.float())


def measure(model: ImageModel, batch: Batch, settings: ImageSettings, x: Tensor | None) -> Figures:
    """Return the error of reconstructions, and of simpler ones where training rows are given.

    Args:
        model: The fitted autoencoder.
        batch: Evaluation rows (x, *c), prepared.
        settings: Of the run.
        x: Prepared training rows with shape (N, *event), None for a model that was read.
    """
    clean, c = batch[0].float(), batch[1:]
    ways: dict[str, Reconstruct] = {"model": lambda x: tasks.reconstruct(model.graph, x, *c)}
    if x is not None:
        ways |= _simpler(x, settings.latents)
    errors = _Errors(model, clean)
    found: Figures = {"rows": len(clean), "unit": errors.unit, "range": errors.range}
    found |= {name: errors.of(way(clean)) for name, way in ways.items()}
    noisy = corrupted(model.graph, clean)
    if noisy is None:
        return found
    ways.pop("mean", None)  # it is the same for noisy rows
    of_noisy = {name: errors.of(way(noisy)) for name, way in ways.items()}
    sigma = settings.denoise
    return found | {"noisy": {"sigma": sigma, "input": errors.of(noisy), **of_noisy}}


def _simpler(x: Tensor, k: int) -> dict[str, Reconstruct]:
    """Return the mean of training rows and k principal components of them, as reconstructions."""
    rows = x[:: -(-len(x) // _ROWS)].flatten(1).double().numpy()
    components = Components(rows)

    def project(x: Tensor) -> Tensor:
        flat = x.flatten(1).double().numpy()
        return torch.from_numpy(components.project(flat, k)).reshape(x.shape)

    def mean(x: Tensor) -> Tensor:
        return torch.from_numpy(components.mean).reshape(x.shape[1:]).expand(x.shape)

    return {"mean": mean, "pca": project} if len(rows) > 1 else {}


class _Errors:
    """Errors against clean rows: in the data's unit, or standardized where columns differ in it."""

    def __init__(self, model: ImageModel, clean: Tensor) -> None:
        preparation = model.preparation
        self.standardized = len(preparation.scale) > 1
        self.undo = (lambda x: x.numpy()) if self.standardized else preparation.undo
        self.clean = self.undo(clean.cpu())
        self.unit = "standardized values" if self.standardized else "the data's own unit"
        low, high = preparation.limits
        self.range = None if self.standardized else high - low

    def of(self, x_hat: Tensor) -> Figures:
        """Return MSE and PSNR of reconstructions; no PSNR for columns of different units."""
        restored = self.undo(x_hat.cpu())
        mse = float(np.square(restored - self.clean).mean())
        if not self.range:
            return {"mse": mse, "psnr": None}
        return {"mse": mse, "psnr": scores.psnr(restored, self.clean, self.range).mean}


def table(figures: Figures, settings: ImageSettings) -> list[Row]:
    """Return the figures of an autoencoder as rows of a table."""
    return [*_error_rows(figures["reconstruction"], settings), *_density_rows(figures, settings)]


def _error_rows(found: Figures, settings: ImageSettings) -> list[Row]:
    """Return the rows of reconstruction errors: of rows as they are, and of noisy ones."""
    names = {
        "model": ("reconstruction error", f"of {found['rows']} test rows, in {found['unit']}"),
        "pca": ("  PCA", f"{settings.latents} components: the best linear reconstruction"),
        "mean": ("  mean training row", "what a reconstruction without any code gives"),
    }
    rows = [
        _error_row(name, found[key], note) for key, (name, note) in names.items() if key in found
    ]
    if "noisy" not in found:
        return rows
    noisy = found["noisy"]
    noise = f"of test rows with noise; its standard deviation is {noisy['sigma']:g} of the data's"
    names = {
        "model": ("denoising error", noise),
        "pca": ("  PCA", f"the noisy rows projected on {settings.latents} components"),
        "input": ("  noisy rows themselves", "what denoising has to improve on"),
    }
    return rows + [
        _error_row(name, noisy[key], note) for key, (name, note) in names.items() if key in noisy
    ]


def _error_row(name: str, error: Figures, note: str) -> Row:
    """Return the row of one way to reconstruct."""
    psnr = "" if error["psnr"] is None else f"PSNR {error['psnr']:.2f} dB; "
    return Row(name, f"MSE {error['mse']:.4g}", f"{psnr}{note}")


def _density_rows(figures: Figures, settings: ImageSettings) -> list[Row]:
    """Return what the densities of an autoencoder are, and why log p(x) is not among them."""
    test = figures["test"]
    at_code = f"{test['reconstruction']:.2f} nats"
    rows = [Row("log p(x | z)", at_code, "at the code z of x: no log p(x), and no bound of it")]
    if settings.prior is not Prior.FLAT:
        rows.append(Row("log p(z)", f"{-test['kl']:.2f} nats", "of the codes under the prior"))
    why = (
        "a flat prior is no distribution of z"
        if settings.prior is Prior.FLAT
        else ("a point has no density, so there is no bound to estimate it by")
    )
    return [*rows, Row("log p(x)", "none", f"this is an autoencoder: {why}")]
