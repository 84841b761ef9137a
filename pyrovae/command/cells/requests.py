"""What is asked of a run on cells after its fit: figures of cells, and their codes."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pyrovae.command import exports, kinds
from pyrovae.command.cells import recipes, summary
from pyrovae.command.cells.summary import Cells
from pyrovae.command.options import Part
from pyrovae.command.runs import Run
from pyrovae.data import batches
from pyrovae.singlecell import SingleCellVAE

__all__ = ["asked", "encode", "evaluate", "notes"]


def evaluate(run: Run, data: str, part: Part | None) -> dict[str, Any]:
    """Return the figures of a run on cells: its own, or others with the same genes.

    Args:
        run: its folder, with the settings to measure by.
        data: DATA, as for `fit`.
        part: which cells; by default the held-out ones of the run's own data, and all of others.
    """
    with notes(lambda _: None):
        return summary.measure(asked(run, _loaded(run, data), part))


def encode(run: Run, data: str, part: Part, output: Path) -> tuple[int, ...]:
    """Write posterior means of z to a file, with the name of each cell; return how many, and how many latents.

    An .h5ad holds the cells themselves, with z under obsm["X_pyrovae"] and the library size under obs["pyrovae_library_size"].
    """
    with notes(lambda _: None):
        model = _loaded(run, data)
        rows = _rows(run, model, part)
        z = model.get_latent_representation(indices=rows)
        adata = model.cells.own()
        if output.suffix == ".h5ad":
            found = adata[rows].copy()
            found.obsm["X_pyrovae"] = z
            found.obs["pyrovae_library_size"] = model.get_latent_library_size(indices=rows).ravel()
            exports.cells(found, output)
        else:
            labels = Cells(model, run.settings, rows, rows, False).labels(rows)
            names, numbers = (
                (None, None) if labels is None else np.unique(labels, return_inverse=True)
            )
            exports.codes(
                z,
                numbers,
                () if names is None else tuple(names),
                output,
                adata.obs_names[rows].astype(str).tolist(),
            )
    return z.shape


def _loaded(run: Run, data: str) -> SingleCellVAE:
    """Read the run's model, with the cells of DATA as its own."""
    adata = recipes.load(data)
    with recipes.about(data):
        return SingleCellVAE.load(run.model, adata)


def asked(run: Run, model: SingleCellVAE, part: Part | None) -> Cells:
    """Say which cells are measured: those held out, where they are the run's own; all are mapped, where no part is named."""
    every = np.arange(model.cells.own().n_obs)
    judged = _rows(run, model, part)
    simulated = "rho" in model.cells.own().layers and run.settings.data == kinds.SIMULATED
    return Cells(model, run.settings, judged, every if part is None else judged, simulated)


def _rows(run: Run, model: SingleCellVAE, part: Part | None) -> np.ndarray:
    """Return the rows of a part of the cells."""
    every = np.arange(model.cells.own().n_obs)
    held_out = np.setdiff1d(every, np.concatenate([model.train_indices, model.validation_indices]))
    own = batches.fingerprint(model.cells.data[:1]) == run.data["fingerprint"]
    if part is Part.ALL or (part is None and not (own and len(held_out))):
        return every
    if not own:
        raise ValueError(
            f"--part {part}: these are not the cells that the model was fitted on; use --part all"
        )
    return np.setdiff1d(every, held_out) if part is Part.TRAIN else held_out


@contextmanager
def notes(say: Callable[[str], None]) -> Iterator[list[str]]:
    """Context in which warnings are said in a line each and kept, without where in the code they arose."""
    told: list[str] = []

    def show(
        message: Warning | str, category: type[Warning], *where: object, **more: object
    ) -> None:
        text = " ".join(str(message).split())
        if issubclass(category, UserWarning) and text not in told:
            told.append(text)
            say(f"note: {text}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show  # put back by the context
        yield told
