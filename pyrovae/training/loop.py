"""The loop of `pyrovae.fit`: epochs of steps, validation, the best weights, early stopping."""

import math
import threading
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from pyrovae import programs
from pyrovae.data import Source, device_and_dtype, shuffled_batches, take
from pyrovae.files import History, checkpoint, in_words
from pyrovae.training.batchnorm import recompute_batchnorm
from pyrovae.training.divergence import TrainingError, diagnose
from pyrovae.training.resuming import save
from pyrovae.training.state import Arguments, Totals
from pyrovae.training.svi import FusedSVI

__all__ = ["Loop"]

Tensors = tuple[Tensor, ...]
Sources = tuple[Source, ...]
_VALIDATED_AT_ONCE = 1024  # rows in one pass over validation data
_BATCHES_FOR_BATCHNORM = 64  # minibatches over which its statistics are recomputed


@dataclass
class Loop:
    """One fit in progress: its data, and the state that a checkpoint keeps.

    Attributes:
        position: minibatches done in the current epoch.
        totals: over those minibatches.
        good: the weights at the last point where all was finite.
        best: the weights of the best epoch by validation; empty before there is one.
    """

    arguments: Arguments
    svi: FusedSVI
    training: Sources
    held_out: Sources | None
    history: History
    scheduler: LRScheduler | ReduceLROnPlateau | None
    position: int = 0
    totals: Totals = field(default_factory=Totals)
    best: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Derive the remaining state from the arguments."""
        self.graph, self.objective = self.svi.graph, self.svi.objective
        self.programs = self.svi.programs
        self.validation_objective = self.objective.validation_objective()
        self.device_and_dtype = device_and_dtype(self.graph, self.training)
        self.devices = programs.cuda_devices(self.graph)
        if self.devices:  # move the data once, not once per minibatch
            device = self.device_and_dtype[0]
            self.training = tuple(source.to(device) for source in self.training)
        self.steps_per_epoch = len(self.batches(0))
        self.good = self.programs.state()

    # ------------------------------------------------------------------------------------ the loop
    def run(self, interrupted: threading.Event) -> None:
        """Train until all epochs ran, patience or the callback ends it, or Ctrl-C is pressed."""
        with programs.modes_restored(self.programs), self._progress_bar() as bar:
            self.history.stopped = self.ended() if self.history.loss and not self.position else ""
            while not self.history.stopped:
                self.epoch(interrupted, bar)
        if self.best:
            self.programs.put(self.best)
        elif self.held_out is None or self.position:
            self.recompute_batchnorm()

    def _progress_bar(self) -> tqdm:
        total = self.arguments.epochs * self.steps_per_epoch
        hidden = None if self.arguments.progress else True  # None: shown on a terminal only
        return tqdm(total=total, initial=self.steps_done(), unit="step", disable=hidden)

    def steps_done(self) -> int:
        """Return the number of steps since the fit began."""
        return len(self.history.loss) * self.steps_per_epoch + self.position

    def epoch(self, interrupted: threading.Event, bar: tqdm) -> None:
        """Run the remaining minibatches of one epoch."""
        started = time.perf_counter()
        self.programs.train()
        for rows in self.batches(len(self.history.loss))[self.position :]:
            self.step(rows)
            if bar.update():
                bar.set_postfix_str(self.bound_in_words(), refresh=False)
            if interrupted.is_set():
                self.history.stopped = "interrupted"
                self.totals.seconds += time.perf_counter() - started
                save(self)
                return
        self.close_epoch(started)

    def batches(self, epoch: int) -> list[Tensor]:
        """Return the minibatches of an epoch, a function of seed and epoch.

        A resumed fit therefore sees the same ones.
        """
        generator = torch.Generator().manual_seed((self.history.seed or 0) + epoch)
        return shuffled_batches(len(self.training[0]), self.arguments.batch_size, generator)

    def batch(self, rows: Tensor) -> Tensors:
        """Return these rows of the data as the programs get them in training."""
        x, *c = take(self.training, rows, *self.device_and_dtype)
        transform = self.arguments.transform
        return (x if transform is None else transform(x), *c)

    def recompute_batchnorm(self) -> None:
        """Recompute the statistics of batch normalization at the current weights."""
        rows = self.batches(0)[:_BATCHES_FOR_BATCHNORM]
        recompute_batchnorm(self.programs, self.batch, rows)

    def step(self, rows: Tensor) -> None:
        """Take one step on these rows of the data."""
        batch = self.batch(rows)
        self.set_beta(self.steps_done())
        before = checkpoint.random_state(self.devices)
        self.position += 1
        loss, bound = self.svi.step(*batch)
        if not math.isfinite(loss):
            checkpoint.set_random_state(before, self.devices)
            self.fail(f"the loss is {loss}: {diagnose(self.svi, batch, rows)}")
        reconstruction, kl = bound.numbers()
        self.totals.loss += loss * len(rows)
        self.totals.reconstruction += reconstruction
        self.totals.kl += kl

    def set_beta(self, step: int) -> float:
        """Set and return the KL's weight for a step, counted from 0 over the whole fit."""
        last = self.arguments.epochs * self.steps_per_epoch - 1
        return self.objective.at(min(1.0, step / last) if last else 1.0)

    def bound_in_words(self) -> str:
        """Return the bound and its terms so far in this epoch."""
        rows = max(1, min(self.position * self.arguments.batch_size, len(self.training[0])))
        mean = self.totals.reconstruction / rows, self.totals.kl / rows
        words = in_words(self.history.bound_name, *mean)
        if not self.history.validation_elbo:
            return words
        return f"{words}, validation {self.history.validation_elbo[-1]:.2f}"

    # ------------------------------------------------------------------------------ after an epoch
    def close_epoch(self, started: float) -> None:
        """Add the epoch to the history, keep the best weights, and decide whether to go on."""
        beta = self.set_beta(self.steps_done() - 1)
        learning_rate = float(self.svi.optimizer.param_groups[0]["lr"])
        name = self.programs.broken_parameter()
        if name:  # a gradient overflowed in the last step, and no loss has shown it yet
            self.fail(f"parameter {name} is not finite after it")
        held_out = self.validate()
        n, totals = len(self.training[0]), self.totals
        self.history.append(
            loss=totals.loss / n,
            elbo=(totals.reconstruction - totals.kl) / n,
            reconstruction=totals.reconstruction / n,
            kl=totals.kl / n,
            beta=beta,
            learning_rate=learning_rate,
            seconds=totals.seconds + time.perf_counter() - started,
            **held_out,
        )
        self.position, self.totals = 0, Totals()
        self.good = self.programs.state()
        self.keep_best(at_target=beta == self.objective.target)
        self.step_scheduler()
        self.decide()
        save(self)

    def validate(self) -> dict[str, float]:
        """Return the bound on the validation data and its terms, in nats per observation.

        It is evaluated at beta = 1, under eval(), with the same noise each time.
        """
        if self.held_out is None:
            return {}
        self.recompute_batchnorm()
        reconstruction = kl = 0.0
        with programs.evaluation(self.graph):
            for rows in torch.arange(len(self.held_out[0])).split(_VALIDATED_AT_ONCE):
                terms = self._validation_terms(rows)
                reconstruction, kl = reconstruction + terms[0], kl + terms[1]
        n = len(self.held_out[0])
        return {
            "validation_elbo": (reconstruction - kl) / n,
            "validation_reconstruction": reconstruction / n,
            "validation_kl": kl / n,
        }

    def _validation_terms(self, rows: Tensor) -> tuple[float, float]:
        assert self.held_out is not None
        batch = take(self.held_out, rows, *self.device_and_dtype)
        before = checkpoint.random_state(self.devices)
        graph = self.graph
        terms = self.validation_objective.bound(graph.model, graph.guide, *batch).numbers()
        if not all(map(math.isfinite, terms)):  # a NaN would stay the best epoch: nothing is above
            checkpoint.set_random_state(before, self.devices)
            where = diagnose(self.svi, batch, rows, "validation data")
            self.fail(f"the validation ELBO is not finite: {where}")
        return terms

    def keep_best(self, at_target: bool) -> None:
        """Keep the weights if validation is the best so far; during warm-up none are kept."""
        if self.held_out is None or not at_target:
            return
        best, now = self.history.best_epoch, self.history.validation_elbo[-1]
        if best is None or now > self.history.validation_elbo[best - 1]:
            self.history.best_epoch, self.best = len(self.history.loss), self.good

    def step_scheduler(self) -> None:
        """Step the learning-rate scheduler."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            elbo = self.history.validation_elbo or self.history.elbo
            self.scheduler.step(-elbo[-1])
        elif self.scheduler is not None:
            self.scheduler.step()

    def decide(self) -> None:
        """Write into the history why the fit ends here, if it does."""
        self.history.stopped = self.ended()
        if self.arguments.callback is not None and self.arguments.callback(self.history):
            self.history.stopped = "the callback ended it"

    def ended(self) -> str:
        """Return why the fit ends after this epoch, empty if it goes on."""
        epoch, best, patience = len(self.history.loss), self.history.best_epoch, None
        if best is not None:
            patience = self.arguments.patience
        if epoch >= self.arguments.epochs:
            return "all epochs ran"
        if patience is not None and best is not None and epoch - best >= patience:
            return f"no better validation ELBO for {patience} epochs"
        return ""

    # --------------------------------------------------------------------------- when it diverges
    def fail(self, what: str) -> None:
        """Put the last good weights back, and raise an error that says what happened and where.

        Raises:
            TrainingError: always.
        """
        self.programs.put(self.best or self.good)
        kept = self.history.best_epoch or len(self.history.loss)
        raise TrainingError(
            f"step {self.position} of epoch {len(self.history.loss) + 1}: {what}. The graph holds "
            f"the weights {f'of epoch {kept}' if kept else 'that it began with'}. Try a smaller "
            "learning rate, clip_norm=, or a bounded scale in the likelihood or posterior",
            self.history,
        )
