"""The loop under `pyrovae.fit`: epochs, validation, best weights, the state that a checkpoint keeps, and what to say of a NaN."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm

from pyrovae import programs
from pyrovae.data import Source, Transform, device_and_dtype, shuffled_batches, take
from pyrovae.files import History, checkpoint, in_words
from pyrovae.objectives import Bound, Objective
from pyrovae.training.batchnorm import settle
from pyrovae.training.divergence import TrainingError, culprit
from pyrovae.training.step import Step

__all__ = ["Loop", "Plan", "TrainingError"]

Tensors = tuple[Tensor, ...]
Sources = tuple[Source, ...]
_VALIDATED_AT_ONCE = 1024  # rows in one pass over validation data
_SETTLED = 64  # minibatches that batch normalization's statistics are taken over


@dataclass(frozen=True)
class Plan:
    """What the caller of `fit` asked for."""

    epochs: int
    batch_size: int
    transform: Transform | None
    patience: int | None
    checkpoint: str | Path | None
    callback: Callable[[History], bool | None] | None
    progress: bool


@dataclass
class Loop:
    """One fit under way: what it works on, and the state that a checkpoint keeps."""

    plan: Plan
    svi: Step
    training: Sources
    held_out: Sources | None
    history: History
    scheduler: LRScheduler | ReduceLROnPlateau | None
    position: int = 0  # minibatches done in the epoch under way
    sums: list[float] = field(
        default_factory=lambda: [0.0] * 4
    )  # over those: loss, reconstruction, kl; seconds
    best: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Work out what follows from the arguments."""
        self.graph, self.objective = self.svi.graph, self.svi.objective
        self.kind = device_and_dtype(self.graph, self.training)
        self.devices = programs.cuda_devices(self.graph)
        if self.devices:  # to the device once, not once a minibatch
            self.training = tuple(source.to(self.kind[0]) for source in self.training)
        self.steps_an_epoch = len(self.batches(0))
        self.good = self.svi.weights()

    # ------------------------------------------------------------------------------------------------------ the loop
    def run(self, interrupted: threading.Event) -> None:
        """Train until the epochs are done, patience or the callback ends it, or Ctrl-C was pressed."""
        modules = list(self.graph.modules()) if isinstance(self.graph, nn.Module) else []
        modes = [module.training for module in modules]
        done = len(self.history.loss) * self.steps_an_epoch + self.position
        total = self.plan.epochs * self.steps_an_epoch
        try:
            with tqdm(
                total=total, initial=done, unit="step", disable=None if self.plan.progress else True
            ) as bar:
                self.history.stopped = (
                    "" if len(self.history.loss) < self.plan.epochs else "all epochs ran"
                )
                while not self.history.stopped:
                    self.epoch(interrupted, bar)
        finally:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
        if self.best:
            self.svi.put(self.best)
        elif self.held_out is None or self.position:
            self.settle()

    def epoch(self, interrupted: threading.Event, bar: tqdm) -> None:
        """Run the rest of one epoch."""
        started = time.perf_counter()
        if isinstance(self.graph, nn.Module):
            self.graph.train()
        for rows in self.batches(len(self.history.loss))[self.position :]:
            self.step(rows)
            if bar.update():
                bar.set_postfix_str(self.progress(), refresh=False)
            if interrupted.is_set():
                self.history.stopped = "interrupted"
                self.sums[3] += time.perf_counter() - started
                self.save()
                return
        self.close_epoch(started)

    def batches(self, epoch: int) -> list[Tensor]:
        """Return the minibatches of an epoch: a function of seed and epoch, so that a resumed fit sees the same."""
        generator = torch.Generator().manual_seed((self.history.seed or 0) + epoch)
        return shuffled_batches(len(self.training[0]), self.plan.batch_size, generator)

    def batch(self, rows: Tensor) -> Tensors:
        """Return these rows of the data as the programs get them in training."""
        x, *c = take(self.training, rows, *self.kind)
        return (x if self.plan.transform is None else self.plan.transform(x), *c)

    def settle(self) -> None:
        """Take batch normalization's statistics at the present weights: what `eval()` uses would trail them."""
        settle(self.graph, self.batch, self.batches(0)[:_SETTLED])

    def step(self, rows: Tensor) -> None:
        """Take one step on these rows of the data."""
        batch = self.batch(rows)
        self.weight(self.position)
        before = checkpoint.random_state(self.devices)
        self.position += 1
        loss = self.svi.step(*batch)
        if not math.isfinite(loss):
            checkpoint.set_random_state(before, self.devices)
            self.fail(f"the loss is {loss}: {culprit(self.svi, batch, rows)}")
        rec, kl = self.svi.bound.numbers() if self.svi.bound else (math.nan, math.nan)
        self.sums[0] += loss * len(rows)
        self.sums[1] += rec
        self.sums[2] += kl

    def weight(self, position: int) -> float:
        """Set and return the KL's weight for a step of the epoch under way."""
        if not isinstance(self.objective, Objective):
            return 1.0
        last = self.plan.epochs * self.steps_an_epoch - 1
        done = len(self.history.loss) * self.steps_an_epoch + position
        return self.objective.at(min(1.0, done / last) if last else 1.0)

    def progress(self) -> str:
        """Return the ELBO and both its terms so far in this epoch."""
        rows = max(1, min(self.position * self.plan.batch_size, len(self.training[0])))
        rec, kl = self.sums[1] / rows, self.sums[2] / rows
        held_out = (
            f", validation {self.history.validation_elbo[-1]:.2f}"
            if self.history.validation_elbo
            else ""
        )
        return in_words(self.history.bound_name, rec, kl) + held_out

    # ------------------------------------------------------------------------------------------------ after an epoch
    def close_epoch(self, started: float) -> None:
        """Enter the epoch into the history, judge it, and decide whether to go on."""
        n = len(self.training[0])
        loss, rec, kl = (term / n for term in self.sums[:3])
        weight = self.weight(self.steps_an_epoch - 1)
        learning_rate = float(self.svi.optim.torch.param_groups[0]["lr"])
        name = self.svi.broken_parameter()
        if name:  # a gradient overflowed in the last step: the loss has not seen it yet
            self.fail(f"parameter {name} is not finite after it")
        held_out = self.validate()
        seconds = self.sums[3] + time.perf_counter() - started
        self.history.append(
            loss=loss,
            elbo=rec - kl,
            reconstruction=rec,
            kl=kl,
            beta=weight,
            learning_rate=learning_rate,
            seconds=seconds,
            **held_out,
        )
        self.position, self.sums = 0, [0.0] * 4
        self.good = self.svi.weights()
        self.judge(warm=weight != getattr(self.objective, "target", 1.0))
        self.schedule()
        self.decide()
        if self.plan.checkpoint is not None:
            self.save()

    def validate(self) -> dict[str, float]:
        """Return the ELBO on the validation data and its terms, a row, at beta = 1, under eval(), with the same noise each time."""
        if self.held_out is None:
            return {}
        self.settle()
        total = [0.0, 0.0]
        with programs.evaluation(self.graph):
            for rows in torch.arange(len(self.held_out[0])).split(_VALIDATED_AT_ONCE):
                batch, before = (
                    take(self.held_out, rows, *self.kind),
                    checkpoint.random_state(self.devices),
                )
                terms = self.bound(batch).numbers()
                if not all(
                    map(math.isfinite, terms)
                ):  # a NaN is never beaten: it would stay the best epoch
                    checkpoint.set_random_state(before, self.devices)
                    self.fail(
                        f"the validation ELBO is not finite: {culprit(self.svi, batch, rows, 'validation data')}"
                    )
                total = [before + term for before, term in zip(total, terms, strict=True)]
        rec, kl = (term / len(self.held_out[0]) for term in total)
        return {"validation_elbo": rec - kl, "validation_reconstruction": rec, "validation_kl": kl}

    def bound(self, batch: Tensors) -> Bound:
        """Return the bound at beta = 1; under an objective of Pyro's own its loss stands for the reconstruction."""
        if isinstance(self.objective, Objective):
            return self.objective.judge().bound(self.graph.model, self.graph.guide, *batch)
        return Bound(
            torch.tensor(-self.objective.loss(self.graph.model, self.graph.guide, *batch)), {}
        )

    def judge(self, warm: bool) -> None:
        """Keep the weights if none before were better; during warm-up none are kept."""
        if self.held_out is None or warm:
            return
        best, now = self.history.best_epoch, self.history.validation_elbo[-1]
        if best is None or now > self.history.validation_elbo[best - 1]:
            self.history.best_epoch, self.best = len(self.history.loss), self.good

    def schedule(self) -> None:
        """Move the learning rate on."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            elbo = self.history.validation_elbo or self.history.elbo
            self.scheduler.step(-elbo[-1])
        elif self.scheduler is not None:
            self.scheduler.step()

    def decide(self) -> None:
        """Say in the history why the fit ends here, if it does."""
        epoch, best = len(self.history.loss), self.history.best_epoch
        if self.plan.callback is not None and self.plan.callback(self.history):
            self.history.stopped = "the callback ended it"
        elif epoch >= self.plan.epochs:
            self.history.stopped = "all epochs ran"
        elif (
            self.plan.patience is not None
            and best is not None
            and epoch - best >= self.plan.patience
        ):
            self.history.stopped = f"no better validation ELBO for {self.plan.patience} epochs"

    # ----------------------------------------------------------------------------------------------- when it diverges
    def fail(self, what: str) -> None:
        """Put the last good weights back and raise an error that says what happened where, and what to try."""
        self.svi.put(self.best or self.good)
        kept = self.history.best_epoch or len(self.history.loss)
        raise TrainingError(
            f"step {self.position} of epoch {len(self.history.loss) + 1}: {what}. "
            f"The graph holds the weights {f'of epoch {kept}' if kept else 'it began with'}. "
            "Try a smaller learning rate, clip_norm=, or a bounded scale in the likelihood or posterior",
            self.history,
        )

    # ----------------------------------------------------------------------------------------------------- its state
    def save(self) -> None:
        """Write the state, from which `restore` goes on bit for bit."""
        if self.plan.checkpoint is None:
            return
        state: dict[str, Any] = {
            "history": self.history.to_dict(),
            "batch_size": self.plan.batch_size,
            "position": self.position,
            "sums": self.sums,
            "random": checkpoint.random_state(self.devices),
            "weights": self.svi.weights(),
            "best": self.best,
            "kind of optimizer": type(self.svi.optim.torch).__name__,
            "optimizer": self.svi.optim.torch.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler else None,
            "objective": self.objective.state() if isinstance(self.objective, Objective) else {},
        }
        checkpoint.write(Path(self.plan.checkpoint), state)

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `save` wrote.

        Raises:
            ValueError: if it belongs to other data or another batch size, or its weights do not fit the graph.
        """
        history = History.from_dict(state["history"])
        here = (self.history.data, self.plan.batch_size, type(self.svi.optim.torch).__name__)
        names = ("data", "batch_size", "optimizer")
        for name, was, now in zip(
            names,
            (history.data, state["batch_size"], state["kind of optimizer"]),
            here,
            strict=True,
        ):
            if was != now:
                what = f"resume: the checkpoint is of a fit with another {name} ({was}, here {now})"
                raise ValueError(f"{what}. Pass the same, or start anew without resume=")
        try:
            self.svi.put(state["weights"])
            self.svi.optim.torch.load_state_dict(state["optimizer"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise ValueError(
                f"resume: the checkpoint is of a fit with another graph or optimizer ({error}). Build the same ones"
            ) from error
        if self.scheduler and state["scheduler"]:
            self.scheduler.load_state_dict(state["scheduler"])
        if isinstance(self.objective, Objective):
            self.objective.put(state.get("objective", {}))
        self.history, self.position, self.sums = history, state["position"], state["sums"]
        self.good, self.best = self.svi.weights(), state["best"]
        checkpoint.set_random_state(state["random"], self.devices)
