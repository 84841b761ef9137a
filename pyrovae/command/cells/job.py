"""The main job on single cells: read an AnnData, fit the two-latent count model, measure, report.

A run's folder is that of any other (`pyrovae.command.runs`); its model is what `SingleCellVAE.save` writes.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyrovae import files
from pyrovae.command import job, kinds, runs, summary
from pyrovae.command.cells import recipes, requests
from pyrovae.command.cells import summary as cell_summary
from pyrovae.command.cells.summary import Cells
from pyrovae.command.job import Outcome
from pyrovae.command.options import Dispersion, Likelihood, Settings
from pyrovae.command.preparation import Preparation
from pyrovae.command.report.page import Report, write
from pyrovae.command.runs import Run
from pyrovae.data import batches
from pyrovae.singlecell import SingleCellVAE
from pyrovae.training import TrainingError

__all__ = ["fit_and_report"]

Say = Callable[[str], None]
_NAMED = 20  # groups that the report lists


# ----------------------------------------------------------------------------------------------------------- the main job
def fit_and_report(settings: Settings, say: Say) -> Outcome:
    """Do the main job.

    Args:
        settings: What the user asked for.
        say: Called with each line to print.

    Raises:
        ValueError: The data, a key or the output folder do not fit; nothing has been written then.
    """
    started = time.time()
    with requests.notes(say) as notes:
        run, model = _begin(settings)
        with job.threads(run.settings.threads):
            return _fit_and_report(run, model, say, notes, started)


def _fit_and_report(
    run: Run, model: SingleCellVAE, say: Say, notes: list[str], started: float
) -> Outcome:
    """Do the main job on a model that is yet to be trained."""
    model.graph.to(job.device(run.settings.device))
    about = cell_summary.about(model)
    say(_greeting(run, model, about))
    failure = _train(run, model, say)
    model.save(run.model, overwrite=True)
    history = model.fit_history
    say(f"model: {run.model} ({history.stopped})")
    interrupted = history.stopped == "interrupted"
    if interrupted or failure:
        run = replace(run, settings=replace(run.settings, samples=0))  # the rest quickly
    asked = requests.asked(run, model, None)
    figures = {**cell_summary.measure(asked), "data": about, "training": summary.training(history)}
    model.save(run.model, overwrite=True, metrics=runs.plain(figures))
    runs.write_json(figures, run.folder / "metrics.json")
    for row in cell_summary.rows(figures):
        say(row.line())
    if run.settings.report:
        _write_report(run, asked, figures, [failure, *notes], started)
        say(f"report: {run.folder / 'report.html'}")
    return job.outcome(run, interrupted, failure)


def _begin(settings: Settings) -> tuple[Run, SingleCellVAE]:
    """Settle what is to be run, look at every count, and build the model, before anything is written."""
    folder = settings.output or Path("runs") / Path(settings.data).stem
    runs.claim(folder, settings)
    if settings.resume:
        settings = runs.resumed(folder, settings)
    adata = recipes.load(settings.data)
    settled = recipes.settle(settings, adata)
    model = recipes.model(settled, adata)
    facts = {
        "name": Path(settings.data).stem,
        "kind": runs.CELLS,
        "rows": adata.n_obs,
        "shape": (adata.n_vars,),
        "fingerprint": batches.fingerprint(model.cells.data[:1]),
    }
    return Run(folder, settled, Preparation((adata.n_vars,)), facts), model


def _train(run: Run, model: SingleCellVAE, say: Say) -> str:
    """Train the model; return why training broke off, if it did."""
    settings = run.settings
    validation = (1 - settings.test) * settings.validation
    run.begin()
    try:
        history = model.train(
            settings.epochs,
            train_size=1 - settings.test - validation,
            validation_size=validation,
            batch_size=settings.batch_size,
            early_stopping=settings.patience is not None,
            early_stopping_patience=settings.patience or 1,
            lr=settings.learning_rate,
            n_epochs_kl_warmup=max(1, round(settings.warm_up * settings.epochs))
            if settings.warm_up
            else 0,
            checkpoint=run.checkpoint,
            resume=run.checkpoint if settings.resume else None,
            progress=not settings.quiet,
            callback=job.lines(settings, say),
        )
    except TrainingError as error:
        error.history.stopped = "diverged"
        return str(error)
    if history.stopped != "interrupted":
        run.checkpoint.unlink(missing_ok=True)
    return ""


# ------------------------------------------------------------------------------------------------------------- in words
def _greeting(run: Run, model: SingleCellVAE, about: dict[str, Any]) -> str:
    """Say in three lines what is about to happen."""
    s = run.settings
    sizes = [f"{about['cells']:,} cells", f"{about['genes']:,} genes"]
    sizes += [f"{len(about[name])} {name}" for name in ("batches", "labels") if name in about]
    library = "observed" if s.observed_library else "latent"
    theta = (
        ""
        if s.likelihood is Likelihood.POISSON
        else f", dispersion by {(s.dispersion or Dispersion.GENE).value}"
    )
    parameters = sum(p.numel() for p in model.graph.parameters())
    return (
        f"{run.data['name']}: {', '.join(sizes)}; "
        f"{about['zeros']:.1%} zeros, {about['median_total']:,.0f} transcripts in the median cell\n"
        f"{s.likelihood.value} likelihood{theta}, {library} library size; {s.layers} hidden layer{'s' * (s.layers > 1)} of "
        f"{s.hidden[0]}, {s.latents} latents, {parameters:,} parameters\n"
        f"{s.epochs} epochs of {s.batch_size} cells a step, adam at {s.learning_rate:g}, seed {s.seed}"
    )


def _write_report(
    run: Run, asked: Cells, figures: dict[str, Any], said: list[str], started: float
) -> None:
    """Write report.html."""
    warned = [text for text in (*said, figures.get("latents", {}).get("warning")) if text]
    history = asked.model.fit_history
    if history is not None and history.stopped == "interrupted":
        warned.append("Training was interrupted: these are the weights as they stood.")
    page = Report(
        title=f"{run.data['name']}: a variational autoencoder of single cells",
        subtitle=f"{figures['unit']}, unless said otherwise; all weights 1",
        facts=_facts(run, asked.model, figures["data"], started),
        warnings=warned,
        rows=cell_summary.rows(figures),
        pictures=cell_summary.pictures(asked, figures),
    )
    write(page, run.folder / "report.html")


def _sizes(groups: dict[str, int]) -> str:
    """Return the sizes of groups in words, the largest first."""
    shown = [f"{name}: {n:,}" for name, n in groups.items()][:_NAMED]
    return "; ".join(
        [*shown, *([f"and {len(groups) - _NAMED} more"] if len(groups) > _NAMED else [])]
    )


def _facts(run: Run, model: SingleCellVAE, about: dict[str, Any], started: float) -> dict[str, str]:
    """Return what the data were, and what was run, with what, when."""
    sizes = {name: _sizes(about[name]) for name in ("batches", "labels") if name in about}
    held_out = about["cells"] - len(model.train_indices) - len(model.validation_indices)
    parts = files.inspect(run.model)["graph"]["arguments"]
    return {
        "data": f"{run.settings.data}, {about['cells']:,} cells of {about['genes']:,} genes, SHA-256 {run.data['fingerprint'][:16]}",
        "counts": f"{about['zeros']:.2%} zeros, {about['median_total']:,.0f} in the median cell; without any: "
        f"{about['cells_without_counts']} cells, {about['genes_without_counts']} genes",
        "split": f"{len(model.train_indices):,} training, {len(model.validation_indices):,} validation, {held_out:,} test cells",
        **sizes,
        **{name: job.wording(part) for name, part in parts.items()},
        **job.circumstances(
            run, kinds.NOT_FOR_CELLS, ("anndata", "scipy", "scikit-learn"), started
        ),
    }
