"""The loss of a graph and its gradients as one compiled function of tensors.

(loss, reconstruction, KL of each site, gradients) = f(parameters, buffers, minibatch, beta)

Pyro's handlers, which torch's compiler cannot read, run once: torch's tracer writes down the tensor
operations of both programs, of the bound and of the backward pass, and these are compiled. It
traces with tensors that hold no values, so that a program whose course depends on values is
refused, never compiled wrong. Random numbers are drawn by the same calls as without compiling.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pyrovae.objectives import Bound, Objective
from pyrovae.programs import Layout, Programs
from pyrovae.training.tracing import (
    PLAIN,
    Attribute,
    CompileError,
    hooks_that_compute,
    in_every_place,
    plain_attributes,
    reason_of,
    unchanged,
)

__all__ = ["CompiledBackward", "check_compilable"]

Tensors = tuple[Tensor, ...]


def check_compilable(programs: Programs, objective: Objective, processes: int) -> None:
    """Raise a ValueError if a fit cannot be compiled, as far as it is known before tracing."""
    kind, graph = type(objective), programs.graph
    if processes > 1:
        raise CompileError(f"{processes} processes exchange numbers within a step")
    if not isinstance(graph, nn.Module) or not _holds_all(graph, programs):
        raise CompileError(
            "a network or parameter is not in the graph, or Pyro's parameter store has one of that "
            "name from another graph; make the graph an nn.Module that holds all, clear the store"
        )
    if kind.backward is not Objective.backward or objective.state_dict():
        raise CompileError(f"{kind.__name__} has a backward pass or a state of its own")


def _holds_all(graph: nn.Module, programs: Programs) -> bool:
    """Whether the tensors of a graph's programs are its own, if only by another name."""
    own = {id(tensor) for tensor in (*graph.parameters(), *graph.buffers())}
    names = graph.state_dict().keys()
    return all(
        name in names or id(tensor) in own for name, tensor in programs.named_tensors().items()
    )


class CompiledBackward:
    """`Objective.backward` for minibatches of one shape, that of the first one.

    Args:
        programs: the graph's, checked by `check_compilable`.
        objective: the bound and its estimator.
        parameters: those that get a gradient.
    """

    def __init__(self, programs: Programs, objective: Objective, parameters: list[Tensor]) -> None:
        self.objective, self.moved = objective, parameters
        self.programs = Programs(programs.graph, self._bound)
        self._traced: Any = copy.copy(objective)
        self._sites: list[str] = []
        self._compiled: Any = None
        self._layout: Layout | None = None
        self._shapes: list[Any] | None = None
        self._attributes: list[Attribute] = []

    def takes(self, batch: Tensors) -> bool:
        """Whether a minibatch has the shape that is compiled; the first one may have any."""
        return self._shapes is None or self._shapes == _shapes(batch)

    def __call__(self, *batch: Tensor) -> tuple[Tensor, Bound]:
        """Give the parameters their gradients, and return the mean loss and the bound.

        Raises:
            ValueError: if the programs cannot be traced, or not be compiled, at the first call;
                or at one of the next, if weights that have moved show that rows are mixed.
        """
        graph = self.programs.graph
        layout = self.objective.layout(graph.model, graph.guide, *batch)  # looked for again
        if layout == self._layout:
            self._check_attributes()
            return self._run(batch)
        self._layout, self._attributes = layout, self._found_attributes()
        try:
            self._compile(batch)
            return self._run(batch)
        except CompileError:
            raise
        except Exception as error:  # of the tracer, of torch's compiler, or of that of C++
            raise CompileError(reason_of(error)) from error

    def _check_attributes(self) -> None:
        for now, then, name in self._attributes:
            if (value := now()) != then:
                if not isinstance(then, PLAIN):
                    raise CompileError(f"{name} changed since it was compiled")
                raise CompileError(
                    f"{name} was {then!r} when it was compiled and is {value!r} now; make it a "
                    "buffer (register_buffer) that is changed in place"
                )

    def _found_attributes(self) -> list[Attribute]:
        """Return what is compiled in and must stay as it is."""
        found = plain_attributes(self.programs, self.objective)
        moved = self.moved
        frozen = Attribute(
            lambda: [each.requires_grad for each in moved], [True] * len(moved), "requires_grad"
        )
        return [*found, frozen]

    def _run(self, batch: Tensors) -> tuple[Tensor, Bound]:
        beta = torch.tensor(self.objective.current_beta, dtype=torch.double)
        parameters, buffers = self._tensors()
        with torch.no_grad():
            loss, reconstruction, kl, gradients = self._compiled(parameters, buffers, batch, beta)
        _give(self.moved, gradients, (*parameters.values(), *buffers.values(), *batch))
        return loss, Bound(reconstruction, dict(zip(self._sites, kl, strict=True)))

    def _compile(self, batch: Tensors) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx

        layout = self._layout
        self._traced.layout = lambda *_: layout  # it is found from values

        def function(parameters: Any, buffers: Any, batch: Tensors, beta: Tensor) -> Any:
            return self._function(parameters, buffers, batch, beta)

        trace = make_fx(function, tracing_mode="fake")  # refuses tensors that are no arguments
        with unchanged(self.programs), hooks_that_compute(self.programs):
            arguments = *self._tensors(), batch, torch.ones((), dtype=torch.double)
            traced, again = trace(*arguments), trace(*arguments)
        if traced.code != again.code or not all(
            map(torch.equal, *map(_constants, (traced, again)))
        ):
            raise CompileError("what Python computes in a step is not the same at each step")
        options: dict[str, Any] = {"fallback_random": True}
        self._compiled = torch.compile(traced, dynamic=False, options=options)
        self._shapes = _shapes(batch)

    def _tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return dict(self.programs.named_parameters()), dict(self.programs.named_buffers())

    def _function(
        self,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        batch: Tensors,
        beta: Tensor,
    ) -> tuple[Tensor, Tensor, list[Tensor], tuple[Tensor | None, ...]]:
        """Return the mean loss, the terms of the bound, and the gradients."""
        objective, traced, rows = self.objective, self._traced, len(batch[0])
        if callable(objective.beta) or type(objective).at is not Objective.at:
            traced.current_beta = beta
        tensors = in_every_place(self.programs, {**parameters, **buffers})
        bound = functional_call(self.programs, tensors, batch, tie_weights=False)
        self._sites, kl = list(bound.kl), list(bound.kl.values())
        loss = traced.loss_of(bound, rows) / (objective.data_size or rows)
        names = {id(own): name for name, own in self.programs.named_parameters()}
        wanted = [parameters[names[id(own)]] for own in self.moved]
        return loss, bound.reconstruction, kl, torch.autograd.grad(loss, wanted, allow_unused=True)

    def _bound(self, model: Any, guide: Any, *batch: Tensor) -> Bound:
        """Return the bound, if no buffer was replaced: the compiled function would lose it."""
        before = dict(self.programs.named_buffers())
        bound = self._traced.bound_of_rows(model, guide, *batch)
        for name, buffer in self.programs.named_buffers():
            if buffer is not before.get(name):
                raise CompileError(f"the buffer {name} is replaced; change it in place")
        return bound


def _give(parameters: list[Tensor], gradients: Tensors, given: Tensors) -> None:
    """Give parameters their gradients, by way of the hooks that are registered on them.

    Each lies in memory of its own and as the parameter does, as autograd leaves them: a fused
    optimizer minds no strides but the parameter's, and clipping changes gradients in place.

    Args:
        parameters: those that are trained.
        gradients: theirs, None where the loss does not depend on one.
        given: the tensors that the compiled function was given, of which a gradient may be one.
    """
    taken = {tensor.untyped_storage().data_ptr() for tensor in given}
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            place = gradient.untyped_storage().data_ptr()
            if place in taken or gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)
            taken.add(place)
        if gradient is None or not (
            parameter._backward_hooks or parameter._post_accumulate_grad_hooks
        ):
            parameter.grad = gradient
        else:
            torch.autograd.backward(parameter, gradient)  # which calls them


def _constants(traced: Any) -> list[Tensor]:
    """Return the tensors that a traced function holds, such as those made from NumPy arrays."""
    return [getattr(traced, node.target) for node in traced.graph.nodes if node.op == "get_attr"]


def _shapes(batch: Tensors) -> list[Any]:
    return [(part.shape, part.dtype) for part in batch]
