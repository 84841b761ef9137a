"""Pyro's SVI with one torch optimizer over all parameters, and a step that costs what the mathematics costs.

Pyro's own step walks every parameter through its handlers twice, keeps one optimizer a tensor, fills gradients with zeros
and adds to them. Here the parameters are found once, one (fused) optimizer holds them all, and gradients are dropped.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.optim import Optimizer

from pyrovae import programs
from pyrovae.objectives import Bound, Objective
from pyrovae.programs import parameters_held

__all__ = ["OneOptimizer", "Step", "adam", "parameters"]

MakeOptimizer = Callable[[Any], Optimizer]  # parameters -> torch optimizer


def adam(parameters: Iterable[Tensor]) -> Optimizer:
    """Return Adam at a step size of 1e-3 (Kingma & Ba 2015), in torch's fused form, which is one kernel for all tensors."""
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


class OneOptimizer(PyroOptim):
    """One torch optimizer over all parameters, under the interface of a `PyroOptim`.

    Args:
        make: parameters -> torch optimizer; a class such as `torch.optim.Adagrad`, or `functools.partial(torch.optim.SGD, lr=0.1)`.
        parameters: what it is to optimize.

    Raises:
        TypeError: if `make` does not return a torch optimizer.
    """

    def __init__(self, make: MakeOptimizer, parameters: list[Tensor]) -> None:
        super().__init__(make, {})
        self.torch = make(parameters) if callable(make) else make
        if not isinstance(self.torch, Optimizer):
            raise TypeError(
                f"optimizer: got {make!r}, expected a callable from parameters to a torch optimizer, "
                "e.g. torch.optim.Adagrad or functools.partial(torch.optim.SGD, lr=0.1)"
            )

    def __call__(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Take one step with the gradients as they stand."""
        self.torch.step()


class Step(SVI):
    """Pyro's `SVI` whose step takes the gradient of the *mean* loss a row, with one optimizer.

    The mean, so that Adam's eps, weight decay and clipping mean the same for every batch size.

    Args:
        graph: an object with `model` and `guide`, an `nn.Module` or not.
        objective: an estimator of this library's, or any of Pyro's.
        make_optimizer: parameters -> torch optimizer.
        batch: one minibatch, on which the programs are checked and their parameters found.
        clip_norm: bound on the norm of the whole gradient; None for none.
    """

    def __init__(
        self,
        graph: Any,
        objective: Any,
        make_optimizer: MakeOptimizer,
        batch: tuple[Tensor, ...],
        clip_norm: float | None = None,
    ) -> None:
        self.parameters = parameters(graph, objective, *batch)
        super().__init__(
            graph.model, graph.guide, OneOptimizer(make_optimizer, self.parameters), loss=objective
        )
        self.graph, self.objective, self.clip_norm = graph, objective, clip_norm
        self.held = parameters_held(graph)
        _let_the_allocator_keep_memory()
        self.bound: Bound | None = None  # of the last step; None under an objective of Pyro's

    def step(self, *batch: Tensor, **_: object) -> float:
        """Take one step on a minibatch and return the mean loss a row.

        A loss that is not finite is returned before any weight moves.
        """
        loss = (
            self._own_gradients(batch)
            if isinstance(self.objective, Objective)
            else self._pyro_gradients(batch)
        )
        if loss - loss == 0:  # finite
            if self.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
            self.optim(self.parameters)
        for parameter in self.parameters:
            parameter.grad = None
        return loss

    def _own_gradients(self, batch: tuple[Tensor, ...]) -> float:
        rows = len(batch[0])
        with self.held:
            self.bound = self.objective.bound(self.model, self.guide, *batch)
        loss = self.objective.weighted(self.bound, rows) / (self.objective.data_size or rows)
        value = loss.item()
        if value - value == 0:
            loss.backward()
        return value

    def _pyro_gradients(self, batch: tuple[Tensor, ...]) -> float:
        rows = len(batch[0])
        loss = self.loss_and_grads(self.model, self.guide, *batch)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        torch._foreach_div_(gradients, rows)
        return (sum(loss) if isinstance(loss, tuple) else loss) / rows

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the graph's state, or of the parameters found in Pyro's store."""
        if isinstance(self.graph, nn.Module):
            return {
                name: tensor.detach().clone() for name, tensor in self.graph.state_dict().items()
            }
        return {str(i): tensor.detach().clone() for i, tensor in enumerate(self.parameters)}

    def put(self, weights: dict[str, Tensor]) -> None:
        """Copy such a state back."""
        if isinstance(self.graph, nn.Module):
            self.graph.load_state_dict(weights)
            return
        with torch.no_grad():
            for i, tensor in enumerate(self.parameters):
                tensor.copy_(weights[str(i)])

    def broken_parameter(self) -> str | None:
        """Return the name of the first parameter that is not finite."""
        named = self.graph.named_parameters() if isinstance(self.graph, nn.Module) else ()
        names = {id(tensor): name for name, tensor in named}
        broken = (tensor for tensor in self.parameters if not torch.isfinite(tensor).all())
        return next((names.get(id(tensor), "in Pyro's store") for tensor in broken), None)


def _let_the_allocator_keep_memory() -> None:
    """Free one block as large as glibc adapts to (32 MiB): from then on it keeps what a step frees for the next one.

    Until a program has freed a large block, glibc hands arrays of a step back to the system at once, and takes them, page by
    page, anew: for a minibatch of counts that was half of the step.
    """
    torch.empty((32 << 20) - (64 << 10), dtype=torch.uint8)


def parameters(graph: Any, objective: Any, *batch: Tensor) -> list[Tensor]:
    """Check the pair of programs on one minibatch, with Pyro's validation on, and return what there is to train.

    Raises:
        ValueError: if there is nothing to train, or the programs do not fit each other (see `pyrovae.traces.check_sites`).
    """
    with programs.evaluation(graph), pyro.validation_enabled(True):
        q = poutine.trace(graph.guide).get_trace(*batch)
        p = poutine.trace(poutine.replay(graph.model, trace=q)).get_trace(*batch)
        if isinstance(objective, Objective):
            objective.check(
                *programs.run(graph.model, graph.guide, *batch), objective.needs_rsample
            )
            Trace_ELBO()._get_trace(graph.model, graph.guide, batch, {})
    found = {id(parameter): parameter for parameter in _trainable(graph, p, q)}
    if not found:
        raise ValueError(
            f"{type(graph).__name__} has no parameters to train: make the graph an nn.Module that holds its networks"
        )
    return list(found.values())


def _trainable(graph: object, *programs: poutine.Trace) -> Iterator[Tensor]:
    if isinstance(graph, nn.Module):
        yield from (parameter for parameter in graph.parameters() if parameter.requires_grad)
    for trace in programs:
        for site in trace.nodes.values():
            if site["type"] == "param":
                value: Any = site["value"]
                yield value.unconstrained()
