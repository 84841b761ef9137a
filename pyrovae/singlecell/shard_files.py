"""Files of cells that anndata wrote, .h5ad or .zarr, opened when they are read and few at once."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pyrovae.data import check_indices
from pyrovae.singlecell.heaps import check_strings
from pyrovae.singlecell.setup import MINIFIED
from pyrovae.singlecell.shard_tables import (
    check_chunks,
    check_columns_once,
    damaged,
    matrix,
    names_of,
    table_of_cells,
)

__all__ = ["ShardFiles", "files_in"]

_OPEN = 32  # files at once: each takes some 10 MB, and a process may open about 1,000
_SUFFIXES = (".h5ad", ".zarr")


class ShardFiles:
    """The files of some cells; all have the same genes in the same order.

    Args:
        paths: h5ad files, or folders of zarr.

    Attributes:
        paths: see `Args`.
        genes: names of the genes, a pandas Index.
        layers: names of the layers of the first file.
        has_x: whether it has an X.

    Raises:
        FileNotFoundError, ValueError: if a file is missing, damaged, given twice, or has other
            genes.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        _check_once(paths)
        self.paths = [path.absolute() for path in paths]
        self._versions: dict[int, tuple[int, int]] = {}  # size and time of each file when opened
        self._whole: set[str] = set()  # places of which no chunk is lost, or it was said
        self._open: dict[int, Any] = {}  # the file used last is the last one
        self._matrices: dict[tuple[int, str], Any] = {}
        self._reading = threading.RLock()  # no file is closed while another thread reads it
        first = self._group(0)
        self.genes = names_of(first["var"])
        self.layers = list(first["layers"].keys()) if "layers" in first else []
        self.has_x = "X" in first
        for i, path in enumerate(self.paths):
            names = names_of(self._group(i)["var"])
            if not names.equals(self.genes):
                raise ValueError(
                    f"{path}: its {len(names)} genes are not those of {self.paths[0]} in the same "
                    "order. Write all shards with the same genes: adata[:, genes].write_h5ad"
                )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files out of copies and of other processes."""
        return {**self.__dict__, "_open": {}, "_matrices": {}, "_reading": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a lock of its own."""
        self.__dict__.update(state, _reading=threading.RLock())

    def sizes(self, layer: str | None) -> list[int]:
        """Return the number of cells of each file, after its counts were looked at.

        Warns:
            UserWarning: if chunks of a dense table are not stored, which are read as zeros.
        """
        found = [self._counts(i, layer).shape[0] for i in range(len(self.paths))]
        if _place(layer) not in self._whole:
            for i, path in enumerate(self.paths):
                check_chunks(self._group(i), _place(layer), path)
            self._whole.add(_place(layer))
        return found

    def obs(self) -> Any:
        """Return the columns that describe the cells, a pandas DataFrame.

        A column that a whole file lacks is missing in its cells.

        Raises:
            ValueError: if they cannot be read.
        """
        import pandas as pd

        with self._reading:
            frames = [table_of_cells(self._group(i), path) for i, path in enumerate(self.paths)]
        # Tables without rows would decide on the types of the columns in later versions of pandas.
        return pd.concat([frame for frame in frames if len(frame)] or frames[:1])

    def read(self, i: int, layer: str | None, rows: np.ndarray) -> Any:
        """Return rows of a file, in ascending order, as they are stored: sparse or dense.

        Raises:
            ValueError: if they cannot be read.
        """
        start, stop = int(rows[0]), int(rows[-1]) + 1
        try:
            with self._reading:
                part = self._counts(i, layer)[start:stop]
            check_indices(part)
            check_columns_once(part, start)
        except (OSError, KeyError, IndexError, ValueError) as error:
            raise damaged(self.paths[i], error) from error
        return part if (np.diff(rows) == 1).all() else part[rows - start]

    def _counts(self, i: int, layer: str | None) -> Any:
        """Return the counts of a file, of which a slice is read from the disk."""
        group, place = self._group(i), _place(layer)
        if (i, place) not in self._matrices:
            obs = group["obs"]
            names = obs[obs.attrs["_index"]]  # of nullable strings, it is a group
            names = names if hasattr(names, "shape") else names["values"]
            shape = names.shape[0], len(self.genes)
            self._matrices[i, place] = matrix(group, place, self.paths[i], shape)
        return self._matrices[i, place]

    def _group(self, i: int) -> Any:
        """Return an open file; of too many, the one not used for longest is closed."""
        group = self._open.pop(i, None)
        if group is None:
            while len(self._open) >= _OPEN:
                self._close(next(iter(self._open)))
            found = self.paths[i].stat() if self.paths[i].exists() else None
            version = (0, 0) if found is None else (found.st_size, found.st_mtime_ns)
            if version != self._versions.setdefault(i, version):
                raise ValueError(f"{self.paths[i]}: was changed while it was read. Begin again")
            group = _opened(self.paths[i])
        self._open[i] = group
        return group

    def _close(self, i: int) -> None:
        self._matrices = {key: value for key, value in self._matrices.items() if key[0] != i}
        closed = self._open.pop(i)
        if hasattr(closed, "close"):
            closed.close()


def files_in(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the files of cells in a folder, in the order of their names; files as they are.

    Raises:
        FileNotFoundError: if there is no such file or folder.
        TypeError: if `paths` is something else.
    """
    if isinstance(paths, list | tuple):
        return [Path(path) for path in paths]
    if not isinstance(paths, str | Path):
        raise TypeError(
            f"open_shards: got a {type(paths).__name__}, expected a folder of .h5ad or .zarr files "
            "or a list of them; SingleCellVAE takes an AnnData itself"
        )
    path = Path(paths)
    if path.suffix.lower() == ".zarr" or path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder of .h5ad or .zarr files")
    return sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in _SUFFIXES and not file.name.startswith(".")
    )


def _check_once(paths: Sequence[Path]) -> None:
    """Refuse files that are the same: their cells would be there twice."""
    known: dict[Path, Path] = {}
    for path in paths:
        first = known.setdefault(path.resolve(), path)
        if first is not path:
            raise ValueError(
                f"{path}: the same file as {first}, so that its cells would be there twice. Name "
                "each file once"
            )


def _place(layer: str | None) -> str:
    """Return where the counts lie in a file."""
    return "X" if layer is None else f"layers/{layer}"


def _opened(file: Path) -> Any:
    """Return a file opened for reading, by h5py or zarr.

    Raises:
        FileNotFoundError, ValueError: if there is none, or it cannot be read.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file")
    try:
        if file.suffix.lower() == ".zarr":
            import zarr

            group: Any = zarr.open_group(str(file), mode="r")
        else:
            import h5py

            group = h5py.File(file, "r")
        if "var" not in group or "obs" not in group:
            raise ValueError("it has no obs or no var")
        if file.suffix.lower() != ".zarr":
            check_strings(group["obs"], file)
            check_strings(group["var"], file)
        minified = "uns" in group and MINIFIED in group["uns"]
    except ImportError:
        raise
    except Exception as error:  # OSError, KeyError or ValueError, as h5py and zarr find it
        raise ValueError(
            f"{file}: truncated, or not written by anndata ({type(error).__name__}: {error}). Copy "
            "or write it again"
        ) from error
    if minified:
        raise ValueError(
            f"{file}: these cells are minified and have no counts; read them by anndata.read_h5ad"
        )
    return group
