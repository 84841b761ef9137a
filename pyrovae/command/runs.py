"""The folder that a run leaves: the model, how its data were prepared, its figures and its report.

model/                      what `pyrovae.save` writes
run.json                    settings, preparation of the data, their fingerprint
metrics.json                figures, in nats a datum; strict JSON, null where a figure does not exist
report.html                 all of it to look at
checkpoint.safetensors      only while training, and after Ctrl-C
"""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae import files
from pyrovae.command.options import Part, Settings, Settled
from pyrovae.command.preparation import Preparation
from pyrovae.data import Dataset, batches
from pyrovae.files import History, write_atomically

__all__ = ["CELLS", "Run", "claim", "fingerprint", "resumed", "split", "write_json"]

FORMAT = "pyrovae-run-1"
CELLS = "cells"


@dataclass(frozen=True)
class Run:
    """What was run, and where it is kept.

    Attributes:
        folder: The run's folder.
        settings: Settled settings.
        preparation: How data are prepared for the model.
        data: Facts about the training data: name, kind, rows, fingerprint. The kind "cells" is single cells, which the model's
            cells.json says how to encode; all others are images or arrays.
    """

    folder: Path
    settings: Settled
    preparation: Preparation
    data: dict[str, Any]

    @property
    def of_cells(self) -> bool:
        """Whether it was fitted on single cells."""
        return self.data["kind"] == CELLS

    @property
    def model(self) -> Path:
        """Folder of the model."""
        return self.folder / "model"

    @property
    def checkpoint(self) -> Path:
        """File that an interrupted run resumes from."""
        return self.folder / "checkpoint.safetensors"

    def begin(self) -> None:
        """Write run.json, after removing what an earlier run left, so that the folder never mixes two."""
        if not self.settings.resume:
            shutil.rmtree(self.model, ignore_errors=True)
            for file in (
                self.checkpoint,
                self.folder / "metrics.json",
                self.folder / "report.html",
            ):
                file.unlink(missing_ok=True)
        content = {
            "settings": self.settings.to_dict(),
            "preparation": self.preparation.to_dict(),
            "data": self.data,
        }
        write_json({"format": FORMAT, **content}, self.folder / "run.json")

    def save_model(
        self, graph: nn.Module, history: History, metrics: Mapping[str, Any] | None = None
    ) -> None:
        """Write the model, and its figures beside it."""
        metrics = plain(metrics or {})
        files.save(graph, self.model, history=history, metrics=metrics)
        if metrics:
            write_json(metrics, self.folder / "metrics.json")

    def load_model(self) -> Any:
        """Read the model."""
        return files.load(self.model)

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Read a run from its folder, or from the model's folder in it.

        Raises:
            FileNotFoundError: There is no run.
            ValueError: Its run.json is truncated or of something else.
        """
        folder = (
            folder.parent
            if not (folder / "run.json").is_file() and folder.name == "model"
            else folder
        )
        path = folder / "run.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} holds no run: expected run.json, as `pyrovae fit` writes it"
            )
        try:
            content = json.loads(path.read_text())
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']!r}, this version reads {FORMAT!r}")
            settings, preparation = (
                Settled.from_dict(content["settings"]),
                Preparation.from_dict(content["preparation"]),
            )
            return cls(folder, settings, preparation, content["data"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is truncated or not of this version ({error}); run `pyrovae fit` again"
            ) from error

    @classmethod
    def open_for(cls, folder: Path, what: str) -> "Run":
        """Read a run for a command that is for images and arrays alone; refuse one of cells."""
        run = cls.open(folder)
        if run.of_cells:
            raise ValueError(
                f"{folder} was fitted on cells: `pyrovae {what}` is for images and arrays; use evaluate or encode"
            )
        return run

    def rows(self, data: Dataset, part: Part | None = None) -> tuple[Tensor, ...]:
        """Return (x, *c) of a part of a data set, prepared as the training data were.

        By default the test rows where there are any: the data's own, or those held out of the same data before training.
        """
        x, labels = self.stored(data, part)
        return (self.preparation.fixed(x), *self.preparation.context(labels, data.label_names))

    def stored(
        self, data: Dataset, part: Part | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Return rows and labels of a part of a data set, as they are stored."""
        if data.x_test is None and fingerprint(data) == self.data["fingerprint"]:
            data = split(data, self.settings)
        part = part or (Part.ALL if data.x_test is None else Part.TEST)
        if part is Part.TRAIN or data.x_test is None:
            if part is Part.TEST:
                raise ValueError(
                    f"{data.name} has no test rows, and is not what the model was fitted on; use --part all"
                )
            return data.x, data.labels
        if part is Part.TEST:
            return data.x_test, data.labels_test
        both = (
            None
            if data.labels is None or data.labels_test is None
            else np.concatenate([data.labels, data.labels_test])
        )
        return np.concatenate([data.x, data.x_test]), both


def claim(folder: Path, settings: Settings) -> None:
    """Refuse an output folder that holds something else, or a run that nobody asked to give up.

    Raises:
        ValueError: It is a file, holds what is no run, or a run.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose another folder with --output")
    if settings.overwrite or settings.resume or not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / "run.json").is_file():
        raise ValueError(
            f"{folder} holds something that is no run; choose another folder with --output, or add --overwrite"
        )
    if (folder / "checkpoint.safetensors").is_file():
        raise ValueError(
            f"{folder} holds an interrupted run; go on with --resume, or give it up with --overwrite"
        )
    if (folder / "model" / "model.json").is_file():
        raise ValueError(
            f"{folder} holds a run; choose another folder with --output, or replace it with --overwrite"
        )


def resumed(folder: Path, given: Settings) -> Settled:
    """Return the settings of an interrupted run, with those changed that may change; others must not be given anew.

    Raises:
        FileNotFoundError: There is no interrupted run.
        ValueError: A setting differs from the run's.
    """
    run = Run.open(folder)
    if not run.checkpoint.is_file():
        raise FileNotFoundError(
            f"{folder} holds a run that is complete, there is nothing to resume; leave --resume out to fit anew"
        )
    for field in fields(Settings):
        new, old = getattr(given, field.name), getattr(run.settings, field.name)
        if field.name not in FREE and new != field.default and plain(new) != plain(old):
            option = field.name.replace("_", "-")
            raise ValueError(
                f"{folder} was begun with {option} {old}, not {new}; leave it out with --resume, or fit anew with --overwrite"
            )
    free = {name: value for name in FREE if (value := getattr(given, name)) is not None}
    return replace(run.settings, **free)


FREE = (
    "output",
    "epochs",
    "samples",
    "test_images",
    "report",
    "device",
    "threads",
    "data_dir",
    "resume",
    "overwrite",
    "quiet",
)


def split(data: Dataset, settings: Settings) -> Dataset:
    """Hold test rows out where the data bring none."""
    if data.x_test is not None:
        return data
    share = Settled.test if settings.test is None else settings.test
    return data.hold_out(batches.split(len(data.x), share, settings.seed)[1].numpy())


def fingerprint(data: Dataset) -> str:
    """Return a SHA-256 of the rows as loaded, before any split."""
    return batches.fingerprint((torch.from_numpy(data.x),))


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write strict JSON in one step; NaN and infinity become null."""
    text = json.dumps(plain(content), indent=1, allow_nan=False)
    write_atomically(path, lambda file: file.write_text(text + "\n", encoding="utf-8"))


def plain(value: Any) -> Any:
    """Return nested content as JSON knows it."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
