"""Cells in many files, read from the disk when they are used: a folder of .h5ad or .zarr shards.

The files are read through anndata. A fit reads each cell once an epoch, in shuffled blocks, and of
several processes each reads its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data import Rows, Selected, SparseRows, TensorRows
from pyrovae.singlecell.messages import listed

__all__ = ["Shards", "open_shards"]

BLOCK = 1024  # cells that are read together
_OPEN = 32  # files at once: each takes some 10 MB, and a process may open about 1,000
_GAP = 64  # cells that are read in the time that another read takes to begin, about 1 ms
_SUFFIXES = (".h5ad", ".zarr")


class Shards(Rows):
    """The cells of several files as one source of counts with shape (N, G); see `open_shards`.

    Args:
        files: h5ad files, or folders of zarr, with the same genes in the same order.
        layer: with the counts; None for X.

    Attributes:
        files: the files.
        genes: names of the genes, a pandas Index.
        block: cells that are read together.
    """

    def __init__(self, files: Sequence[Path], layer: str | None = None) -> None:
        self.files, self.layer = list(files), layer
        self._open: dict[int, Any] = {}  # the file used last is the last one
        self._matrices: dict[int, Any] = {}
        self._reading = threading.RLock()  # no file is closed while another thread reads it
        self.genes = _names(self._group(0)["var"])
        sizes = [self._size(i) for i in range(len(self.files))]
        self._ends = np.cumsum(sizes)
        super().__init__((int(self._ends[-1]), len(self.genes)), torch.float32)
        self.block = BLOCK

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files out of copies and of other processes."""
        return {**super().__getstate__(), "_open": {}, "_matrices": {}, "_reading": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a lock of its own."""
        self.__dict__.update(state, _reading=threading.RLock())

    @cached_property
    def obs(self) -> Any:
        """The columns that describe the cells, a pandas DataFrame with N rows; read when asked."""
        import pandas as pd
        from anndata.io import read_elem

        with self._reading:
            frames = [read_elem(self._group(i)["obs"]) for i in range(len(self.files))]
        return pd.concat(frames)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Return the counts of some cells, dense."""
        if isinstance(rows, slice):
            rows = torch.arange(*rows.indices(len(self)))
        order = rows.argsort()
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return self.load(rows[order])[back]

    def load(self, rows: Tensor) -> Rows:
        """Return the counts of some cells, in ascending order, in memory; sparse ones sparse."""
        parts = list(self._parts(rows.numpy()))
        if not parts or not hasattr(parts[0], "tocsr"):
            dense = parts or [np.empty((0, self.shape[1]), np.float32)]
            return TensorRows(torch.from_numpy(np.concatenate(dense)))
        from scipy import sparse

        return SparseRows.of(sparse.vstack(parts, format="csr"))

    def select(self, rows: Tensor) -> Rows:
        """Return some cells as a view; they are read when they are used."""
        return Selected(self, rows)

    def _parts(self, rows: np.ndarray) -> Iterator[Any]:
        """Yield what is read at once: rows of one file without wide gaps."""
        file = np.searchsorted(self._ends, rows, side="right")
        cuts = np.flatnonzero((np.diff(rows) > _GAP) | (np.diff(file) != 0)) + 1
        for run in np.split(np.arange(len(rows)), cuts) if len(rows) else ():
            i = int(file[run[0]])
            yield self._read(i, rows[run] - (self._ends[i - 1] if i else 0))

    def _read(self, i: int, rows: np.ndarray) -> Any:
        """Return some rows of a file, in single precision."""
        start, stop = int(rows[0]), int(rows[-1]) + 1
        with self._reading:
            part = self._counts(i)[start:stop]
        if len(rows) < stop - start:
            part = part[rows - start]
        if hasattr(part, "tocsr"):
            part.data = part.data.astype(np.float32, copy=False)
            return part
        return np.asarray(part, np.float32)

    def _size(self, i: int) -> int:
        """Return the number of cells of a file, after its genes and counts were looked at."""
        counts, names = self._counts(i), _names(self._group(i)["var"])
        if not names.equals(self.genes):
            raise ValueError(
                f"{self.files[i]}: its {len(names)} genes are not those of {self.files[0]} in the "
                "same order. Write all shards with the same genes: adata[:, genes].write_h5ad"
            )
        return counts.shape[0]

    def _counts(self, i: int) -> Any:
        """Return the counts of a file, of which a slice is read from the disk."""
        group = self._group(i)
        if i not in self._matrices:
            self._matrices[i] = self._matrix(group, self.files[i])
        return self._matrices[i]

    def _matrix(self, group: Any, file: Path) -> Any:
        from anndata.io import sparse_dataset

        place = "X" if self.layer is None else f"layers/{self.layer}"
        if place not in group:
            layers = listed(group["layers"].keys()) if "layers" in group else "no layers"
            raise ValueError(f"{file}: there is no {place}; it has {layers}. Pass layer=")
        kind = group[place].attrs.get("encoding-type", "array")
        if kind == "csc_matrix":
            raise ValueError(
                f"{file}: {place} is stored by genes (CSC), so that no cell can be read by itself. "
                "Write it by cells: adata.X = adata.X.tocsr()"
            )
        return sparse_dataset(group[place]) if kind == "csr_matrix" else group[place]

    def _group(self, i: int) -> Any:
        """Return an open file; of too many, the one not used for longest is closed."""
        group = self._open.pop(i, None)
        if group is None:
            while len(self._open) >= _OPEN:
                oldest = next(iter(self._open))
                self._matrices.pop(oldest, None)
                closed = self._open.pop(oldest)
                if hasattr(closed, "close"):
                    closed.close()
            group = _opened(self.files[i])
        self._open[i] = group
        return group


def open_shards(paths: str | Path | Sequence[str | Path], layer: str | None = None) -> Shards:
    """Return the cells of many files as data for `pyrovae.fit`, which stay on the disk.

    A fit checks the counts when it reads them. The cells are shuffled in blocks: 1024 neighbours in
    a file are read together with 31 other blocks from anywhere, and their 32,768 cells are
    shuffled. Files in which the cells are in random order are shuffled best.

    Args:
        paths: a folder of .h5ad files or .zarr folders, or a list of them, which are taken in the
            order of their names; all have the same genes in the same order.
        layer: with the raw counts; None for X.

    Raises:
        FileNotFoundError: if there is no such file, or none in the folder.
        ValueError: if a file is damaged, has other genes, or is stored by genes.
        ImportError: if anndata, or for .zarr zarr, is not installed.

    Example:
        >>> import tempfile
        >>> import pyrovae as pv
        >>> from pyrovae.singlecell import simulate
        >>> folder, cells = Path(tempfile.mkdtemp()), simulate(60, 20).to_anndata()
        >>> cells[:25].copy().write_h5ad(folder / "a.h5ad")
        >>> cells[25:].copy().write_h5ad(folder / "b.h5ad")
        >>> shards = open_shards(folder)
        >>> shards.shape
        torch.Size([60, 20])
        >>> train, held_out = (shards.select(rows) for rows in pv.batches.split(60, 0.1))
        >>> graph = pv.graphs.count_vae(20)
        >>> pv.fit(graph, train, validation=held_out, epochs=1, progress=False).stopped
        'all epochs ran'
    """
    files = _files_in(Path(paths)) if isinstance(paths, str | Path) else list(map(Path, paths))
    if not files:
        raise FileNotFoundError(f"{paths}: there are no files that end in .h5ad or .zarr")
    return Shards(files, layer)


def _files_in(path: Path) -> list[Path]:
    if path.suffix == ".zarr" or path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder of .h5ad or .zarr files")
    return sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)


def _opened(file: Path) -> Any:
    """Return a file opened for reading, by h5py or zarr.

    Raises:
        FileNotFoundError, ValueError: if there is none, or it cannot be read.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file")
    try:
        if file.suffix == ".zarr":
            import zarr

            group = zarr.open_group(str(file), mode="r")
        else:
            import h5py

            group = h5py.File(file, "r")
        if "var" not in group or "obs" not in group:
            raise ValueError("it has no obs or no var")
        return group
    except ImportError:
        raise
    except Exception as error:  # OSError, KeyError or ValueError, as h5py and zarr find it
        raise ValueError(
            f"{file}: truncated, or not written by anndata ({type(error).__name__}: {error}). Copy "
            "or write it again"
        ) from error


def _names(frame: Any) -> Any:
    """Return the index of a stored table without reading its columns."""
    import pandas as pd
    from anndata.io import read_elem

    return pd.Index([str(name) for name in read_elem(frame[frame.attrs["_index"]])])
