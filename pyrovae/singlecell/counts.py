"""Counts of an AnnData in, a checked array out: x with shape (N, G), and the prior of the library sizes in it.

Every value is looked at before anything trains on it. What cannot be right is an error that names cell or gene and the way out;
what can be lived with (empty cells, genes that no cell has) is said in a warning. No model is known here, nor is `adata` written to.
"""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data import COUNTS, SparseRows, as_source, is_sparse
from pyrovae.singlecell.columns import listed

__all__ = ["counts", "library_prior", "read", "say_what_is_empty"]

_NAMED = 5  # cells or genes that a message lists
_READ_AT_ONCE = 4096  # rows of a file
# The deviation of a log total is at least that of counting alone at a total of a hundred: 100 ** -0.5.
_LEAST_DEVIATION = 0.1
_LOG_MAXIMUM = 30.0  # log(1 + x) of any count lies below: e^30 transcripts are no cell


def read(path: str | Path) -> Any:
    """Read an h5ad file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is truncated, or no h5ad.
    """
    import anndata

    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return anndata.read_h5ad(path)
    except Exception as error:  # h5py raises what it meets: OSError, KeyError, RuntimeError
        raise ValueError(
            f"{path}: truncated, or not an h5ad file ({type(error).__name__}: {error}). Copy or write it again"
        ) from error


def counts(
    adata: Any, layer: str | None = None, genes: Sequence[str] | None = None
) -> Tensor | SparseRows:
    """Return the checked counts in single precision, with shape (N, G); sparse ones stay sparse.

    Args:
        adata: an AnnData in memory or backed by a file, which is read in order, some thousand rows at a time.
        layer: of `adata.layers`; None for `adata.X`.
        genes: names and order of the columns to return; None for those of `adata`.

    Raises:
        ValueError: if there are no cells or genes, names occur twice, genes are missing, or a value is no count.
    """
    columns = _columns(adata, genes)
    x = _matrix(adata, layer, columns)
    off = _first_off(x)
    if off is not None:
        gene = (genes if genes is not None else adata.var_names)[off[1]]
        where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
        raise ValueError(
            f"{where}: {off[2]:g} in cell {adata.obs_names[off[0]]!r}, gene {gene!r}{_reason(x, off[2], adata)}"
        )
    return x.float()


def _columns(adata: Any, genes: Sequence[str] | None) -> np.ndarray | None:
    """Return where the genes are among adata's; None if they are the same in the same order."""
    if not adata.n_obs or not adata.n_vars:
        raise ValueError(
            f"the AnnData has {adata.n_obs} cells and {adata.n_vars} genes: expected at least one of each"
        )
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        raise ValueError(
            f"{len(twice)} gene names occur more than once: {listed(twice)}. Call adata.var_names_make_unique(), or sum their counts"
        )
    if genes is None or list(adata.var_names) == list(genes):
        return None
    columns = adata.var_names.get_indexer(list(genes))
    missing = [gene for gene, column in zip(genes, columns, strict=True) if column < 0]
    if missing:
        raise ValueError(
            f"{len(missing)} of the model's {len(genes)} genes are not in this AnnData: {listed(missing)}. "
            "Use names of the same kind (symbols or identifiers), or train on the genes that both have"
        )
    return columns


def _matrix(adata: Any, layer: str | None, columns: np.ndarray | None) -> Tensor | SparseRows:
    whole = None if adata.isbacked else _pick(adata, layer)
    pieces = _pieces(adata, layer) if whole is None else iter([whole])
    pieces = (piece if columns is None else piece[:, columns] for piece in pieces)
    if whole is not None and not is_sparse(whole):
        return _dense(next(pieces))
    first, *others = pieces
    if whole is not None and columns is None:
        first = (
            first.copy()
        )  # adata's own memory: what scanpy does in place must not reach the model
    if not is_sparse(first):
        return torch.cat([_dense(piece) for piece in (first, *others)])
    if not others:
        return SparseRows.of(first)
    from scipy import sparse

    return SparseRows.of(sparse.vstack([first, *others], format="csr"))


def _pieces(adata: Any, layer: str | None) -> Iterator[Any]:
    for start in range(0, adata.n_obs, _READ_AT_ONCE):
        yield _pick(adata[start : start + _READ_AT_ONCE], layer)


def _pick(adata: Any, layer: str | None) -> Any:
    x = adata.X if layer is None else adata.layers[layer]
    if x is None:
        layers = (
            f"one of {listed(adata.layers.keys())}"
            if len(adata.layers)
            else "but adata has no layers: put the counts into adata.X"
        )
        raise ValueError(f"adata.X is empty. Name the layer of raw counts: layer=, {layers}")
    if hasattr(x, "tocsr") and x.format != "csr":
        return x.tocsr()  # once, and before columns are picked
    return x


def _dense(x: Any) -> Tensor:
    x = np.asarray(x)
    if x.dtype.kind not in "biuf":
        raise TypeError(f"the counts have dtype {x.dtype}, expected real numbers")
    return torch.from_numpy(
        np.array(x, np.float64 if x.dtype == np.float64 else np.float32, order="C")
    )  # never adata's own memory


def _first_off(x: Tensor | SparseRows) -> tuple[int, int, float] | None:
    """Return row, column and value of the first that is no count; None if all are."""
    off = as_source(x).scan(COUNTS).off
    return None if off is None else (off.row, off.position[0], off.value)


def _reason(x: Tensor | SparseRows, value: float, adata: Any) -> str:
    """Return what the value may come from and what to do."""
    values = x.values if isinstance(x, SparseRows) else x
    layers = f"; adata.layers has {listed(adata.layers.keys())}" if len(adata.layers) else ""
    layers += "; adata.raw may hold them: adata.raw.to_adata()" if adata.raw is not None else ""
    remedy = f"pass layer='counts', or whichever holds the raw counts{layers}"
    if not np.isfinite(value):
        return f": not a number of transcripts. Drop these cells or genes, or {remedy}"
    if value < 0:
        return f": counts are never negative. The data look scaled or corrected: {remedy}"
    if values.max() < _LOG_MAXIMUM:
        return f": not a whole number, and the largest value is {values.max().item():.3g}. The data look log-normalised: {remedy}"
    return f": not a whole number. The data look normalised: {remedy}, or round estimated counts"


def say_what_is_empty(x: Tensor | SparseRows, cells: Sequence[str], genes: Sequence[str]) -> None:
    """Warn of cells without a transcript and of genes that no cell has.

    Raises:
        ValueError: if there is no transcript at all.
    """
    for dim, names, what, fate in (
        (1, cells, "cells have", "They are kept, and left out of the library prior"),
        (0, genes, "genes have", "They are kept, and carry no information"),
    ):
        empty = (x.sum(dim) == 0).nonzero().flatten().tolist()
        if len(empty) == len(names):
            raise ValueError(
                "every value is zero: there is nothing to learn. Pass the layer of raw counts: layer='counts'"
            )
        if empty:
            first = listed([names[i] for i in empty[:_NAMED]], len(empty))
            warnings.warn(
                f"{len(empty)} {what} no counts: {first}. {fate}", UserWarning, stacklevel=4
            )


def library_prior(
    totals: Tensor, codes: Tensor, names: Sequence[str]
) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of the log totals of each batch, over its cells that have counts.

    A batch with fewer than two such cells takes the deviation (with none, the mean too) of all batches together; no deviation is
    below that of counting a hundred transcripts. Both are said in a warning.

    Args:
        totals: transcripts of each training cell, with shape (N,).
        codes: number of its batch, with shape (N,).
        names: of the batches.

    Raises:
        ValueError: if no cell has counts.
    """
    full = totals > 0
    if not full.any():
        raise ValueError("no training cell has counts: there is no library size to learn from")
    logs, codes = totals[full].double().log(), codes[full]
    groups = [logs[codes == s] for s in range(len(names))]
    few = [name for name, group in zip(names, groups, strict=True) if len(group) < 2]
    if few and len(names) > 1:
        warnings.warn(
            f"fewer than two training cells with counts in batch {listed(few)}: the spread of its library sizes is that of all "
            "batches together. Merge it into another batch if you can",
            UserWarning,
            stacklevel=4,
        )
    means = [(group if len(group) else logs).mean().item() for group in groups]
    spreads = [(group if len(group) > 1 else logs).std(correction=0).item() for group in groups]
    low = [name for name, spread in zip(names, spreads, strict=True) if spread < _LEAST_DEVIATION]
    if low:
        warnings.warn(
            f"library sizes hardly vary in batch {listed(low)}: their prior's deviation is set to {_LEAST_DEVIATION}",
            UserWarning,
            stacklevel=4,
        )
    return means, [max(spread, _LEAST_DEVIATION) for spread in spreads]
