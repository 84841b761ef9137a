"""Stochastic variational inference with one torch optimizer over all parameters.

theta, phi  <-  optimizer step along grad (1 / M) sum_i loss(x_i)

It does what Pyro's `SVI` does, with little overhead beyond the forward and the backward pass: the
parameters are found once instead of at every step, one (fused) optimizer holds them all instead of
one each, and gradients are dropped after a step instead of filled with zeros.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae.objectives import Objective
from pyrovae.programs import modes_restored, parameters_held
from pyrovae.training.averaging import WeightAverage
from pyrovae.training.batchnorm import one_row_explained
from pyrovae.training.checking import check_programs
from pyrovae.training.clipping import ClipNorm, Clipping
from pyrovae.training.compiled import CompiledBackward, check_compilable
from pyrovae.training.distributed import Processes
from pyrovae.training.optimization import (
    LearningRate,
    MakeOptimizer,
    frozen,
    make_optimizer,
    modules_named,
    named_by,
)
from pyrovae.training.precision import BFloat16Products, TF32Products
from pyrovae.training.results import Result, Several, Unread, can_read_late
from pyrovae.training.synchronized import synchronized
from pyrovae.training.threads import Products, threads_for

__all__ = ["FusedSVI", "Optimization"]

Tensors = tuple[Tensor, ...]


class Optimization(NamedTuple):
    """How the parameters are moved; the arguments of `pyrovae.fit` of the same names."""

    optimizer: MakeOptimizer
    learning_rate: LearningRate = None
    freeze: Collection[str] = ()
    clip_norm: ClipNorm = None
    precision: str | None = None
    ema: float | None = None
    compile: bool = False


class FusedSVI:
    """A graph, an objective and one optimizer; `step` takes the gradient of the mean loss.

    Args:
        graph: an object with `model` and `guide`, an `nn.Module` or not.
        objective: the bound and its estimator.
        optimization: the optimizer, and what goes with it.
        batch: one minibatch, on which the programs are checked and their parameters found.
        measure: measure the gradient's norm at every step, clipped or not.
        processes: that train the graph together; they begin with the first one's weights.

    Attributes:
        optimization: what was given.
        parameters: the tensors that are trained.
        measures: whether the gradient's norm is measured at every step.
        constant: the modules that are held constant.
        frozen_names: the parameters that are held constant.
        average: their moving average, if there is one.
        reads_late: whether a step need not wait for its device, see `step_unread`.
        products: multiplications of a minibatch's forward pass, as far as they are known.

    Raises:
        ValueError: if there is nothing to train, or the programs do not fit each other.
        TypeError: if `graph` lacks a program, or there is no torch optimizer.
    """

    def __init__(
        self,
        graph: Any,
        objective: Objective,
        optimization: Optimization,
        batch: Tensors,
        measure: bool = False,
        processes: Processes | None = None,
    ) -> None:
        self.processes = processes or Processes()
        self._stand_in = tuple(part[:2] for part in batch)
        self.graph, self.objective, self.optimization = graph, objective, optimization
        with Products() as products:
            self.programs = check_programs(graph, objective, *batch)
        named = self.programs.named_trainable()
        weights = sum(parameter.numel() for parameter in named.values())
        self.products = max(products.total, weights * len(batch[0]))  # each once a row at least
        self.processes.share_first(list(self.programs.named_tensors().values()))
        held = {name for part in optimization.freeze for name in named_by(part, named, "freeze")}
        moved = {name: value for name, value in named.items() if name not in held}
        if not moved:
            raise ValueError(f"fit: freeze={optimization.freeze} leaves no parameter to train")
        self._named, self.frozen_names = named, held
        self.constant = modules_named(graph, optimization.freeze)
        self.parameters = objective.parameters = list(moved.values())
        self.optimizer = make_optimizer(optimization.optimizer, moved, optimization.learning_rate)
        self.clipping = Clipping(optimization.clip_norm)
        self.measures = measure or optimization.clip_norm is not None
        ema = optimization.ema
        self.average = None if ema is None else WeightAverage(self.parameters, ema)
        alone = self.processes.size == 1
        self.reads_late = alone and can_read_late(self.optimizer, self.parameters)
        self._lost: Tensor | None = None
        self._products = _products(optimization.precision, graph)
        self._held = nullcontext() if objective.needs_param_sites else parameters_held(graph)
        self._compiled: CompiledBackward | None = None
        if optimization.compile:
            check_compilable(self.programs, objective, self.processes.size)
            self._compiled = CompiledBackward(self.programs, objective, self.parameters)

    @contextmanager
    def in_training(self) -> Iterator[None]:
        """Context of all steps; afterwards modes, threads and what needs a gradient are as before.

        Gradients that a caller's backward pass left, or a step that was interrupted, are dropped.
        The parameters that are held constant get no gradient, batch normalization looks at the rows
        of all processes, and torch takes as many threads as a step is worth.
        """
        constant = frozen(self._named, self.frozen_names)
        together = synchronized(self.programs, self.processes)
        with modes_restored(self.programs), constant, together, threads_for(self.products):
            self._drop_gradients()
            try:
                yield
            finally:
                self._stop_at(None)
                self._drop_gradients()

    def step(self, *batches: Tensors) -> Result:
        """Take one step on one or more minibatches; the gradient is the mean over all their rows.

        A minibatch is empty, (), if all its rows are other processes'.

        A loss or a measured gradient that is not finite is returned before any weight changes.
        """
        with self._held, self._products, one_row_explained():
            result = self._of_all_processes(self._found(batches).read())
        norm = math.nan
        if math.isfinite(result.loss):
            norm = self.clipping.clip(self.parameters).item() if self.measures else norm
            if math.isfinite(norm) or not self.measures:
                self._move()
        self._drop_gradients()
        return result._replace(gradient_norm=norm)

    def step_unread(self, *batches: Tensors) -> Several:
        """Take one step as `step` does, and do not wait for its device.

        From the first loss or measured gradient on that is not finite, no step changes a weight.
        """
        with self._held, self._products, one_row_explained():
            found = self._found(batches)
        if self.measures:
            found = found.measured(self.clipping.clip(self.parameters))
        self._stop_at(found.lost(self._lost))
        self._move()
        self._drop_gradients()
        return found

    def _stop_at(self, lost: Tensor | None) -> None:
        """Give the optimizer a number on its device with which it changes no weight if it is 1.

        `torch.amp.GradScaler` gives it to fused optimizers in the same way.
        """
        if lost is not None or self._lost is not None:
            self._lost = self.optimizer.found_inf = lost  # type: ignore[attr-defined]

    def _drop_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    def _move(self) -> None:
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        self.forget_rounded_weights()

    @staticmethod
    def forget_rounded_weights() -> None:
        """Clear what a caller's `torch.autocast` keeps: it would use the weights of before."""
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            torch.clear_autocast_cache()

    def _found(self, batches: Sequence[Tensors]) -> Several:
        """Return what the objective finds in a step's minibatches, and leave their gradients."""
        return Several([self._one(batches[0])] if len(batches) == 1 else self._summed(batches))

    def _one(self, batch: Tensors) -> Unread:
        found = self._computed(batch)
        if batch:
            return found
        self._drop_gradients()
        nothing = torch.zeros(2 + len(found.sites))
        return Unread(0, found.sites, nothing, nothing, None)

    def _computed(self, batch: Tensors) -> Unread:
        """Return what the objective finds in a minibatch, and leave the gradients."""
        present = self.present(batch)
        if self._compiled is not None and self._compiled.takes(present):
            loss, bound = self._compiled(*present)
        else:
            loss, bound = self.objective.backward(self.graph.model, self.graph.guide, *present)
        return Unread.of(len(present[0]), loss, bound)

    def present(self, batch: Tensors) -> Tensors:
        """Return a minibatch, or for an empty one some rows that count for nothing.

        The programs run in every process, since batch normalization waits for all of them.
        """
        self.processes.rows = len(batch[0]) if batch else 0
        return batch or self._stand_in

    def _of_all_processes(self, result: Result) -> Result:
        """Return what all processes found, and give the parameters the mean gradient."""
        if self.processes.size == 1:
            return result
        numbers = [result.loss * result.rows, result.reconstruction, *result.kl.values()]
        present = [parameter.grad is not None for parameter in self.parameters]
        sums = self.processes.sums([result.rows, *numbers, *present])
        rows, loss, reconstruction = int(sums[0]), sums[1] / sums[0], sums[2]
        kl = dict(zip(result.kl, sums[3:], strict=False))
        if math.isfinite(loss):
            fraction = result.rows / rows
            self.processes.average_gradients(self.parameters, fraction, sums[-len(present) :])
            self._average_learned(fraction)
        return Result(rows, loss, reconstruction, kl)

    def _average_learned(self, fraction: float) -> None:
        """Give the objective the mean of what it learned in the processes, such as a baseline."""
        learned = self.objective.state_dict()
        if learned:
            values = [fraction * float(value) for value in learned.values()]
            means = zip(learned.items(), self.processes.sums(values), strict=True)
            self.objective.load_state_dict({name: _like(old, new) for (name, old), new in means})

    def _summed(self, batches: Sequence[Tensors]) -> list[Unread]:
        """Leave the gradients of the mean over all rows; they need one more copy of the weights."""
        rows = sum(len(batch[0]) for batch in batches if batch)
        sums: list[Tensor | None] = [None] * len(self.parameters)
        parts = list[Unread]()
        for batch in batches:
            parts.append(self._one(batch))
            fraction = parts[-1].rows / max(1, rows)
            for i, parameter in enumerate(self.parameters):
                sums[i] = _plus(sums[i], parameter.grad, fraction)
                parameter.grad = None
        for parameter, gradient in zip(self.parameters, sums, strict=True):
            parameter.grad = gradient
        return parts


def _products(precision: str | None, graph: object) -> AbstractContextManager:
    """Return the context in which a step multiplies in the precision asked for."""
    if precision == "tf32":
        return TF32Products()
    return nullcontext() if precision is None else BFloat16Products(graph)


def _like(old: Any, new: float) -> Any:
    """Return a number as what it replaces: a number or a tensor."""
    return torch.full_like(old, new) if isinstance(old, Tensor) else new


def _plus(total: Tensor | None, gradient: Tensor | None, fraction: float) -> Tensor | None:
    """Return total + fraction * gradient, where None is nothing."""
    if gradient is None:
        return total
    return gradient * fraction if total is None else total.add_(gradient, alpha=fraction)
