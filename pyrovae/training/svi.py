"""Stochastic variational inference with one torch optimizer over all parameters.

theta, phi  <-  optimizer step along grad (1 / M) sum_i loss(x_i)

It does what Pyro's `SVI` does, with little overhead beyond the forward and the backward pass: the
parameters are found once instead of at every step, one (fused) optimizer holds them all instead of
one each, and gradients are dropped after a step instead of filled with zeros.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pyrovae.objectives import Bound, Objective
from pyrovae.programs import Programs, parameters_held

__all__ = ["FusedSVI", "MakeOptimizer", "adam", "check_programs"]

MakeOptimizer = Callable[[Any], Optimizer]  # parameters -> torch optimizer


def adam(parameters: Iterable[Tensor]) -> Optimizer:
    """Return Adam with a learning rate of 1e-3 (Kingma & Ba 2015), fused into one kernel."""
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


class FusedSVI:
    """A graph, an objective and one optimizer; `step` takes the gradient of the mean loss.

    Args:
        graph: an object with `model` and `guide`, an `nn.Module` or not.
        objective: the bound and its estimator.
        make_optimizer: parameters -> torch optimizer; a class such as `torch.optim.Adagrad`, or
            `functools.partial(torch.optim.SGD, lr=0.1)`.
        batch: one minibatch, on which the programs are checked and their parameters found.
        clip_norm: bound on the norm of the whole gradient; None for none.

    Raises:
        ValueError: if there is nothing to train, or the programs do not fit each other.
        TypeError: if `graph` lacks a program, or `make_optimizer` does not return an optimizer.
    """

    def __init__(
        self,
        graph: Any,
        objective: Objective,
        make_optimizer: MakeOptimizer,
        batch: tuple[Tensor, ...],
        clip_norm: float | None = None,
    ) -> None:
        self.graph, self.objective, self.clip_norm = graph, objective, clip_norm
        self.programs = check_programs(graph, objective, *batch)
        self.parameters = objective.parameters = self.programs.trainable()
        self.optimizer = _made(make_optimizer, self.parameters)
        self._held = nullcontext() if objective.needs_param_sites else parameters_held(graph)

    def step(self, *batch: Tensor) -> tuple[float, Bound]:
        """Take one step on a minibatch; return the mean loss per observation, and the bound.

        A loss that is not finite is returned before any weight changes.
        """
        with self._held:
            loss, bound = self.objective.backward(self.graph.model, self.graph.guide, *batch)
        if math.isfinite(loss):
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
            self.optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None
        return loss, bound


def check_programs(graph: Any, objective: Objective, *batch: Tensor) -> Programs:
    """Check that an objective can train a graph, on one minibatch and under Pyro's validation.

    Returns:
        The programs, with their parameters found.

    Raises:
        ValueError: if there is nothing to train, or the programs do not fit each other (see
            `programs.check_sites`).
        TypeError: if the graph lacks a program.
    """
    programs = Programs(graph)
    programs.validate(lambda p, q: objective.check(p, q, objective.needs_rsample), *batch)
    if not programs.trainable():
        raise ValueError(
            f"{type(graph).__name__} has no parameters to train: make the graph an nn.Module that "
            "holds its networks"
        )
    return programs


def _made(make_optimizer: Any, parameters: list[Tensor]) -> Optimizer:
    optimizer = make_optimizer(parameters) if callable(make_optimizer) else make_optimizer
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer: got {make_optimizer!r}, expected a callable from parameters to a torch "
            "optimizer, e.g. torch.optim.Adagrad or functools.partial(torch.optim.SGD, lr=0.1)"
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError(
            "optimizer: LBFGS evaluates the loss several times a step and expects the same value "
            "each time, which draws and minibatches do not give. Use a first-order optimizer such "
            "as torch.optim.Adam, or a loop of your own with objective.differentiable_loss"
        )
    return optimizer
