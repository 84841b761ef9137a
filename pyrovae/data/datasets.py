"""Data sets as plain arrays: digits, MNIST, array files, stacks, folders of images.

Every loader returns a `Dataset`: images with shape (N, C, H, W) or vectors with shape (N, D), and
labels as indices into `label_names`. Values are as stored; their `Kind` determines which
likelihoods fit them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrovae.data.images import image_files, read_images, read_pages
from pyrovae.data.posing import Posed, posed
from pyrovae.data.reading import Arrays, read_arrays, read_stack
from pyrovae.data.supports import Kind, Suggestion, kind_of

if TYPE_CHECKING:
    from torchvision.datasets import MNIST

__all__ = [
    "Dataset",
    "Kind",
    "Posed",
    "array",
    "digits",
    "fashion_mnist",
    "image_files",
    "image_folder",
    "kind_of",
    "mnist",
    "pages",
    "posed",
    "stack",
]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training rows and, if there are any, test rows.

    Attributes:
        name: name in reports.
        x: training rows with shape (N, C, H, W) or (N, D).
        kind: what the values are.
        labels: class of each training row, an index into `label_names`, with shape (N,).
        x_test: test rows with shape (M, C, H, W) or (M, D).
        labels_test: class of each test row, with shape (M,).
        label_names: names of the classes.
        total_count: the largest possible count, if `kind` is `Kind.COUNTS` and it is known.
    """

    name: str
    x: np.ndarray
    kind: Kind
    labels: np.ndarray | None = None
    x_test: np.ndarray | None = None
    labels_test: np.ndarray | None = None
    label_names: tuple[str, ...] = ()
    total_count: int | None = None

    def __repr__(self) -> str:
        test = f" and {self.test_rows} test rows" if self.test_rows else " rows"
        of = f" of {len(self.label_names)} classes" if self.labels is not None else ""
        return f"Dataset({self.name!r}: {len(self.x)}{test} of {self.shape}{of}, {self.kind.value})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row: (C, H, W) or (D,)."""
        return self.x.shape[1:]

    @property
    def test_rows(self) -> int:
        """Number of test rows."""
        return 0 if self.x_test is None else len(self.x_test)

    @property
    def likelihoods(self) -> tuple[Suggestion, ...]:
        """The likelihoods that fit the values, the most fitting first."""
        if self.total_count is not None:
            return self.kind.likelihoods(self.total_count, known=True)
        return self.kind.likelihoods(int(self.x.max()))

    def hold_out(self, rows: np.ndarray) -> Dataset:
        """Return a data set in which those training rows are the test rows; there are none yet."""
        kept = np.delete(np.arange(len(self.x)), rows)
        split = replace(self, x=self.x[kept], x_test=self.x[rows])
        if self.labels is None:
            return split
        return replace(split, labels=self.labels[kept], labels_test=self.labels[rows])


def digits(test_fraction: float = 0.2) -> Dataset:
    """Load scikit-learn's handwritten digits: 1,797 images of 8 x 8 counts from 0 to 16.

    The split is stratified by class and always the same. Each value counts the set pixels of a
    4 x 4 block (Alpaydin & Kaynak 1998, UCI), so it is binomial with 16 trials.
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
    """Load MNIST (LeCun et al. 1998) as grey values in [0, 1]: 60,000 + 10,000 images of 28 x 28.

    Args:
        root: folder that holds `MNIST/raw`; by default the one named by PYROVAE_DATA, else
            ~/.cache/pyrovae. torchvision downloads what is absent.
    """
    return _torchvision("MNIST", "mnist", root)


def fashion_mnist(root: str | Path | None = None) -> Dataset:
    """Load Fashion-MNIST (Xiao et al. 2017) as `mnist` does, from `FashionMNIST/raw`."""
    return _torchvision("FashionMNIST", "fashion-mnist", root)


def array(path: str | Path, missing: bool = False) -> Dataset:
    """Read an `.npy` file, or an `.npz` file with `x` (and `labels`, `x_test`, `labels_test`).

    Rows are vectors (N, D), grey images (N, H, W) or images (N, C, H, W); images (N, H, W, C) are
    transposed where only the last axis can hold colours. Of an `.npz` without `x` the only array is
    read; several are refused. Pickled objects are never read.

    Args:
        path: the file.
        missing: whether a value of x may be NaN, which says that it is not known.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, is empty, holds objects, NaN, infinity or values beyond
            10^19, has another number of axes, or several arrays and none named `x`.
    """
    path = Path(path)
    read = read_arrays(path, missing)
    return Dataset(
        path.stem,
        read.x,
        kind_of(np.nan_to_num(read.x) if missing else read.x),
        read.labels,
        read.x_test,
        read.labels_test,
        read.label_names,
    )


def image_folder(path: str | Path, missing: bool = False) -> Dataset:
    """Read a folder of images of one size; sub-folders, if there are any, are the classes.

    Values are as stored: 1 or 8 bits, whole numbers of 16 bits or more in one channel, or floats in
    one channel. Grey images have one channel and colours three; alpha is one channel more, which
    is left out where it is opaque in all images. Of a .pgm whose white is below 65535 Pillow scales
    the values.

    Args:
        path: the folder.
        missing: whether a float may be NaN, which says that it is not known.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it holds no image, an unreadable one, a file of several images, images that
            differ in size, mode or depth, images beside sub-folders, or as `array`.

    Warns:
        UserWarning: if colours have 16 bits each, of which Pillow reads the upper 8.
    """
    path = Path(path)
    return _of_images(path.resolve().name, read_images(path, missing))


def pages(path: str | Path, missing: bool = False) -> Dataset:
    """Read a TIFF, as `image_folder` reads images: each page is a row.

    Args:
        path: the file.
        missing: whether a float may be NaN, which says that it is not known.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: as `image_folder`.
    """
    path = Path(path)
    return _of_images(path.stem, read_pages(path, missing))


def _of_images(name: str, read: Arrays) -> Dataset:
    """Return a data set of images; those of 8 bits have levels, however dark they are."""
    kind = Kind.BINARY if read.x.max() <= 1 else Kind.LEVELS
    if read.x.dtype != np.uint8:
        kind = kind_of(np.nan_to_num(read.x))
    return Dataset(name, read.x, kind, read.labels, label_names=read.label_names)


def stack(path: str | Path) -> Dataset:
    """Read an MRC stack of images (Cheng et al. 2015), such as an `.mrcs` of particles.

    Raises:
        ImportError: if the package mrcfile is not installed.
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, is empty, or is no stack of images.
    """
    path = Path(path)
    x = read_stack(path)
    return Dataset(path.stem, x, kind_of(x))


def _torchvision(source: str, name: str, root: str | Path | None) -> Dataset:
    """Load a data set of torchvision's, such as MNIST, by its class there."""
    loader = getattr(_import_torchvision(), source)
    folder = Path(root or os.environ.get("PYROVAE_DATA") or Path.home() / ".cache" / "pyrovae")
    train, test = (_present_or_downloaded(loader, folder, train=train) for train in (True, False))
    x, x_test = (part.data.numpy()[:, None].astype(np.float32) / 255 for part in (train, test))
    names = tuple(label.split(" - ")[0] for label in train.classes)  # MNIST's are "0 - zero", ...
    return Dataset(name, x, Kind.UNIT, train.targets.numpy(), x_test, test.targets.numpy(), names)


def _import_torchvision() -> ModuleType:
    """Import torchvision.datasets, or explain what is wrong with the installation."""
    try:
        import torchvision.datasets
    except (ImportError, RuntimeError) as error:  # "operator torchvision::nms does not exist"
        raise ImportError(
            f"torchvision cannot be imported ({error}). It must match torch's build: "
            "a CPU-only torch needs the CPU-only torchvision. "
            "Install both together from the same index, e.g. "
            "`pip install --force-reinstall torch torchvision`, with "
            "`--index-url https://download.pytorch.org/whl/cpu` for CPU only"
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
            f"Name a folder that holds {name}/raw with --data-dir, root= or the environment "
            "variable PYROVAE_DATA"
        ) from error
