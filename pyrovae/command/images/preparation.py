"""How rows as stored become rows as modelled, and back: scaled, binarized, labels as context.

x = (stored - shift) / scale        c = one-hot of the label
"""

from dataclasses import asdict, dataclass
from math import inf, isfinite
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae import programs
from pyrovae.command.choices import Likelihood
from pyrovae.command.images.settings import ImageSettings
from pyrovae.data import Dataset, Kind, batches
from pyrovae.files import kinds

__all__ = ["REAL_LIKELIHOODS", "UNIT_LIKELIHOODS", "Preparation", "prepare"]

Batch = tuple[Tensor, ...]  # (x, *c)
_AT_ONCE = 1024  # rows that are standardized in double precision
UNIT_LIKELIHOODS = (Likelihood.BERNOULLI, Likelihood.CONTINUOUS_BERNOULLI)  # of values in [0, 1]
REAL_LIKELIHOODS = (Likelihood.GAUSSIAN, Likelihood.HETEROSCEDASTIC_GAUSSIAN)  # of real values


@dataclass(frozen=True)
class Preparation:
    """How rows as stored become rows as modelled; run.json keeps it for later commands.

    Attributes:
        shape: Shape of a row.
        binarize: Whether grey values are drawn as 0 or 1.
        shift: Subtracted from x, one number, or one for each feature.
        scale: What x - shift is divided by.
        classes: Names of the labels that make the context c; empty without one.
        total_count: Largest whole number that can occur, where known.
        limits: Values, as stored, that pictures draw black and white.
    """

    shape: tuple[int, ...]
    binarize: bool = False
    shift: tuple[float, ...] = (0.0,)
    scale: tuple[float, ...] = (1.0,)
    classes: tuple[str, ...] = ()
    total_count: int | None = None
    limits: tuple[float, float] = (0.0, 1.0)

    @property
    def is_scaled(self) -> bool:
        """Whether rows are divided by anything."""
        return set(self.scale) != {1.0}

    @property
    def keeps_unit(self) -> bool:
        """Whether rows as modelled have the values of rows as stored, before they are binarized."""
        return not self.is_scaled and not any(self.shift)

    def in_words(self) -> list[str]:
        """Return in a sentence how rows are scaled, if they are."""
        if self.keeps_unit:
            return []
        if len(self.scale) > 1:
            return [
                "each column is standardized: its mean is subtracted, and it is divided by its "
                "standard deviation; samples and reconstructions come in the data's own unit"
            ]
        return [f"values are standardized: (x - {self.shift[0]:.6g}) / {self.scale[0]:.6g}"]

    def for_training(self, x: np.ndarray) -> Tensor:
        """Return rows for training, which binarizes them at each visit."""
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"the data's rows have shape {x.shape[1:]}, the model was fitted on {self.shape}; "
                "give data of that shape"
            )
        if self.keeps_unit:
            return torch.from_numpy(x.astype(np.float32) if x.dtype == np.float64 else x)
        rows = np.empty(x.shape, np.float32)
        with np.errstate(over="ignore"):  # the check of the data refuses infinite values by name
            for i in range(0, len(x), _AT_ONCE):
                rows[i : i + _AT_ONCE] = self.scaled(x[i : i + _AT_ONCE])
        return torch.from_numpy(rows)

    def for_evaluation(self, x: np.ndarray) -> Tensor:
        """Return rows for evaluation: binarized once, with the same draw each time."""
        rows = self.for_training(x)
        if not self.binarize:
            return rows
        with programs.random_stream(0, []):
            return batches.binarize(rows.float())

    def undo(self, x: Tensor) -> np.ndarray:
        """Return modelled rows in the unit of the stored ones, shifted in double precision."""
        rows = x.cpu().numpy()
        if self.keeps_unit:
            return rows
        stored = rows * np.array(self.scale) + np.array(self.shift)
        return stored if any(self.shift) else stored.astype(np.float32)

    def scaled(self, x: np.ndarray) -> np.ndarray:
        """Return (x - shift) / scale, in double precision: x may vary little beside its mean."""
        return (x - np.array(self.shift)) / np.array(self.scale)

    def context(self, labels: np.ndarray | None, names: tuple[str, ...]) -> Batch:
        """Return labels as one-hot context (c,), with shape (N, classes), or () without context."""
        if not self.classes:
            return ()
        if labels is None:
            raise ValueError(
                "the model's context is the label, but the data have no labels; "
                "give data with labels"
            )
        unknown = sorted(set(names) - set(self.classes))
        if unknown:
            raise ValueError(
                f"label {unknown[0]} is unknown to the model; it knows {', '.join(self.classes)}"
            )
        index = np.array([self.classes.index(name) for name in names])[labels]
        return (nn.functional.one_hot(torch.from_numpy(index), len(self.classes)).float(),)

    def to_dict(self) -> dict[str, Any]:
        """Return the preparation as plain lists and numbers for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Preparation":
        """Make a preparation from what `to_dict` returned.

        Raises:
            ValueError: The content is of something else.
        """
        known = {name: kinds.typed(hint) for name, hint in get_type_hints(cls).items()}
        given = {name: known[name] for name in ("shape", *content) if name in known}
        kinds.check(content, given, "preparation")
        features = content["shape"][-1:] if len(content["shape"]) == 1 else ()
        for name in ("shift", "scale"):
            if len(content.get(name, (0.0,))) not in (1, *features):
                raise ValueError(f"preparation.{name} has not one number, nor one per feature")
        if not all(0 < scale < inf for scale in content.get("scale", ())):
            raise ValueError("preparation.scale is not positive, expected numbers to divide by")
        if not all(map(isfinite, content.get("shift", ()))):
            raise ValueError("preparation.shift is not finite")
        tuples = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
        return cls(**content | tuples)


def prepare(settings: ImageSettings, data: Dataset) -> Preparation:
    """Decide how the data are prepared for the chosen likelihood, from the training rows.

    Raises:
        ValueError: A setting does not apply to these data.
    """
    if settings.binarize and data.kind not in (Kind.BINARY, Kind.UNIT, Kind.LEVELS):
        raise ValueError(
            f"--binarize is for grey values, but {settings.data} holds {data.kind.value}; "
            "leave it out"
        )
    if settings.condition and data.labels is None:
        raise ValueError(
            f"--condition needs labels, but {settings.data} has none; give an .npz with labels, "
            "or sub-folders"
        )
    shift, scale = _shift_and_scale(settings.likelihood, data)
    classes = data.label_names if settings.condition else ()
    total_count = _total_count(data)
    bounds = (0.0, float(total_count or 1))
    limits = (float(data.x.min()), float(data.x.max())) if data.kind is Kind.REAL else bounds
    return Preparation(data.shape, settings.binarize, shift, scale, classes, total_count, limits)


def _shift_and_scale(
    likelihood: Likelihood, data: Dataset
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return shift and scale: to [0, 1], or to mean 0 and standard deviation 1, by the likelihood.

    The features of a vector may have different units and are standardized one by one; pixels have
    one unit. A feature that is constant keeps its unit.
    """
    if likelihood in UNIT_LIKELIHOODS and data.kind is Kind.LEVELS:
        return (0.0,), (255.0,)
    if likelihood not in REAL_LIKELIHOODS:
        return (0.0,), (1.0,)
    axis = 0 if len(data.shape) == 1 else None
    varies = data.x.max(axis) > data.x.min(axis)
    shift = np.where(varies, np.mean(data.x, axis, dtype=np.float64), data.x.min(axis))
    scale = np.std(data.x, axis, dtype=np.float64)
    scale = np.where(varies & (scale > 0), scale, 1.0)  # rounding: constants may have a spread
    return tuple(np.atleast_1d(shift).tolist()), tuple(np.atleast_1d(scale).tolist())


def _total_count(data: Dataset) -> int | None:
    """Return the largest whole number that such data can hold, or do if counts have no bound."""
    if data.kind is Kind.COUNTS and data.total_count is None:
        return max(int(x.max()) for x in (data.x, data.x_test) if x is not None)
    if data.kind is Kind.COUNTS:
        return data.total_count
    return {Kind.BINARY: 1, Kind.LEVELS: 255}.get(data.kind)
