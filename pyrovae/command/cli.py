"""The command line: fit, evaluate, encode, sample, interpolate, restore images, inspect.

What is heavy is imported once a command runs.
"""

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from pyrovae.command.choices import Part
from pyrovae.command.images import commands
from pyrovae.command.interrupts import effective_interrupts
from pyrovae.command.memory import keep_freed_memory
from pyrovae.command.options import Options, with_options
from pyrovae.command.settings import DATA_HELP, DataDir, TestRows

__all__ = ["app", "main"]


class OneLineErrors(TyperGroup):
    """Commands whose errors are one line each.

    An error in what the user gave ends with exit status 2, Ctrl-C with 130, SIGTERM during training
    with 143; `--traceback` shows where an error arose.
    """

    def invoke(self, ctx: typer.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # `| head` has seen enough: click ends the process quietly
            raise
        except (ValueError, OSError, ImportError, MemoryError, RuntimeError) as error:
            exhausted = _out_of_memory(error)
            if ctx.params["traceback"] or (isinstance(error, RuntimeError) and not exhausted):
                raise
            typer.echo(f"pyrovae: {exhausted or error}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("pyrovae: interrupted", err=True)
            raise typer.Exit(130) from None


def _out_of_memory(error: Exception) -> str:
    """Return in words that memory is exhausted, if that is the error, by NumPy or by torch."""
    told = str(error).lower()
    if not isinstance(error, MemoryError) and not (
        isinstance(error, RuntimeError) and ("allocate memory" in told or "out of memory" in told)
    ):
        return ""
    first = str(error).splitlines()[0] if str(error) else "no more to be had"
    return (
        f"there is not enough memory ({first}); give fewer rows, or smaller --hidden, --latents, "
        "--batch-size or --samples"
    )


app = typer.Typer(
    name="pyrovae",
    cls=OneLineErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="Folder of a run, as `pyrovae fit` leaves it.")
]
Data = Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP)]
Rows = Annotated[
    Part | None, typer.Option(help="Which rows (default: the test rows where there are any).")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output file if it exists.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the draws.")]


def main() -> None:
    """Run the command line."""
    keep_freed_memory()
    with effective_interrupts():
        app(prog_name="pyrovae")


def _say(text: str) -> None:
    """Print a line of the output."""
    try:
        typer.echo(text)
    except BrokenPipeError:
        raise
    except OSError as error:  # of the same class, by its number
        raise OSError(
            error.errno, f"standard output cannot be written ({error.strerror}); free space there"
        ) from error


def _aside(text: str) -> None:
    """Print a line beside the output, which may go into a file."""
    typer.echo(text, err=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"pyrovae {version('pyrovae')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error arose.")
    ] = False,
) -> None:
    """Variational autoencoders as probabilistic programs."""


@app.command("fit")
@with_options
def fit(options: Options) -> None:
    """Fit a variational autoencoder and evaluate it on held-out data.

    The output folder then holds model, metrics.json and report.html.
    """
    from pyrovae.command.fit import fit_and_report

    outcome = fit_and_report(options, say=_say)
    if outcome.message:
        typer.echo(f"pyrovae: {outcome.message}", err=True)
    if outcome.code:
        raise typer.Exit(outcome.code)


@app.command()
def evaluate(
    model: Model,
    data: Data,
    part: Rows = None,
    data_dir: DataDir = None,
    samples: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Importance samples for log p(x); 0 leaves it out (default: 1000, for cells 200).",
        ),
    ] = None,
    test_images: TestRows = 1000,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the figures to this JSON file.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Print ELBO, log p(x), active units and mutual information of a fitted model on data.

    An autoencoder has none of these: the error of its reconstructions is printed.
    """
    from pyrovae.command.contexts import notes
    from pyrovae.command.experiment import experiment_of
    from pyrovae.command.runs import Run
    from pyrovae.command.writing import check_new, write_json

    run = Run.open(model)
    if output:
        check_new(output, overwrite)
    samples = run.settings.EVIDENCE_SAMPLES if samples is None else samples
    with notes(say=_aside):
        experiment = experiment_of(type(run.settings)).open(run, data, part, data_dir)
        figures = experiment.measure(samples, test_images)
    for row in experiment.table(figures):
        _say(row.line())
    if output:
        write_json(figures, output)
    if "why_not" in figures:
        raise ValueError(
            f"{data}: {figures['why_not']}; look for values far outside the range of the data that "
            "it was fitted on, or fit the model again"
        )


@app.command()
def encode(
    model: Model,
    data: Data,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="File to write: .npy, .npz (with labels), .csv, or for cells .h5ad.",
        ),
    ],
    part: Annotated[Part, typer.Option(help="Which rows.")] = Part.ALL,
    data_dir: DataDir = None,
    overwrite: Overwrite = False,
) -> None:
    """Write latent representations: posterior means of z, or codes, with shape (N, latents)."""
    from pyrovae.command import exports
    from pyrovae.command.contexts import notes
    from pyrovae.command.experiment import experiment_of
    from pyrovae.command.runs import Run

    run = Run.open(model)
    kind = experiment_of(type(run.settings))
    exports.check(output, kind.EMBEDDINGS, overwrite)
    with notes(say=_aside):
        n, d = kind.open(run, data, part, data_dir).encode(output)
    what = "codes" if run.settings.is_autoencoder else "posterior means"
    _say(f"{output}: {what} of {n} rows, {d} latents")


@app.command()
def sample(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .png or .npy.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Number of samples.")] = 64,
    draw: Annotated[
        bool, typer.Option("--draw/--mean", help="Draw x from p(x | z), or take its mean.")
    ] = False,
    label: Annotated[
        str | None,
        typer.Option(
            help="Class to sample, if the model has a context (default: all, round-robin)."
        ),
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Sample z from the prior and write what it decodes to."""
    from pyrovae.command import exports
    from pyrovae.command.images.model import ImageModel
    from pyrovae.command.report import plots
    from pyrovae.command.runs import Run

    exports.check(output, exports.PICTURES, overwrite)
    fitted = ImageModel.of(Run.open_images(model, "sample"))
    x = fitted.generate(n, label, mean=not draw, seed=seed)
    limits = fitted.preparation.limits
    exports.write_data(x, output, lambda: plots.images(x, "Samples", limits=limits))
    _say(f"{output}: {n} samples")


@app.command()
def interpolate(
    model: Model,
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .png or .npy.")],
    start: Annotated[int, typer.Option("--from", min=0, help="Row to start from.")] = 0,
    end: Annotated[int, typer.Option("--to", min=0, help="Row to end at.")] = 1,
    steps: Annotated[int, typer.Option(min=2, help="Number of points, both ends included.")] = 10,
    spherical: Annotated[
        bool, typer.Option("--spherical/--linear", help="Along the sphere or along a line.")
    ] = False,
    part: Rows = None,
    data_dir: DataDir = None,
    overwrite: Overwrite = False,
) -> None:
    """Interpolate between the latent representations of two rows and write what they decode to."""
    from pyrovae.command import exports
    from pyrovae.command.contexts import notes
    from pyrovae.command.images.experiment import ImageExperiment
    from pyrovae.command.report import plots
    from pyrovae.command.runs import Run

    exports.check(output, exports.PICTURES, overwrite)
    run = Run.open_images(model, "interpolate")
    with notes(say=_aside):
        experiment = ImageExperiment.open(run, data, part, data_dir)
    fitted, batch = experiment.model, experiment.rows.batch
    (walk,) = fitted.interpolate(batch, [(start, end)], steps, spherical=spherical)
    limits = fitted.preparation.limits
    exports.write_data(walk, output, lambda: plots.interpolations(walk[None], limits))
    _say(f"{output}: {steps} points from row {start} to row {end}")


app.command()(commands.denoise)
app.command()(commands.impute)
app.command()(commands.super_resolve)


@app.command()
def inspect(model: Model) -> None:
    """Print parts, tensors, versions, data and figures of a saved model, without building it."""
    from pyrovae.command.inspection import describe

    for line in describe(model):
        _say(line)
