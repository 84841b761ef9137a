"""What is trained and measured: settings, data and a model of one kind of data, images or cells."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

from pyrovae.command.cells.settings import CellSettings
from pyrovae.command.choices import Part
from pyrovae.command.options import Options
from pyrovae.command.report.page import Picture, Row
from pyrovae.command.runs import Run
from pyrovae.command.settings import Settings
from pyrovae.files import History

__all__ = ["Experiment", "experiment_of"]

Figures = dict[str, Any]


class Experiment(ABC):
    """A model with the data that it is trained and measured on.

        options -> load -> resolve -> build -> train -> measure -> table, pictures
        folder  -> open -> measure, encode

    Attributes:
        PACKAGES: Packages whose versions the report names, beside those always in use.
        EMBEDDINGS: Endings of the files that `encode` writes.
        run: Settings and folder.
    """

    PACKAGES: ClassVar[tuple[str, ...]]
    EMBEDDINGS: ClassVar[tuple[str, ...]]
    run: Run[Any]

    @property
    @abstractmethod
    def title(self) -> str:
        """What the report calls this model."""

    @staticmethod
    @abstractmethod
    def load(options: Options) -> Any:
        """Read the data that the options name.

        Raises:
            ImportError, FileNotFoundError, ValueError: They cannot be read.
        """

    @staticmethod
    @abstractmethod
    def resolve(options: Options, data: Any) -> Settings:
        """Return the settings of a run: the options, and by the data what they leave open.

        Raises:
            ValueError: Two settings contradict each other.
        """

    @classmethod
    @abstractmethod
    def build(cls, folder: Path, settings: Any, data: Any) -> Self:
        """Build the model for the data, with initial weights; check all data.

        Raises:
            ValueError: The data do not fit the settings.
        """

    @classmethod
    @abstractmethod
    def open(cls, run: Run[Any], data: str, part: Part | None, data_dir: Path | None) -> Self:
        """Read the model of a run, and the part of DATA that it is to be measured on.

        By default the test rows of the run's own data, and all rows of other data.

        Raises:
            ImportError, FileNotFoundError, ValueError: They cannot be read or do not fit.
        """

    @abstractmethod
    def greeting(self) -> str:
        """Describe data, model and training in three lines."""

    @abstractmethod
    def train(self, callback: Callable[[History], None]) -> History:
        """Train the model; call back with the history after each epoch.

        Raises:
            TrainingError: The loss became NaN; the model has its last finite weights.
        """

    @abstractmethod
    def save(self, history: History, figures: Figures | None = None) -> None:
        """Write the model, and its figures into it."""

    @abstractmethod
    def measure(self, samples: int, evidence_rows: int) -> Figures:
        """Return the figures of the model on its evaluation rows.

        Args:
            samples: Importance samples for log p(x); 0 leaves it out.
            evidence_rows: Number of rows on which log p(x) is estimated.
        """

    @abstractmethod
    def table(self, figures: Figures) -> list[Row]:
        """Return figures as rows of a table, best read top to bottom."""

    @abstractmethod
    def pictures(self, history: History, figures: Figures) -> list[Picture]:
        """Draw training, model and data."""

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """Return what the data are, by name, for the report."""

    @abstractmethod
    def encode(self, output: Path) -> tuple[int, ...]:
        """Write the posterior means of z for the evaluation rows; return their shape."""


def experiment_of(settings: type[Settings]) -> type[Experiment]:
    """Return the kind of experiment that has those settings, importing no other."""
    if settings is CellSettings:
        from pyrovae.command.cells.experiment import CellExperiment

        return CellExperiment
    from pyrovae.command.images.experiment import ImageExperiment

    return ImageExperiment
