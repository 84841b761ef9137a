"""The context of cells, c = (batch one-hot, categorical one-hots, continuous covariates, labels).

What the columns were at training is stored, so that new cells are encoded as the training cells
were. Categories that were not seen then raise an error.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyrovae.singlecell.columns import (
    NEW_BATCH,
    NEW_CATEGORY,
    category_names,
    category_numbers,
    continuous,
    named_as,
    warn_of_outliers,
)
from pyrovae.singlecell.label_columns import label_weights
from pyrovae.singlecell.masks import check_order
from pyrovae.singlecell.messages import listed
from pyrovae.singlecell.setup import Setup

__all__ = ["Encoding"]

# A covariate is constant if its standard deviation, relative to its largest value, is below this.
_CONSTANT = 1e-6


@dataclass(frozen=True)
class Encoding:
    """How cells become (x, c), fixed by the cells that a model was made for.

    Attributes:
        setup: layer and columns.
        genes: names, in the model's order.
        batches: names of the experimental batches; one empty name without a batch key.
        labels: names of the labels; none without a labels key.
        categories: names of the categories of each categorical covariate.
        scales: mean and standard deviation of each continuous covariate over the training cells.
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
        """Learn the encoding from an AnnData that was set up; categories are sorted.

        Args:
            adata: all cells that the model is made for.
            labelled: whether the labels enter the context; if not, some may be missing.

        Raises:
            ValueError: if a gene has no name, a column does not exist or is missing in a cell, or
                if `labelled` and there is no labels key.

        Warns:
            UserWarning: if a few cells are far from all others in a continuous covariate.
        """
        setup = Setup.read(adata)
        setup.check(adata)
        if labelled and setup.labels_key is None:
            raise ValueError(
                "dispersion='gene-label' needs labels: call setup_anndata(adata, labels_key=...)"
            )
        labels = [] if setup.labels_key is None else _labels(adata, setup.labels_key, labelled)
        encoding = cls(
            setup,
            _gene_names(adata),
            [""] if setup.batch_key is None else category_names(adata, setup.batch_key),
            labels,
            {key: category_names(adata, key) for key in setup.categorical_covariate_keys},
            labelled=labelled,
        )
        values = encoding.continuous(adata)
        for key, column in zip(setup.continuous_covariate_keys, values.T, strict=True):
            warn_of_outliers(adata, key, column)
        return encoding.scaled(values)

    def continuous(self, adata: Any) -> np.ndarray:
        """Return the continuous covariates as they are in `adata.obs`, with shape (N, K)."""
        keys = self.setup.continuous_covariate_keys
        return (
            np.stack([continuous(adata, key) for key in keys], 1)
            if keys
            else np.empty((adata.n_obs, 0))
        )

    def scaled(self, values: np.ndarray) -> "Encoding":
        """Return the encoding with continuous covariates standardized over cells.

        Args:
            values: the covariates of these cells, with shape (n, K), see `continuous`.
        """
        scales = {}
        for key, column in zip(self.setup.continuous_covariate_keys, values.T, strict=True):
            mean, sd = float(column.mean()), float(column.std())
            constant = sd <= _CONSTANT * float(abs(column).max())  # up to rounding
            scales[key] = (mean, 1.0 if constant else sd)
        return replace(self, scales=scales)

    @property
    def covariates(self) -> int:
        """Number of columns of the context between those of batch and label."""
        return sum(map(len, self.categories.values())) + len(self.scales)

    def context(self, adata: Any) -> Tensor | None:
        """Return c with shape (N, C), or None if no column is used.

        A label may be missing or unknown: see `label_columns.label_weights`.

        Raises:
            ValueError: if another column does not exist, is missing in a cell, or holds an unknown
                category; lists the known ones.
        """
        parts = []
        if self.setup.batch_key is not None:  # checked also where there is one batch and no column
            numbers = category_numbers(adata, self.setup.batch_key, self.batches, NEW_BATCH)
            if len(self.batches) > 1:
                parts.append(one_hot(numbers, len(self.batches)))
        for key, names in self.categories.items():
            numbers = category_numbers(adata, key, names, NEW_CATEGORY)
            parts.append(one_hot(numbers, len(names)))
        if self.scales:
            parts.append(self._standardized(self.continuous(adata)))
        if self.labelled:
            parts.append(label_weights(adata, str(self.setup.labels_key), self.labels))
        return torch.cat([part.float() for part in parts], -1) if parts else None

    def with_covariates(self, c: Tensor, values: np.ndarray) -> Tensor:
        """Return a context with other continuous covariates.

        Args:
            c: with shape (N, C).
            values: of the same cells, with shape (N, K), see `continuous`.
        """
        first = len(self.batches) if len(self.batches) > 1 else 0
        end = first + self.covariates
        return torch.cat(
            [c[:, : end - len(self.scales)], self._standardized(values), c[:, end:]], 1
        )

    def _standardized(self, values: np.ndarray) -> Tensor:
        keys = self.setup.continuous_covariate_keys
        mean, sd = np.array([self.scales[key] for key in keys]).T
        return torch.from_numpy((values - mean) / sd).float()

    def batch_numbers(self, c: Tensor | None, cells: int) -> Tensor:
        """Return the number of each cell's batch, read from its context, with shape (N,)."""
        if c is None or len(self.batches) == 1:
            return torch.zeros(cells, dtype=torch.long)
        return c[:, : len(self.batches)].argmax(1)

    def batch(self, name: object) -> int:
        """Return the number of a batch.

        Raises:
            ValueError: if the model does not know it, or knows no batches.
        """
        if self.setup.batch_key is None:
            raise ValueError(
                f"batch {str(name)!r} is unknown to the model, which was set up without batch_key: "
                "leave transform_batch out"
            )
        known = named_as(str(name), self.batches)
        if known not in self.batches:
            raise ValueError(
                f"batch {known!r} is unknown to the model, which knows {listed(self.batches)}"
            )
        return self.batches.index(known)

    def gene_columns(self, names: Any) -> Tensor:
        """Return the columns of the genes; None for all.

        Args:
            names: a list, Index, array or Series of names, or a mask over the model's genes.

        Raises:
            ValueError: if there is none, the model does not know one, or a mask that is a Series
                names them in another order.
        """
        import pandas as pd

        if names is None:
            return torch.arange(len(self.genes))
        if isinstance(names, str):
            raise ValueError(f"gene_list is {names!r}, expected a list of genes: [{names!r}]")
        given = np.asarray(names)
        if given.dtype == bool and given.shape == (len(self.genes),) and given.any():
            check_order(names, pd.Index(self.genes), "gene_list", "index[mask]")
            return torch.from_numpy(given.nonzero()[0])
        wanted = [str(name) for name in names]
        if not wanted or given.dtype == bool:
            raise ValueError(
                "gene_list is empty, or a mask of no gene or of another length; leave it out for "
                "all genes"
            )
        column = {gene: i for i, gene in enumerate(self.genes)}
        unknown = [name for name in wanted if name not in column]
        if unknown:
            raise ValueError(f"gene_list: {listed(unknown)} are not among the model's genes")
        return torch.tensor([column[name] for name in wanted], dtype=torch.long)

    def described(self) -> str:
        """Return the layer, the keys and their categories in a few lines."""
        keys, several = self.setup, {"batch": self.batches, "label": self.labels, **self.categories}
        lines = [f"counts: {'adata.X' if keys.layer is None else f'layer {keys.layer!r}'}"]
        lines += [f"genes: {len(self.genes)}, {listed(self.genes)}"]
        lines += [f"batch_key: {keys.batch_key}", f"labels_key: {keys.labels_key}"]
        lines += [f"{name}: {len(v)}, {listed(v, 20)}" for name, v in several.items() if any(v)]
        lines += [f"{name}: mean {m:.4g}, sd {sd:.4g}" for name, (m, sd) in self.scales.items()]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the encoding as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Encoding":
        """Make an encoding from what `to_dict` returned."""
        setup: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in content["setup"].items()
        }
        scales = {key: (float(mean), float(sd)) for key, (mean, sd) in content["scales"].items()}
        return cls(**{**content, "setup": Setup(**setup), "scales": scales})


def _gene_names(adata: Any) -> list[str]:
    """Return the names of the genes; refuse missing ones, whose text "nan" is a gene of the fly."""
    if adata.var_names.hasnans:
        at = adata.var_names.isna().nonzero()[0]
        raise ValueError(
            f"{len(at)} gene names are missing: adata.var_names[i] for i = {listed(at)}. Name "
            "these genes, or leave them out: adata[:, adata.var_names.notna()].copy()"
        )
    return adata.var_names.astype(str).tolist()


def _labels(adata: Any, key: str, complete: bool) -> list[str]:
    """Return the labels that occur, sorted; missing ones are an error only where all are needed."""
    return (
        category_names(adata, key) if complete else sorted(set(adata.obs[key].dropna().astype(str)))
    )
