"""Training of a model of cells: `pyrovae.fit` with scvi-tools' defaults, on a split of the cells.

log p(x) >= E log p(x | z, l) - beta KL(q(z) || p(z)) - KL(q(l) || p(l)), beta rising to 1

The prior of the library size and the scales of the covariates are those of the training cells.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pyrovae import objectives
from pyrovae.data import Rows, split
from pyrovae.files import History
from pyrovae.priors import LibraryNormal
from pyrovae.singlecell.cells import rows_in
from pyrovae.singlecell.messages import warn_user
from pyrovae.singlecell.minified import counts_of
from pyrovae.singlecell.query import only_new_weights
from pyrovae.singlecell.scverse import device_of, joined, plan_arguments
from pyrovae.singlecell.state import FitResult, Model
from pyrovae.training import Adam, ClipNorm, Hook, TrainingError, fit

__all__ = ["WARM_UP", "default_epochs", "train"]

WARM_UP = 0.25  # fraction of the planned steps over which the weight of z's KL rises to 1
_MAX_EPOCHS, _MAX_VISITS = 400, 8_000_000  # scvi-tools' rule: visits of cells, over all epochs
_LEAST_STEPS = 4_000  # optimizer steps, which few cells take in more epochs


def default_epochs(cells: int, batch_size: int = 128) -> int:
    """Return the number of epochs for N cells: scvi-tools' rule, and at least 4,000 steps.

    scvi-tools' is 8e6 / N, at least 1, at most 400. Fewer than 1,281 cells need more epochs for
    these steps.

    Example:
        >>> default_epochs(3_000), default_epochs(80_000), default_epochs(500)
        (400, 100, 1000)
    """
    by_visits = max(1, min(_MAX_EPOCHS, round(_MAX_VISITS / max(1, cells))))
    steps = max(1, math.ceil(cells / batch_size))
    return max(by_visits, math.ceil(_LEAST_STEPS / steps))


def train(
    model: Model,
    max_epochs: int | None = None,
    train_size: float | None = 0.9,
    validation_size: float | None = None,
    batch_size: int = 128,
    early_stopping: bool = False,
    early_stopping_patience: int = 45,
    lr: float = 1e-3,
    weight_decay: float = 1e-6,
    eps: float = 0.01,
    n_epochs_kl_warmup: int | None = None,
    seed: int | None = None,
    checkpoint: str | Path | None = None,
    resume: str | Path | None = None,
    progress: bool = True,
    callback: Callable[[History], bool | None] | None = None,
    *,
    clip_norm: ClipNorm = None,
    precision: Literal["bf16", "tf32"] | None = None,
    compile: bool = False,
    hooks: Hook | Sequence[Hook] = (),
    accelerator: str = "auto",
    devices: Any = "auto",
    plan_kwargs: Mapping[str, Any] | None = None,
    early_stopping_monitor: str = "elbo_validation",
) -> History:
    """Train the model with `pyrovae.fit` and return the history.

    With validation cells, the weights of the epoch with the best validation ELBO after the warm-up
    are kept. Ctrl-C ends the fit after the current step and leaves a usable model.

    Args:
        model: the model.
        max_epochs: passes over the training cells; `default_epochs` of the number of cells if None.
        train_size: fraction of the cells to train on, in (0, 1].
        validation_size: fraction of the cells to validate on; the remainder if None.
        batch_size: cells per step, at least 2 (for batch normalization).
        early_stopping: stop when the validation ELBO has not risen for `early_stopping_patience`
            epochs.
        early_stopping_patience: see `early_stopping`.
        lr: learning rate of Adam.
        weight_decay: of Adam.
        eps: of Adam.
        n_epochs_kl_warmup: epochs over which the weight of the KL of z (not of l) rises from 0 to
            1; a quarter of the planned epochs if None, no warm-up if 0.
        seed: of the fit; the model's if None.
        checkpoint: file for the state of the fit, written after each epoch and on Ctrl-C.
        resume: file that an earlier fit wrote as its `checkpoint`.
        progress: show a progress bar.
        callback: called with the history after each epoch; the fit ends if it returns true.
        clip_norm: bound on the gradient's norm, a number or "auto", see `pyrovae.fit`.
        precision: "bf16" or "tf32", see `pyrovae.fit`; None for that of the networks.
        compile: compile a step by torch's compiler, see `pyrovae.fit`; for many steps.
        hooks: called after each step and epoch, see `pyrovae.hooks`.
        accelerator: "auto" (a GPU if there is one), "cpu", "gpu" or "mps": where the model is moved
            to; it stays there.
        devices: "auto", or the number of one device in a list.
        plan_kwargs: scvi-tools' place for lr, weight_decay, eps, n_epochs_kl_warmup and compile.
        early_stopping_monitor: "elbo_validation", the only one.

    A second call continues from the present weights, and its epochs are added to the history.

    Raises:
        ValueError: if an argument is out of range.
        TrainingError: if the loss becomes NaN; the last good weights are restored.
    """
    plan: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "eps": eps, "compile": compile}
    plan |= {"n_epochs_kl_warmup": n_epochs_kl_warmup} | plan_arguments(plan_kwargs)
    n_epochs_kl_warmup, compile = plan.pop("n_epochs_kl_warmup"), plan.pop("compile")
    _check_monitor(early_stopping_monitor)
    counts_of(model, "train")
    n = model.cells.own().n_obs
    epochs = default_epochs(n, max(1, batch_size)) if max_epochs is None else max_epochs
    training, validation = _split(n, train_size, validation_size, model.seed)
    _check(len(training), len(validation), batch_size, epochs, plan["lr"], early_stopping)
    model.graph.to(device_of(accelerator, devices))
    undo = _learn_from(model, training)
    return _fit(
        model,
        functools.partial(_keep, model, None if resume else model.fit_result, training, validation),
        undo,
        training=_data(model, training),
        validation=_data(model, validation) if len(validation) else None,
        objective=objectives.SGVB_B(beta=_warm_up(n_epochs_kl_warmup, epochs), annealed={"z"}),
        optimizer=_adam(model, plan),
        epochs=int(epochs),
        batch_size=batch_size,
        patience=early_stopping_patience if early_stopping else None,
        seed=model.seed if seed is None else seed,
        checkpoint=checkpoint,
        resume=resume,
        callback=callback,
        clip_norm=clip_norm,
        precision=precision,
        compile=compile,
        hooks=hooks,
        progress=progress,
    )


def _adam(model: Model, plan: Mapping[str, Any]) -> Callable[..., Adam]:
    decay = plan["weight_decay"]
    if model.query is not None:
        decay = 0.0  # it would move weights that get no gradient
    return functools.partial(Adam, **{**plan, "weight_decay": decay}, fused=True)


def _fit(
    model: Model,
    keep: Callable[[History], History],
    undo: Callable[[], None],
    training: Any,
    **arguments: Any,
) -> History:
    """Fit the weights that the model trains, and keep what the fit leaves, after an error too.

    If it is refused before the first step, the model is left as it was.
    """
    before = [parameter.detach().clone() for parameter in model.graph.parameters()]
    try:
        with only_new_weights(model) as constant:
            history = fit(model.graph, training, freeze=constant, **arguments)
    except TrainingError as error:  # with the last good weights the model is usable
        keep(error.history)
        raise
    except BaseException:
        if all(map(torch.equal, before, model.graph.parameters())):
            undo()
        raise
    return keep(history)


def _keep(
    model: Model, before: FitResult | None, training: Tensor, validation: Tensor, history: History
) -> History:
    """Keep the result of a fit in the model; return the history, that of earlier fits included.

    A cell that one of the fits was trained on is a training cell. Where the cells of an earlier fit
    are not known, neither are those of both.
    """
    whole = history
    if before is not None:
        whole = joined(before.history, history)
    if before is not None and before.of_own_cells:
        training = torch.cat([before.training, training]).unique()
        validation = torch.cat([before.validation, validation]).unique()
        validation = validation[~torch.isin(validation, training)]
    known = before is None or before.of_own_cells  # which cells all fits were trained on
    model.fit_result = FitResult(whole, training, validation, known)
    model.graph.eval()
    return whole


def _check(
    training: int,
    validation: int,
    batch_size: int,
    epochs: float,
    lr: float,
    early_stopping: bool,
) -> None:
    if batch_size < 2 or training < 2:
        more = ". train_size=1 trains on all cells" if training < 2 and validation else ""
        raise ValueError(
            f"train: {training} training cells and batch_size {batch_size}: batch normalization "
            f"needs at least 2 of each{more}"
        )
    if int(epochs) != epochs or epochs < 1 or not lr > 0:
        raise ValueError(
            f"train: max_epochs is {epochs} and lr {lr}, expected a whole number of at least 1, "
            "and a learning rate above 0"
        )
    if early_stopping and not validation:
        raise ValueError("train: early_stopping needs validation cells: lower train_size")


def _check_monitor(name: str) -> None:
    if name != "elbo_validation":
        raise ValueError(
            f"train: early_stopping_monitor is {name!r}, expected 'elbo_validation'; stop by "
            "another figure through callback= or hooks="
        )


def _learn_from(model: Model, training: Tensor) -> Callable[[], None]:
    """Set what is learned from the training cells alone: covariates' scales, the library prior.

    A query has those of its reference.

    Returns:
        A function that takes it back.
    """
    cells, graph = model.cells, model.graph
    before = cells.encoding, cells.data, graph.library_prior

    def undo() -> None:
        cells.encoding, cells.data, graph.library_prior = before

    if model.query is not None:
        return undo
    model.cells.rescale(training)
    if model.graph.library_prior is None:
        return undo
    means, sds, messages = model.cells.library_sizes(training)
    for message in messages:
        warn_user(message)
    device = next(model.graph.parameters()).device
    model.graph.library_prior = LibraryNormal(means, sds).to(device)
    return undo


def _data(model: Model, rows: Tensor) -> tuple[Any, ...]:
    """Return some of the model's own cells, without a copy of counts that are not dense."""
    x, *c = model.cells.data
    some = x.view(rows) if isinstance(x, Rows) else x[rows]
    return (some, *(rows_in(part, rows) for part in c))


def _warm_up(epochs: int | None, planned: int) -> float | objectives.Schedule:
    """Return the weight of the KL of z as a schedule over the planned steps."""
    if epochs is not None and epochs < 0:
        raise ValueError(f"n_epochs_kl_warmup is {epochs}, expected epochs, 0 for none, or None")
    if epochs == 0:
        return 1.0
    return objectives.warm_up(WARM_UP if epochs is None else min(1.0, epochs / planned))


def _split(
    n: int, train_size: float | None, validation_size: float | None, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the rows of the training and the validation cells, drawn at random."""
    train_size = 0.9 if train_size is None else train_size  # as scvi-tools says the default
    fraction = 1 - train_size if validation_size is None else validation_size
    if not 0 < train_size <= 1 or fraction < 0 or train_size + fraction > 1 + 1e-9:
        raise ValueError(
            f"train: train_size {train_size} and validation_size {validation_size}, expected "
            "fractions that sum to at most 1"
        )
    if train_size == 1 or n < 2:
        return torch.arange(n), torch.arange(0)
    training, others = split(n, 1 - train_size, seed)
    wanted = len(others) if validation_size is None else min(len(others), round(fraction * n))
    if wanted in (0, len(others)):
        return training, others[:wanted]
    # A random part of the others: files are often sorted by batch.
    return training, others[split(len(others), wanted / len(others), seed)[1]]
