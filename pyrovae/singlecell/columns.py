"""Columns of `adata.obs` in, context c out: c = (batch one-hot, categorical one-hots, continuous covariates, label one-hot).

What the columns were at training is kept, so that new cells are encoded as the old ones were, and unknown categories are refused.
`adata` is not written to, but by `Setup.write`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Encoding", "Setup", "listed", "rows_of"]

KEY = "_pyrovae_setup"  # under adata.uns
_CONSTANT = 1e-6  # a covariate's deviation over its mean, below which it does not vary
_NAMED = 5  # cells, genes or categories that a message lists


@dataclass(frozen=True)
class Setup:
    """Which layer and columns of an AnnData to use."""

    layer: str | None = None
    batch_key: str | None = None
    labels_key: str | None = None
    categorical_covariate_keys: tuple[str, ...] = ()
    continuous_covariate_keys: tuple[str, ...] = ()

    def write(self, adata: Any) -> None:
        """Keep it under `adata.uns` as plain values, those that are set, so that an h5ad can hold it."""
        self.check(adata)
        adata.uns[KEY] = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if value
        }

    @classmethod
    def read(cls, adata: Any) -> "Setup":
        """Return what `write` kept.

        Raises:
            ValueError: if nothing was.
        """
        if KEY not in adata.uns:
            raise ValueError(
                "this AnnData is not set up: call SingleCellVAE.setup_anndata(adata, batch_key=...) first"
            )
        kept: dict[str, Any] = {
            key: value if isinstance(value, str) else tuple(map(str, value))
            for key, value in adata.uns[KEY].items()
        }
        return cls(**kept)

    def check_layer(self, adata: Any) -> None:
        """Refuse a layer that the AnnData has not."""
        if self.layer is not None and self.layer not in adata.layers:
            raise ValueError(
                f"layer {self.layer!r} is not in adata.layers, which has {listed(adata.layers.keys())}"
            )

    @property
    def keys(self) -> list[str]:
        """The columns of `adata.obs` that are named."""
        one = (self.batch_key, self.labels_key)
        return [
            key
            for key in (*one, *self.categorical_covariate_keys, *self.continuous_covariate_keys)
            if key is not None
        ]

    def check(self, adata: Any) -> None:
        """Refuse keys that the AnnData has not; the message lists those it has."""
        self.check_layer(adata)
        for key in self.keys:
            if key not in adata.obs:
                raise ValueError(
                    f"key {key!r} is not in adata.obs, which has {listed(adata.obs.columns)}"
                )


@dataclass(frozen=True)
class Encoding:
    """What cells are encoded by, fixed by the data that a model was made on.

    Attributes:
        setup: layer and keys.
        genes: names, in the model's order.
        batches: names; one empty name without a batch key.
        labels: names, without a labels key none.
        categories: of each categorical covariate.
        scales: mean and deviation of each continuous covariate over the training cells.
        labelled: whether the label one-hot is part of the context.
    """

    setup: Setup
    genes: list[str]
    batches: list[str]
    labels: list[str]
    categories: dict[str, list[str]] = field(default_factory=dict)
    scales: dict[str, tuple[float, float]] = field(default_factory=dict)
    labelled: bool = False

    @classmethod
    def of(cls, adata: Any, labelled: bool) -> "Encoding":
        """Learn it from an AnnData that was set up; categories in sorted order, those that occur.

        Raises:
            ValueError: if a key or a label is missing, or dispersion is by label and there are no labels.
        """
        setup = Setup.read(adata)
        setup.check(adata)
        if labelled and setup.labels_key is None:
            raise ValueError(
                "dispersion='gene-label' needs labels: call setup_anndata(adata, labels_key=...)"
            )

        def known(key: str | None) -> list[str]:
            return [] if key is None else sorted(set(_labels(adata, key)))

        def named(
            key: str | None,
        ) -> list[str]:  # of labels that only colour and score, some may be missing
            return [] if key is None else sorted(set(adata.obs[key].dropna().astype(str)))

        made = cls(
            setup,
            adata.var_names.astype(str).tolist(),
            known(setup.batch_key) or [""],
            known(setup.labels_key) if labelled else named(setup.labels_key),
            {key: known(key) for key in setup.categorical_covariate_keys},
            labelled=labelled,
        )
        return made.scaled(adata, slice(None))

    def scaled(self, adata: Any, rows: Any) -> "Encoding":
        """Return the same with continuous covariates standardized on these rows."""
        scales = {}
        for key in self.setup.continuous_covariate_keys:
            values = _numbers(adata, key)[rows]
            mean, deviation = float(values.mean()), float(values.std())
            constant = deviation <= _CONSTANT * max(1.0, abs(mean))  # but for rounding
            scales[key] = (mean, 1.0 if constant else deviation)
        return replace(self, scales=scales)

    @property
    def covariates(self) -> int:
        """Columns of the context between those of batch and label."""
        return sum(map(len, self.categories.values())) + len(self.scales)

    def context(self, adata: Any) -> Tensor | None:
        """Return c with shape (N, C); None if no column is in use.

        Raises:
            ValueError: if a column or a value of it is missing, or a category is unknown: the known ones are listed.
        """
        codes = self.codes(adata)  # of one batch too: another one is refused
        parts = [self._one_hot(codes, self.batches)] if len(self.batches) > 1 else []
        parts += [
            self._one_hot(_codes(adata, key, names), names)
            for key, names in self.categories.items()
        ]
        parts += [
            torch.as_tensor((_numbers(adata, key) - mean) / deviation).float()[:, None]
            for key, (mean, deviation) in self.scales.items()
        ]
        if self.labelled:
            parts.append(
                self._one_hot(_codes(adata, str(self.setup.labels_key), self.labels), self.labels)
            )
        return torch.cat(parts, -1) if parts else None

    def codes(self, adata: Any) -> Tensor:
        """Return the number of each cell's batch, with shape (N,)."""
        if self.setup.batch_key is None:
            return torch.zeros(adata.n_obs, dtype=torch.long)
        return _codes(adata, self.setup.batch_key, self.batches)

    def batch(self, name: object) -> int:
        """Return the number of a batch.

        Raises:
            ValueError: if it is unknown.
        """
        if str(name) not in self.batches:
            raise ValueError(
                f"batch {str(name)!r} is unknown to the model, which knows {listed(self.batches)}"
            )
        return self.batches.index(str(name))

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Encoding":
        """Make it from what `to_dict` returned."""
        setup: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in content["setup"].items()
        }
        scales = {
            key: (float(value[0]), float(value[1])) for key, value in content["scales"].items()
        }
        return cls(**{**content, "setup": Setup(**setup), "scales": scales})

    @staticmethod
    def _one_hot(codes: Tensor, names: Sequence[str]) -> Tensor:
        return torch.nn.functional.one_hot(codes, len(names)).float()


def rows_of(adata: Any, indices: Any) -> Tensor | None:
    """Return row numbers from numbers or a mask; None for all.

    Raises:
        ValueError: if a number is off the AnnData, or a mask has another length.
    """
    if indices is None:
        return None
    rows = np.asarray(indices)
    n = adata.n_obs if hasattr(adata, "n_obs") else int(adata)
    if rows.dtype == bool and len(rows) == n:
        return torch.from_numpy(rows.nonzero()[0])
    if (
        rows.ndim != 1
        or not len(rows)
        or rows.dtype.kind not in "iu"
        or rows.min() < -n
        or rows.max() >= n
    ):
        raise ValueError(
            f"indices: expected row numbers below {n} or a mask of {n}, got {rows.dtype} with shape {rows.shape}"
        )
    return torch.from_numpy(rows.astype(np.int64) % n)


def _labels(adata: Any, key: str) -> list[str]:
    if key not in adata.obs:
        raise ValueError(f"key {key!r} is not in adata.obs, which has {listed(adata.obs.columns)}")
    missing = adata.obs[key].isna().to_numpy()
    if missing.any():
        cells = listed(adata.obs_names[missing])
        raise ValueError(
            f"adata.obs[{key!r}] is missing in {missing.sum()} cells: {cells}. Fill it in, or drop them"
        )
    return adata.obs[key].astype(str).tolist()


def _codes(adata: Any, key: str, known: Sequence[str]) -> Tensor:
    """Return the numbers of the categories, with shape (N,)."""
    numbers = {name: i for i, name in enumerate(known)}
    labels = _labels(adata, key)
    unseen = sorted(set(labels) - set(known))
    if unseen:
        cell = adata.obs_names[labels.index(unseen[0])]
        raise ValueError(
            f"adata.obs[{key!r}]: {listed(unseen)} was not there in training (first in cell {cell!r}). The model knows "
            f"{listed(known, most=50)}. Train it with these cells, or leave them out"
        )
    return torch.tensor([numbers[label] for label in labels])


def _numbers(adata: Any, key: str) -> np.ndarray:
    """Return a continuous covariate, with shape (N,)."""
    if key not in adata.obs:
        raise ValueError(f"key {key!r} is not in adata.obs, which has {listed(adata.obs.columns)}")
    try:
        values = adata.obs[key].to_numpy(dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"adata.obs[{key!r}] are no numbers ({error}). Name it among categorical_covariate_keys"
        ) from error
    bad = ~np.isfinite(values)
    if bad.any():
        cells = listed(adata.obs_names[bad])
        raise ValueError(
            f"adata.obs[{key!r}] is missing or infinite in {bad.sum()} cells: {cells}. Fill it in, or drop them"
        )
    return values


def listed(names: Any, total: int | None = None, most: int = _NAMED) -> str:
    """Return the first names in quotes, and how many more there are."""
    names = [str(name) for name in names]
    total = total or len(names)
    shown = ", ".join(repr(name) for name in names[:most])
    return (f"{shown} and {total - most} more" if total > most else shown) or "none"
