"""The parts of a file of cells that anndata wrote: counts, names and obs, looked at when read."""

from pathlib import Path
from typing import Any

import numpy as np

from pyrovae.singlecell.messages import listed, warn_user

__all__ = [
    "check_chunks",
    "check_codes",
    "check_columns_once",
    "damaged",
    "matrix",
    "names_of",
    "table_of_cells",
]


def matrix(group: Any, place: str, file: Path, shape: tuple[int, int]) -> Any:
    """Return a stored matrix after a look at its shape and at where its rows begin."""
    from anndata.io import sparse_dataset

    if place not in group:
        layers = listed(group["layers"].keys()) if "layers" in group else "no layers"
        raise ValueError(f"{file}: there is no {place}; it has {layers}. Pass layer=")
    kind = group[place].attrs.get("encoding-type", "array")
    if kind == "csc_matrix":
        raise ValueError(
            f"{file}: {place} is stored by genes (CSC), so that no cell can be read by itself. "
            "Write it by cells: adata.X = adata.X.tocsr()"
        )
    if kind == "csr_matrix":
        ends = np.asarray(group[place]["indptr"][:])
        stored = {group[place][part].shape[0] for part in ("indices", "data")}
        if ends[0] != 0 or (np.diff(ends) < 0).any() or stored != {int(ends[-1])}:
            raise damaged(file, f"{place}: its rows do not fit the values")
    elif not hasattr(group[place], "shape"):
        raise ValueError(f"{file}: {place} is in a format of before anndata 0.8: write it again")
    matrix = sparse_dataset(group[place]) if kind == "csr_matrix" else group[place]
    if tuple(matrix.shape) != shape:
        raise damaged(file, f"{place} has shape {tuple(matrix.shape)}, obs and var {shape}")
    return matrix


def check_chunks(group: Any, place: str, file: Path) -> None:
    """Refuse a sparse table of zarr's of which chunks are not stored; warn of a dense one.

    zarr reads a chunk that is not stored as zeros, and stores none that holds zeros alone. That is
    rare in a dense table, and does not happen in a sparse one that has more than one column.
    """
    table = group[place]
    dense = hasattr(table, "shape")
    parts = [table] if dense else [table[part] for part in ("indptr", "indices", "data")]
    chunks = [part for part in parts if hasattr(part, "nchunks_initialized")]
    lost = sum(part.nchunks - part.nchunks_initialized for part in chunks)
    if not lost or not (dense or (table["data"].shape[0] and table.attrs["shape"][1] > 1)):
        return
    words = f"{place}: {lost} of {sum(part.nchunks for part in chunks)} chunks are not stored"
    if not dense:
        raise damaged(file, words)
    warn_user(
        f"{file}: {words}, and are read as zeros. zarr leaves out chunks of zeros alone; if these "
        "are not, copy the file again"
    )


def check_codes(obs: Any, file: Path) -> None:
    """Warn of columns of categories of which chunks are not stored: zarr reads the first category.

    zarr stores no chunk of cells that all have it, so that a warning may be false where the cells
    are sorted and there are many of it. Of a column with one category nothing need be stored.
    """
    lost = [
        key
        for key in obs
        if obs[key].attrs.get("encoding-type") == "categorical"
        and _is_lost(obs[key]["codes"])
        and _length(obs[key]["categories"]) > 1
    ]
    if lost:
        warn_user(
            f"{file}: obs: chunks of the column {listed(lost)} are not stored, and their cells are "
            "read as of its first category. zarr leaves out chunks of that category alone; if "
            "these are not, copy the file again"
        )


def _is_lost(codes: Any) -> bool:
    """Return whether a chunk of zarr's is not stored."""
    return hasattr(codes, "nchunks") and codes.nchunks_initialized < codes.nchunks


def _length(names: Any) -> int:
    """Return the length of a stored vector; of nullable strings, it is a group."""
    return (names if hasattr(names, "shape") else names["values"]).shape[0]


def check_columns_once(part: Any, first: int) -> None:
    """Refuse rows of a sparse matrix that hold a column twice, as where its numbers are lost."""
    if not hasattr(part, "tocsr") or part.has_canonical_format:
        return
    merged = part.copy()
    merged.sum_duplicates()
    more = np.diff(part.indptr) > np.diff(merged.indptr)
    if more.any():
        raise ValueError(f"row {first + more.argmax()} holds a gene twice")


def table_of_cells(group: Any, file: Path) -> Any:
    """Return the obs of a file, a pandas DataFrame.

    Raises:
        ValueError: if it cannot be read, or lacks names of cells.
    """
    from anndata.io import read_elem

    try:
        found = read_elem(group["obs"])
    except Exception as error:  # as anndata, h5py, zarr and pandas find it
        words = " ".join([str(error), *getattr(error, "__notes__", [])])
        raise damaged(file, f"obs: {words}") from error
    check_codes(group["obs"], file)
    nameless = int((found.index == "").sum())
    if nameless:
        raise damaged(file, f"obs: {nameless} cells have no name")
    return found


def names_of(frame: Any) -> Any:
    """Return the index of a stored table without reading its columns."""
    import pandas as pd
    from anndata.io import read_elem

    return pd.Index([str(name) for name in read_elem(frame[frame.attrs["_index"]])])


def damaged(file: Path, why: object) -> ValueError:
    """Return the error to raise for a file that cannot be what was written."""
    return ValueError(f"{file}: damaged ({why}). Copy or write it again")
