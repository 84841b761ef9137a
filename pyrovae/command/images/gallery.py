"""Images as the restoring commands read and write them: folders of images, array files, data sets.

Between reading and writing an image is in [0, 1], black to white, whatever its data store.
"""

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from pyrovae.command.images.preparation import Preparation
from pyrovae.command.images.resolve import EMBEDDED
from pyrovae.command.images.rows import fingerprint, has_levels, read_for
from pyrovae.command.runs import Run
from pyrovae.command.writing import write
from pyrovae.data import Dataset, batches, datasets, spread

__all__ = ["Gallery", "Scale", "read_gallery"]

_LEVELS = 255.0  # of an image file
_FAR = 10.0  # times white; noise has a standard deviation of 1 and less
_MOST_OF_FRACTIONS = 5.0  # of images in [0, 1], with noise as large as that
_ROUNDED = 1e-3  # off a whole number, by single precision


@final
@dataclass(frozen=True)
class Scale:
    """Between stored values, values as modelled and [0, 1].

    Attributes:
        preparation: How stored rows become rows as modelled.
    """

    preparation: Preparation

    @property
    def span(self) -> float:
        """The stored value of white minus that of black."""
        low, high = self.preparation.limits
        return high - low if high > low else 1.0

    @property
    def model_span(self) -> float:
        """The modelled value of white minus that of black."""
        return self.span / self.preparation.scale[0]

    @property
    def levels(self) -> int:
        """The largest count of a pixel as modelled, 1 for pixels that are no counts."""
        return 1 if self.preparation.is_scaled else self.preparation.total_count or 1

    def to_unit(self, stored: np.ndarray) -> Tensor:
        """Return stored values with black as 0 and white as 1."""
        low, _ = self.preparation.limits
        return torch.from_numpy(((stored - low) / self.span).astype(np.float32))

    def to_stored(self, unit: Tensor) -> np.ndarray:
        """Return values as the data of the run store them."""
        low, _ = self.preparation.limits
        return (unit.double().numpy() * self.span + low).astype(np.float32)

    def to_model(self, unit: Tensor, *, valid: bool = False) -> Tensor:
        """Return values as the model takes them.

        Args:
            unit: Values with black as 0 and white as 1, of any shape.
            valid: Whether each must be in the support of the likelihood: whole numbers are
                rounded, and grey values binarized as for evaluation.
        """
        stored = self.to_stored(unit)
        if valid:
            whole = self.preparation.total_count is not None
            return self.preparation.for_evaluation(stored.round() if whole else stored)
        return torch.from_numpy(self.preparation.scaled(stored).astype(np.float32))

    def sums(self, means: Tensor, n: int) -> Tensor:
        """Return sums of n values as modelled, given their means with black as 0 and white as 1.

        Sums of whole numbers are rounded to whole numbers, and so are those of binarized values.
        """
        stored = self.to_stored(means)
        if self.preparation.total_count is not None:
            stored = (stored * n).round() / n
        sums = self.preparation.scaled(stored) * n
        return torch.from_numpy((sums.round() if self.preparation.binarize else sums).astype("f4"))

    def from_model(self, x: Tensor) -> Tensor:
        """Return modelled values with black as 0 and white as 1."""
        return self.to_unit(self.preparation.undo(x))


@final
@dataclass(frozen=True)
class Gallery:
    """Images that a command restores, and the form in which they came.

    Attributes:
        x: The images, with black as 0 and white as 1, and shape (N, *event).
        context: The labels as the model takes them, () for a model without context.
        suffix: .png for a folder of images, .tif for one of more than 8 bits, .npz with labels,
            else .npy.
        names: Of the files of a folder, without their endings unless two differ by these alone.
        labels: Name of the class of each, where known.
    """

    x: Tensor
    context: tuple[Tensor, ...]
    suffix: str
    names: tuple[str, ...] = ()
    labels: np.ndarray | None = None

    def write(self, path: Path, unit: Tensor, stored: np.ndarray, white: float = 1.0) -> None:
        """Write a result for each image in the form in which the images came.

        Args:
            path: Without ending; the folder of image files.
            unit: The results with shape (N, *event), for image files of 8 bits.
            stored: The same in the unit of the stored data, for array files and .tif files.
            white: The value in `unit` that image files of 8 bits show white; black is 0.
        """
        if self.suffix == ".png":
            for name, image in zip(self.names, unit.numpy() / white, strict=True):
                write(path / f"{name}.png", _png(image))
        elif self.suffix == ".tif":
            for name, image in zip(self.names, stored, strict=True):
                write(path / f"{name}.tif", _tiff(image))
        elif self.suffix == ".npz":
            arrays = {"x": stored} | ({} if self.labels is None else {"labels": self.labels})
            content = _bytes(lambda file: np.savez(file, allow_pickle=False, **arrays))
            write(path.with_suffix(".npz"), content)
        else:
            write(path.with_suffix(".npy"), _bytes(lambda file: np.save(file, stored)))

    def write_draws(self, path: Path, unit: Tensor, stored: np.ndarray) -> None:
        """Write K draws for each image, with shape (K, N, *event): a folder of files for each."""
        if not self.names:
            self.write(path, unit, stored)
            return
        width = len(str(len(unit)))
        for k, draw in enumerate(unit):
            self.write(path / f"{k + 1:0{width}}", draw, stored[k])


def read_gallery(
    data: str,
    run: Run[Any],
    scale: Scale,
    data_dir: Path | None,
    at_most: int | None,
    missing: bool = False,
) -> Gallery:
    """Read images: the test rows of a data set, all images of a file or of a folder.

    Of the very data that the run was fitted on, only the rows that were held out are read.

    Args:
        data: Name of a data set, an array file, a stack, or a folder of images.
        run: The run that restores them.
        scale: How it stores its values; images of 1 or 8 bits are brought to them.
        data_dir: Folder with torchvision's data sets.
        at_most: Number of images, evenly spread; None reads all.
        missing: Whether values of an array or image file may be NaN, which says that they are not
            known.

    Raises:
        ImportError, FileNotFoundError, ValueError: They cannot be read, or lack labels.
    """
    dataset = read_for(scale.preparation, data, data_dir, missing)
    is_folder = data not in EMBEDDED and Path(data).is_dir()
    levels = has_levels(data, dataset)
    x, labels, kept = _rows(dataset, run)
    chosen = spread(len(x), at_most or len(x)).numpy()
    kept, x, labels = kept[chosen], x[chosen], None if labels is None else labels[chosen]
    white = 1.0 if dataset.kind is datasets.Kind.BINARY else _LEVELS  # of image files
    unit = torch.from_numpy((x / white).astype(np.float32)) if levels else scale.to_unit(x)
    _check_unit(unit, scale, data)
    names: tuple[str, ...] = ()
    if is_folder:
        every = _names(datasets.image_files(Path(data)), Path(data))
        names = tuple(every[i] for i in kept)
    named = None if labels is None else np.array(dataset.label_names)[labels]
    context = scale.preparation.context(labels, dataset.label_names)
    of_files = ".png" if levels else ".tif"
    suffix = of_files if is_folder else ".npz" if data.lower().endswith(".npz") else ".npy"
    return Gallery(unit, context, suffix, names, named)


def _names(files: list[Path], folder: Path) -> list[str]:
    """Return the names of files in a folder, with endings where two differ by these alone."""
    names = [file.relative_to(folder) for file in files]
    short = [name.with_suffix("") for name in names]
    files_of = Counter(short)
    return [str(a if files_of[a] == 1 else b) for a, b in zip(short, names, strict=True)]


def _check_unit(unit: Tensor, scale: Scale, data: str) -> None:
    """Refuse images in another unit than the model's: above any noise, or fractions of white."""
    low, high = scale.preparation.limits
    largest = unit.nan_to_num(0).abs().max().item()
    if low == 0 and high in (1, _LEVELS) and largest > _FAR:
        raise ValueError(
            f"{data} holds values up to {largest * high:.6g}, while the model was fitted on values "
            f"from black 0 to white {high:g}; bring them to that unit"
        )
    stored = unit.nan_to_num(0) * high
    whole = (stored - stored.round()).abs().max() < _ROUNDED
    if low == 0 and high == _LEVELS and largest * high <= _MOST_OF_FRACTIONS and not whole:
        raise ValueError(
            f"{data} holds fractions up to {largest * high:.6g}, while the model was fitted on "
            f"values from black 0 to white {high:g}, of which these are nearly black; multiply "
            f"them by {high:g}"
        )


def _rows(data: Dataset, run: Run[Any]) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Return rows, their labels and their numbers: test rows, held-out rows, or all."""
    if data.x_test is not None:
        return data.x_test, data.labels_test, np.arange(len(data.x_test))
    kept = np.arange(len(data.x))
    if fingerprint(data) == run.data["fingerprint"]:
        kept = batches.split(len(data.x), run.settings.test, run.settings.seed)[1].numpy()
    return data.x[kept], None if data.labels is None else data.labels[kept], kept


def _png(image: np.ndarray) -> bytes:
    """Return an image (C, H, W) in [0, 1] as the bytes of a PNG file of 8 bits."""
    from PIL import Image

    pixels = (_LEVELS * image.clip(0, 1)).round().astype(np.uint8)
    pixels = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
    return _bytes(lambda file: Image.fromarray(pixels).save(file, format="PNG"))


def _tiff(image: np.ndarray) -> bytes:
    """Return a grey image (1, H, W) as the bytes of a TIFF file of floats."""
    from PIL import Image

    pixels = image[0].astype(np.float32)
    return _bytes(lambda file: Image.fromarray(pixels).save(file, format="TIFF"))


def _bytes(save: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()
