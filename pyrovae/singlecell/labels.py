"""Cell types from a few labelled cells: `graphs.LabelledCountVAE` for AnnData (scANVI).

    model = SingleCellVAE(adata); model.train()
    labels = CellLabels.from_model(model, "cell_type", unlabeled_category="Unknown")
    labels.train()
    adata.obs["predicted"] = labels.predict()

The classifier q(y | z) is trained with the model of the counts. Its probabilities are calibrated on
labelled cells that were held out: softmax(logits / T) (Guo et al. 2017), with a prior that keeps T
near 1 where these cells are few; see `calibration`.
"""

import copy
import functools
import math
from contextlib import suppress
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

from pyrovae import files, programs
from pyrovae.data import as_sources, batches_in_order, split
from pyrovae.files import FileError, History
from pyrovae.graphs import LabelledCountVAE
from pyrovae.nets import MLP
from pyrovae.singlecell.calibration import fitted_temperature
from pyrovae.singlecell.cells import rows_in, some_cells
from pyrovae.singlecell.counts import counts
from pyrovae.singlecell.label_columns import known_labels
from pyrovae.singlecell.masks import checked_rows
from pyrovae.singlecell.minified import counts_of
from pyrovae.singlecell.model import SingleCellVAE
from pyrovae.singlecell.saved_labels import read_labels, write_labels
from pyrovae.singlecell.setup import check_anndata
from pyrovae.singlecell.state import fit_of
from pyrovae.training import Adam, fit

__all__ = ["CellLabels"]

_LEAST_STEPS = 600  # of training from a fitted model
_HELD_OUT = 0.1  # fraction of the labelled cells on which probabilities are calibrated
_READS = 20  # of a folder that another process saves to during each of them
_AGAIN = "Save the classifier again"


@final
class CellLabels:
    """A classifier of cells on the latent state of a count model, trained with it.

    Use `from_model`.

    Attributes:
        model: the count model whose cells these are; it is left unchanged.
        graph: the graph that is trained, which begins with the model's weights.
        names: the labels as text, sorted.
        temperature: T of the calibrated probabilities; 1 before training.
        history: of the last fit; None before.
    """

    def __init__(self, model: SingleCellVAE, graph: LabelledCountVAE, names: list[str]) -> None:
        self.model, self.graph, self.names = model, graph, names
        self.known = torch.empty(0, dtype=torch.long)
        self.temperature = 1.0
        self.history: History | None = None

    @classmethod
    def from_model(
        cls,
        model: SingleCellVAE,
        labels_key: str,
        unlabeled_category: str = "Unknown",
        *,
        n_hidden: int = 128,
        alpha: float = 50.0,
        seed: int | None = None,
    ) -> "CellLabels":
        """Return an untrained classifier of a trained model's own cells.

        Args:
            model: a trained model.
            labels_key: column of `adata.obs` with the labels.
            unlabeled_category: the label of cells whose type is not known; missing values are
                unknown too.
            n_hidden: units of the networks between the two latent levels.
            alpha: weight of the classifier's log probability, in nats per labelled cell.
            seed: of the first weights; the model's if None.

        Raises:
            RuntimeError: if the model is not trained.
            ValueError: if the column does not exist, or fewer than two labels are known.

        Warns:
            UserWarning: if a label reads as if it said that the type is not known.
        """
        fit_of(model, "CellLabels.from_model")
        names, known = known_labels(model.cells.own(), labels_key, unlabeled_category)
        with programs.random_stream(model.seed if seed is None else seed, []):
            graph = _graph(model, len(names), n_hidden, alpha)
        labels = cls(model, graph.to(model.device), names)
        labels.known = known
        return labels

    def train(
        self,
        max_epochs: int | None = None,
        batch_size: int = 128,
        lr: float = 1e-3,
        seed: int | None = None,
        progress: bool = True,
    ) -> History:
        """Train model and classifier together, then calibrate; return the history.

        Args:
            max_epochs: passes over the cells; None takes at least 10 and 600 steps.
            batch_size: cells per step.
            lr: learning rate of Adam.
            seed: of the fit and of the cells held out for calibration; the model's if None.
            progress: show a progress bar.

        Raises:
            ValueError: if the classifier was loaded, and not made of labelled cells.
        """
        seed = self.model.seed if seed is None else seed
        x, *c = self.model.cells.data
        if len(self.known) != len(x):
            raise ValueError(
                "CellLabels.train: a classifier that was loaded has no labels to be trained on; "
                "make one by CellLabels.from_model(model, labels_key) and train it"
            )
        steps = math.ceil(len(x) / batch_size)
        epochs = max(10, math.ceil(_LEAST_STEPS / steps)) if max_epochs is None else max_epochs
        held_out = self._held_out(seed)
        visible = self.known.clone()
        visible[held_out] = -1
        history = self.history = fit(
            self.graph,
            (x, visible, *c),
            objective=TraceEnum_ELBO(max_plate_nesting=1),
            optimizer=functools.partial(Adam, lr=lr, eps=0.01, fused=True),
            epochs=epochs,
            batch_size=batch_size,
            clip_norm="auto",
            seed=seed,
            progress=progress,
        )
        self.graph.eval()
        if len(held_out):
            data = tuple(rows_in(part, held_out) for part in (x, *c))
            self.temperature = fitted_temperature(self._logits(data), self.known[held_out])
        return history

    def predict(
        self, adata: Any = None, indices: Any = None, soft: bool = False, calibrated: bool = True
    ) -> Any:
        """Return the most probable label of each cell, an array; or if `soft` the probabilities.

        Labels are text, as in `names`, also where the column holds numbers: whole numbers such as
        clusters become "0", "1", ...; compare them with `adata.obs[key].astype(str)`.

        Args:
            adata: cells with the model's genes; None for the model's own. Their batch may be
                unknown to the model, unless its encoders see it.
            indices: rows or a mask of the cells to take; None for all.
            soft: return a DataFrame of cells by labels.
            calibrated: divide the logits by the temperature, see `calibration`; it is 1 where too
                few cells are labelled to hold any out.
        """
        import pandas as pd

        self._check_trained("predict")
        data, cells = self._cells(adata, indices)
        logits = self._logits(data)
        if not soft:
            return np.array(self.names)[logits.argmax(1).numpy()]
        temperature = self.temperature if calibrated else 1.0
        probabilities = torch.softmax(logits / temperature, 1).numpy()
        return pd.DataFrame(probabilities, index=cells, columns=self.names)

    def get_latent_representation(self, adata: Any = None, indices: Any = None) -> np.ndarray:
        """Return E_q[z | x] under the weights that the labels have trained, with shape (N, D)."""
        self._check_trained("get_latent_representation")
        data, _ = self._cells(adata, indices)
        with programs.evaluation(self.graph):
            means = [
                programs.mean(self.graph.cells.posterior(x.log1p(), *c))
                for x, *c in batches_in_order(self.graph, as_sources(data))
            ]
        return torch.cat(means).cpu().numpy()

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Write the classifier and its count model to a folder, without the data.

        The count model is in `cells/` or, after every second save, in `cells-2/`; reach it by
        `CellLabels.load(folder).model`.

        Raises:
            RuntimeError: if it was not trained.
            FileExistsError: if the folder holds a model and `overwrite` is false.
        """
        self._check_trained("save")
        content = {"names": self.names, "temperature": self.temperature}
        return write_labels(self.model, self.graph, folder, overwrite, content, self.history)

    @classmethod
    def load(cls, folder: str | Path, adata: Any = None) -> "CellLabels":
        """Read what `save` wrote.

        Args:
            folder: where it is.
            adata: the model's own cells, used where a method is given none.

        Raises:
            FileNotFoundError: if the folder holds no classifier.
            FileError: if a file is damaged, or of another classifier.
        """
        path = Path(folder) / "labels.json"
        for _ in range(_READS):
            content = read_labels(path)
            with suppress(FileNotFoundError, FileError):
                return cls._loaded(folder, content, adata)
            if read_labels(path) == content:  # no other process has saved meanwhile
                break
        return cls._loaded(folder, content, adata)

    @classmethod
    def _loaded(cls, folder: str | Path, content: dict[str, Any], adata: Any) -> "CellLabels":
        path = Path(folder) / "labels.json"
        model = SingleCellVAE.load(Path(folder) / content["cells"], adata)
        graph: Any = files.load(folder)
        saved = files.inspect(folder)
        if content["weights"] != saved["weights"] or len(content["names"]) != graph.labels:
            raise FileError(f"{path}: belongs to another classifier than model.json. {_AGAIN}")
        labels = cls(model, graph.eval(), content["names"])
        labels.temperature = content["temperature"]
        labels.history = History.from_dict(saved["history"] or {})
        return labels

    def _check_trained(self, method: str) -> None:
        if self.history is None:
            raise RuntimeError(f"{method}: the classifier is not trained yet. Call train() first")

    def _cells(self, adata: Any, indices: Any) -> tuple[tuple[Any, ...], Any]:
        cells, encoding = self.model.cells, self.model.cells.encoding
        if adata is None or self._encoder_sees_context():
            return cells.select(adata, indices)
        check_anndata(adata)
        rows = checked_rows(adata, indices)
        some = adata if rows is None else some_cells(adata, rows.numpy(), encoding.setup.layer)
        encoding.setup.check_layer(some)
        return (counts(some, encoding.setup.layer, encoding.genes),), some.obs_names

    def _encoder_sees_context(self) -> bool:
        net = getattr(self.graph.cells.posterior, "net", None)
        return bool(getattr(net, "keep", getattr(net, "context", 1)))

    def _logits(self, data: tuple[Any, ...]) -> Tensor:
        with programs.evaluation(self.graph):
            logits = [
                self.graph.predicted(*batch)
                for batch in batches_in_order(self.graph, as_sources(data))
            ]
        return torch.cat(logits).float().cpu()

    def _held_out(self, seed: int) -> Tensor:
        """Return labelled cells for the calibration; none where there are few."""
        labelled = (self.known >= 0).nonzero().flatten()
        if len(labelled) * _HELD_OUT < 2 * len(self.names):
            return labelled[:0]
        return labelled[split(len(labelled), _HELD_OUT, seed)[1]]


def _graph(model: SingleCellVAE, labels: int, hidden: int, alpha: float) -> LabelledCountVAE:
    own: Any = copy.deepcopy(counts_of(model, "CellLabels"))
    x, *c = (part[:2] for part in model.cells.data)
    with programs.evaluation(own):
        shape = own.posterior(x.float().log1p().to(model.device), *(p.to(model.device) for p in c))
    latents = shape.event_shape[0]
    classifier = MLP(latents, [hidden], labels)
    upper = MLP(latents + labels, [hidden], 2 * latents)
    lower = MLP(latents + labels, [hidden], 2 * latents)
    return LabelledCountVAE(own, classifier, upper, lower, labels, latents, alpha)
