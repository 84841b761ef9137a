"""What `pyrovae fit` can be told: the choices as enumerations, and every option once, as a field of `Settings`.

Words end here: `pyrovae.command.recipes` turns each choice into a constructor. Nothing heavy is imported, so `--help` is quick.
"""

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "DATA_HELP", "Activation", "DataDir", "Dispersion", "Likelihood", "Network", "Objective", "Optimizer", "Part", "Posterior", "Prior",
    "Settings", "Settled", "TestRows", "command",
]  # fmt: skip


class Network(StrEnum):
    """Encoder and decoder."""

    MLP = "mlp"
    CONV = "conv"
    RESIDUAL = "residual"


class Activation(StrEnum):
    """Non-linearity between layers."""

    RELU = "relu"
    TANH = "tanh"
    ELU = "elu"
    GELU = "gelu"
    SILU = "silu"
    SOFTPLUS = "softplus"


class Prior(StrEnum):
    """p(z)."""

    STANDARD_NORMAL = "standard-normal"
    MIXTURE = "mixture"
    VAMP = "vamp"
    FLOW = "flow"
    FLAT = "flat"


class Posterior(StrEnum):
    """q(z | x)."""

    DIAGONAL_NORMAL = "diagonal-normal"
    FULL_RANK_NORMAL = "full-rank-normal"
    IAF = "iaf"
    POINT = "point"


class Likelihood(StrEnum):
    """p(x | z)."""

    BERNOULLI = "bernoulli"
    CONTINUOUS_BERNOULLI = "continuous-bernoulli"
    GAUSSIAN = "gaussian"
    HETEROSCEDASTIC_GAUSSIAN = "heteroscedastic-gaussian"
    BINOMIAL = "binomial"
    DISCRETIZED_LOGISTIC = "discretized-logistic"
    CATEGORICAL = "categorical"
    POISSON = "poisson"
    ZINB = "zinb"
    NB = "nb"


class Dispersion(StrEnum):
    """What a negative binomial's inverse dispersion depends on."""

    GENE = "gene"
    GENE_BATCH = "gene-batch"
    GENE_LABEL = "gene-label"
    GENE_CELL = "gene-cell"


class Objective(StrEnum):
    """Estimator of the bound."""

    SGVB_A = "sgvb-a"
    SGVB_B = "sgvb-b"
    IWAE = "iwae"
    DREG = "dreg"


class Optimizer(StrEnum):
    """Optimizer of torch."""

    ADAM = "adam"
    ADAMW = "adamw"
    ADAMAX = "adamax"
    ADAGRAD = "adagrad"
    RMSPROP = "rmsprop"
    SGD = "sgd"


class Part(StrEnum):
    """Which rows of a data set."""

    TRAIN = "train"
    TEST = "test"
    ALL = "all"


def _widths(given: list[str] | None) -> list[int] | None:
    """Read widths given as repeated options, as comma lists, or as both."""
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
    return widths


def _option(help_text: str, *names: str, panel: str, **more: Any) -> Any:
    """Make an option with its help, in a panel of the help page."""
    return typer.Option(*names, help=help_text, rich_help_panel=panel, **more)


DATA, PARTS, TRAINING, RUN, CELLS = (
    "Data",
    "Parts",
    "Training",
    "The run",
    "Cells (an .h5ad file, or simulated-cells)",
)
BY_KIND = "chosen by the data's kind"

DataDir = Annotated[
    Path | None,
    _option(
        "Folder with torchvision's data sets.", envvar="PYROVAE_DATA", panel=DATA, show_envvar=True
    ),
]
TestRows = Annotated[
    int,
    _option(
        "Test rows that log p(x) is estimated on.", "--test-rows", "--test-images", min=1, panel=RUN
    ),
]
DATA_HELP = "digits, mnist, fashion-mnist, simulated-cells, an .npy, .npz or .h5ad file, or a folder of images."


@dataclass(frozen=True)
class Settings:
    """Every option of `pyrovae fit`; None is left to the data's kind."""

    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP)]
    output: Annotated[
        Path | None, _option("Folder of the run (default: runs/DATA).", "--output", "-o", panel=RUN)
    ] = None
    data_dir: DataDir = None
    validation: Annotated[
        float | None,
        _option("Share of the training rows held out for validation; 0 trains on all (default: a tenth, at most 5000).",
                min=0, max=0.9, panel=DATA),
    ] = None  # fmt: skip
    test: Annotated[
        float | None,
        _option("Share held out for testing where the data bring no test part (default: 0.2, of cells 0.1).",
                min=0.001, max=0.9, panel=DATA),
    ] = None  # fmt: skip
    binarize: Annotated[
        bool | None,
        _option(
            f"Draw each grey value in [0, 1] as 0 or 1, anew at every visit (default: {BY_KIND}).",
            panel=DATA,
        ),
    ] = None
    condition: Annotated[
        bool, _option("Give the label to every part, as one-hot context c.", panel=DATA)
    ] = False
    denoise: Annotated[
        float,
        _option(
            "Noise on what the encoder sees in training, in units of the data's deviation.",
            min=0,
            panel=DATA,
        ),
    ] = 0.0
    latents: Annotated[
        int | None, _option(f"Size of z (default: {BY_KIND}).", min=1, panel=PARTS)
    ] = None
    hidden: Annotated[
        list[str] | None,
        _option(f"Widths of the hidden layers (conv: channels), repeated or as 512,256 (default: {BY_KIND}).",
                callback=_widths, panel=PARTS),
    ] = None  # fmt: skip
    network: Annotated[
        Network | None, _option(f"Encoder and decoder (default: {BY_KIND}).", panel=PARTS)
    ] = None
    activation: Annotated[
        Activation | None, _option(f"Non-linearity (default: {BY_KIND}).", panel=PARTS)
    ] = None
    prior: Annotated[Prior, _option("p(z).", panel=PARTS)] = Prior.STANDARD_NORMAL
    components: Annotated[
        int | None,
        _option(
            "Normals of --prior mixture, or pseudo-inputs of --prior vamp (default: 50, 500).",
            min=1,
            panel=PARTS,
        ),
    ] = None
    posterior: Annotated[Posterior, _option("q(z | x).", panel=PARTS)] = Posterior.DIAGONAL_NORMAL
    likelihood: Annotated[
        Likelihood | None, _option(f"p(x | z) (default: {BY_KIND}).", panel=PARTS)
    ] = None
    sigma: Annotated[
        float | None,
        _option(
            "Fixed deviation of the Gaussian likelihood, in units of the data's (default: learned).",
            min=1e-6,
            panel=PARTS,
        ),
    ] = None
    objective: Annotated[Objective, _option("Estimator of the bound.", panel=TRAINING)] = (
        Objective.SGVB_B
    )
    beta: Annotated[float, _option("Weight of the KL term.", min=0, panel=TRAINING)] = 1.0
    warm_up: Annotated[
        float | None,
        _option("Fraction of training over which the weight rises from 0 (default: 0, for cells 0.25).",
                min=0, max=1, panel=TRAINING),
    ] = None  # fmt: skip
    draws: Annotated[int, _option("Draws of z for each datum and step.", min=1, panel=TRAINING)] = 1
    epochs: Annotated[
        int | None,
        _option(f"Passes over the training rows (default: {BY_KIND}).", min=1, panel=TRAINING),
    ] = None
    batch_size: Annotated[
        int | None, _option(f"Rows a step (default: {BY_KIND}).", min=1, panel=TRAINING)
    ] = None
    optimizer: Annotated[Optimizer, _option("Optimizer.", panel=TRAINING)] = Optimizer.ADAM
    learning_rate: Annotated[float, _option("Step size.", min=1e-9, panel=TRAINING)] = 1e-3
    clip_norm: Annotated[
        float | None, _option("Bound on the gradient's norm.", min=1e-9, panel=TRAINING)
    ] = None
    patience: Annotated[
        int | None,
        _option(
            "Stop after so many epochs without a better validation ELBO.", min=1, panel=TRAINING
        ),
    ] = None
    seed: Annotated[
        int, _option("Seed of splits, initial weights and training.", min=0, panel=RUN)
    ] = 0
    samples: Annotated[
        int | None,
        _option(
            "Importance samples for log p(x); 0 leaves it out (default: 1000, for cells 200).",
            min=0,
            panel=RUN,
        ),
    ] = None
    test_images: TestRows = 1000
    report: Annotated[bool, _option("Draw report.html.", panel=RUN)] = True
    device: Annotated[str, _option("Where to train: cpu, cuda, cuda:1, ...", panel=RUN)] = "cpu"
    threads: Annotated[
        int | None, _option("Threads (default: one for small steps, else all).", min=1, panel=RUN)
    ] = None
    resume: Annotated[
        bool, _option("Go on with the interrupted run in the output folder.", "--resume", panel=RUN)
    ] = False
    overwrite: Annotated[
        bool, _option("Write into the output folder whatever it holds.", "--overwrite", panel=RUN)
    ] = False
    quiet: Annotated[bool, _option("Print nothing but errors.", "--quiet", "-q", panel=RUN)] = False
    batch_key: Annotated[str | None, _option("Column of obs with the batch.", panel=CELLS)] = None
    labels_key: Annotated[
        str | None,
        _option("Column of obs with cell types, to colour and to score by.", panel=CELLS),
    ] = None
    layer: Annotated[
        str | None, _option("Layer with the raw counts (default: X).", panel=CELLS)
    ] = None
    categorical_key: Annotated[
        list[str] | None,
        _option(
            "Column of obs that enters the decoder as a one-hot; may be repeated.", panel=CELLS
        ),
    ] = None
    continuous_key: Annotated[
        list[str] | None,
        _option("Column of obs that enters it standardized; may be repeated.", panel=CELLS),
    ] = None
    layers: Annotated[
        int | None,
        _option("Hidden layers, each of the width --hidden (default: 1).", min=1, panel=CELLS),
    ] = None
    dropout: Annotated[
        float | None,
        _option("Dropout rate of the encoders (default: 0.1).", min=0, max=0.99, panel=CELLS),
    ] = None
    dispersion: Annotated[
        Dispersion | None, _option("Inverse dispersion (default: one a gene).", panel=CELLS)
    ] = None
    observed_library: Annotated[
        bool,
        _option(
            "Take a cell's total as its library size, instead of inferring it.",
            "--observed-library",
            panel=CELLS,
        ),
    ] = False
    encode_covariates: Annotated[
        bool,
        _option("Let the encoders see batch and covariates.", "--encode-covariates", panel=CELLS),
    ] = False


@dataclass(frozen=True)
class Settled(Settings):
    """Settings in which nothing is left open."""

    validation: float = 0.1
    test: float = 0.2
    binarize: bool = False
    latents: int = 16
    hidden: tuple[int, ...] = (400,)  # type: ignore[assignment]  # Typer reads words
    network: Network = Network.MLP
    activation: Activation = Activation.RELU
    likelihood: Likelihood = Likelihood.BERNOULLI
    warm_up: float = 0.0
    epochs: int = 50
    batch_size: int = 128
    samples: int = 1000
    layers: int = 1
    dropout: float = 0.1

    def to_dict(self) -> dict[str, Any]:
        """Return it as words and numbers for JSON."""
        return {
            key: str(value) if isinstance(value, Path) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Settled":
        """Make it from what `to_dict` returned."""
        typed = {
            key: kind(content[key]) for key, kind in TYPES.items() if content.get(key) is not None
        }
        return cls(**{**content, **typed})


TYPES = {
    "network": Network, "activation": Activation, "prior": Prior, "posterior": Posterior, "likelihood": Likelihood,
    "objective": Objective, "optimizer": Optimizer, "output": Path, "data_dir": Path, "hidden": tuple,
    "dispersion": Dispersion,
}  # fmt: skip


def command(run: Callable[[Settings], None]) -> Callable[..., None]:
    """Make a function of `Settings` a function of its fields, so that Typer offers each as an option."""

    def fit(**options: Any) -> None:
        run(Settings(**options))

    fit.__signature__ = inspect.signature(Settings)  # type: ignore[attr-defined]
    fit.__doc__ = run.__doc__
    return fit
