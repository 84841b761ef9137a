"""The command line: fit, evaluate, encode, sample, interpolate, inspect. What is heavy is imported once a command runs."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pyrovae import files, tasks
from pyrovae.command.kinds import (
    holds_cells,
    refuse_what_does_not_apply,
    refuse_what_does_not_go_together,
)
from pyrovae.command.options import DATA_HELP, DataDir, Part, Settings, TestRows, command

__all__ = ["app", "main"]

app = typer.Typer(
    name="pyrovae", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
state = {"traceback": False}

Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="Folder of a run, as `pyrovae fit` leaves it.")
]
Data = Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP)]
Rows = Annotated[
    Part | None, typer.Option(help="Which rows (default: the test rows where there are any).")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the draws.")]


def _say(text: str) -> None:
    typer.echo(text)


def plainly(run: Callable[..., None]) -> Callable[..., None]:
    """Tell users' errors in one line, with exit status 2, and Ctrl-C with 130; --traceback shows where they arose."""

    @functools.wraps(run)
    def guarded(*args: object, **options: object) -> None:
        try:
            run(*args, **options)
        except (ValueError, OSError, ImportError) as error:
            if state["traceback"]:
                raise
            typer.echo(f"pyrovae: {error}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("pyrovae: interrupted", err=True)
            raise typer.Exit(130) from None

    return guarded


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"pyrovae {version('pyrovae')}")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    app(prog_name="pyrovae")


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error arose.")
    ] = False,
) -> None:
    """Variational autoencoders as probabilistic programs."""
    state["traceback"] = traceback


@app.command("fit")
@plainly
@command
def fit(settings: Settings) -> None:
    """Fit a variational autoencoder, evaluate it on held-out data, and leave model, metrics.json and report.html in a folder."""
    refuse_what_does_not_apply(settings)
    refuse_what_does_not_go_together(settings)
    if holds_cells(settings.data):
        from pyrovae.command.cells.job import fit_and_report
    else:
        from pyrovae.command.job import fit_and_report
    outcome = fit_and_report(settings, (lambda text: None) if settings.quiet else _say)
    if outcome.code:
        typer.echo(f"pyrovae: {outcome.message}", err=True)
        raise typer.Exit(outcome.code)


@app.command()
@plainly
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
) -> None:
    """Print the ELBO with its terms, log p(x), active units and mutual information of a fitted model on data."""
    from dataclasses import replace

    from pyrovae.command import options, runs, summary
    from pyrovae.command.cells import recipes as cell_recipes
    from pyrovae.command.cells import requests
    from pyrovae.command.cells import summary as cell_summary
    from pyrovae.command.images import recipes

    run = runs.Run.open(model)
    usual = cell_recipes.SAMPLES if run.of_cells else options.Settled.samples
    settings = replace(
        run.settings, samples=usual if samples is None else samples, test_images=test_images
    )
    if run.of_cells:
        figures = requests.evaluate(replace(run, settings=settings), data, part)
        table = cell_summary.rows(figures)
    else:
        rows = run.rows(recipes.load(data, data_dir), part)
        graph = run.load_model()
        graph.check(*rows)
        figures = summary.measure(graph, settings, rows)
        table = summary.rows(figures)
    for row in table:
        _say(row.line())
    if output:
        runs.write_json(figures, output)


@app.command()
@plainly
def encode(
    model: Model,
    data: Data,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="File to write: .npy, .npz (with labels), .csv, or of cells .h5ad.",
        ),
    ],
    part: Rows = Part.ALL,
    data_dir: DataDir = None,
) -> None:
    """Write the codes, which are posterior means, with shape (N, latents), one row a datum."""
    from pyrovae.command import exports, runs
    from pyrovae.command.cells import requests
    from pyrovae.command.images import recipes

    run = runs.Run.open(model)
    exports.check(output, exports.CELLS if run.of_cells else exports.CODES)
    if run.of_cells:
        n, d = requests.encode(run, data, part or Part.ALL, output)
        _say(f"{output}: {n} codes of {d} latents")
        return
    dataset = recipes.load(data, data_dir)
    z = tasks.embed(run.load_model(), *run.rows(dataset, part)).numpy()
    labels = run.stored(dataset, part)[1]
    exports.codes(z, labels, dataset.label_names, output)
    _say(f"{output}: {len(z)} codes of {z.shape[1]} latents")


@app.command()
@plainly
def sample(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .png or .npy.")],
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 64,
    draw: Annotated[
        bool, typer.Option("--draw/--mean", help="Draw x from p(x | z), or take its mean.")
    ] = False,
    label: Annotated[
        str | None,
        typer.Option(help="Class to sample, if the model has a context (default: each in turn)."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Sample z from the prior and write what it decodes to."""
    from pyrovae.command import exports, runs, summary
    from pyrovae.command.report import plots

    exports.check(output, exports.PICTURES)
    run = runs.Run.open_for(model, "sample")
    c = summary.classes_in_turn(run.preparation, n, label)
    x = run.preparation.undo(tasks.generate(run.load_model(), n, *c, mean=not draw, seed=seed))
    exports.data(x, output, lambda: plots.images(x, "Samples", limits=run.preparation.limits))
    _say(f"{output}: {n} samples")


@app.command()
@plainly
def interpolate(
    model: Model,
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write: .png or .npy.")],
    start: Annotated[int, typer.Option("--from", min=0, help="Row to start from.")] = 0,
    end: Annotated[int, typer.Option("--to", min=0, help="Row to end at.")] = 1,
    steps: Annotated[int, typer.Option(min=2, help="How many points, both ends included.")] = 10,
    spherical: Annotated[
        bool, typer.Option("--spherical/--linear", help="Along the sphere or straight.")
    ] = False,
    part: Rows = None,
    data_dir: DataDir = None,
) -> None:
    """Walk through the latent space from one datum to another and write what lies between."""
    from pyrovae.command import exports, runs
    from pyrovae.command.images import recipes
    from pyrovae.command.report import plots

    exports.check(output, exports.PICTURES)
    run = runs.Run.open_for(model, "interpolate")
    x, *c = run.rows(recipes.load(data, data_dir), part)
    if max(start, end) >= len(x):
        raise ValueError(f"--from {start} --to {end}: the data have rows 0 to {len(x) - 1}")
    path = tasks.spherical if spherical else tasks.linear
    z = tasks.interpolate(
        run.load_model(), x[start], x[end], *(rows[start] for rows in c), steps=steps, path=path
    )
    walk = run.preparation.undo(z)
    exports.data(walk, output, lambda: plots.interpolations(walk[None], run.preparation.limits))
    _say(f"{output}: {steps} points from row {start} to row {end}")


@app.command()
@plainly
def inspect(model: Model) -> None:
    """Print what a saved model is, without building it: parts, tensors, versions, data, figures."""
    folder = model / "model" if (model / "model").is_dir() else model
    for line in _inspection(files.inspect(folder)):
        _say(line)


def _inspection(content: dict[str, Any]) -> list[str]:
    """Return the lines of `inspect`."""
    tensors = [
        f"  {name:<40} {'x'.join(map(str, t['shape'])) or 'scalar':<12} {t['dtype']}"
        for name, t in content["tensors"].items()
    ]
    history = content["history"] or {}
    return [
        *_tree(content["graph"]),
        f"{content['parameters']:,} numbers in {len(tensors)} tensors",
        *tensors,
        "versions: "
        + ", ".join(f"{name} {version}" for name, version in content["versions"].items()),
        f"data: SHA-256 {content['data']}",
        f"training: {len(history.get('loss', []))} epochs, {history.get('stopped', 'unknown')}",
        *_tree(content["metrics"], "metrics"),
    ]


def _tree(part: object, name: str = "", depth: int = 0) -> list[str]:
    """Return nested content as indented lines; a part is headed by its class."""
    indent, label = "  " * depth, f"{name}: " if name else ""
    if not isinstance(part, dict):
        return [f"{indent}{label}{part}"]
    if set(part) == {"class", "arguments"}:
        head, items = part["class"].split(".")[-1], part["arguments"]
    elif len(part) == 1 and next(iter(part)) in ("activation", "foreign", "same as"):
        return [f"{indent}{label}{next(iter(part.values()))}"]
    else:
        head, items = "", part
    lines = [f"{indent}{label}{head}".rstrip()]
    return lines + [line for key, value in items.items() for line in _tree(value, key, depth + 1)]
