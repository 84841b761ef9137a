"""The loop of `pyrovae.fit`: epochs of steps, validation, the best weights, early stopping."""

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from itertools import islice

from torch import Tensor

from pyrovae import programs
from pyrovae.data import Minibatch, Minibatches, ThreadWatch
from pyrovae.files import History, checkpoint
from pyrovae.training.agreement import Description, Reading
from pyrovae.training.arguments import Arguments
from pyrovae.training.batchnorm import recompute_batchnorm
from pyrovae.training.divergence import diagnose_step, diverged
from pyrovae.training.events import Epoch, Hook, Start, Step, isolated
from pyrovae.training.interrupts import Interruption
from pyrovae.training.optimization import Scheduler, scheduled_by_step, step_after_epoch
from pyrovae.training.results import Result, Taken
from pyrovae.training.resuming import save
from pyrovae.training.state import Totals
from pyrovae.training.svi import FusedSVI
from pyrovae.training.validation import reason_to_end, validate

__all__ = ["Loop"]

_BATCHES_FOR_BATCHNORM = 64  # minibatches over which its statistics are recomputed


@dataclass
class Loop:
    """One fit in progress: its data, and the state that a checkpoint keeps.

    Attributes:
        position: optimizer steps done in the current epoch.
        totals: over those steps that are read.
        taken: the steps that are not; on a GPU the last one, see `results.py`.
        good: the weights at the last point where all was finite.
        best: the weights of the best epoch by validation; empty before there is one.
    """

    arguments: Arguments
    svi: FusedSVI
    training: Minibatches
    held_out: Minibatches | None
    history: History
    scheduler: Scheduler | None
    hooks: list[Hook] = field(default_factory=list)
    position: int = 0
    totals: Totals = field(default_factory=Totals)
    taken: deque[Taken] = field(default_factory=deque)
    best: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Derive the remaining state from the arguments."""
        self.graph, self.objective = self.svi.graph, self.svi.objective
        self.programs, self.average = self.svi.programs, self.svi.average
        self.processes = self.svi.processes
        self.validation_objective = self.objective.validation_objective()
        self.devices = programs.cuda_devices(self.graph)
        self.by_step = scheduled_by_step(self.scheduler, self.arguments.scheduler_interval)
        self.readings = self.processes.gathered(Reading.of(self.training, self.held_out))
        longest = max(one.minibatches for one in self.readings)
        self.steps_per_epoch = math.ceil(longest / self.arguments.accumulate)
        self.good = self.programs.state()
        self.description = Description.of(self)

    def run(self, interruption: Interruption) -> None:
        """Train until all epochs ran, patience or a hook ends it, or a signal asks to."""
        self.history.stopped = self.ended() if self.history.loss and not self.position else ""
        planned, name = self.arguments.epochs * self.steps_per_epoch, self.history.bound_name
        started = Start(self.graph, planned, self.steps_done(), name)
        with self.svi.in_training(), ThreadWatch() as watch:
            self.reseed()
            with ExitStack() as ends:  # each is called, whatever another raises
                for hook in reversed(self.hooks):
                    ends.callback(hook.on_end)
                with isolated(self.programs, self.processes, self.devices):
                    for hook in self.hooks:
                        hook.on_start(started)
                while not self.history.stopped:
                    self.epoch(interruption, watch)
            self.leave()

    def leave(self) -> None:
        """Give the graph the weights that the fit returns."""
        if self.best:
            self.programs.put(self.best)
        elif self.held_out is None or self.position or self.average:
            if self.average is not None:
                self.average.put()
            self.recompute_batchnorm()
        self.svi.forget_rounded_weights()

    def steps_done(self) -> int:
        """Return the number of optimizer steps since the fit began."""
        return len(self.history.loss) * self.steps_per_epoch + self.position

    def fraction(self, step: int, epochs: int | None = None) -> float:
        """Return at which time, from 0 to 1, of the planned epochs a step is, counted from 0."""
        last = (epochs or self.arguments.epochs) * self.steps_per_epoch - 1
        return min(1.0, step / last) if last else 1.0

    def epoch(self, interruption: Interruption, watch: ThreadWatch) -> None:
        """Run the remaining steps of one epoch."""
        started = time.perf_counter()
        self.programs.train()
        for module in self.svi.constant:
            module.eval()
        for group in self.groups():
            self.step(group)
            watch.look()
            self.history.stopped = self.processes.first(interruption.word or self.history.stopped)
            if self.history.stopped:
                self.totals.seconds += time.perf_counter() - started
                save(self)
                return
            if self.position % (self.arguments.checkpoint_every or math.inf) == 0:
                save(self)
        self.read()
        if self.position:
            self.close_epoch(started, interruption)
        else:
            self.history.stopped = "the data ended"

    def groups(self) -> Iterator[list[Minibatch]]:
        """Yield the minibatches of each remaining step of the epoch.

        The order is a function of seed and epoch, so that a resumed fit sees the same ones.
        """
        seed, size = (self.history.seed or 0) + len(self.history.loss), self.arguments.accumulate
        minibatches = self.minibatches(seed, self.position * size)
        yield from iter(lambda: list(islice(minibatches, size)), [])

    def minibatches(self, seed: int, start: int = 0) -> Iterator[Minibatch]:
        """Yield the minibatches of an epoch, as many in each process."""
        own = self.training.epoch(seed, start)
        return own if self.training.common else self.processes.together(own, Minibatch(()))

    def transformed(self, minibatch: Minibatch) -> tuple[Tensor, ...]:
        """Return a minibatch as the programs get it in training."""
        return self.arguments.transformed(*minibatch.batch) if minibatch.batch else ()

    def recompute_batchnorm(self) -> None:
        """Recompute the statistics of batch normalization at the current weights.

        Those of training stay where the data can be read once only.
        """
        if not self.training.repeatable:
            return

        def batches() -> Iterator[tuple[Tensor, ...]]:
            seed = self.history.seed or 0
            first = islice(self.minibatches(seed), _BATCHES_FOR_BATCHNORM)
            return (self.svi.present(self.transformed(minibatch)) for minibatch in first)

        least = 2 if self.processes.size == 1 else 1  # which shares of more rows may have
        recompute_batchnorm(self.programs, batches, self.svi.constant, least)

    def step(self, group: list[Minibatch]) -> None:
        """Take one optimizer step."""
        batches = [self.transformed(minibatch) for minibatch in group]
        for minibatch, batch in zip(group, batches, strict=True):
            self.arguments.check_values(minibatch, batch, self.training.scanned)
        self.objective.at(self.fraction(self.steps_done()))
        before = checkpoint.random_state(self.devices)
        self.position += 1
        late = self.svi.reads_late and not self.hooks
        found = self.svi.step_unread(*batches) if late else self.svi.step(*batches)
        self.taken.append(Taken(self.position, group, batches, before, found))
        self.read(all_but=1 if late else 0)
        if self.by_step and self.scheduler is not None:
            self.scheduler.step()
        if self.hooks:
            self.call_hooks(found.read())
        self.reseed()

    def read(self, all_but: int = 0) -> None:
        """Add what steps found to the totals of the epoch, but for the last ones.

        Raises:
            TrainingError: if a loss or a gradient is not finite.
        """
        while len(self.taken) > all_but:
            taken = self.taken.popleft()
            result = taken.found.read()
            if not math.isfinite(result.loss):
                checkpoint.set_random_state(taken.random_state, self.devices)
                words = diagnose_step(self.svi, taken.batches, taken.group)
                self.fail(f"the loss is {result.loss}: {words}", taken.position)
            if self.svi.measures and not math.isfinite(result.gradient_norm):
                self.fail(f"the norm of the gradient is {result.gradient_norm}", taken.position)
            self.totals.add(result)

    def reseed(self) -> None:
        """Begin the random stream of the next step, if there are several processes."""
        self.processes.reseed(self.history.seed or 0, self.steps_done(), self.devices)

    def call_hooks(self, result: Result) -> None:
        """Call the hooks after a step; the first that returns true ends the fit."""
        step = Step.of(
            result,
            graph=self.graph,
            step=self.steps_done(),
            epoch=len(self.history.loss) + 1,
            beta=self.objective.current_beta,
            learning_rates=[float(group["lr"]) for group in self.svi.optimizer.param_groups],
        )
        with isolated(self.programs, self.processes, self.devices, self.hooks):
            ended = [hook for hook in self.hooks if hook.on_step(step)]
        for hook in ended:
            self.history.stopped = f"the hook {type(hook).__name__} ended it"

    # ------------------------------------------------------------------------------ after an epoch
    def close_epoch(self, started: float, interruption: Interruption) -> None:
        """Add the epoch to the history, keep the best weights, and decide whether to go on."""
        beta = self.objective.at(self.fraction(self.steps_done() - 1))
        # A gradient may have overflowed in the last step, and no loss have shown it yet.
        if name := self.programs.broken_parameter():
            self.fail(f"parameter {name} is not finite after it")
        held_out, validated = self.validated()
        self.history.append(
            **self.totals.means(),
            beta=beta,
            learning_rate=float(self.svi.optimizer.param_groups[0]["lr"]),
            seconds=self.totals.seconds + time.perf_counter() - started,
            **held_out,
        )
        self.position, self.totals = 0, Totals()
        self.good = self.programs.state()
        self.keep_best(validated or self.good)
        if not self.by_step:
            judged = beta == self.objective.target
            step_after_epoch(self.scheduler, self.history, judged=judged)
        self.decide(interruption)
        save(self)

    def validated(self) -> tuple[dict[str, float], dict[str, Tensor] | None]:
        """Return the terms on the validation data, and the weights they are of if not the present.

        These are the moving average's, if there is one.
        """
        if self.held_out is None:
            return {}, None
        with self.average.in_place() if self.average is not None else nullcontext():
            self.recompute_batchnorm()
            found = validate(
                self.programs, self.validation_objective, self.held_out, self.lost, self.processes
            )
            weights = self.programs.state() if self.average is not None else None
        return found, weights

    def lost(self, minibatch: Minibatch) -> None:
        """Fail on a minibatch of the validation data whose bound is not finite."""
        where = diagnose_step(self.svi, [minibatch.batch], [minibatch], "validation data")
        self.fail(f"the validation ELBO is not finite: {where}")

    def keep_best(self, weights: dict[str, Tensor]) -> None:
        """Keep the weights if validation is the best so far; during warm-up none are kept."""
        history = self.history
        if self.held_out is None or history.beta[-1] != self.objective.target:
            return
        best, now = history.best_epoch, history.validation_elbo[-1]
        if best is None or now > history.validation_elbo[best - 1]:
            history.best_epoch, self.best = len(history.loss), weights

    def decide(self, interruption: Interruption) -> None:
        """Write into the history why the fit ends here, if it does."""
        self.history.stopped = self.ended()
        callback = self.arguments.callback if self.processes.is_writer else None
        epoch = Epoch(self.graph, self.history, self.steps_done())
        with isolated(self.programs, self.processes, self.devices):
            ended = [hook for hook in self.hooks if hook.on_epoch(epoch)]
            called_off = callback is not None and callback(self.history)
        if called_off:
            self.history.stopped = "the callback ended it"
        elif ended:
            self.history.stopped = f"the hook {type(ended[0]).__name__} ended it"
        self.history.stopped = self.processes.first(interruption.word or self.history.stopped)

    def ended(self) -> str:
        """Return why the fit ends after this epoch, empty if it goes on."""
        given = self.arguments
        return reason_to_end(self.history, given.epochs, given.patience, self.objective.target)

    # --------------------------------------------------------------------------- when it diverges
    def fail(self, what: str, position: int | None = None) -> None:
        """Put the last good weights back, and raise an error that says what happened and where.

        Raises:
            TrainingError: always.
        """
        self.programs.put(self.best or self.good)
        tensors = self.programs.named_tensors().values()
        raise diverged(what, position or self.position, self.history, tensors)
