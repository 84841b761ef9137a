"""Loggers: hooks that write a fit to the terminal, to a CSV file, or for TensorBoard."""

import csv
import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from pyrovae.files import FileError, check_writable, in_words, write_atomically
from pyrovae.training.events import Epoch, Hook, Start, Step

__all__ = ["CSV", "ProgressBar", "TensorBoard", "on_terminal"]

_COLUMNS = (
    "step",
    "epoch",
    "rows",
    "loss",
    "elbo",
    "reconstruction",
    "kl",
    "beta",
    "learning_rate",
    "gradient_norm",
)
_WHOLE = re.compile("[0-9]{1,18}")  # a number of a step
_VALIDATED = ("validation_elbo", "validation_reconstruction", "validation_kl")


class ProgressBar(Hook):
    """A progress bar with the bound and its terms so far in the epoch, on a terminal or notebook.

    `pyrovae.fit` adds one unless it gets `progress=False`.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._name, self._validated = "ELBO", ""
        self._restart()

    def _restart(self) -> None:
        self._epoch, self._rows = 0, 0
        self._reconstruction, self._kl, self._loss = 0.0, 0.0, 0.0

    def on_start(self, start: Start) -> None:
        """Open the bar."""
        self._name = start.bound_name
        hidden = not (_with_widgets() or _in_kernel() or on_terminal())
        self._bar = tqdm(total=start.steps, initial=start.done, unit="step", disable=hidden)

    def on_step(self, step: Step) -> None:
        """Advance the bar."""
        if step.epoch != self._epoch:
            self._restart()
            self._epoch = step.epoch
        self._rows += step.rows
        self._reconstruction += step.reconstruction * step.rows
        self._kl += sum(step.kl.values()) * step.rows
        self._loss += step.loss * step.rows
        if self._bar.update():
            self._show()

    def _show(self) -> None:
        means = [total / self._rows for total in (self._reconstruction, self._kl, self._loss)]
        self._bar.set_postfix_str(in_words(self._name, *means) + self._validated, refresh=False)

    def on_epoch(self, epoch: Epoch) -> None:
        """Take note of the validation."""
        if epoch.history.validation_elbo:
            self._validated = f", validation {epoch.history.validation_elbo[-1]:.2f}"

    def on_end(self) -> None:
        """Close the bar, with the numbers of the last epoch."""
        if self._bar is not None:
            if self._rows:
                self._show()
            self._bar.close()


class CSV(Hook):
    """A CSV file with one line per optimizer step: the columns of `Step`, kl as the sum over sites.

    A fit that is resumed continues the file: lines of steps that are taken again are replaced.

    Args:
        path: the file; its folder is made.

    Example:
        >>> import tempfile
        >>> import pyrovae as pv
        >>> file = Path(tempfile.mkdtemp()) / "steps.csv"
        >>> q = pv.posteriors.DiagonalNormal(nn.Linear(6, 4))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(nn.Linear(2, 6)))
        >>> _ = pv.fit(vae, torch.ones(4, 6), epochs=2, hooks=[pv.hooks.CSV(file)], seed=0)
        >>> len(file.read_text().splitlines())
        3
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: Any = None

    def on_start(self, start: Start) -> None:
        """Open the file."""
        check_writable(self.path)
        kept = _steps_before(self.path, start.done) if start.done else []
        first = io.StringIO(newline="")
        csv.writer(first).writerows([_COLUMNS, *kept])
        write_atomically(self.path, lambda part: part.write_bytes(first.getvalue().encode()))
        with _named(self.path):
            # By lines: a process that is killed leaves every step that a checkpoint may hold.
            self._file = self.path.open("a", buffering=1, newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)

    def on_step(self, step: Step) -> None:
        """Write a line."""
        values = {"kl": sum(step.kl.values()), "learning_rate": step.learning_rates[0]}
        with _named(self.path):
            self._writer.writerow(values.get(name, getattr(step, name, None)) for name in _COLUMNS)

    def on_end(self) -> None:
        """Close the file."""
        if self._file is not None:
            with _named(self.path):
                self._file.close()


class TensorBoard(Hook):
    """Scalars for TensorBoard: terms of each step under `train/`, of each epoch `validation/`.

    Needs the extra `tensorboard`.

    Args:
        folder: where the event files are written.
        every: steps between two entries.

    Raises:
        ImportError: if TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path, every: int = 1) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "hooks.TensorBoard needs the package tensorboard: "
                "pip install 'pyrovae[tensorboard]'"
            ) from error
        self.folder, self.every = Path(folder), every
        self._make_writer = SummaryWriter
        self._writer: Any = None

    def on_start(self, start: Start) -> None:
        """Open the event file; steps that are taken again are purged."""
        purged = start.done + 1 if start.done else None
        with _named(self.folder):
            self._writer = self._make_writer(str(self.folder), purge_step=purged)

    def on_step(self, step: Step) -> None:
        """Write the terms of a step."""
        if step.step % self.every:
            return
        terms = {name: getattr(step, name) for name in ("loss", "elbo", "reconstruction", "beta")}
        terms |= {f"kl/{site}": value for site, value in step.kl.items()}
        terms |= {f"learning_rate/{i}": rate for i, rate in enumerate(step.learning_rates)}
        terms["gradient_norm"] = step.gradient_norm
        with _named(self.folder):
            for name, value in terms.items():
                self._writer.add_scalar(f"train/{name}", value, step.step)

    def on_epoch(self, epoch: Epoch) -> None:
        """Write the terms on the validation data."""
        with _named(self.folder):
            for name in _VALIDATED:
                values = getattr(epoch.history, name)
                if values:
                    tag = name.replace("_", "/", 1)
                    self._writer.add_scalar(tag, values[-1], epoch.step)
            self._writer.flush()

    def on_end(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            with _named(self.folder):
                self._writer.close()


def on_terminal() -> bool:
    """Return whether messages go to a terminal; a process may have no stream for them at all."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Context in which an error of a logger's file names the path."""
    try:
        yield
    except OSError as error:
        raise OSError(  # of the same class, by its number
            error.errno,
            f"{path} cannot be written ({error.strerror or error}). Free space there, or let the "
            "hook write to another folder",
        ) from error


def _with_widgets() -> bool:
    """Return whether `tqdm.auto` draws with a notebook's widgets."""
    return any("notebook" in c.__module__ for c in tqdm.__mro__)


def _in_kernel() -> bool:
    """Return whether a notebook shows the output, also without widgets: it is no terminal."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


def _steps_before(path: Path, done: int) -> list[list[str]]:
    """Return the lines of a file of an earlier fit up to step `done`."""
    if not path.is_file():
        return []
    try:
        lines = list(csv.reader(io.StringIO(path.read_bytes().decode("ascii"), newline="")))[1:]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(
            f"{path}: no lines of an earlier fit, which the resumed one would continue ({error}). "
            "Let hooks.CSV write to another file"
        ) from error
    whole = [line for line in lines if len(line) == len(_COLUMNS)]
    return [line for line in whole if _WHOLE.fullmatch(line[0]) and int(line[0]) <= done]
