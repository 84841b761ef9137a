"""A pair of Pyro programs as a protocol, and as one module whose forward runs both."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import pyro
import torch
from pyro import poutine
from pyro.nn import PyroModule
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape
from torch import Tensor, nn

from pyrovae.programs.explained import explained
from pyrovae.programs.isolation import evaluation
from pyrovae.programs.layout import Layout
from pyrovae.programs.networks import buffers_of, networks_called
from pyrovae.programs.param_store import parameters_used
from pyrovae.programs.shapes import check_shape
from pyrovae.programs.terms import log_prob
from pyrovae.programs.traces import Trace, latent, mark_not_mean_field, observed, run, total

__all__ = ["Graph", "Programs"]

_PARAM = "pyro.param "  # how the names of parameters in Pyro's store begin in a state


@runtime_checkable
class Graph(Protocol):
    """Two Pyro programs of the same minibatch (x, *c): a model, and a guide to its latents.

    `pyrovae.VAE` is one, and so is any object with these two methods. It may also have
    `check(x, *c)`, which refuses data before training.
    """

    def model(self, x: Tensor, *c: Tensor) -> object:
        """Sample the latents from their priors, and observe x."""

    def guide(self, x: Tensor, *c: Tensor) -> object:
        """Sample the latents from their posteriors given x."""


def check_data(graph: Any, *data: Any) -> None:
    """Let the graph refuse (x, *c), if it has a `check`."""
    check = getattr(graph, "check", None)
    if check is not None:
        check(*data)


class Programs(nn.Module):
    """A graph as one module: its forward runs both programs on a minibatch.

    Whatever wraps a module and calls its forward can thus run a graph, whose own forward is never
    called: torch's `update_bn`, `DistributedDataParallel`, `torch.compile`.

    Args:
        graph: anything with `model` and `guide`, an `nn.Module` or not.
        function: maps (model, guide, *batch) to the output of forward. By default both traces; an
            objective's `differentiable_loss` gives a loss.

    Raises:
        TypeError: if the graph lacks one of the programs.
    """

    graph: Any

    def __init__(self, graph: Any, function: Callable[..., Any] = run) -> None:
        super().__init__()
        if not isinstance(graph, Graph):
            raise TypeError(
                f"graph: got a {type(graph).__name__}, expected an object with two Pyro programs, "
                "model(x, *c) and guide(x, *c)"
            )
        self.graph, self.function = graph, function
        self._stored: dict[str, Tensor] = {}  # parameters in Pyro's store, unconstrained
        self._networks: tuple[nn.Module, ...] = ()  # that are no part of the graph

    def forward(self, *batch: Tensor) -> Any:
        """Run the function on both programs and a minibatch (x, *c)."""
        return self.function(self.graph.model, self.graph.guide, *batch)

    def validate(self, check: Callable[[Trace, Trace], None], *batch: Tensor) -> None:
        """Run both programs once under Pyro's validation, and find their parameters.

        Args:
            check: called with the traces of model and guide, before their densities are computed.
            batch: one minibatch (x, *c).

        Raises:
            ValueError: from `check`, or from Pyro, which refuses values outside a support, and
                shapes that need a plate or `to_event`.
            TypeError: if a site's distribution is not one of Pyro's.
        """
        _check_arguments(self.graph, batch)
        with evaluation(self.graph), pyro.validation_enabled(True), explained(batch):
            with networks_called() as called:
                guide = poutine.trace(self.graph.guide).get_trace(*batch)
                replayed = poutine.replay(self.graph.model, trace=guide)
                model = poutine.trace(replayed).get_trace(*batch)
            own = set(self.modules())
            self._networks = tuple(network for network in called if network not in own)
            self._find_stored(model, guide, called)
            p, q = (_sample_sites(trace, len(batch[0])) for trace in (model, guide))
            mark_not_mean_field(p, q)
            for site in observed(p):
                check_shape(site, batch[0])
            check(p, q)
            any_nesting: Any = math.inf  # of plates; Pyro's annotation says int
            check_model_guide_match(model, guide, any_nesting)
            for trace in (prune_subsample_sites(model), prune_subsample_sites(guide)):
                trace.compute_log_prob()
                for site in trace.nodes.values():
                    if site["type"] == "sample":
                        check_site_shape(site, any_nesting)

    def _find_stored(self, model: Any, guide: Any, called: Sequence[nn.Module]) -> None:
        own = {id(parameter) for parameter in self.parameters()}
        sites = {
            name: site
            for trace in (model, guide)
            for name, site in trace.nodes.items()
            if site["type"] == "param"
        }
        for name, parameter in parameters_used(sites, (self, *called)).items():
            if id(parameter) not in own:
                self._stored[name] = parameter

    def untrained_network(self, *batch: Tensor) -> str | None:
        """Return the class of a network whose parameters `trainable` leaves out, None if none is.

        Such a network is no part of the graph and in no slot of Pyro's store. It is known after
        `validate`. One whose parameters need no gradient, or get none on the minibatch (x, *c), as
        under `torch.no_grad`, is meant to be constant.
        """
        known = {id(tensor) for tensor in (*self.parameters(), *self._stored.values())}
        outside = [
            (type(network).__name__, parameter)
            for network in self._networks
            for parameter in network.parameters()
            if parameter.requires_grad and id(parameter) not in known
        ]
        moved = self._have_gradients([parameter for _, parameter in outside], batch)
        names = (name for (name, _), moves in zip(outside, moved, strict=True) if moves)
        return next(names, None)

    def unsampled_prior(self) -> str | None:
        """Return the name of a `PyroSample` of a `PyroModule` that was never called, if any.

        Where a program reads it outside a call, Pyro draws a value and makes no site of it. It is
        known after `validate`.
        """
        for name, module in self.graph.named_modules() if isinstance(self.graph, nn.Module) else ():
            priors = module._pyro_samples if isinstance(module, PyroModule) else ()
            if priors and not module._pyro_context.used:
                return ".".join(filter(None, (name, next(iter(priors)))))
        return None

    def _have_gradients(self, tensors: list[Tensor], batch: tuple[Tensor, ...]) -> list[bool]:
        """Return whether the densities of a minibatch have a gradient in each tensor."""
        if not tensors:
            return []
        try:
            with evaluation(self.graph), torch.enable_grad():
                traces = run(self.graph.model, self.graph.guide, *batch)
                sites = [site for trace in traces for site in latent(trace) + observed(trace)]
                terms = total(log_prob(site).sum() for site in sites)
                found = torch.autograd.grad(terms, tensors, allow_unused=True)
        except Exception:  # as of cuDNN's recurrent networks, which have none in eval() mode
            return [True] * len(tensors)
        return [gradient is not None for gradient in found]

    def trainable(self) -> list[Tensor]:
        """Return the parameters that training moves: the graph's, and those in Pyro's store.

        The latter are known after `validate`.
        """
        return list(self.named_trainable().values())

    def named_trainable(self) -> dict[str, Tensor]:
        """Return what `trainable` does by name, as the graph or Pyro's store names it."""
        graph = self.graph
        named = graph.named_parameters() if isinstance(graph, nn.Module) else ()
        own = {name: parameter for name, parameter in named if parameter.requires_grad}
        return {**own, **self._stored}

    def stored_names(self) -> list[str]:
        """Return the names of the parameters in Pyro's store; known after `validate`."""
        return list(self._stored)

    def named_tensors(self) -> dict[str, Tensor]:
        """Return all parameters and buffers by name, those outside the graph too."""
        own = self.graph.state_dict() if isinstance(self.graph, nn.Module) else {}
        return {**own, **self._outside()}

    def _outside(self) -> dict[str, Tensor]:
        """Return parameters in Pyro's store, and buffers of networks that are no part."""
        stored = {_PARAM + name: tensor for name, tensor in self._stored.items()}
        return {**stored, **buffers_of(self._networks)}

    def state(self) -> dict[str, Tensor]:
        """Return a copy of `named_tensors`."""
        return {name: tensor.detach().clone() for name, tensor in self.named_tensors().items()}

    def put(self, state: dict[str, Tensor]) -> None:
        """Copy a state back.

        Raises:
            RuntimeError: if a tensor's name or shape does not fit the graph.
        """
        outside = self._outside()
        if isinstance(self.graph, nn.Module):
            own = {name: value for name, value in state.items() if name not in outside}
            self.graph.load_state_dict(own)
        with torch.no_grad():
            for name, tensor in outside.items():
                tensor.copy_(state[name])

    def broken_parameter(self) -> str | None:
        """Return the name of the first tensor that is not finite, None if there is none."""
        tensors = self.named_tensors().items()
        floating = {name: t.detach() for name, t in tensors if t.is_floating_point()}
        finite = [t.isfinite().all() for t in floating.values()]
        places = {flag.device for flag in finite}
        if all(torch.stack([f for f in finite if f.device == at]).all() for at in places):
            return None  # found out by one wait for each device
        return next(name for name, good in zip(floating, finite, strict=True) if not good)


def _check_arguments(graph: Any, batch: tuple[Tensor, ...]) -> None:
    """Raise a TypeError if a program does not take as many arguments as the data have members."""
    for name in ("model", "guide"):
        try:
            inspect.signature(getattr(graph, name)).bind(*batch)
        except TypeError as error:
            raise TypeError(
                f"{type(graph).__name__}.{name} does not take x and {len(batch) - 1} contexts, as "
                f"the data have them ({error}). Drop the context from the data, or add it to model "
                "and guide; a list is (x, *c), a list of minibatches is passed as iter(batches)"
            ) from error
        except ValueError:  # a program without a signature
            continue


def _sample_sites(trace: Any, rows: int) -> Trace:
    """Return the sample sites of one of Pyro's traces as ours."""
    nodes = trace.nodes.items()
    sites = Trace({name: node for name, node in nodes if node["type"] == "sample"})
    sites.layout = Layout(rows)
    return sites
