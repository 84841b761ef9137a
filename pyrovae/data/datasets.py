"""Data sets as plain arrays with names: the embedded digits, torchvision's MNIST pair, array files, folders of images.

Every loader returns a `Dataset`: images with shape (N, C, H, W), vectors with shape (N, D), labels as indices into
`label_names`. Values come as they are stored; `Kind` says what they mean and so which likelihood fits them.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torchvision.datasets import MNIST

__all__ = [
    "Dataset",
    "Kind",
    "array",
    "digits",
    "fashion_mnist",
    "image_folder",
    "kind_of",
    "mnist",
]

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)


class Kind(Enum):
    """What the values of a data set are."""

    BINARY = "zeros and ones"
    COUNTS = "counts"
    UNIT = "grey values in [0, 1]"
    LEVELS = "levels 0 to 255"
    REAL = "real numbers"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows to train on, and rows held back for testing if there are any.

    Attributes:
        name: What it is called in reports.
        x: Training rows with shape (N, C, H, W) or (N, D).
        kind: What the values are.
        labels: Class of each training row, an index into `label_names`, with shape (N,).
        x_test: Test rows with shape (M, C, H, W) or (M, D).
        labels_test: Class of each test row, with shape (M,).
        label_names: Names of the classes.
        total_count: Largest possible count, where `kind` is `Kind.COUNTS` and it is known.
    """

    name: str
    x: np.ndarray
    kind: Kind
    labels: np.ndarray | None = None
    x_test: np.ndarray | None = None
    labels_test: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    total_count: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row: (C, H, W) or (D,)."""
        return self.x.shape[1:]

    @property
    def test_rows(self) -> int:
        """Number of test rows."""
        return 0 if self.x_test is None else len(self.x_test)

    def hold_out(self, rows: np.ndarray) -> Dataset:
        """Make those training rows the test rows; there must be none before."""
        kept = np.delete(np.arange(len(self.x)), rows)
        split = replace(self, x=self.x[kept], x_test=self.x[rows])
        if self.labels is None:
            return split
        return replace(split, labels=self.labels[kept], labels_test=self.labels[rows])


def digits(test_fraction: float = 0.2) -> Dataset:
    """scikit-learn's embedded handwritten digits: 1,797 images of 8 x 8 counts in 0..16, split by class, always alike.

    Each value counts the set pixels of a 4 x 4 block (Alpaydin & Kaynak 1998, UCI), so it is binomial with 16 trials.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    source: Any = load_digits()
    x, labels = source.images.astype(np.float32)[:, None], source.target
    train, test = train_test_split(
        np.arange(len(x)), test_size=test_fraction, random_state=0, stratify=labels
    )
    names = tuple(str(name) for name in source.target_names)
    return Dataset(
        "digits", x[train], Kind.COUNTS, labels[train], x[test], labels[test], names, total_count=16
    )


def mnist(root: str | Path | None = None) -> Dataset:
    """MNIST (LeCun et al. 1998) as grey values in [0, 1]: 60,000 + 10,000 images of 28 x 28.

    Args:
        root: Folder that holds `MNIST/raw`; by default the one named by PYROVAE_DATA, else ~/.cache/pyrovae.
            torchvision downloads what is absent.
    """
    return _torchvision("MNIST", "mnist", root)


def fashion_mnist(root: str | Path | None = None) -> Dataset:
    """Fashion-MNIST (Xiao et al. 2017), as `mnist` is, from `FashionMNIST/raw`."""
    return _torchvision("FashionMNIST", "fashion-mnist", root)


def array(path: str | Path) -> Dataset:
    """Read an `.npy` file, or an `.npz` file with `x` and, if wanted, `labels`, `x_test`, `labels_test`.

    Rows are vectors (N, D), grey images (N, H, W) or images (N, C, H, W); (N, H, W, C) is turned where only the last
    axis can hold colours. An `.npz` without `x` gives its first array. Pickled objects are never read.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, is empty, holds objects, NaN or infinity, or has another number of axes.
    """
    path = Path(path)
    parts = _read_arrays(path)
    x = _rows(parts.get("x", next(iter(parts.values()))), f"{path}, x")
    x_test = _rows(parts["x_test"], f"{path}, x_test") if "x_test" in parts else None
    if x_test is not None and x_test.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"{path}: x has rows of shape {x.shape[1:]}, x_test of {x_test.shape[1:]}; they must agree"
        )
    labels, labels_test, names = _labels(path, parts, x, x_test)
    return Dataset(path.stem, x, kind_of(x), labels, x_test, labels_test, names)


def image_folder(path: str | Path) -> Dataset:
    """Read a folder of images of one size; sub-folders, where there are any, name the classes.

    Grey images give one channel, colour images three, 8 bits each.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no image, an unreadable one, one of another size or mode, or images beside classes.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    files, classes = _image_files(path)
    first = _pixels(files[0])
    x = np.stack([_alike(file, _pixels(file), files[0], first) for file in files])
    names = tuple(sorted(set(classes)))
    labels = np.array([names.index(name) for name in classes]) if names else None
    kind = Kind.BINARY if x.max() <= 1 else Kind.LEVELS
    return Dataset(path.resolve().name, x, kind, labels, label_names=names)


def kind_of(x: np.ndarray) -> Kind:
    """Say what values are by looking at them: whole numbers up to 64 pass for counts, up to 255 for grey levels."""
    low, high = float(x.min()), float(x.max())
    whole = x.dtype.kind in "bui" or bool((x == np.round(x)).all())
    if not whole or low < 0:
        return Kind.UNIT if low >= 0 and high <= 1 else Kind.REAL
    if high <= 1:
        return Kind.BINARY
    return Kind.LEVELS if 64 < high <= 255 else Kind.COUNTS


def _torchvision(source: str, name: str, root: str | Path | None) -> Dataset:
    """Load one of torchvision's MNIST-like sets, by its own class."""
    loader = getattr(_import_torchvision(), source)
    folder = Path(root or os.environ.get("PYROVAE_DATA") or Path.home() / ".cache" / "pyrovae")
    train, test = (_present_or_downloaded(loader, folder, train=train) for train in (True, False))
    x, x_test = (part.data.numpy()[:, None].astype(np.float32) / 255 for part in (train, test))
    names = tuple(label.split(" - ")[0] for label in train.classes)  # MNIST's are "0 - zero", ...
    return Dataset(name, x, Kind.UNIT, train.targets.numpy(), x_test, test.targets.numpy(), names)


def _import_torchvision() -> ModuleType:
    """Import torchvision.datasets, or say what an installation without a matching torchvision lacks."""
    try:
        import torchvision.datasets
    except (
        ImportError,
        RuntimeError,
    ) as error:  # RuntimeError: operator torchvision::nms does not exist
        raise ImportError(
            f"torchvision cannot be imported ({error}). It must match torch's build: a CPU-only torch needs the CPU-only "
            "torchvision. Install both together from the same index, e.g. `pip install --force-reinstall torch torchvision`, "
            "with `--index-url https://download.pytorch.org/whl/cpu` for CPU only"
        ) from error
    return torchvision.datasets


def _present_or_downloaded(loader: Callable[..., MNIST], folder: Path, *, train: bool) -> MNIST:
    """Open a torchvision data set in `folder`, downloading it first where it is absent."""
    raw = folder / loader.__name__ / "raw"
    try:
        return loader(folder, train=train, download=True)  # downloads only what is absent
    except (RuntimeError, OSError, EOFError, ValueError, AssertionError) as error:
        why, name = " ".join(str(error).split()), loader.__name__
        raise FileNotFoundError(
            f"{name} is not in {raw}, or cannot be read there, and downloading it failed ({why}). "
            f"Name a folder that holds {name}/raw with --data-dir, root= or the environment variable PYROVAE_DATA"
        ) from error


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read every array of an `.npy` or `.npz` file, never unpickling."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with path.open("rb") as file:  # NumPy leaves a file that it cannot read open
            content = np.load(file, allow_pickle=False)
            parts = {"x": content} if isinstance(content, np.ndarray) else dict(content)
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        whole = "an .npy or .npz file as numpy.save or numpy.savez writes it, whole and without Python objects"
        raise ValueError(f"{path} cannot be read as numbers ({error}); expected {whole}") from error
    if not parts:
        raise ValueError(f"{path} holds no array; expected one named x")
    return parts


def _rows(x: np.ndarray, place: str) -> np.ndarray:
    """Check an array of rows and give images their channel axis."""
    if x.dtype.kind not in "buif":
        raise ValueError(f"{place}: expected real numbers, got dtype {x.dtype}")
    if x.ndim not in (2, 3, 4):
        raise ValueError(
            f"{place}: expected shape (N, D), (N, H, W) or (N, C, H, W), got {x.shape}; reshape it, rows first"
        )
    if x.size == 0:
        raise ValueError(f"{place}: the array is empty, its shape is {x.shape}")
    if x.dtype.kind == "f":
        _require_finite(x, place)
        x = x.astype(np.float32)
    elif x.dtype != np.uint8:
        x = x.astype(np.uint8 if x.dtype.kind == "b" else np.int64)
    return _channels_first(x)


def _require_finite(x: np.ndarray, place: str) -> None:
    """Refuse NaN and infinity, and values float32 cannot hold, naming the first."""
    bad = ~(np.abs(x) <= np.finfo(np.float32).max)
    if bad.any():
        index, count = tuple(np.argwhere(bad)[0].tolist()), f"{int(bad.sum())} of {x.size}"
        raise ValueError(
            f"{place}: the value at {index} is {x[index]}, and {count} are not finite; remove or fill in those rows"
        )


def _channels_first(x: np.ndarray) -> np.ndarray:
    """Bring images to (N, C, H, W)."""
    if x.ndim == 3:
        return x[:, None]
    colours_last = x.ndim == 4 and x.shape[-1] in (1, 3, 4) and x.shape[1] not in (1, 3, 4)
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if colours_last else x


Labels = tuple[
    np.ndarray | None, np.ndarray | None, tuple[str, ...]
]  # of the training rows, of the test rows, names


def _labels(
    path: Path, parts: dict[str, np.ndarray], x: np.ndarray, x_test: np.ndarray | None
) -> Labels:
    """Turn an archive's labels to indices into the sorted names of both parts."""
    found: dict[str, np.ndarray] = {}
    for key, rows in (("labels", x), ("labels_test", x_test)):
        if key in parts and rows is not None:
            if parts[key].shape != (len(rows),):
                raise ValueError(
                    f"{path}, {key}: expected one label a row, shape ({len(rows)},), got {parts[key].shape}"
                )
            found[key] = parts[key]
    if not found:
        return None, None, ()
    names = np.unique(np.concatenate(list(found.values())))
    index = {key: np.searchsorted(names, values) for key, values in found.items()}
    return index.get("labels"), index.get("labels_test"), tuple(str(name) for name in names)


def _image_files(path: Path) -> tuple[list[Path], list[str]]:
    """List the images of a folder and the class of each, in order; no class where there are no sub-folders."""
    files = sorted(
        file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()
    )
    beside = [file for file in files if file.parent == path]
    if not files:
        raise ValueError(
            f"{path} holds no image; expected files that end in {', '.join(sorted(SUFFIXES))}"
        )
    if len(beside) == len(files):
        return files, []
    if beside:
        raise ValueError(
            f"{path}: {beside[0].name} lies beside the sub-folders that name classes; move it into one of them"
        )
    return files, [file.relative_to(path).parts[0] for file in files]


def _pixels(file: Path) -> np.ndarray:
    """Read one image as (C, H, W), 8 bits."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            plain = image.convert("RGB") if image.mode in ("P", "CMYK", "YCbCr") else image
            mode, pixels = plain.mode, np.asarray(plain)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"{file} cannot be read as an image ({error}); mend or remove it"
        ) from error
    if mode not in ("1", "L", "RGB", "RGBA"):
        raise ValueError(
            f"{file}: expected 8-bit grey or colours, got mode {mode}; convert it, e.g. to an 8-bit PNG"
        )
    return np.atleast_3d(pixels.astype(np.uint8)).transpose(2, 0, 1)


def _alike(file: Path, pixels: np.ndarray, model: Path, expected: np.ndarray) -> np.ndarray:
    """Refuse an image that has another size or number of channels than the first."""
    if pixels.shape != expected.shape:
        (c, h, w), (c0, h0, w0) = pixels.shape, expected.shape
        odd, rest = f"{w} x {h} with {c} channels", f"{w0} x {h0} with {c0}"
        raise ValueError(
            f"{file} is {odd}, while {model.name} is {rest}; bring all to one size and mode"
        )
    return pixels
