"""Which rows of a data set are test rows, and which rows a command works on."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrovae.command.choices import Part
from pyrovae.command.images.preparation import Preparation
from pyrovae.command.images.resolve import TIFFS, read_data
from pyrovae.command.images.settings import ImageSettings
from pyrovae.command.runs import Run
from pyrovae.data import Dataset, Kind, batches, spread

__all__ = [
    "Rows",
    "Training",
    "fingerprint",
    "has_levels",
    "hold_out_test",
    "in_levels_of",
    "prepare_rows",
    "read_for",
    "select",
]


Batch = tuple[Tensor, ...]  # (x, *c), prepared


class Training(NamedTuple):
    """Rows to train on, and to validate by if there are any."""

    rows: Batch
    validation: Batch | None


class Rows(NamedTuple):
    """Rows of a data set, as evaluation takes them.

    Attributes:
        batch: (x, *c), prepared for the model.
        labels: Class of each row, with shape (N,), None without labels.
        label_names: Names of the classes.
    """

    batch: Batch
    labels: np.ndarray | None
    label_names: tuple[str, ...]

    @classmethod
    def of(
        cls,
        preparation: Preparation,
        x: np.ndarray,
        labels: np.ndarray | None,
        names: tuple[str, ...],
    ) -> "Rows":
        """Prepare rows as they are stored."""
        batch = (preparation.for_evaluation(x), *preparation.context(labels, names))
        return cls(batch, labels, names)

    def some(self, at_most: int) -> Batch:
        """Return the batch of at most n rows, evenly spread."""
        return self.spread(at_most).batch

    def spread(self, at_most: int) -> "Rows":
        """Return at most n rows, evenly spread, in order."""
        kept = spread(len(self.batch[0]), at_most)
        batch = tuple(part[kept] for part in self.batch)
        labels = None if self.labels is None else self.labels[kept.numpy()]
        return Rows(batch, labels, self.label_names)


def hold_out_test(data: Dataset, fraction: float, seed: int) -> Dataset:
    """Return a data set with test rows: its own, or a fraction of its rows at random.

    Raises:
        ValueError: There is one row only.
    """
    if data.x_test is not None:
        return data
    _check_enough(data, "to test on")
    return data.hold_out(batches.split(len(data.x), fraction, seed)[1].numpy())


def _check_enough(data: Dataset, purpose: str) -> None:
    if len(data.x) < 2:
        raise ValueError(
            f"{data.name}: one row is left to train on, and another is needed {purpose}; give "
            "more rows"
        )


def prepare_rows(
    preparation: Preparation, data: Dataset, settings: ImageSettings
) -> tuple[Training, Rows]:
    """Return rows to train on and rows to evaluate on, the test rows of the data.

    Raises:
        ValueError: There is one row to train on and to validate with.
    """
    assert data.x_test is not None  # `hold_out_test` saw to it
    x = preparation.for_training(data.x)
    c = preparation.context(data.labels, data.label_names)
    test = Rows.of(preparation, data.x_test, data.labels_test, data.label_names)
    if not settings.validation:
        return Training((x, *c), None), test
    _check_enough(data, "to validate with (or give --validation 0)")
    kept, held_out = batches.split(len(x), settings.validation, settings.seed)
    x_held_out = preparation.for_evaluation(data.x[held_out.numpy()])
    rows = (x[kept], *(part[kept] for part in c))
    return Training(rows, (x_held_out, *(part[held_out] for part in c))), test


def read_for(
    preparation: Preparation, data: str, data_dir: Path | None = None, missing: bool = False
) -> Dataset:
    """Read what DATA names, as `read_data` does, for a model that was fitted before.

    Images whose alpha channel was left out, since it is opaque, get it for a model that has one.
    """
    read = read_data(data, data_dir, missing)
    channels = preparation.shape[0] if len(preparation.shape) == 3 else 0
    if not has_levels(data, read) or (read.shape[0], channels) not in ((1, 2), (3, 4)):
        return read
    opaque = 1 if read.kind is Kind.BINARY else 255
    x = np.pad(read.x, ((0, 0), (0, 1), (0, 0), (0, 0)), constant_values=opaque)
    return replace(read, x=x)


def has_levels(name: str, data: Dataset) -> bool:
    """Return whether data that were read from DATA are image files of 1 or 8 bits."""
    is_file = Path(name).suffix.lower() in TIFFS
    return (is_file or Path(name).is_dir()) and data.x.dtype == np.uint8


def in_levels_of(preparation: Preparation, data: Dataset) -> Dataset:
    """Return image files of 1 or 8 bits with black and white as the model's data store them.

    A model of bits or grey values reads images of 8 bits, and one of levels those of 1 bit. Data of
    another kind have no such levels.
    """
    low, high = preparation.limits
    white = 1 if data.kind is Kind.BINARY else 255
    if low != 0 or high not in (1, 255) or high == white:
        return data
    kind = Kind.LEVELS if high == 255 else Kind.UNIT
    return replace(data, x=data.x.astype(np.float32) * np.float32(high / white), kind=kind)


def fingerprint(data: Dataset) -> str:
    """Return a SHA-256 of the rows as loaded, before any split."""
    x = data.x.astype(np.float32) if data.x.dtype == np.float64 else data.x
    return batches.fingerprint((torch.from_numpy(x),))


def select(
    data: Dataset, part: Part | None, run: Run[ImageSettings], preparation: Preparation
) -> Rows:
    """Return a part of a data set, prepared as the training data of the run were.

    By default the test rows where there are any: the data's own, or those that were held out of
    the same data before training. All rows are in the order of the data.

    Raises:
        ValueError: There is no such part, or the data do not fit the model.
    """
    by_test = part is not Part.ALL and data.x_test is None
    if by_test and fingerprint(data) == run.data["fingerprint"]:
        data = hold_out_test(data, run.settings.test, run.settings.seed)
    x, labels = _stored(data, part or (Part.ALL if data.x_test is None else Part.TEST))
    return Rows.of(preparation, x, labels, data.label_names)


def _stored(data: Dataset, part: Part) -> tuple[np.ndarray, np.ndarray | None]:
    """Return rows and labels of a part of a data set, as they are stored."""
    if part is Part.TEST:
        if data.x_test is None:
            raise ValueError(
                f"{data.name} has no test rows, and is not what the model was fitted on; "
                "use --part all"
            )
        return data.x_test, data.labels_test
    if part is Part.TRAIN or data.x_test is None:
        return data.x, data.labels
    x = np.concatenate([data.x, data.x_test])
    if data.labels is None or data.labels_test is None:
        return x, None
    return x, np.concatenate([data.labels, data.labels_test])
