"""The folder of a run.

model/                      what `pyrovae.save` writes, for cells with cells.json
run.json                    settings, facts about the data; for images how their rows are prepared
metrics.json                figures; strict JSON, null where a figure does not exist
report.html                 figures and pictures
checkpoint.safetensors      only while training, and after Ctrl-C or SIGTERM
events/                     for TensorBoard, with --tensorboard
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_type_hints

from pyrovae import files
from pyrovae.command.cells.settings import CellSettings
from pyrovae.command.images.settings import ImageSettings
from pyrovae.command.options import DEFAULTS, Options, given
from pyrovae.command.settings import Settings
from pyrovae.command.writing import as_plain, json_text, write_json
from pyrovae.files import FileError, kinds
from pyrovae.training import Hook, hooks

__all__ = ["CELLS", "Run", "claim", "resumed"]

FORMATS = "pyrovae-run-2", "pyrovae-run-1"  # the earlier has no digest
CELLS = "cells"  # the kind that run.json names for single cells; all others are images or arrays
_AGAIN = "Run `pyrovae fit` again"
_TEXTS = kinds.list_of(kinds.text)
_FACTS = {
    "name": kinds.text,
    "kind": kinds.text,
    "rows": kinds.whole(1),
    "shape": kinds.list_of(kinds.whole(1)),
    "fingerprint": kinds.text,
}

S = TypeVar("S", bound=Settings)


@dataclass(frozen=True)
class Run(Generic[S]):
    """What is run, and where it is kept.

    Attributes:
        folder: The run's folder.
        settings: Settings of its kind of data.
        data: Facts about the training data: name, kind, rows, fingerprint.
        details: What else its kind of data keeps in run.json.
    """

    folder: Path
    settings: S
    data: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def hooks(self) -> list[Hook]:
        """The loggers that the settings ask for."""
        return [hooks.TensorBoard(self.folder / "events")] if self.settings.tensorboard else []

    @property
    def model(self) -> Path:
        """Folder of the model."""
        return self.folder / "model"

    @property
    def checkpoint(self) -> Path:
        """File that an interrupted run resumes from."""
        return self.folder / "checkpoint.safetensors"

    @property
    def resume(self) -> Path | None:
        """The checkpoint to resume from, None if training starts afresh."""
        return self.checkpoint if self.settings.resume else None

    def begin(self) -> None:
        """Write run.json, after removing the results of an earlier run in the folder.

        They stay where run.json cannot be written, as on a full disk.
        """
        for folder in (self.folder, self.model):
            files.remove_temporary(folder)
        content = {"settings": self.settings.to_dict(), **self.details, "data": self.data}
        text = json_text(files.sealed(FORMATS[0], as_plain(content)))

        def replace(part: Path) -> None:
            part.write_text(text, encoding="utf-8", errors="backslashreplace")
            if not self.settings.resume:
                self._forget_results()

        files.write_atomically(self.folder / "run.json", replace)

    def _forget_results(self) -> None:
        for folder in (self.model, self.folder / "events"):
            shutil.rmtree(folder, ignore_errors=True)
        self.checkpoint.unlink(missing_ok=True)
        self.forget_figures()

    def forget_figures(self) -> None:
        """Remove metrics.json and report.html, before the folder gets the weights of others."""
        for name in ("metrics.json", "report.html"):
            (self.folder / name).unlink(missing_ok=True)

    def write_figures(self, figures: Mapping[str, Any]) -> None:
        """Write metrics.json."""
        write_json(figures, self.folder / "metrics.json")

    @classmethod
    def open(cls, folder: Path) -> "Run[Any]":
        """Read a run from its folder, or from the model's folder in it.

        Raises:
            FileNotFoundError: There is no run.
            FileError: Its run.json is truncated, altered, or of something else.
        """
        if not (folder / "run.json").is_file() and folder.name == "model":
            folder = folder.parent
        path = folder / "run.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} holds no run: expected run.json, as `pyrovae fit` writes it"
            )
        content = files.opened(path, FORMATS, _AGAIN)
        try:
            kinds.check(content, {"settings": kinds.obj, "data": kinds.obj}, further=True)
            details = {"preparation": {}, "chosen": []} | content
            kinds.check(details, {"preparation": kinds.obj, "chosen": _TEXTS}, further=True)
            kinds.check(content["data"], _FACTS, "data", further=True)
            data, settings = content.pop("data"), content.pop("settings")
            kind = CellSettings if data["kind"] == CELLS else ImageSettings
            if kind is ImageSettings:
                kinds.check(data, {"test_rows": kinds.whole(0)}, "data", further=True)
            _check_settings(kind, settings)
            run = Run(folder, kind.of(settings), data, content)
            _check_model(folder, run.settings)
            return run
        except FileError:  # of the model: it names its own file
            raise
        except (ValueError, TypeError) as error:
            raise FileError(
                f"{path}: truncated or not of this version ({error}). {_AGAIN}"
            ) from error

    @classmethod
    def open_images(cls, folder: Path, command: str) -> "Run[ImageSettings]":
        """Read a run on images or arrays, for a command that takes no other.

        Raises:
            FileNotFoundError, ValueError: There is no run, or it is one on cells.
        """
        run = cls.open(folder)
        if not isinstance(run.settings, ImageSettings):
            raise ValueError(
                f"{folder} was fitted on cells: `pyrovae {command}` is for images and arrays; "
                "use evaluate or encode"
            )
        return run


def _check_settings(kind: type[Settings], values: dict[str, Any]) -> None:
    """Check types and ranges of settings; None leaves one open, other kinds' are ignored."""
    hints = get_type_hints(kind, include_extras=True)
    given = {name: hints[name] for name in values if name in kind.names()}
    table = {name: kinds.optional(kinds.typed(hint)) for name, hint in given.items()}
    kinds.check(values, table, "settings", further=True)
    for name, hint in given.items():
        option, value = get_args(hint)[1], values[name]
        low, high = (getattr(option, end, None) for end in ("min", "max"))
        if isinstance(value, int | float) and not _in_range(value, low, high):
            raise ValueError(f"settings.{name} is {value}, expected from {low} to {high}")


def _in_range(value: float, low: float | None, high: float | None) -> bool:
    """Return whether a number is between two bounds; None is no bound."""
    return (low is None or value >= low) and (high is None or value <= high)


def _check_model(folder: Path, settings: Settings) -> None:
    """Refuse a run.json that lies beside the model of another run."""
    if not (folder / "model" / "model.json").is_file():
        return
    history = files.description(folder / "model")["history"] or {}
    if history.get("seed") not in (None, settings.seed):
        raise ValueError(
            f"its seed is {settings.seed}, but that of the model beside it is {history['seed']}"
        )


def claim(options: Options) -> Path:
    """Return the output folder, unless it holds something that must not be overwritten.

    Raises:
        ValueError: It is a file, or holds a run or something else.
    """
    folder = options.output or Path("runs") / Path(os.path.abspath(options.data)).stem
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; choose another folder with --output")
    if options.overwrite or options.resume or not folder.is_dir() or not any(folder.iterdir()):
        return folder
    if not (folder / "run.json").is_file():
        raise ValueError(
            f"{folder} holds something that is no run; choose another folder with --output, "
            "or add --overwrite"
        )
    if (folder / "checkpoint.safetensors").is_file():
        raise ValueError(
            f"{folder} holds an interrupted run; continue it with --resume, "
            "or discard it with --overwrite"
        )
    if (folder / "model" / "model.json").is_file():
        raise ValueError(
            f"{folder} holds a run; choose another folder with --output, "
            "or replace it with --overwrite"
        )
    return folder


def resumed(folder: Path, options: Options) -> Options:
    """Return the options of an interrupted run, with those changed that may change.

    A run that was killed before its first checkpoint begins again.

    Raises:
        FileNotFoundError: There is no interrupted run.
        ValueError: Another option differs from the run's.
    """
    run = Run.open(folder)
    begun = run.checkpoint.is_file()
    if not begun and (run.model / "model.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds a run that is complete, there is nothing to resume; "
            "leave --resume out to fit again"
        )
    settings = run.settings.to_dict()
    for name, new in vars(options).items():
        old, fixed = settings.get(name), name not in MAY_CHANGE
        if fixed and new != DEFAULTS[name] and as_plain(new) != as_plain(old):
            raise ValueError(
                f"{folder} was begun with {name.replace('_', '-')} {old}, not {new}; "
                "leave it out with --resume, or fit again with --overwrite"
            )
    changed = {name: value for name, value in given(options).items() if name in MAY_CHANGE}
    return Options(**vars(options) | settings | changed | {"resume": begun})


MAY_CHANGE = frozenset(
    {
        "output",
        "epochs",
        "samples",
        "test_images",
        "report",
        "tensorboard",
        "device",
        "threads",
        "data_dir",
        "resume",
        "overwrite",
        "quiet",
    }
)
