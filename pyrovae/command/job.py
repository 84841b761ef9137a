"""The main job: load and split the data, build the parts, fit, measure, compare, report; one folder holds what comes of it."""

import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from math import log
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from pyrovae import files
from pyrovae.command import kinds, parts, preparation, runs, summary
from pyrovae.command.images import recipes
from pyrovae.command.options import Settings, Settled
from pyrovae.command.report.page import Report, write
from pyrovae.command.runs import Run
from pyrovae.data import Dataset, batches
from pyrovae.files import History, in_words
from pyrovae.graphs import VAE, Denoising
from pyrovae.training import TrainingError, fit

__all__ = [
    "Outcome",
    "circumstances",
    "device",
    "fit_and_report",
    "lines",
    "outcome",
    "threads",
    "wording",
]

Batch = tuple[Tensor, ...]  # (x, *c)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        run: The run.
        code: Exit status of the command line.
        message: Why, where it did not end well.
    """

    run: Run
    code: int = 0
    message: str = ""


def fit_and_report(settings: Settings, say: Say) -> Outcome:
    """Do the main job.

    Args:
        settings: What the user asked for.
        say: Called with each line to print.

    Raises:
        ValueError: The data, the parts or the output folder do not fit; nothing has been written then.
    """
    started = time.time()
    run, data = _begin(settings)
    with threads(run.settings.threads):
        return _fit_and_report(run, data, say, started)


@contextmanager
def threads(n: int | None) -> Iterator[None]:
    """Context in which torch and scikit-learn take so many threads; None leaves it to them."""
    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        with threadpool_limits(n):
            yield
    finally:
        torch.set_num_threads(before)


def _fit_and_report(run: Run, data: Dataset, say: Say, started: float) -> Outcome:
    """Do the main job on settled settings and loaded data."""
    train, validation, test = _batches(run, data)
    graph = recipes.graph(run.settings, run.preparation, train[0]).to(device(run.settings.device))
    say(_greeting(run, data, train, validation, graph))
    history, failure = _train(run, graph, train, validation, say)
    run.save_model(graph, history)
    say(f"model: {run.model} ({history.stopped})")
    interrupted = history.stopped == "interrupted"
    if interrupted or failure:
        run = replace(run, settings=replace(run.settings, samples=0))  # the rest quickly
    figures = _figures(run, graph, history, (train, validation, test))
    run.save_model(graph, history, figures)
    for row in summary.rows(figures):
        say(row.line())
    if run.settings.report:
        _write_report(run, graph, history, data, figures, failure, started)
        say(f"report: {run.folder / 'report.html'}")
    return outcome(run, interrupted, failure)


def _begin(settings: Settings) -> tuple[Run, Dataset]:
    """Settle what is to be run, and where, before anything is written but run.json."""
    folder = settings.output or Path("runs") / Path(settings.data).stem
    runs.claim(folder, settings)
    if settings.resume:
        settings = runs.resumed(folder, settings)
    whole = recipes.load(settings.data, settings.data_dir)
    data = runs.split(whole, settings)
    settings = recipes.settle(settings, data)
    facts = {
        "name": data.name,
        "kind": data.kind.value,
        "rows": len(data.x),
        "test_rows": data.test_rows,
        "shape": data.shape,
        "fingerprint": runs.fingerprint(whole),
    }
    return Run(folder, settings, preparation.prepare(settings, data), facts), data


def _batches(run: Run, data: Dataset) -> tuple[Batch, Batch | None, Batch]:
    """Return training, validation and test rows with their context."""
    x, c = run.preparation.rows(data.x), run.preparation.context(data.labels, data.label_names)
    test = run.rows(data)
    if not run.settings.validation:
        return (x, *c), None, test
    kept, held_out = batches.split(len(x), run.settings.validation, run.settings.seed)
    validation = run.preparation.fixed(data.x[held_out.numpy()])
    return (
        (x[kept], *(part[kept] for part in c)),
        (validation, *(part[held_out] for part in c)),
        test,
    )


def device(name: str) -> torch.device:
    """Return a device that is there."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--device {name} cannot be used ({reason}); choose cpu, cuda or cuda:0"
        ) from error
    return torch.device(name)


def _train(
    run: Run, graph: VAE | Denoising, train: Batch, validation: Batch | None, say: Say
) -> tuple[History, str]:
    """Fit the graph; return its history, and why training broke off if it did."""
    settings = run.settings
    if not run.preparation.binarize:
        graph.check(*train)  # before the folder is touched
    run.begin()
    try:
        history = fit(
            graph,
            train,
            validation=validation,
            objective=parts.objective(settings),
            optimizer=recipes.optimizer(settings),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            transform=batches.binarize if run.preparation.binarize else None,
            clip_norm=settings.clip_norm,
            patience=settings.patience,
            seed=settings.seed,
            checkpoint=run.checkpoint,
            resume=run.checkpoint if settings.resume else None,
            callback=lines(settings, say),
            progress=not settings.quiet,
        )
    except TrainingError as error:
        error.history.stopped = "diverged"
        return error.history, str(error)
    if history.stopped != "interrupted":
        run.checkpoint.unlink(missing_ok=True)
    return history, ""


def lines(settings: Settled, say: Say) -> Callable[[History], None]:
    """Return a callback that prints a line for about every tenth of the epochs where no progress bar can be seen."""
    every = max(1, settings.epochs // 10)

    def line(history: History) -> None:
        epoch = len(history.elbo)
        if sys.stderr.isatty() or (epoch % every and epoch != settings.epochs):
            return
        bound = in_words(history.bound_name, history.reconstruction[-1], history.kl[-1])
        held_out = (
            f", validation {history.validation_elbo[-1]:.2f}" if history.validation_elbo else ""
        )
        say(f"epoch {epoch:>4}: {bound}{held_out} ({sum(history.seconds):.1f} s)")

    return line


def _figures(
    run: Run, graph: nn.Module, history: History, parts: tuple[Batch, Batch | None, Batch]
) -> dict[str, Any]:
    """Measure a fitted graph and what it is compared with."""
    figures = summary.measure(graph, run.settings, parts[2])
    if "log_p" in figures:
        figures["baselines"] = summary.compare(run, *parts)
    figures["training"] = summary.training(history)
    if set(scale := run.preparation.scale) != {1.0}:
        volume = sum(map(log, scale)) * (torch.Size(run.preparation.shape).numel() / len(scale))
        figures["unit"] = (
            f"nats per datum of scaled values; for densities in the data's own unit add {-volume:.2f}"
        )
    return figures


def outcome(run: Run, interrupted: bool, failure: str) -> Outcome:
    """Return the exit status and its reason."""
    if failure:
        return Outcome(run, 1, failure)
    if interrupted:
        again = f"pyrovae fit {run.settings.data} --output {run.folder} --resume"
        return Outcome(run, 130, f"interrupted; the model so far is saved. Go on with: {again}")
    return Outcome(run)


# ------------------------------------------------------------------------------------------------------------- in words
def _greeting(
    run: Run, data: Dataset, train: Batch, validation: Batch | None, graph: nn.Module
) -> str:
    """Say in three lines what is about to happen."""
    s, shape = run.settings, " x ".join(map(str, data.shape))
    held_out = 0 if validation is None else len(validation[0])
    binarized = ", binarized anew at each visit" if run.preparation.binarize else ""
    parameters = sum(p.numel() for p in graph.parameters())
    return (
        f"{data.name}: {len(train[0])} training, {held_out} validation, {data.test_rows} test rows of {shape}, "
        f"{data.kind.value}{binarized}\n"
        f"{s.prior.value} prior, {s.posterior.value} posterior, {s.likelihood.value} likelihood; {s.network.value} "
        f"{','.join(map(str, s.hidden))} {s.activation.value}, {s.latents} latents, {parameters:,} parameters\n"
        f"{s.epochs} epochs of {s.batch_size} rows a step, {s.objective.value}, "
        f"{s.optimizer.value} at {s.learning_rate:g}, seed {s.seed}"
    )


def wording(part: object) -> str:
    """Return a part's description, as `pyrovae.inspect` reads it, the way one would write the call."""
    if isinstance(part, list):
        return f"({', '.join(map(wording, part))})"
    if not isinstance(part, dict):
        return f"{part:.4g}" if isinstance(part, float) else str(part)
    if "class" not in part:
        return str(next(iter(part.values())))
    given = [
        f"{key}={wording(value)}"
        for key, value in part["arguments"].items()
        if value not in (None, 0)
    ]
    return f"{part['class'].split('.')[-1]}({', '.join(given)})"


def _write_report(
    run: Run,
    graph: nn.Module,
    history: History,
    data: Dataset,
    figures: dict[str, Any],
    failure: str,
    started: float,
) -> None:
    """Write report.html."""
    warnings = [text for text in (failure, figures.get("latents", {}).get("warning")) if text]
    if history.stopped == "interrupted":
        warnings.append("Training was interrupted: these are the weights as they stood.")
    page = Report(
        title=f"{data.name}: a variational autoencoder",
        subtitle=f"{figures['unit']}, unless said otherwise; at beta = 1",
        facts=_facts(run, data, started),
        warnings=warnings,
        rows=summary.rows(figures),
        pictures=summary.pictures(run, graph, history, data, figures),
    )
    write(page, run.folder / "report.html")


def _facts(run: Run, data: Dataset, started: float) -> dict[str, str]:
    """Return what was run, with what, when."""
    parts = files.inspect(run.model)["graph"]["arguments"]
    count = f"{run.data['rows']} + {run.data['test_rows']} rows of {data.shape}"
    return {
        "data": f"{data.name}, {count}, SHA-256 {run.data['fingerprint'][:16]}",
        **{name: wording(part) for name, part in parts.items()},
        **circumstances(run, kinds.FOR_CELLS, ("scikit-learn",), started),
    }


def circumstances(
    run: Run, without: tuple[str, ...], packages: tuple[str, ...], started: float
) -> dict[str, str]:
    """Return settings but for some, versions of packages beside those always in use, machine and time."""
    settings = run.settings.to_dict().items()
    fitted = {
        key: value for key, value in settings if value not in (None, False) and key not in without
    }
    versions = [
        f"{name} {version(name)}" for name in ("pyrovae", "torch", "pyro-ppl", "numpy", *packages)
    ]
    return {
        "settings": ", ".join(
            f"{key} {wording(list(v) if isinstance(v, tuple) else v)}" for key, v in fitted.items()
        ),
        "versions": f"{', '.join(versions)}, Python {platform.python_version()}",
        "machine": f"{platform.platform()}, {torch.get_num_threads()} threads, {run.settings.device}",
        "time": f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(started))}, {time.time() - started:.0f} s in all",
    }
