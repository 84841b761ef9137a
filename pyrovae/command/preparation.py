"""How rows as stored become rows as modelled, and back: scaled, binarized, with their labels as context."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae import programs
from pyrovae.command.options import Likelihood, Settled
from pyrovae.data import Dataset, Kind, batches

__all__ = ["Preparation", "prepare"]

Batch = tuple[Tensor, ...]  # (x, *c)
UNIT_LIKELIHOODS = (Likelihood.BERNOULLI, Likelihood.CONTINUOUS_BERNOULLI)
REAL_LIKELIHOODS = (Likelihood.GAUSSIAN, Likelihood.HETEROSCEDASTIC_GAUSSIAN)


@dataclass(frozen=True)
class Preparation:
    """How rows as stored become rows as modelled; kept with the run, so that every later command prepares data alike.

    Attributes:
        shape: Shape of a row.
        binarize: Whether grey values are drawn as 0 or 1.
        shift: Subtracted from x, one number or one a feature.
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

    def rows(self, x: np.ndarray) -> Tensor:
        """Return rows as training sees them before each visit's binarization."""
        if x.shape[1:] != self.shape:
            raise ValueError(
                f"the data's rows have shape {x.shape[1:]}, the model was fitted on {self.shape}; give data of that shape"
            )
        if set(self.shift) == {0.0} and set(self.scale) == {1.0}:
            return torch.from_numpy(x)
        shift, scale = (np.array(part, dtype=np.float32) for part in (self.shift, self.scale))
        return torch.from_numpy((x.astype(np.float32) - shift) / scale)

    def fixed(self, x: np.ndarray) -> Tensor:
        """Return rows for evaluation: binarized once, with the same draw each time."""
        rows = self.rows(x)
        if not self.binarize:
            return rows
        with programs.random_stream(0, []):
            return batches.binarize(rows.float())

    def undo(self, x: Tensor) -> np.ndarray:
        """Return modelled rows in the unit of the stored ones."""
        return x.cpu().numpy() * np.array(self.scale, dtype=np.float32) + np.array(
            self.shift, dtype=np.float32
        )

    def context(self, labels: np.ndarray | None, names: tuple[str, ...]) -> Batch:
        """Return labels as one-hot context (c,), with shape (N, classes), or () where the model has none."""
        if not self.classes:
            return ()
        if labels is None:
            raise ValueError(
                "the model's context is the label, but the data have no labels; give data with labels"
            )
        unknown = sorted(set(names) - set(self.classes))
        if unknown:
            raise ValueError(
                f"label {unknown[0]} is unknown to the model; it knows {', '.join(self.classes)}"
            )
        index = np.array([self.classes.index(name) for name in names])[labels]
        return (nn.functional.one_hot(torch.from_numpy(index), len(self.classes)).float(),)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain lists and numbers for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Preparation":
        """Make it from what `to_dict` returned."""
        tuples: dict[str, Any] = {
            key: tuple(value) for key, value in content.items() if isinstance(value, list)
        }
        return cls(**content | tuples)


def prepare(settings: Settled, data: Dataset) -> Preparation:
    """Decide how the data are prepared for the chosen likelihood, from the training rows."""
    if settings.binarize and data.kind not in (Kind.BINARY, Kind.UNIT, Kind.LEVELS):
        raise ValueError(
            f"--binarize is for grey values, but {settings.data} holds {data.kind.value}; leave it out"
        )
    if settings.condition and data.labels is None:
        raise ValueError(
            f"--condition needs labels, but {settings.data} has none; give an .npz with labels, or sub-folders"
        )
    shift, scale = _standard(settings.likelihood, data)
    classes = data.label_names if settings.condition else ()
    return Preparation(
        data.shape, settings.binarize, shift, scale, classes, _total_count(data), _limits(data)
    )


def _standard(likelihood: Likelihood, data: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the shift and scale that bring data to where the likelihood's network starts."""
    if likelihood in UNIT_LIKELIHOODS and data.kind is Kind.LEVELS:
        return (0.0,), (255.0,)
    if likelihood not in REAL_LIKELIHOODS:
        return (0.0,), (1.0,)
    axis = (
        0 if len(data.shape) == 1 else None
    )  # features of a vector have each their unit, pixels one for all
    shift, scale = np.mean(data.x, axis, dtype=np.float64), np.std(data.x, axis, dtype=np.float64)
    scale = np.where(scale > 0, scale, 1.0)
    return tuple(np.atleast_1d(shift).tolist()), tuple(np.atleast_1d(scale).tolist())


def _total_count(data: Dataset) -> int | None:
    """Return the largest whole number that data of this kind can hold; for counts of unknown bound, the largest seen."""
    if data.kind is Kind.COUNTS:
        seen = [int(x.max()) for x in (data.x, data.x_test) if x is not None]
        return data.total_count if data.total_count is not None else max(seen)
    return {Kind.BINARY: 1, Kind.LEVELS: 255}.get(data.kind)


def _limits(data: Dataset) -> tuple[float, float]:
    """Return the least and the greatest value that data can have, or have where there is no bound."""
    if data.kind is Kind.REAL:
        return float(data.x.min()), float(data.x.max())
    return 0.0, float(_total_count(data) or 1)
