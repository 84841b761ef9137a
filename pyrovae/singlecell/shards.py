"""Cells in many files, read from the disk when they are used: a folder of .h5ad or .zarr shards.

    SingleCellVAE.setup_anndata(cells := open_shards("atlas/"), batch_key="donor")
    SingleCellVAE(cells).train()

The files are read through anndata. A fit reads each cell once an epoch, in shuffled blocks, and of
several processes each reads its own.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrovae.data import (
    Rows,
    Scan,
    SparseRows,
    Support,
    TensorRows,
    row_numbers,
    slices,
    to_scipy,
    torch_threads,
)
from pyrovae.singlecell.messages import import_anndata, listed
from pyrovae.singlecell.shard_files import ShardFiles, files_in

__all__ = ["Shards", "open_shards"]

BLOCK = 1024  # cells that are read together
_SCANNED = 8 * BLOCK  # cells that are scanned together
_GAP = 64  # cells that are read in the time that another read takes to begin, about 1 ms


class Shards(Rows):
    """The cells of several files as one source of counts with shape (N, G); see `open_shards`.

    What `SingleCellVAE` asks of an AnnData has the same name here.

    Args:
        files: with the same genes in the same order.
        layer: with the counts; None for X.
        columns: numbers of the genes to take, in the order wanted; None for all.
        rows: numbers of the cells to take, in the order wanted; None for all.

    Attributes:
        genes, var_names: names of the genes, a pandas Index.
        obs: the columns that describe the cells, a pandas DataFrame with N rows.
        uns: what `setup_anndata` stored; it is not written to the files.
        layers: names of the layers.
        block: cells that are read together.
    """

    raw, isbacked, is_view = None, True, False

    def __init__(
        self,
        files: ShardFiles,
        layer: str | None = None,
        columns: np.ndarray | None = None,
        rows: Tensor | None = None,
    ) -> None:
        self._files, self.layer, self._columns, self._rows = files, layer, columns, rows
        self._ends = np.cumsum(files.sizes(layer))
        self.genes = self.var_names = files.genes if columns is None else files.genes[columns]
        self.uns: dict[str, Any] = {}
        self._obs: Any = None
        self._part_of: tuple[Shards, Tensor] | None = None  # other cells, and which of them
        self.layers = dict.fromkeys(files.layers)
        self._sums: Any = None
        self._own_digest: bytes | None = None
        cells = int(self._ends[-1]) if rows is None else len(rows)
        super().__init__((cells, len(self.genes)), torch.float32)
        self.block = BLOCK

    def __repr__(self) -> str:
        where = "X" if self.layer is None else f"layer {self.layer!r}"
        return f"Shards({self.n_obs} cells, {self.n_vars} genes, {where})"

    # ---------------------------------------------------------------------- in place of an AnnData
    @property
    def obs(self) -> Any:
        """The columns that describe the cells, a pandas DataFrame with N rows; read when asked."""
        if self._obs is None:
            if self._part_of is None:
                self._obs = self._files.obs()
            else:
                whole, rows = self._part_of
                self._obs = whole.obs.iloc[rows.numpy()].copy()
        return self._obs

    @obs.setter
    def obs(self, frame: Any) -> None:
        if len(frame) != len(self):
            raise ValueError(f"obs has {len(frame)} rows, but there are {len(self)} cells")
        self._obs = frame

    @property
    def obs_names(self) -> Any:
        """The names of the cells, a pandas Index."""
        return self.obs.index

    @property
    def var(self) -> Any:
        """The genes, a pandas DataFrame without columns."""
        import pandas as pd

        return pd.DataFrame(index=self.genes)

    @property
    def n_obs(self) -> int:
        """The number of cells."""
        return self.shape[0]

    @property
    def n_vars(self) -> int:
        """The number of genes."""
        return self.shape[1]

    def file_of(self, cell: int) -> Path:
        """Return the file that holds a cell."""
        place = int(self._in_files(torch.tensor(cell)))
        return self._files.paths[int(np.searchsorted(self._ends, place, side="right"))]

    def counts(self, layer: str | None = None, columns: np.ndarray | None = None) -> Shards:
        """Return the counts of a layer (None: the same), and of some of the genes."""
        if columns is None and layer in (None, self.layer):
            return self
        if self._columns is not None:
            columns = self._columns if columns is None else self._columns[columns]
        found = Shards(self._files, self.layer if layer is None else layer, columns, self._rows)
        found.uns, found._obs, found._part_of = self.uns, self._obs, self._part_of
        return found

    def select(self, rows: Any) -> Shards:
        """Return some cells, by their numbers or a mask, with their obs; they stay on the disk.

        What `setup_anndata` stored for all cells holds for them too, until they are set up.
        """
        some = row_numbers(rows, len(self))
        found = Shards(self._files, self.layer, self._columns, self._in_files(some))
        found.uns, found._part_of = dict(self.uns), (self, some)
        return found

    def _in_files(self, rows: Tensor) -> Tensor:
        """Return the numbers of cells among those of all files."""
        return rows if self._rows is None else self._rows[rows]

    def to_memory(self, rows: Any = None, layers: Sequence[str | None] | None = None) -> Any:
        """Return cells, by their numbers or a mask, or all as an AnnData with obs and uns.

        Its counts are those of some layers, None among them for X; by default of all, and X.
        """
        import anndata

        some = row_numbers(slice(None) if rows is None else rows, len(self))
        wanted = [None, *self.layers] if layers is None else layers
        tables = {name: self._table(name, some) for name in wanted if name or self._files.has_x}
        x, obs = tables.pop(None, None), self.obs.iloc[some.numpy()].copy()
        return anndata.AnnData(x, obs=obs, var=self.var, layers=tables, uns=dict(self.uns))

    def _table(self, layer: str | None, rows: Tensor) -> Any:
        found = Shards(self._files, layer, self._columns, self._rows).load(rows)
        return to_scipy(found) if isinstance(found, SparseRows) else found[:].numpy()

    # ------------------------------------------------------------------------- as a source of rows
    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Return the counts of some cells, dense."""
        return self.load(row_numbers(rows, len(self)))[:]

    def load(self, rows: Tensor) -> Rows:
        """Return the counts of some cells in memory; sparse ones sparse."""
        return self._loaded(self._in_files(row_numbers(rows, len(self))))

    def _loaded(self, rows: Tensor) -> Rows:
        if (rows.diff() < 0).any():
            order = rows.argsort()
            return self._loaded(rows[order]).select(order.argsort())
        parts = list(self._parts(rows.numpy()))
        if not any(hasattr(part, "tocsr") for part in parts):
            dense = parts or [np.empty((0, self.shape[1]), np.float32)]
            return TensorRows(torch.from_numpy(np.concatenate(dense)))
        from scipy import sparse

        return SparseRows.of(sparse.vstack(list(map(sparse.csr_matrix, parts)), format="csr"))

    def sum(self, dim: int) -> Tensor:
        """Return the sums over the cells (0) or the genes (1), in double precision."""
        if self._sums is None:
            self._read()
        return self._sums[dim]

    def digest(self, before: Any) -> Any:
        """Return the SHA-256 of what came before and of all counts, as they are stored."""
        if self._own_digest is None:
            self._read()
        after = before.copy()
        after.update(self._own_digest)
        return after

    @property
    def known_digest(self) -> str | None:
        """A SHA-256 of all counts, if they were read."""
        return None if self._own_digest is None else self._own_digest.hex()

    def _read(self, support: Support | None = None, digest: Any = None) -> None:
        """Read all counts once: what a scan finds, their sums and their digest."""
        scans, sums = [], (torch.zeros(self.shape[1], dtype=torch.double), list[Tensor]())
        taken = hashlib.sha256()
        with torch_threads(1):
            for some in slices(len(self), _SCANNED):
                part = self.load(torch.arange(some.start, some.stop))
                scans.append(part.scan(support).after(some.start))
                sums[0].add_(part.sum(0))
                sums[1].append(part.sum(1))
                taken = part.digest(taken)
        found = functools.reduce(Scan.joined, scans)
        self._scan, self._sums = found._replace(off=None), (sums[0], torch.cat(sums[1]))
        self._own_digest = taken.digest()
        if support is not None:
            self._off[support] = found.off

    def _parts(self, rows: np.ndarray) -> Iterator[Any]:
        """Yield what is read at once, in single precision: rows of a file without wide gaps."""
        file = np.searchsorted(self._ends, rows, side="right")
        cuts = np.flatnonzero((np.diff(rows) > _GAP) | (np.diff(file) != 0)) + 1
        for run in np.split(np.arange(len(rows)), cuts) if len(rows) else ():
            i = int(file[run[0]])
            part = self._files.read(i, self.layer, rows[run] - (self._ends[i - 1] if i else 0))
            part = part if self._columns is None else part[:, self._columns]
            if hasattr(part, "tocsr"):
                part.data = part.data.astype(np.float32, copy=False)
                yield part
            else:
                yield np.asarray(part, np.float32)


def open_shards(paths: str | Path | Sequence[str | Path], layer: str | None = None) -> Shards:
    """Return the cells of one or many files, which stay on the disk.

    They are taken by `SingleCellVAE`, after `setup_anndata`, in place of an AnnData, and as data by
    `pyrovae.fit`. A model scans all counts once; a fit without one checks them when it reads them.
    The cells are shuffled in blocks: 1024 neighbours in a file are read together with 31 other
    blocks from anywhere, and their 32,768 cells are shuffled. Files in which the cells are in
    random order are shuffled best.

    zarr reads a chunk that is lost as zeros. A file with a lost chunk of sparse counts is refused;
    of dense counts, or of a column of categories, a warning is issued. A lost chunk of another
    column of obs cannot be noticed.

    Args:
        paths: a folder of .h5ad files or .zarr folders, or a list of them, which are taken in the
            order of their names, or one file; all have the same genes in the same order. Hidden
            files of a folder are left out.
        layer: with the raw counts; None for X.

    Raises:
        FileNotFoundError: if there is no such file, or none in the folder.
        TypeError: if `paths` is something else, such as an AnnData.
        ValueError: if a file is damaged, given twice, has other genes, or is stored by genes, or if
            there is no cell.
        ImportError: if anndata, or for .zarr zarr, is not installed.

    Warns:
        UserWarning: if chunks of a dense table in a .zarr folder, or of a column of categories, are
            not stored.

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
    import_anndata()  # it reads the files
    files = files_in(paths)
    if not files:
        raise FileNotFoundError(f"{paths}: there are no files that end in .h5ad or .zarr")
    cells = Shards(ShardFiles(files), layer)
    if not len(cells):
        raise ValueError(f"{paths}: there is no cell in {listed(file.name for file in files)}")
    return cells
