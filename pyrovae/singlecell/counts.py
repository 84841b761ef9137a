"""Raw counts of an AnnData as a checked array x with shape (N, G).

Every value is checked before anything is trained. Invalid counts raise a ValueError that names the
cell, the gene and the remedy; `remarks` describes valid counts that may not be meant. This module
is independent of any model and writes nothing to the AnnData.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data import COUNTS, SparseRows, as_source, check_indices, is_sparse
from pyrovae.data.supports import levels
from pyrovae.singlecell.heaps import check_heaps
from pyrovae.singlecell.messages import import_anndata, listed, warn_user
from pyrovae.singlecell.setup import MINIFIED, check_anndata
from pyrovae.singlecell.shards import Shards

__all__ = ["Counts", "counts", "read"]

Counts = Tensor | SparseRows | Shards

_READ_AT_ONCE = 4096  # rows of a file
_TOO_LARGE = 1 << 24  # single precision holds every whole number below it
_HALF_PRECISION = 1 << 11  # it holds every whole number up to this one
_LOG_MAXIMUM = 30.0  # log(1 + x) of any count is smaller: no cell has e^30 transcripts


def read(path: str | Path) -> Any:
    """Read an h5ad file.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it is truncated, or not an h5ad file.
        ImportError: if anndata is not installed.
    """
    anndata = import_anndata()
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        check_heaps(Path(path))
        return anndata.read_h5ad(path)
    except Exception as error:  # OSError, KeyError or RuntimeError, as h5py finds it
        raise ValueError(
            f"{path}: truncated, or not an h5ad file ({type(error).__name__}: {error}). Copy or "
            "write it again"
        ) from error


def counts(adata: Any, layer: str | None = None, genes: Sequence[str] | None = None) -> Counts:
    """Return the checked counts in single precision, with shape (N, G); sparse ones stay sparse.

    Doubles that are whole numbers but for rounding errors are whole in single precision.

    Args:
        adata: an AnnData in memory, or backed by a file, which is read in order and in chunks; or
            `Shards`, which are read once and stay on the disk.
        layer: of `adata.layers`; None for `adata.X`.
        genes: names and order of the columns to return; None for those of `adata`.

    Raises:
        ValueError: if there are no cells or no genes, gene names are not unique, a gene is missing,
            or a value is masked, not a count, or at least 2^24.
        TypeError: if `adata` is no AnnData, or the counts are not real numbers.
    """
    check_anndata(adata)
    if MINIFIED in adata.uns:
        raise ValueError(
            "these cells are minified and have no counts: pass the cells that have them, or load "
            "the model with the minified ones by SingleCellVAE.load(folder, adata)"
        )
    columns = _columns(adata, genes)
    x: Counts
    if isinstance(adata, Shards):
        x = adata.counts(layer, columns)
    elif adata.isbacked:
        x = _from_file(adata, layer, columns)
    else:
        x = _in_memory(adata, layer, columns)
    place = _first_invalid(x)
    if place is not None:
        row, column, value = place
        gene = (genes if genes is not None else adata.var_names)[column]
        where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
        where = f"{adata.file_of(row)}: {where}" if isinstance(adata, Shards) else where
        raise ValueError(
            f"{where}: {_shown(value)} in cell {adata.obs_names[row]!r}, gene {gene!r}"
            f"{_reason(x, value, adata)}"
        )
    return x


def _columns(adata: Any, genes: Sequence[str] | None) -> np.ndarray | None:
    """Return where the genes are among adata's; None if they are the same in the same order."""
    if not adata.n_obs or not adata.n_vars:
        raise ValueError(
            f"the AnnData has {adata.n_obs} cells and {adata.n_vars} genes: expected at least one "
            "of each"
        )
    if not adata.var_names.is_unique:
        repeated = adata.var_names[adata.var_names.duplicated()].unique()
        raise ValueError(
            f"{len(repeated)} gene names occur more than once: {listed(repeated)}. Call "
            "adata.var_names_make_unique(), or sum their counts"
        )
    names = adata.var_names.astype(str)
    if genes is None or list(names) == list(genes):
        return None
    columns = names.get_indexer(list(genes))
    missing = [gene for gene, column in zip(genes, columns, strict=True) if column < 0]
    if missing:
        raise ValueError(
            f"{len(missing)} of the model's {len(genes)} genes are not in this AnnData: "
            f"{listed(missing)}. Use names of the same kind (symbols or identifiers), or train on "
            "the genes that both have"
        )
    return columns


def _in_memory(adata: Any, layer: str | None, columns: np.ndarray | None) -> Tensor | SparseRows:
    """Return a copy: what is later done to the AnnData in place must not reach the model."""
    from scipy.sparse import csr_matrix

    x = _matrix(adata, layer)
    if not is_sparse(x):
        return _dense(x if columns is None else np.asarray(x)[:, columns])
    if columns is not None:
        return _sparse(x[:, columns])
    # The values are copied as they become floats: one copy of them in memory, not two.
    values = _single(x.data)
    return SparseRows.of(csr_matrix((values, x.indices.copy(), x.indptr.copy()), x.shape))


def _from_file(adata: Any, layer: str | None, columns: np.ndarray | None) -> Tensor | SparseRows:
    chunks = _chunks(adata, layer)
    if columns is not None:
        chunks = (chunk[:, columns] for chunk in chunks)
    first = next(chunks)
    if not is_sparse(first):
        return torch.cat([_dense(first), *(_dense(chunk) for chunk in chunks)])
    from scipy import sparse

    return _sparse(sparse.vstack([first, *chunks], format="csr"))


def _chunks(adata: Any, layer: str | None) -> Iterator[Any]:
    """Yield the counts of a file, some rows at a time; all at once of a view of a file.

    AnnData takes no view of a view of a file.
    """
    if adata.is_view:
        yield _matrix(adata, layer)
        return
    for start in range(0, adata.n_obs, _READ_AT_ONCE):
        yield _matrix(adata[start : start + _READ_AT_ONCE], layer)


def _matrix(adata: Any, layer: str | None) -> Any:
    """Return the counts as AnnData holds them; sparse ones in SciPy's CSR format.

    Raises:
        ValueError: if there are none, or a sparse matrix is damaged.
    """
    x = adata.X if layer is None else adata.layers[layer]
    if x is None:
        layers = (
            f"one of {listed(adata.layers.keys())}"
            if len(adata.layers)
            else "but adata has no layers: put the counts into adata.X"
        )
        raise ValueError(f"adata.X is empty. Name the layer of raw counts: layer=, {layers}")
    for read in ("compute", "to_memory"):  # of dask, and of a matrix that lies in a file
        if hasattr(x, read):
            x = getattr(x, read)()
    if np.ma.is_masked(x):
        where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
        raise ValueError(
            f"{where} has masked values, which would be read as what is below the mask. Say what "
            f"they are, as zeros: {where} = {where}.filled(0)"
        )
    check_indices(x)
    return x.tocsr() if hasattr(x, "tocsr") else x


def _dense(x: Any) -> Tensor:
    return torch.from_numpy(_single(np.asarray(x)))


def _sparse(x: Any) -> SparseRows:
    """Return the rows of a CSR matrix that is no one else's."""
    x.data = _single(x.data)
    return SparseRows.of(x)


def _single(x: np.ndarray) -> np.ndarray:
    """Return a copy of counts in single precision.

    Raises:
        TypeError: if they are not real numbers.

    Warns:
        UserWarning: if they reach the limit of 8 or 16 bits.
    """
    if x.dtype.kind not in "biuf":
        raise TypeError(
            f"the counts have dtype {x.dtype}, expected real numbers in a NumPy array or a sparse "
            "matrix of SciPy's: adata.X.astype('float32') if they are numbers"
        )
    _warn_of_the_limit(x)
    with np.errstate(over="ignore"):  # to infinity, which is refused by name
        return np.array(x, np.float32, order="C")


def _warn_of_the_limit(x: np.ndarray) -> None:
    """Issue a warning if counts of 8 or 16 bits are larger than these hold, or as large."""
    if x.dtype.kind == "b" or x.dtype.itemsize > 2 or not x.size:
        return
    largest, half = x.max(), x.dtype.kind == "f"
    limit = _HALF_PRECISION if half else np.iinfo(x.dtype).max
    if largest < limit or not np.isfinite(largest):  # what is not finite is refused by name
        return
    what = (
        f"; above {limit} it holds even numbers alone, to which odd ones were rounded"
        if half
        else ", the largest number that it holds: larger ones were cut off, or begin at zero again"
    )
    warn_user(
        f"the counts are stored as {x.dtype} and reach {largest:.0f}{what}. Read them from their "
        "source as int32 or float32"
    )


def _first_invalid(x: Counts) -> tuple[int, int, float] | None:
    """Return row, column and value of the first value that is not a count; None if all are."""
    found = as_source(x).scan(COUNTS)
    off = found.off
    if off is None and found.high >= _TOO_LARGE:
        off = as_source(x).scan(levels(_TOO_LARGE - 1)).off
    return None if off is None else (off.row, off.position[0], off.value)


def _shown(value: float) -> str:
    """Return a value in few digits, but never that of a fraction as a whole number."""
    short = f"{value:g}"
    return short if value % 1 == 0 or float(short) % 1 else f"{value:.9g}"


def _reason(x: Counts, value: float, adata: Any) -> str:
    """Return what an invalid value points to, and the remedy."""
    layers = f"; adata.layers has {listed(adata.layers.keys())}" if len(adata.layers) else ""
    layers += "; adata.raw may hold them: adata.raw.to_adata()" if adata.raw is not None else ""
    remedy = f"pass layer='counts', or whichever holds the raw counts{layers}"
    if np.isnan(value):
        return (
            ": missing, as after an outer join of dense tables: keep the genes that all have, by "
            f"anndata.concat(..., join='inner'), drop these cells or genes, or {remedy}"
        )
    if not np.isfinite(value):
        return f": not a number of transcripts. Drop these cells or genes, or {remedy}"
    if value < 0:
        looks = "scaled or corrected"
        if value % 1 == 0:  # what is above 127 of 8 bits, or 32767 of 16
            looks += ", or counts too large for their integers became negative"
        return f": counts are never negative. The data look {looks}: {remedy}"
    if value >= _TOO_LARGE:
        return (
            ": no cell has 2^24 transcripts of a gene, and single precision holds no larger whole "
            f"numbers exactly. The data look like intensities or sums: {remedy}"
        )
    largest = as_source(x).scan().high
    if largest < _LOG_MAXIMUM:
        return (
            f": not a whole number, and the largest value is {largest:.3g}. "
            f"The data look log-normalised: {remedy}"
        )
    return f": not a whole number. The data look normalised: {remedy}, or round estimated counts"
