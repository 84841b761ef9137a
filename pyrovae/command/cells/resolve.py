"""Cells: read the data that DATA names, and choose the settings that were left open."""

from pathlib import Path
from typing import Any

from pyrovae.command.cells.settings import CellSettings
from pyrovae.command.choices import Dispersion, Likelihood
from pyrovae.command.options import SIMULATED, Options, given, settings_of
from pyrovae.singlecell import WARM_UP, default_epochs, open_shards, read, simulate

__all__ = ["read_data", "resolve_settings"]


def read_data(data: str) -> Any:
    """Read the cells that DATA names: an h5ad file, or simulated cells, the same each time.

    The cells of a folder of files, and of zarr, stay on the disk.

    Raises:
        ImportError: anndata is not installed.
        FileNotFoundError, ValueError: The file is missing, truncated or no h5ad, or DATA names no
            cells.
    """
    if settings_of(data) is not CellSettings:
        raise ValueError(
            f"{data} holds no cells, but the model was fitted on cells; "
            f"give an .h5ad file, a folder of them or {SIMULATED}"
        )
    try:
        import anndata  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{data} needs anndata, which is not installed: pip install 'pyrovae[cells]'"
        ) from error
    if data == SIMULATED:
        return simulate().to_anndata()
    try:
        return open_shards(data) if Path(data).is_dir() else read(data)
    except ValueError as error:  # h5py's own message may have several lines
        raise ValueError(" ".join(str(error).split())) from error


def resolve_settings(options: Options, adata: Any) -> CellSettings:
    """Return the settings of a run: the options, and by the data what they leave open.

    Raises:
        ValueError: Two settings contradict each other.
    """
    n = max(1, adata.n_obs)
    chosen: dict[str, Any] = {
        "likelihood": Likelihood.ZINB,
        "latents": 10,
        "hidden": (128,),
        "layers": 1,
        "dropout": 0.1,
        "epochs": default_epochs(n),
        "batch_size": 128,
        "validation": min(0.1, 5000 / n),
        "test": 0.1,
        "warm_up": WARM_UP,
        "samples": CellSettings.EVIDENCE_SAMPLES,
    }
    if options.data == SIMULATED:
        chosen |= {"batch_key": "batch", "labels_key": "cell_type"}
    settings = CellSettings.of(chosen | given(options))
    _check(settings)
    return settings


def _check(settings: CellSettings) -> None:
    """Refuse settings that contradict each other."""
    dispersion, hidden = settings.dispersion, settings.hidden
    if dispersion is not None and settings.likelihood is Likelihood.POISSON:
        raise ValueError(
            f"--dispersion {dispersion.value}: a Poisson distribution has none; leave it out, "
            "or use --likelihood zinb or nb"
        )
    if dispersion is Dispersion.GENE_LABEL and settings.labels_key is None:
        raise ValueError(
            "--dispersion gene-label needs the column with the labels: add --labels-key"
        )
    if settings.patience and settings.validation == 0:
        raise ValueError(
            "--patience needs validation cells, but --validation is 0; leave one of them out"
        )
    if settings.batch_size == 1:
        raise ValueError("--batch-size 1: batch normalization needs at least 2 cells per step")
    if len(hidden) > 1:
        raise ValueError(
            f"--hidden {','.join(map(str, hidden))}: the layers of the count model have one width; "
            "give it once, and their number as --layers"
        )
