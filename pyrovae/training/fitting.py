"""Fit a graph by stochastic variational inference on minibatches.

for each epoch, for each minibatch x_1 .. x_M:
    theta, phi  <-  step along grad (1 / M) sum_i ELBO(x_i)              (AEVB, algorithm 1)

with validation, early stopping, the best weights, and exact resume.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyrovae import programs
from pyrovae.data import (
    Data,
    Source,
    Transform,
    TransformedRows,
    as_sources,
    device_and_dtype,
    fingerprint,
    take,
)
from pyrovae.files import History, claim_parameters
from pyrovae.objectives import Objective, as_objective
from pyrovae.training.loop import Loop
from pyrovae.training.resuming import read, restore, store_kept_on_refusal
from pyrovae.training.state import Arguments
from pyrovae.training.svi import FusedSVI, MakeOptimizer, adam

__all__ = ["fit"]

Sources = tuple[Source, ...]


def fit(
    graph: Any,
    data: Data,
    *,
    validation: Data | None = None,
    objective: Any = None,
    optimizer: MakeOptimizer = adam,
    scheduler: Callable[[Optimizer], LRScheduler | ReduceLROnPlateau] | None = None,
    epochs: int = 50,
    batch_size: int = 128,
    transform: Transform | None = None,
    clip_norm: float | None = None,
    patience: int | None = None,
    seed: int | None = None,
    checkpoint: str | Path | None = None,
    resume: str | Path | None = None,
    callback: Callable[[History], bool | None] | None = None,
    progress: bool = True,
) -> History:
    """Train `graph` in place and return the history.

    All values of the data are checked first; Pyro's validation is then off during training. With
    validation data, the graph is left with the weights of the epoch that has the best validation
    ELBO (at beta = 1, never during warm-up). Ctrl-C ends the fit after the current step: the graph
    is usable, and the checkpoint, if one is written, resumes at that step.

    Args:
        graph: an object with `model(x, *c)` and `guide(x, *c)`, such as `pyrovae.VAE` or your own.
        data: x with shape (N, *event), or a tuple (x, *c) of arrays with N rows each.
        validation: held-out data of the same form; the ELBO on it is computed after each epoch.
        objective: an estimator, by default `objectives.SGVB_B()` (KL in closed form), or one of
            Pyro's ELBOs.
        optimizer: parameters -> torch optimizer; Adam with a learning rate of 1e-3 by default.
            `torch.optim.Adagrad` is one, and so is `functools.partial(torch.optim.SGD, lr=0.1)`.
        scheduler: torch optimizer -> learning-rate scheduler, stepped once per epoch (a
            `ReduceLROnPlateau` on the validation loss).
        epochs: planned passes over the data, over which schedules run.
        batch_size: rows per step.
        transform: applied to x of each training minibatch, with new random numbers each time, such
            as `pyrovae.batches.binarize`.
        clip_norm: bound on the norm of the gradient of the mean loss.
        patience: stop after this many epochs without a better validation ELBO; None trains all.
        seed: of the random stream of this fit; None draws one from the global stream, which is
            otherwise left alone.
        checkpoint: file for the state, written after each epoch and when interrupted.
        resume: file written by `checkpoint=` in a fit of the same graph and data, with the same
            arguments (`transform` cannot be compared; `epochs` may differ where the weight of the
            KL does not jump); on the CPU the fit then continues bit for bit as if it had never
            stopped.
        callback: called with the history after each epoch; a true value ends the fit.
        progress: show a progress bar with the bound and its terms (on a terminal).

    Raises:
        ValueError: if an argument, the data or the programs do not fit; nothing has been trained.
        FileError: if `resume` is damaged, or of another fit; a ValueError, and nothing has changed.
        TypeError: if the graph lacks a program, or objective or optimizer is none.
        TrainingError: if the loss becomes NaN or infinite; names step, site and rows. The last good
            weights are put back.

    Example:
        >>> import pyrovae as pv
        >>> x = torch.rand(64, 6).round()
        >>> q = pv.posteriors.DiagonalNormal(nn.Linear(6, 4))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(nn.Linear(2, 6)))
        >>> pv.fit(vae, x, epochs=2, seed=0).stopped
        'all epochs ran'
    """
    _check_arguments(epochs, batch_size, patience, clip_norm, validation)
    training = as_sources(data, digest=True)
    held_out = None if validation is None else as_sources(validation, "validation")
    _check_data(graph, training, held_out, transform)
    saved = read(resume) if resume is not None else None
    if saved:
        seed = saved.seed
    elif seed is None:
        seed = int(torch.randint(2**53, ()))
    estimator = as_objective(objective)
    _check_data_size(estimator, len(training[0]))
    name, digest = estimator.bound_name, fingerprint(training)
    history = History(bound_name=name, seed=seed, data=digest)
    devices = programs.cuda_devices(graph)
    with programs.random_stream(seed, devices), store_kept_on_refusal():
        x, *c = take(training, slice(0, batch_size), *device_and_dtype(graph, training))
        example = (x if transform is None else transform(x), *c)
        svi = FusedSVI(graph, estimator, optimizer, example, clip_norm)
        claim_parameters(graph, svi.programs.stored_names())
        arguments = Arguments(
            epochs, batch_size, transform, patience, checkpoint, callback, progress
        )
        schedule = scheduler(svi.optimizer) if scheduler else None
        loop = Loop(arguments, svi, training, held_out, history, schedule)
        if saved:
            restore(loop, saved)
        with pyro.validation_enabled(False), _graceful_interrupt() as interrupted:
            loop.run(interrupted)
    return loop.history


def _check_arguments(
    epochs: int,
    batch_size: int,
    patience: int | None,
    clip_norm: float | None,
    validation: Data | None,
) -> None:
    if epochs < 1 or batch_size < 1:
        raise ValueError(
            f"fit: epochs is {epochs} and batch_size {batch_size}, expected at least 1 of each"
        )
    if patience is not None and (patience < 1 or validation is None):
        raise ValueError(
            f"fit: patience is {patience}, expected at least 1, and validation data to judge by: "
            "pass validation="
        )
    if clip_norm is not None and not clip_norm > 0:
        raise ValueError(
            f"fit: clip_norm is {clip_norm}, expected a positive bound on the gradient's norm"
        )


def _check_data_size(objective: Objective, rows: int) -> None:
    size = objective.data_size
    if size not in (None, rows):
        raise ValueError(
            f"fit: the objective's data_size is {size}, but there are {rows} training rows: "
            f"give data_size={rows}"
        )


def _check_data(
    graph: object, training: Sources, held_out: Sources | None, transform: Transform | None
) -> None:
    if held_out is not None and [t.shape[1:] for t in held_out] != [t.shape[1:] for t in training]:
        shapes = [tuple(t.shape[1:]) for t in training], [tuple(t.shape[1:]) for t in held_out]
        raise ValueError(
            f"validation: rows of shape {shapes[1]}, the training data's have {shapes[0]}: pass "
            "both in the same form"
        )
    check = getattr(graph, "check", lambda *batch: None)
    with programs.random_stream(0, programs.cuda_devices(graph)):
        x, *c = training
        if transform is not None:  # block by block: never the whole data at once
            x = TransformedRows(x, transform, *device_and_dtype(graph, training))
        check(x, *c)
    if held_out is not None:
        check(*held_out)


@contextmanager
def _graceful_interrupt() -> Iterator[threading.Event]:
    """Context in which the first Ctrl-C sets a flag that the loop reads between steps.

    A second Ctrl-C interrupts as usual.
    """
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = signal.getsignal(signal.SIGINT) or signal.SIG_DFL

    def on_interrupt(*_: object) -> None:
        flag.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)
