"""The experiment on single cells: the two-latent count model of an AnnData."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, final

import torch

from pyrovae.command import exports
from pyrovae.command.build import PRECISIONS, usable_device
from pyrovae.command.cells import figures as cell_figures
from pyrovae.command.cells import pictures
from pyrovae.command.cells.build import build_model, naming
from pyrovae.command.cells.evaluated import EvaluatedCells, describe_data, fingerprint, select
from pyrovae.command.cells.resolve import read_data, resolve_settings
from pyrovae.command.cells.settings import CellSettings
from pyrovae.command.choices import Dispersion, Likelihood, Part
from pyrovae.command.experiment import Experiment
from pyrovae.command.options import SIMULATED, Options
from pyrovae.command.report.cell_plots import UNLABELLED
from pyrovae.command.report.page import Picture, Row
from pyrovae.command.runs import CELLS, Run
from pyrovae.command.writing import write_cells
from pyrovae.files import History
from pyrovae.singlecell import SingleCellVAE, some_cells

__all__ = ["CellExperiment", "placement"]

LISTED_GROUPS = 20  # batches or labels that the report lists


@final
@dataclass(frozen=True)
class CellExperiment(Experiment):
    """A count model with its cells.

    Attributes:
        run: Settings and folder.
        model: The model, with the cells as its own.
        part: Which cells to measure on; None for the test cells.
    """

    PACKAGES: ClassVar[tuple[str, ...]] = ("anndata", "scipy", "scikit-learn")
    EMBEDDINGS: ClassVar[tuple[str, ...]] = (*exports.EMBEDDINGS, ".h5ad")

    run: Run[CellSettings]
    model: SingleCellVAE
    part: Part | None = None

    @property
    def title(self) -> str:
        """What the report calls this model."""
        return "a variational autoencoder of single cells"

    @staticmethod
    def load(options: Options) -> Any:
        """Read the AnnData."""
        return read_data(options.data)

    @staticmethod
    def resolve(options: Options, data: Any) -> CellSettings:
        """Return the settings of a run."""
        return resolve_settings(options, data)

    @classmethod
    def build(cls, folder: Path, settings: CellSettings, data: Any) -> "CellExperiment":
        """Check every count, and build the model."""
        device = usable_device(settings.device)
        model = build_model(settings, data)
        model.graph.to(device)
        facts = {
            "name": Path(settings.data).stem,
            "kind": CELLS,
            "rows": data.n_obs,
            "shape": (data.n_vars,),
            "fingerprint": fingerprint(model),
        }
        return cls(Run(folder, settings, facts), model)

    @classmethod
    def open(
        cls, run: Run[CellSettings], data: str, part: Part | None, data_dir: Path | None
    ) -> "CellExperiment":
        """Read the model of a run, with the cells of DATA as its own."""
        adata = read_data(data)
        with naming(data):
            return cls(run, SingleCellVAE.load(run.model, adata), part)

    @cached_property
    def about(self) -> dict[str, Any]:
        """Cells, genes, zeros, and the sizes of batches and labels."""
        return describe_data(self.model)

    @cached_property
    def cells(self) -> EvaluatedCells:
        """The model, once it is fitted, and the cells that it is measured on."""
        own = fingerprint(self.model) == self.run.data["fingerprint"]
        rows, mapped = select(self.model, self.part, own=own)
        settings = self.run.settings
        simulated = settings.data == SIMULATED
        return EvaluatedCells(self.model, rows, mapped, seed=settings.seed, simulated=simulated)

    def greeting(self) -> str:
        """Describe data, model and training in three lines."""
        s, about = self.run.settings, self.about
        sizes = [f"{about['cells']:,} cells", f"{about['genes']:,} genes"]
        groups = {name: set(about.get(name, ())) - {UNLABELLED} for name in ("batches", "labels")}
        sizes += [f"{len(found)} {name}" for name, found in groups.items() if found]
        library = "observed" if s.observed_library else "latent"
        dispersion = f", dispersion by {(s.dispersion or Dispersion.GENE).value}"
        theta = "" if s.likelihood is Likelihood.POISSON else dispersion
        parameters = sum(p.numel() for p in self.model.graph.parameters())
        return (
            f"{self.run.data['name']}: {', '.join(sizes)}; {about['zeros']:.1%} zeros, "
            f"{about['median_total']:,.0f} transcripts in the median cell\n"
            f"{s.likelihood.value} likelihood{theta}, {library} library size; "
            f"{s.layers} hidden layer{'s' * (s.layers > 1)} of {s.hidden[0]}, "
            f"{s.latents} latents, {parameters:,} parameters\n"
            f"{s.epochs} epochs, {s.batch_size} cells per step, adam at {s.learning_rate:g}, "
            f"seed {s.seed}"
        )

    def train(self, callback: Callable[[History], None]) -> History:
        """Train the model by `SingleCellVAE.train`."""
        s = self.run.settings
        validation = (1 - s.test) * s.validation
        return self.model.train(
            s.epochs,
            train_size=1 - s.test - validation,
            validation_size=validation,
            batch_size=s.batch_size,
            early_stopping=s.patience is not None,
            early_stopping_patience=s.patience or 1,
            lr=s.learning_rate,
            n_epochs_kl_warmup=max(1, round(s.warm_up * s.epochs)) if s.warm_up else 0,
            precision=PRECISIONS[s.precision],
            compile=s.compile,
            checkpoint=self.run.checkpoint,
            resume=self.run.resume,
            progress=not s.quiet,
            callback=callback,
            hooks=self.run.hooks,
            **placement(self.model.device),
        )

    def save(self, history: History, figures: dict[str, Any] | None = None) -> None:
        """Write the model, which keeps its history itself, by `SingleCellVAE.save`."""
        self.model.save(self.run.model, overwrite=True, metrics=figures)

    def measure(self, samples: int, evidence_rows: int) -> dict[str, Any]:
        """Return the figures of the model, and facts about the data."""
        found = cell_figures.measure(self.cells, samples, evidence_rows)
        return found | {"data": self.about}

    def table(self, figures: dict[str, Any]) -> list[Row]:
        """Return figures as rows of a table."""
        return cell_figures.table(figures, self.run.settings)

    def pictures(self, history: History, figures: dict[str, Any]) -> list[Picture]:
        """Draw training, latent space, library sizes and the posterior predictive."""
        return pictures.draw(self.cells, history, figures)

    def facts(self) -> dict[str, str]:
        """Return what the data are: sizes, zeros, split and groups."""
        about, model = self.about, self.model
        train, validation = len(model.train_indices), len(model.validation_indices)
        name, digest = self.run.settings.data, self.run.data["fingerprint"][:16]
        size = f"{about['cells']:,} cells of {about['genes']:,} genes"
        empty = f"{about['cells_without_counts']} cells, {about['genes_without_counts']} genes"
        test = about["cells"] - train - validation
        groups = [name for name in ("batches", "labels") if name in about]
        return {
            "data": f"{name}, {size}, SHA-256 {digest}",
            "counts": f"{about['zeros']:.2%} zeros, {about['median_total']:,.0f} in the median "
            f"cell; without any: {empty}",
            "split": f"{train:,} training, {validation:,} validation, {test:,} test cells",
            **{name: _sizes(about[name]) for name in groups},
        }

    def encode(self, output: Path) -> tuple[int, ...]:
        """Write posterior means of z, with the name of each cell and its label.

        An .h5ad holds the cells themselves, with z under obsm["X_pyrovae"] and the library size
        under obs["pyrovae_library_size"].
        """
        cells, rows = self.cells, self.cells.rows
        z = cells.embed(rows)
        if output.suffix == ".h5ad":
            adata = some_cells(cells.adata, rows, self.run.settings.layer).copy()
            adata.obsm["X_pyrovae"] = z
            adata.obs["pyrovae_library_size"] = cells.libraries.sizes
            write_cells(adata, output)
        else:
            names = cells.adata.obs_names[rows].astype(str).tolist()
            exports.write_embedding(z, cells.labels(rows), output, names)
        return z.shape


def placement(device: torch.device) -> dict[str, Any]:
    """Return the device as arguments of `SingleCellVAE.train`, which else takes a GPU itself."""
    devices = "auto" if device.index is None else [device.index]
    return {"accelerator": device.type, "devices": devices}


def _sizes(groups: dict[str, int]) -> str:
    """Return the sizes of groups in words, the largest first."""
    shown = [f"{name}: {n:,}" for name, n in groups.items()]
    more = [f"and {len(shown) - LISTED_GROUPS} more"] if len(shown) > LISTED_GROUPS else []
    return "; ".join([*shown[:LISTED_GROUPS], *more])
