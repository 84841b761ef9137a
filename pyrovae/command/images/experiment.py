"""The experiment on images or arrays: x with shape (N, *event), and labels as context c."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, final

import numpy as np

from pyrovae import evaluation, files, programs
from pyrovae.command import exports, figures
from pyrovae.command.build import PRECISIONS, usable_device
from pyrovae.command.choices import Network, Part
from pyrovae.command.experiment import Experiment
from pyrovae.command.figures import training_rows
from pyrovae.command.images import pictures, reconstruction, restoration
from pyrovae.command.images.baselines import ROWS as MOST_ROWS
from pyrovae.command.images.build import bounds_in_words, build_graph
from pyrovae.command.images.figures import compare, table, unit
from pyrovae.command.images.model import ImageModel
from pyrovae.command.images.posing import objective_of_turns, pose_columns
from pyrovae.command.images.preparation import prepare
from pyrovae.command.images.resolve import TEST_FRACTION, read_data, reasons, resolve_settings
from pyrovae.command.images.rows import (
    Rows,
    Training,
    fingerprint,
    has_levels,
    hold_out_test,
    in_levels_of,
    prepare_rows,
    read_for,
    select,
)
from pyrovae.command.images.schedule import (
    build_objective,
    build_optimizer,
    build_scheduler,
    clip_norm,
    learning_rates,
)
from pyrovae.command.images.settings import ImageSettings
from pyrovae.command.options import Options
from pyrovae.command.report.page import Picture, Row
from pyrovae.command.runs import Run
from pyrovae.data import Dataset, batches
from pyrovae.files import History
from pyrovae.training import fit

__all__ = ["ImageExperiment"]


class Loaded(NamedTuple):
    """A data set with test rows, and the fingerprint of the rows as they were read."""

    data: Dataset
    fingerprint: str


@final
@dataclass(frozen=True)
class ImageExperiment(Experiment):
    """A model of images or arrays with its data.

    Attributes:
        run: Settings and folder.
        model: The model, and how data are prepared for it.
        rows: Rows to measure on.
        training: Rows to train on; None for a model that was read from a run.
    """

    PACKAGES: ClassVar[tuple[str, ...]] = ("scikit-learn",)
    EMBEDDINGS: ClassVar[tuple[str, ...]] = exports.EMBEDDINGS

    run: Run[ImageSettings]
    model: ImageModel
    rows: Rows
    training: Training | None = None

    @property
    def title(self) -> str:
        """What the report calls this model: an autoencoder where its code has no density."""
        settings = self.run.settings
        kind = "autoencoder" if settings.is_autoencoder else "variational autoencoder"
        if settings.denoise:
            return f"a denoising {kind}"
        return f"an {kind}" if settings.is_autoencoder else f"a {kind}"

    @staticmethod
    def load(options: Options) -> Loaded:
        """Read the data, and hold test rows out where they have none."""
        data = read_data(options.data, options.data_dir)
        test = TEST_FRACTION if options.test is None else options.test
        return Loaded(hold_out_test(data, test, options.seed), fingerprint(data))

    @staticmethod
    def resolve(options: Options, data: Loaded) -> ImageSettings:
        """Return the settings of a run."""
        return resolve_settings(options, data.data)

    @classmethod
    def build(cls, folder: Path, settings: ImageSettings, data: Loaded) -> "ImageExperiment":
        """Prepare the rows, check them, and build the model."""
        stored, device = data.data, usable_device(settings.device)
        preparation = prepare(settings, stored)
        training, rows = prepare_rows(preparation, stored, settings)
        facts = {
            "name": stored.name,
            "kind": stored.kind.value,
            "rows": len(stored.x),
            "test_rows": stored.test_rows,
            "shape": stored.shape,
            "fingerprint": data.fingerprint,
        }
        graph = build_graph(settings, preparation, training.rows[0])
        if not settings.binarize:
            graph.check(*training.rows)
        graph.check(*rows.batch)
        chosen = [*reasons(settings, stored), *preparation.in_words(), *bounds_in_words(graph)]
        run = Run(folder, settings, facts, {"preparation": preparation.to_dict(), "chosen": chosen})
        model = ImageModel(preparation, graph.to(device))
        return cls(run, model, rows, training)

    @classmethod
    def open(
        cls, run: Run[ImageSettings], data: str, part: Part | None, data_dir: Path | None
    ) -> "ImageExperiment":
        """Read the model of a run, and the rows of a part of DATA; check them."""
        model = ImageModel.of(run)
        dataset = read_for(model.preparation, data, data_dir)
        if has_levels(data, dataset):
            dataset = in_levels_of(model.preparation, dataset)
        rows = select(dataset, part, run, model.preparation)
        try:
            model.graph.check(*rows.batch)
        except ValueError as error:
            raise ValueError(
                f"{data} does not fit the model of {run.folder}, which was fitted on "
                f"{run.data['kind']}: {error}"
            ) from error
        return cls(run, model, rows)

    def greeting(self) -> str:
        """Describe data, model and training in three lines."""
        s, facts = self.run.settings, self.run.data
        rows, validation = self._training
        held_out = 0 if validation is None else len(validation[0])
        shape = " x ".join(map(str, facts["shape"]))
        binarized = ", binarized again at each visit" if s.binarize else ""
        parameters = sum(p.numel() for p in self.model.graph.parameters())
        return (
            f"{facts['name']}: {len(rows[0])} training, {held_out} validation, "
            f"{facts['test_rows']} test rows of {shape}, {facts['kind']}{binarized}\n"
            f"{s.prior.value} prior, {s.posterior.value} posterior, {s.likelihood.value} "
            f"likelihood; {s.network.value} {','.join(map(str, s.hidden))} {s.activation.value}, "
            f"{s.latents} latents, {parameters:,} parameters\n"
            f"{s.epochs} epochs, {s.batch_size} rows per step, {s.objective.value}, "
            f"{s.optimizer.value} at {s.learning_rate:g}, seed {s.seed}"
            + "".join(f"\nchosen: {text}" for text in self.run.details.get("chosen", []))
        )

    @property
    def _training(self) -> Training:
        """The rows to train on."""
        assert self.training is not None  # a model that was read is not trained again
        return self.training

    def train(self, callback: Callable[[History], None]) -> History:
        """Train the model by `pyrovae.fit`; keep its start where no epoch is better."""
        if self.run.settings.network is not Network.LINEAR_MLP:
            return self._fit(callback)
        graph, validation = self.model.graph, self._training.validation
        start = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
        before = None if validation is None else evaluation.elbo(graph, *validation).elbo.mean()
        history = self._fit(callback)
        best = max(history.validation_elbo, default=None)
        if before is not None and best is not None and best < before.item():
            graph.load_state_dict(start)
            history.best_epoch = None
            warnings.warn(
                "no epoch had a better validation ELBO than the weights that training started "
                f"from ({before.item():.2f} against {best:.2f}): those are kept",
                stacklevel=2,
            )
        return history

    def _fit(self, callback: Callable[[History], None]) -> History:
        s = self.run.settings
        return fit(
            self.model.graph,
            self._training.rows,
            validation=self._training.validation,
            objective=objective_of_turns(s) or build_objective(s),
            optimizer=build_optimizer(s),
            scheduler=build_scheduler(s),
            epochs=s.epochs,
            batch_size=s.batch_size,
            transform=batches.binarize if s.binarize else None,
            clip_norm=clip_norm(s),
            hooks=self.run.hooks,
            learning_rate=learning_rates(s, self.model.graph),
            precision=PRECISIONS[s.precision],
            compile=s.compile,
            patience=s.patience,
            seed=s.seed,
            checkpoint=self.run.checkpoint,
            resume=self.run.resume,
            callback=callback,
            progress=not s.quiet,
        )

    def save(self, history: History, figures: dict[str, Any] | None = None) -> None:
        """Write the model by `pyrovae.save`."""
        files.save(self.model.graph, self.run.model, history=history, metrics=figures or {})

    def measure(self, samples: int, evidence_rows: int) -> dict[str, Any]:
        """Return the figures of the model, and after training those of simpler densities."""
        settings, graph = self.run.settings, self.model.graph
        found = figures.measure(
            graph,
            self.rows.some,
            samples=samples,
            evidence_rows=evidence_rows,
            autoencoder=settings.is_autoencoder,
            keep_values=self.training is not None,
        )
        found["unit"] = unit(self.model.preparation)
        if settings.is_autoencoder:
            x = None if self.training is None else self.training.rows[0]
            rows = self.rows.some(figures.ELBO_ROWS)
            found["reconstruction"] = reconstruction.measure(self.model, rows, settings, x)
        if "log_p" in found and self.training is not None:
            log_p = np.array(found["log_p"].pop("values"))
            found["baselines"] = self._compare(evidence_rows, log_p)
        return found

    def _compare(self, evidence_rows: int, log_p: np.ndarray) -> dict[str, Any]:
        """Return the figures of simpler densities, fitted to the training rows."""
        (x, *_), validation = self._training
        if self.run.settings.binarize:
            with programs.random_stream(self.run.settings.seed, []):
                x = batches.binarize(x[:MOST_ROWS].float())
        held_out = None if validation is None else validation[0]
        return compare(self.run.settings, x, held_out, self.rows.some(evidence_rows)[0], log_p)

    def table(self, figures: dict[str, Any]) -> list[Row]:
        """Return figures as rows of a table."""
        if "reconstruction" not in figures:
            return table(figures, self.run.settings)
        return [*reconstruction.table(figures, self.run.settings), *training_rows(figures)]

    def pictures(self, history: History, figures: dict[str, Any]) -> list[Picture]:
        """Draw training, reconstructions, samples, interpolations and the latent space."""
        kl = figures.get("latents", {}).get("kl_per_unit")
        drawn = pictures.draw(self.model, self.run.settings, history, self.rows, kl)
        settings = self.run.settings
        if self.training is None or settings.is_autoencoder or settings.pose:
            return drawn
        train, seed = self.training.rows[0], self.run.settings.seed
        return [*drawn, *restoration.draw(self.model, self.rows, train, seed)]

    def facts(self) -> dict[str, str]:
        """Return what the data are."""
        facts = self.run.data
        count = f"{facts['rows']} + {facts['test_rows']} rows of {facts['shape']}"
        chosen = "; ".join(self.run.details.get("chosen", []))
        return {
            "data": f"{facts['name']}, {count}, SHA-256 {facts['fingerprint'][:16]}",
            **({"chosen": chosen} if chosen else {}),
        }

    def encode(self, output: Path) -> tuple[int, ...]:
        """Write posterior means of z, and the pose and the label of each row."""
        z, (_, labels, names) = self.model.embed(self.rows.batch), self.rows
        named = None if labels is None else np.array(names)[labels]
        poses = pose_columns(self.model.poses(self.rows.batch))
        exports.write_embedding(z, named, output, further=poses)
        return z.shape
