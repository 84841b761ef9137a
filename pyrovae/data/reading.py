"""Array files and stacks, read as NumPy arrays; errors name the file and the place."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pyrovae.data.batches import as_source
from pyrovae.data.supports import Support

__all__ = ["Arrays", "as_rows", "read_arrays", "read_stack"]

_LARGEST = float(np.sqrt(np.finfo(np.float32).max))  # densities square what they are given
_IN_FLOAT32 = Support(
    "finite numbers whose square single precision holds", -_LARGEST, _LARGEST, whole=False
)
_KNOWN = ("x", "labels", "x_test", "labels_test")  # names of arrays in an .npz


class Arrays(NamedTuple):
    """What was read: rows and labels of the training part and of the test part, if there is one."""

    x: np.ndarray
    labels: np.ndarray | None = None
    x_test: np.ndarray | None = None
    labels_test: np.ndarray | None = None
    label_names: tuple[str, ...] = ()


# ---------------------------------------------------------------------------------------- stacks
def read_stack(path: Path) -> np.ndarray:
    """Read an MRC stack of images as (N, 1, H, W), by the package mrcfile.

    Raises:
        ImportError, FileNotFoundError, ValueError: as `datasets.stack`.
    """
    try:
        import mrcfile
    except ImportError as error:
        raise ImportError(
            f"{path} is an MRC stack: reading it needs the package mrcfile, "
            "pip install 'pyrovae[microscopy]'"
        ) from error
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a file longer than its header says
            with mrcfile.open(path) as file:
                x = np.array(file.data)
    except Exception as error:  # mrcfile and NumPy raise many kinds for damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as an MRC stack ({reason}); expected a whole .mrcs file of "
            "images, as mrcfile writes it"
        ) from error
    if x.ndim == 2:
        x = x[None]
    if x.ndim != 3:
        raise ValueError(f"{path}: expected a stack of images (N, H, W), got shape {x.shape}")
    return as_rows(x.astype(np.float32) if x.dtype == np.float16 else x, f"{path}, data")


# ------------------------------------------------------------------------------------- array files
def read_arrays(path: Path, missing: bool = False) -> Arrays:
    """Read an `.npy` or `.npz` file; of an `.npz`, the array x, or the only one that has no role.

    Args:
        path: The file.
        missing: Whether a value of x may be NaN, which says that it is not known.

    Raises:
        FileNotFoundError, ValueError: as `datasets.array`.
    """
    parts = _parts(path)
    x = as_rows(parts[_name_of_x(path, parts)], f"{path}, x", missing)
    x_test = as_rows(parts["x_test"], f"{path}, x_test") if "x_test" in parts else None
    if x_test is not None and x_test.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"{path}: x has rows of shape {x.shape[1:]}, x_test of {x_test.shape[1:]}; "
            "expected the same shape"
        )
    rows = {"labels": len(x), "labels_test": 0 if x_test is None else len(x_test)}
    labels, names = _labels(path, {key: parts[key] for key in rows if key in parts}, rows)
    return Arrays(x, labels.get("labels"), x_test, labels.get("labels_test"), names)


def _parts(path: Path) -> dict[str, np.ndarray]:
    """Return every array of the file by name; pickled objects are never read."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with path.open("rb") as file:  # NumPy leaves a file that it cannot read open
            content = np.load(file, allow_pickle=False)
            parts = {"x": content} if isinstance(content, np.ndarray) else dict(content)
    except Exception as error:  # NumPy, zipfile and zlib raise many kinds for damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as numbers ({reason}); expected an .npy or .npz file as "
            "numpy.save or numpy.savez writes it, whole and without Python objects"
        ) from error
    if not parts:
        raise ValueError(f"{path} holds no array; expected one named x")
    return parts


def _name_of_x(path: Path, parts: dict[str, np.ndarray]) -> str:
    """Return the name of the array with the rows; which of several it is, is not guessed."""
    if "x" in parts:
        return "x"
    others = [name for name in parts if name not in _KNOWN]
    if len(others) == 1 and "x_test" not in parts:
        return others[0]
    listed = ", ".join(f"{name} with shape {part.shape}" for name, part in parts.items())
    raise ValueError(
        f"{path} holds {len(parts)} arrays and none is named x: {listed}. Write the rows to be "
        "modelled under that name: numpy.savez(path, x=rows, labels=labels)"
    )


def as_rows(x: np.ndarray, place: str, missing: bool = False) -> np.ndarray:
    """Check an array of rows, and give images an axis for channels."""
    if x.dtype.kind not in "buif":
        raise ValueError(f"{place}: expected real numbers, got dtype {x.dtype}")
    if x.ndim not in (2, 3, 4):
        raise ValueError(
            f"{place}: expected shape (N, D), (N, H, W) or (N, C, H, W), got {x.shape}; "
            "reshape it, rows first"
        )
    if x.size == 0:
        raise ValueError(f"{place}: the array is empty, its shape is {x.shape}")
    if x.dtype.kind == "f":
        known = np.where(np.isnan(x), 0, x) if missing else x
        _check_range(known, place)
        # Beyond [-1, 1] a column may vary by less than single precision tells apart.
        wide = x.dtype.itemsize >= 8 and np.abs(known).max() > 1
        kept_type = np.float64 if wide else np.float32
        return _channels_first(x.astype(kept_type, copy=False))
    kept = {"b": np.uint8, "u": np.uint8 if x.dtype == np.uint8 else np.int64, "i": np.int64}
    return _channels_first(x.astype(kept[x.dtype.kind], copy=False))


def _check_range(x: np.ndarray, place: str) -> None:
    """Refuse NaN, infinity and values that float32 cannot hold."""
    off = as_source(x).scan(_IN_FLOAT32).off
    if off is not None:
        raise ValueError(
            f"{place}: the value at {(off.row, *off.position)} is {off.value}, and {off.total} of "
            f"{x.size} are not {_IN_FLOAT32.words}; remove those rows, or fill the values in"
        )


def _channels_first(x: np.ndarray) -> np.ndarray:
    """Bring images to (N, C, H, W)."""
    if x.ndim == 3:
        return x[:, None]
    colours_last = x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4)
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if colours_last else x


def _labels(
    path: Path, labels: dict[str, np.ndarray], rows: dict[str, int]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return labels as indices into the sorted names of both parts; skip those of no rows."""
    found = {key: values for key, values in labels.items() if rows[key]}
    for key, values in found.items():
        if values.shape != (rows[key],):
            raise ValueError(
                f"{path}, {key}: expected one label per row, shape ({rows[key]},), "
                f"got {values.shape}"
            )
    if not found:
        return {}, ()
    names = np.unique(np.concatenate(list(found.values())))
    indices = {key: np.searchsorted(names, values) for key, values in found.items()}
    return indices, tuple(str(name) for name in names)
