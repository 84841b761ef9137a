"""Fit a graph by stochastic variational inference on minibatches.

for each epoch, for each minibatch x_1 .. x_M:
    theta, phi  <-  step along grad (1 / M) sum_i ELBO(x_i)              (AEVB, algorithm 1)

with validation, early stopping, the best weights, and exact resume.
"""

import functools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Literal

import pyro
import torch

from pyrovae import programs
from pyrovae.data import (
    Minibatches,
    Transform,
    as_minibatches,
)
from pyrovae.files import History, claim_parameters
from pyrovae.objectives import Objective, as_objective
from pyrovae.training.adam import adam
from pyrovae.training.agreement import check_arguments, check_loops
from pyrovae.training.arguments import Arguments
from pyrovae.training.checking import (
    check_data,
    check_data_size,
    check_rows_of_parameters,
    first_minibatch_named,
    warn_of_shared_latents,
    warn_of_unsampled_prior,
    warn_of_untrained_network,
)
from pyrovae.training.clipping import ClipNorm
from pyrovae.training.distributed import Processes, processes
from pyrovae.training.events import Hook
from pyrovae.training.interrupts import graceful_interrupt
from pyrovae.training.loggers import ProgressBar
from pyrovae.training.loop import Loop
from pyrovae.training.optimization import LearningRate, MakeOptimizer, MakeScheduler
from pyrovae.training.resuming import read, restore, store_kept_on_refusal
from pyrovae.training.svi import FusedSVI, Optimization
from pyrovae.training.validation import warn_of_early_end, warn_of_idle_patience

__all__ = ["fit"]


def fit(
    graph: Any,
    data: Any,
    *,
    validation: Any = None,
    objective: Any = None,
    optimizer: MakeOptimizer = adam,
    learning_rate: LearningRate = None,
    freeze: Collection[str] | None = (),
    scheduler: MakeScheduler | None = None,
    scheduler_interval: Literal["epoch", "step"] | None = None,
    epochs: int = 50,
    steps_per_epoch: int | None = None,
    batch_size: int = 128,
    drop_last: bool = False,
    accumulate: int = 1,
    transform: Transform | None = None,
    batch_transform: Callable[..., Any] | None = None,
    clip_norm: ClipNorm = None,
    precision: Literal["bf16", "tf32"] | None = None,
    ema: float | None = None,
    compile: bool = False,
    patience: int | None = None,
    seed: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    resume: str | Path | None = None,
    callback: Callable[[History], bool | None] | None = None,
    hooks: Hook | Sequence[Hook] = (),
    progress: bool = True,
) -> History:
    """Train `graph` in place and return the history.

    All values of the data are checked first; Pyro's validation is then off during training. With
    validation data, the graph is left with the weights of the epoch that has the best validation
    ELBO (at beta = 1, never during warm-up). Ctrl-C ends the fit after the current step: the graph
    is usable, and the checkpoint, if one is written, resumes at that step. So does SIGTERM, where
    nothing else handles it, in the main thread and not in a job of several processes; the history's
    `stopped` is then "interrupted" or "terminated", and a second signal acts as usual.

    Called in every process of a `torchrun` job, it trains one graph in all of them, on CPUs by gloo
    or on GPUs by NCCL, with the result of one process at the same `batch_size`: each process reads
    its share of each minibatch, gradients are averaged over all rows, batch normalization sees all
    rows, and validation is one number. Draws differ from those of one process. The first process
    alone writes the checkpoint and calls callback and hooks, which must not change the graph; its
    seed counts. Give all processes the same graph, the same arguments and the same data; but each
    its own share of a `DataLoader`, by `DistributedSampler`, or of an iterable. An error in one
    process ends all.

    Args:
        graph: an object with `model(x, *c)` and `guide(x, *c)`, such as `pyrovae.VAE` or your own.
        data: x with shape (N, *event), or a tuple (x, *c) of arrays with N rows each: NumPy arrays
            and memory maps, tensors, sparse matrices. Or a torch `Dataset` of items x or (x, *c); a
            `DataLoader`; or any iterable of such minibatches, of which a list must be given as
            iter(batches): a list is read as a tuple is, (x, *c). x is converted to the graph's
            floating-point type, and so is context, but for integers of 32 or 64 bits, with which
            networks may look rows of a table up. The values of arrays are checked before training,
            those of other data when they come.
        validation: held-out data, in any of these forms; the ELBO on it is computed after each
            epoch.
        objective: an estimator, by default `objectives.SGVB_B()` (KL in closed form), or one of
            Pyro's ELBOs.
        optimizer: parameters -> torch optimizer; Adam with a learning rate of 1e-3 by default.
            `torch.optim.Adagrad` is one, and so is `functools.partial(torch.optim.SGD, lr=0.1)`.
        learning_rate: instead of the optimizer's own, for all parameters, or by part:
            `{"likelihood": 1e-4}`. A part is named by the beginning of its parameters' names.
        freeze: parts that are held constant: `["posterior"]`; None is none. Modules among them are
            in eval() mode, so that dropout is off and batch normalization keeps its statistics.
        scheduler: torch optimizer -> learning-rate scheduler (a `ReduceLROnPlateau` sees the
            validation loss, never during warm-up).
        scheduler_interval: when the scheduler is stepped, after each "epoch" or optimizer "step".
            None is "step" for `OneCycleLR` and `CyclicLR`, whose schedules are over steps, and
            "epoch" for all others.
        epochs: planned passes over the data, over which schedules run.
        steps_per_epoch: minibatches that count as an epoch of an iterable; its length if None.
        batch_size: rows of a minibatch, over all processes; a `DataLoader` or iterable has its own.
        drop_last: leave out the last minibatch of an epoch if it has fewer rows; a `DataLoader`
            or iterable has its own.
        accumulate: minibatches per optimizer step; the gradient is the mean over all their rows.
        transform: applied to x of each training minibatch, with new random numbers each time, such
            as `pyrovae.batches.binarize`. Draw them by torch: the random streams of NumPy and of
            `random` are not the fit's, and no checkpoint keeps them.
        batch_transform: the same for x and context together: (x, *c) -> x or (x, *c).
        clip_norm: bound on the norm of the gradient of the mean loss; "auto" is four times the
            geometric mean of the norms of about the last hundred steps.
        precision: "bf16" multiplies in linear, convolutional and recurrent layers in bfloat16 while
            training; densities, validation and weights keep their type. "tf32" lets a GPU multiply
            float32 matrices in TF32 in each step; on most CPUs it changes nothing.
        ema: decay of an exponential moving average of the weights, such as 0.999; validation is of
            the average, and the graph is left with it.
        compile: trace the loss and its gradients once and compile them, by `torch.compile` and the
            C++ compiler of the machine, which takes half a minute; faster from some thousand steps
            on. For graphs that are an nn.Module whose programs do not depend on the values of
            tensors, and objectives without a state. A number that a module holds must stay as it
            was at the first step, such as a temperature; a buffer may change. Minibatches of
            another size than the first are not compiled. Draws are as without it; results agree to
            rounding.
        patience: stop after this many epochs with beta at its target and without a better
            validation ELBO; None trains all.
        seed: of the random stream of this fit; None draws one from the global stream, which is
            otherwise left alone.
        checkpoint: file for the state, written after each epoch and when interrupted.
        checkpoint_every: optimizer steps within an epoch after which it is written too; for long
            epochs, so that a process that is killed loses few steps.
        resume: file written by `checkpoint=` in a fit of the same graph and data, with the same
            arguments. `epochs` may differ where the weight of the KL does not jump, and so may
            `patience`, `compile`, files, hooks and callback. Code cannot be compared, such as of a
            transform or the function of a `LambdaLR`. To go on with another learning rate, start a
            new fit of the graph. Another number of processes may continue, of files after an epoch
            only, and not of a `DataLoader` or iterable of which each process has its share. On the
            CPU, in as many processes and threads, the fit continues bit for bit as if it had never
            stopped; with a `DataLoader` too, if it has no generator of its own, and if no items are
            drawn at random by `persistent_workers`, whose random streams a new process does not
            have. Pass an iterable as for the first fit, and a generator made anew, at its
            beginning: the minibatches that the fit had read are read again and skipped.
        callback: called with the history after each epoch; a true value ends the fit.
        hooks: called after each step and each epoch, see `pyrovae.hooks`: loggers for TensorBoard
            and CSV files, or your own.
        progress: show a progress bar with the bound and its terms (on a terminal or in a notebook).

    Raises:
        ValueError: if an argument, the data or the programs do not fit; nothing has been trained.
        OSError: if the checkpoint cannot be written; before the first step, if that is seen then.
        FileError: if `resume` is damaged, or of another fit; a ValueError, and nothing has changed.
        TypeError: if the graph lacks a program, or objective or optimizer is none.
        RuntimeError: if a fit runs in another thread of the process.
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
    arguments = Arguments(
        check=functools.partial(programs.check_data, graph),
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        batch_size=batch_size,
        drop_last=drop_last,
        accumulate=accumulate,
        transform=transform,
        batch_transform=batch_transform,
        scheduler=scheduler,
        scheduler_interval=scheduler_interval,
        patience=patience,
        seed=seed,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
        callback=callback,
        hooks=hooks,
        progress=progress,
    )
    _check_choices(patience, validation, precision, ema)
    estimator = as_objective(objective)
    freeze = [freeze] if isinstance(freeze, str) else freeze or ()
    how = Optimization(optimizer, learning_rate, freeze, clip_norm, precision, ema, compile)
    with programs.one_fit(), processes() as group, store_kept_on_refusal():
        return _fit(graph, data, validation, estimator, how, arguments, group)


def _fit(
    graph: Any,
    data: Any,
    validation: Any,
    objective: Objective,
    how: Optimization,
    arguments: Arguments,
    group: Processes,
) -> History:
    """Fit in one process or, with others, in each process of the group."""
    programs.prepare_process()
    check_arguments(group, arguments, how, validation)
    group.from_writer(arguments.check_checkpoint)
    training, held_out = _minibatches(graph, data, validation, arguments, group)
    check_data_size(graph, objective, training, group)
    resume, seed = arguments.resume, arguments.seed
    saved = group.from_writer(lambda: read(resume)) if resume is not None else None
    seed = group.from_writer(lambda: _seed(seed if saved is None else saved.seed))
    history = History(bound_name=objective.bound_name, seed=seed, data=training.fingerprint)
    with programs.random_stream(seed, programs.cuda_devices(graph)):
        example = arguments.transformed(*training.first())
        hooks = arguments.listeners()
        with store_kept_on_refusal(ValueError):
            with first_minibatch_named(training, example):
                check_data(graph, training, held_out, arguments, example)
                svi = FusedSVI(graph, objective, how, example, bool(hooks), group)
            found = svi.programs.named_trainable()
            check_rows_of_parameters(graph, found, example, training, group)
        claim_parameters(graph, svi.programs.stored_names())
        warn_of_untrained_network(svi.programs, example)
        warn_of_unsampled_prior(svi.programs)
        warn_of_shared_latents(graph, example, training, group)
        schedule = arguments.scheduled(svi.optimizer)
        hooks += [ProgressBar()] if arguments.progress else []
        heard = hooks if group.is_writer else []
        loop = Loop(arguments, svi, training, held_out, history, schedule, heard)
        check_loops(loop)
        warn_of_idle_patience(objective, arguments.patience, arguments.epochs, loop.steps_per_epoch)
        if saved:
            restore(loop, saved)
            training.skip_epochs(len(loop.history.loss))
        with pyro.validation_enabled(False), graceful_interrupt(group.size == 1) as asked:
            loop.run(asked)
    warn_of_early_end(loop.history, arguments.epochs)
    return loop.history


def _minibatches(
    graph: Any, data: Any, validation: Any, arguments: Arguments, group: Processes
) -> tuple[Minibatches, Minibatches | None]:
    """Return training and validation data, of which each process reads its share."""
    made = functools.partial(as_minibatches, batch_size=arguments.batch_size, share=group.share)
    steps, drop_last = arguments.steps_per_epoch, arguments.drop_last
    training = made(data, graph, steps=steps, drop_last=drop_last, digest=True)
    held_out = (
        None if validation is None else made(validation, graph, name="validation", digest=True)
    )
    group.check_data(training, held_out)
    return training, held_out


def _seed(seed: int | None) -> int:
    return int(torch.randint(2**53, ())) if seed is None else seed


def _check_choices(
    patience: int | None, validation: Any, precision: str | None, ema: float | None
) -> None:
    if patience is not None and validation is None:
        raise ValueError(
            f"fit: patience is {patience}, but there are no validation data to judge by: pass "
            "validation="
        )
    if precision not in (None, "bf16", "tf32"):
        raise ValueError(
            f'fit: precision is {precision!r}, expected "bf16", "tf32", or None for that of '
            "the weights"
        )
    if ema is not None and not 0 < ema < 1:
        raise ValueError(f"fit: ema is {ema!r}, expected a decay in (0, 1) such as 0.999")
