"""The settings of a run that every kind of data has; each field carries the option that sets it.

A field without a default depends on the data: `Experiment.resolve` chooses it where the option is
not given. `pyrovae.command.images.settings` and `pyrovae.command.cells.settings` add those of their
kind. Nothing heavy is imported here, so that `--help` is quick.
"""

from abc import ABC
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, get_args, get_origin, get_type_hints

import typer

from pyrovae.command.choices import Likelihood, Posterior, Precision, Prior

__all__ = ["BY_DATA", "DATA_HELP", "DataDir", "Settings", "TestRows", "option"]

LARGEST = 2**31 - 1  # of whole numbers, such as seeds and rows
MOST_FEATURES = 1_000_000  # of a layer
MOST_SAMPLES = 1_000_000  # importance samples for a row
DATA, MODEL, TRAINING, RUN = "Data", "Model", "Training", "The run"
BY_DATA = "default: depends on the data"
DATA_HELP = (
    "digits, mnist, fashion-mnist, simulated-cells, an .npy, .npz, .mrcs, .tif or .h5ad file, "
    "a folder of images, or a .zarr or a folder of .h5ad or .zarr files, which stay on the disk."
)


def option(help_text: str, *names: str, panel: str, **more: Any) -> Any:
    """Return Typer's description of an option.

    Args:
        help_text: What it sets.
        names: Its names, where they are not those of the field.
        panel: Heading of the help page that it stands under.
        more: As for `typer.Option`: bounds, an environment variable, a callback.
    """
    more.setdefault("callback", _finite)
    return typer.Option(*names, help=help_text, rich_help_panel=panel, **more)


def _finite(given: Any) -> Any:
    """Refuse NaN and infinity, which no bound excludes."""
    if isinstance(given, float) and not isfinite(given):
        raise typer.BadParameter(f"{given} is no finite number")
    return given


def _widths(given: list[str] | None) -> list[int] | None:
    """Read widths given as repeated options, as comma-separated lists, or as both."""
    if not given:
        return None
    try:
        widths = [int(part) for text in given for part in str(text).split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{','.join(given)} is no list of widths; write e.g. 500 or 512,256"
        ) from None
    if min(widths) < 1:
        raise typer.BadParameter(f"{min(widths)} is no width; expected at least 1")
    if max(widths) > MOST_FEATURES:
        raise typer.BadParameter(f"{max(widths)} is no width; expected at most {MOST_FEATURES}")
    return widths


DataDir = Annotated[
    Path | None,
    option(
        "Folder with torchvision's data sets.", envvar="PYROVAE_DATA", panel=DATA, show_envvar=True
    ),
]
TestRows = Annotated[
    int,
    option(
        "Number of test rows on which log p(x) is estimated.",
        "--test-rows",
        "--test-images",
        min=1,
        max=LARGEST,
        panel=RUN,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Settings(ABC):
    """Settings that every kind of data has. Abstract: a run has those of its kind.

    Attributes:
        HOLDS: What data of this kind hold, in words.
        LIKELIHOODS: Likelihoods for this kind of data.
        EVIDENCE_SAMPLES: Default of `samples`, importance samples for log p(x).
    """

    HOLDS: ClassVar[str]
    LIKELIHOODS: ClassVar[tuple[Likelihood, ...]]
    EVIDENCE_SAMPLES: ClassVar[int]

    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP)]
    output: Annotated[
        Path | None, option("Folder of the run (default: runs/DATA).", "--output", "-o", panel=RUN)
    ] = None
    data_dir: DataDir = None
    validation: Annotated[
        float,
        option(
            "Fraction of the training rows held out for validation; 0 trains on all "
            "(default: a tenth, at most 5000 rows).",
            min=0,
            max=0.9,
            panel=DATA,
        ),
    ]
    test: Annotated[
        float,
        option(
            "Fraction of the rows held out for testing, if the data have no test rows of their own "
            "(default: 0.2, for cells 0.1).",
            min=0.001,
            max=0.9,
            panel=DATA,
        ),
    ]
    latents: Annotated[
        int, option(f"Dimensions of z ({BY_DATA}).", min=1, max=MOST_FEATURES, panel=MODEL)
    ]
    hidden: Annotated[
        tuple[int, ...],
        option(
            f"Widths of the hidden layers (conv: channels), repeated or as 512,256 ({BY_DATA}).",
            callback=_widths,
            panel=MODEL,
        ),
    ]
    prior: Annotated[Prior, option("p(z).", panel=MODEL)] = Prior.STANDARD_NORMAL
    components: Annotated[
        int | None,
        option(
            "Components of --prior mixture, or pseudo-inputs of --prior vamp (default: 50, 500).",
            min=1,
            max=MOST_FEATURES,
            panel=MODEL,
        ),
    ] = None
    posterior: Annotated[Posterior, option("q(z | x).", panel=MODEL)] = Posterior.DIAGONAL_NORMAL
    likelihood: Annotated[Likelihood, option(f"p(x | z) ({BY_DATA}).", panel=MODEL)]
    warm_up: Annotated[
        float,
        option(
            "Fraction of training over which the weight of the KL term rises from 0 "
            "(default: 0, for cells 0.25).",
            min=0,
            max=1,
            panel=TRAINING,
        ),
    ]
    epochs: Annotated[
        int,
        option(f"Passes over the training rows ({BY_DATA}).", min=1, max=LARGEST, panel=TRAINING),
    ]
    batch_size: Annotated[
        int, option(f"Rows per step ({BY_DATA}).", min=1, max=LARGEST, panel=TRAINING)
    ]
    learning_rate: Annotated[float, option("Step size.", min=1e-9, panel=TRAINING)] = 1e-3
    patience: Annotated[
        int | None,
        option(
            f"Stop after this many epochs without a better validation ELBO ({BY_DATA}; none if "
            "--epochs is given).",
            min=1,
            max=LARGEST,
            panel=TRAINING,
        ),
    ] = None
    precision: Annotated[
        Precision | None,
        option(
            "Multiply in bfloat16, or on a GPU in TF32, while training (default: as the model "
            "does).",
            panel=TRAINING,
        ),
    ] = None
    compile: Annotated[
        bool,
        option(
            "Compile a training step by torch's compiler, which takes half a minute (needs a C++ "
            "compiler).",
            "--compile",
            panel=TRAINING,
        ),
    ] = False
    seed: Annotated[
        int, option("Seed of splits, initial weights and training.", min=0, max=LARGEST, panel=RUN)
    ] = 0
    samples: Annotated[
        int,
        option(
            "Importance samples for log p(x); 0 leaves it out (default: 1000, for cells 200).",
            min=0,
            max=MOST_SAMPLES,
            panel=RUN,
        ),
    ]
    test_images: TestRows = 1000
    report: Annotated[bool, option("Write report.html.", panel=RUN)] = True
    tensorboard: Annotated[
        bool,
        option(
            "Write every step for TensorBoard into events/ of the output folder (needs the package "
            "tensorboard).",
            "--tensorboard",
            panel=RUN,
        ),
    ] = False
    device: Annotated[str, option("Where to train: cpu, cuda, cuda:1, ...", panel=RUN)] = "cpu"
    threads: Annotated[
        int | None,
        option("Threads (default: one for small steps, else all).", min=1, max=1024, panel=RUN),
    ] = None
    resume: Annotated[
        bool, option("Continue the interrupted run in the output folder.", "--resume", panel=RUN)
    ] = False
    overwrite: Annotated[
        bool, option("Write into the output folder whatever it holds.", "--overwrite", panel=RUN)
    ] = False
    quiet: Annotated[bool, option("Print nothing but errors.", "--quiet", "-q", panel=RUN)] = False

    @property
    def is_autoencoder(self) -> bool:
        """Whether the model has no log p(x), because its prior or its posterior has no density."""
        return self.prior is Prior.FLAT or self.posterior is Posterior.POINT

    def bound_name(self, of_history: str) -> str:
        """Return what training raises: a bound, or for an autoencoder a density at the code."""
        if not self.is_autoencoder:
            return of_history
        return "log p(x | z)" if self.prior is Prior.FLAT else "log p(x, z)"

    @classmethod
    def names(cls) -> set[str]:
        """Return the names of the settings of this kind."""
        return {field.name for field in fields(cls)}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Make settings of values by name, as JSON or the command line has them.

        None leaves a field at its default. Names that this kind does not have are ignored:
        run.json once held those of every kind.
        """
        types = get_type_hints(cls)
        given = {name: values[name] for name in cls.names() if values.get(name) is not None}
        return cls(**{name: _typed(types[name], value) for name, value in given.items()})

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as words and numbers for JSON."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }


def _typed(annotation: Any, value: Any) -> Any:
    """Return a value as the enumeration, the path or the tuple that its field's type asks for."""
    for kind in (annotation, *get_args(annotation)):
        if get_origin(kind) is tuple:
            return tuple(value)
        if isinstance(kind, type) and issubclass(kind, StrEnum | Path):
            return kind(value)
    return value
