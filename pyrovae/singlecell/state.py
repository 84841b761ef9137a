"""What a model of cells consists of: cells, graph (model and guide), and the result of a fit."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from pyrovae.files import History
from pyrovae.graphs import CountVAE
from pyrovae.singlecell.cells import Cells, Selection

__all__ = ["Entries", "FitResult", "Model", "Query", "State", "fit_of", "selected", "split_of"]


@dataclass(frozen=True)
class FitResult:
    """What a fit left beside the weights.

    Attributes:
        history: bound and terms by epoch.
        training: rows of the training cells, rising.
        validation: rows of the validation cells, rising; none without validation.
        of_own_cells: whether these are rows of the model's own cells, and not of others, or of the
            same in another order, that it was trained on before it was saved.
    """

    history: History
    training: Tensor
    validation: Tensor
    of_own_cells: bool = True


class Entries(NamedTuple):
    """The entries of a parameter whose number along an axis is in [first, end), or in `more`."""

    axis: int
    first: int
    end: int
    more: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, axis: int, first: int, end: int, *more: int) -> "Entries":
        """Make entries from what `to_list` returned."""
        return cls(axis, first, end, tuple(zip(more[::2], more[1::2], strict=True)))

    def to_list(self) -> list[int]:
        """Return the axis, and first and end of each part."""
        return [self.axis, *(number for part in self.parts for number in part)]

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """First and end of each part."""
        return (self.first, self.end), *self.more

    def mask(self, parameter: Tensor) -> Tensor:
        """Return 1 for these entries and 0 for the others, with the parameter's shape."""
        mask = torch.zeros_like(parameter)
        for first, end in self.parts:
            mask.narrow(self.axis, first, end - first).fill_(1.0)
        return mask


@dataclass(frozen=True)
class Query:
    """Which weights of a reference are trained on the cells of a query.

    Attributes:
        trained: the entries of the new batches and categories, by the parameter's name. All others
            are held constant.
    """

    trained: dict[str, Entries]


@dataclass(frozen=True)
class State:
    """All that a model of cells holds, as it is built or read from a folder.

    Attributes:
        cells: the model's own cells, encoded, and the encoding of others.
        graph: the pair of Pyro programs with its networks.
        seed: of the first weights and of the split.
        fit_result: None before training.
        query: for cells that were mapped to a reference: what of its weights is trained.
    """

    cells: Cells
    graph: CountVAE
    seed: int
    fit_result: FitResult | None = None
    query: Query | None = None


class Model(Protocol):
    """The fields of a `SingleCellVAE` that functions of it use; see `State`."""

    cells: Cells
    graph: CountVAE
    seed: int
    fit_result: FitResult | None
    query: Query | None


def fit_of(model: Model, method: str) -> FitResult:
    """Return what the fit left.

    Raises:
        RuntimeError: if the model is not trained; the message starts with the method's name.
    """
    if model.fit_result is None:
        raise RuntimeError(f"{method}: the model is not trained yet. Call model.train() first")
    return model.fit_result


def split_of(model: Model, method: str) -> FitResult:
    """Return what the fit left, if its rows are those of the model's own cells.

    Raises:
        RuntimeError: if the model is not trained.
        ValueError: if it was loaded with other cells than it was trained on.
    """
    fit = fit_of(model, method)
    if not fit.of_own_cells:
        raise ValueError(
            f"{method}: the model was loaded with other cells than it was saved with, or in "
            "another order, so it cannot tell which of them it was trained on. Load it with the "
            "same cells in the same order"
        )
    return fit


def selected(model: Model, method: str, adata: Any, indices: Any) -> Selection:
    """Return the cells that a method of a trained model was called with.

    Raises:
        RuntimeError: if the model is not trained.
        ValueError: if the cells do not fit the model; see `Cells.select`.
    """
    fit_of(model, method)
    return model.cells.select(adata, indices)
