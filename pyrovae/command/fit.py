"""`pyrovae fit`: options -> experiment -> training -> figures -> report."""

import platform
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pyrovae.command.compatibility import refuse_contradictions, refuse_inapplicable
from pyrovae.command.contexts import notes, threads
from pyrovae.command.experiment import Experiment, experiment_of
from pyrovae.command.figures import collapse, training_figures
from pyrovae.command.inspection import as_call, parts_of
from pyrovae.command.locking import alone_in
from pyrovae.command.options import Options, settings_of
from pyrovae.command.report.page import Report, render
from pyrovae.command.runs import Run, claim, resumed
from pyrovae.command.settings import Settings
from pyrovae.command.writing import as_plain, write
from pyrovae.files import History, in_words
from pyrovae.training import TrainingError, hooks, processes

__all__ = ["Outcome", "fit_and_report"]

Say = Callable[[str], None]

_STATUS = {"interrupted": 130, "terminated": 143}  # exit status after SIGINT and SIGTERM


class Outcome(NamedTuple):
    """How a run ended: exit status of the command line, and why, if it did not end well."""

    code: int = 0
    message: str = ""


class Trained(NamedTuple):
    """How training went, and why it diverged, if it did."""

    history: History
    failure: str = ""

    @property
    def complete(self) -> bool:
        """Whether training ended by itself."""
        return not self.failure and self.history.stopped not in _STATUS


def fit_and_report(options: Options, say: Say) -> Outcome:
    """Fit a model to data, measure it on held-out data, and leave model and report in a folder.

    Of the processes of a `torchrun` job, all train and the first does everything else.

    Args:
        options: As the user gave them.
        say: Called with each line to print; not with --quiet.

    Raises:
        ImportError, OSError, ValueError: Options, data and output folder do not fit each other;
            nothing has been written then.
    """
    with ExitStack() as held:
        return _fit_and_report(options, say, held)


def _fit_and_report(options: Options, say: Say, held: ExitStack) -> Outcome:
    started = time.time()
    refuse_inapplicable(options)
    refuse_contradictions(options)
    kind = experiment_of(settings_of(options.data))
    with processes() as job:
        folder, options = job.from_writer(lambda: place(options, held))
    say = say if job.is_writer and not options.quiet else _nothing
    with notes(say) as warned:
        data = kind.load(options)
        settings = kind.resolve(options, data)
        with threads(settings.threads):
            experiment = kind.build(folder, settings, data)
            say(experiment.greeting())
            trained = train(experiment, say, job.is_writer)
            if not job.is_writer:
                return Outcome(outcome(experiment.run, trained).code)
            figures = measure(experiment, trained, say)
            if settings.report:
                page = report(experiment, trained, figures, warned, started)
                write(folder / "report.html", render(page))
                say(f"report: {folder / 'report.html'}")
            if trained.complete:  # until now --resume would make what is missing
                experiment.run.checkpoint.unlink(missing_ok=True)
    return outcome(experiment.run, trained)


def _nothing(line: str) -> None:
    """Print nothing."""


def place(options: Options, held: ExitStack) -> tuple[Path, Options]:
    """Return the folder of a run, and its options: those of the run that it continues, if any.

    No other run may write to the folder until `held` is left.
    """
    folder = claim(options)
    held.enter_context(alone_in(folder))
    return folder, resumed(folder, options) if options.resume else options


def train(experiment: Experiment, say: Say, writes: bool = True) -> Trained:
    """Train the model and save it, as it is if training diverges or is interrupted.

    Args:
        experiment: What is trained.
        say: Called with each line to print.
        writes: Whether this process writes; in a job only one does.
    """
    run = experiment.run
    if writes:
        run.begin()
    try:
        trained = Trained(experiment.train(progress_lines(run.settings, say)))
    except TrainingError as error:
        error.history.stopped = "diverged"
        trained = Trained(error.history, str(error))
    if writes:
        run.forget_figures()  # of the interrupted run: they describe its weights
        experiment.save(trained.history)
    say(f"model: {run.model} ({trained.history.stopped})")
    return trained


def progress_lines(settings: Settings, say: Say) -> Callable[[History], None]:
    """Return a callback that prints a line about every tenth of the epochs, without a terminal.

    On a terminal a progress bar shows them.
    """
    every = max(1, settings.epochs // 10)

    def line(history: History) -> None:
        epoch = len(history.elbo)
        if hooks.on_terminal() or (epoch % every and epoch != settings.epochs):
            return
        reconstruction, kl = history.reconstruction[-1], history.kl[-1]
        name, loss = settings.bound_name(history.bound_name), history.loss[-1]
        bound = in_words(name, reconstruction, kl, loss)
        validation = history.validation_elbo
        held_out = f", validation {validation[-1]:.2f}" if validation else ""
        say(f"epoch {epoch:>4}: {bound}{held_out} ({sum(history.seconds):.1f} s)")

    return line


def measure(experiment: Experiment, trained: Trained, say: Say) -> dict[str, Any]:
    """Measure the model, write its figures and print them; no log p(x) if training broke off."""
    settings = experiment.run.settings
    samples = settings.samples if trained.complete else 0
    figures = experiment.measure(samples, settings.test_images)
    bound_name = settings.bound_name(trained.history.bound_name)
    figures["training"] = training_figures(trained.history, bound_name)
    experiment.save(trained.history, as_plain(figures))
    experiment.run.write_figures(figures)
    for row in experiment.table(figures):
        say(row.line())
    return figures


def report(
    experiment: Experiment,
    trained: Trained,
    figures: dict[str, Any],
    warned: Sequence[str],
    started: float,
) -> Report:
    """Return the content of report.html."""
    run, history = experiment.run, trained.history
    rising = figures.get("training", {}).get("warning")
    warned_of = [rising, collapse(figures, run.settings)]
    warnings = [trained.failure, *warned, *warned_of]
    if history.stopped in _STATUS:
        warnings.append(f"Training was {history.stopped}: these are the weights at that point.")
    parts = parts_of(run.model).items()
    return Report(
        title=f"{run.data['name']}: {experiment.title}",
        subtitle=subtitle(run.settings, figures["unit"]),
        facts={
            **experiment.facts(),
            **{name: as_call(part) for name, part in parts},
            **circumstances(run, experiment.PACKAGES, started),
        },
        warnings=[text for text in warnings if text],
        rows=experiment.table(figures),
        pictures=experiment.pictures(history, figures),
    )


def subtitle(settings: Settings, unit: str) -> str:
    """Return the line below the title: the unit of the figures."""
    if settings.is_autoencoder:
        return f"{unit}, unless said otherwise; an autoencoder has no log p(x)"
    return f"{unit}, unless said otherwise; at beta = 1"


def circumstances(run: Run[Any], packages: Sequence[str], started: float) -> dict[str, str]:
    """Return settings, versions, machine and time of a run, for the report.

    Args:
        run: The run.
        packages: Packages whose versions are named, beside those always in use.
        started: Time of the start, in seconds since the epoch.
    """
    settings = as_plain(run.settings.to_dict()).items()
    fitted = [f"{name} {as_call(value)}" for name, value in settings if value not in (None, False)]
    packages = ("pyrovae", "torch", "pyro-ppl", "numpy", *packages)
    versions = [f"{name} {version(name)}" for name in packages]
    seconds = f"{time.time() - started:.0f} s in all"
    threads = f"{torch.get_num_threads()} threads"
    return {
        "settings": ", ".join(fitted),
        "versions": f"{', '.join(versions)}, Python {platform.python_version()}",
        "machine": f"{platform.platform()}, {threads}, {run.settings.device}",
        "time": f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(started))}, {seconds}",
    }


def outcome(run: Run[Any], trained: Trained) -> Outcome:
    """Return the exit status and its reason."""
    if trained.failure:
        return Outcome(1, trained.failure)
    stopped = trained.history.stopped
    if stopped in _STATUS:
        data, folder = (shlex.quote(str(path)) for path in (run.settings.data, run.folder))
        again = f"pyrovae fit {data} --output {folder} --resume"
        message = f"{stopped}; the model so far is saved. Continue with: {again}"
        return Outcome(_STATUS[stopped], message)
    return Outcome()
