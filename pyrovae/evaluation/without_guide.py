"""A graph whose guide is not asked, for estimates that draw from the prior alone.

q(z | x, c) = p(z | c)
"""

from types import SimpleNamespace
from typing import Any

from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyrovae.programs import Program, Site, check_density

__all__ = ["without_guide"]


def without_guide(graph: Any) -> Any:
    """Return a graph with the same model, whose guide is its prior."""
    if isinstance(graph, nn.Module):
        return _WithoutGuide(graph)
    return SimpleNamespace(model=graph.model, guide=_prior_of(graph.model))


class _WithoutGuide(nn.Module):
    """Hold the graph, whose parameters and modes an evaluation needs."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph
        model: Any = graph.model
        self.model, self.guide = model, _prior_of(model)


class _RefuseFlat(Messenger):
    """Refuse a latent that has no density to draw from, before it is drawn."""

    def _pyro_sample(self, msg: Site) -> None:
        if not msg["is_observed"]:
            check_density(msg)


def _prior_of(model: Program) -> Program:
    def prior(*batch: Tensor) -> None:
        with poutine.block(hide_fn=lambda msg: msg["is_observed"]), _RefuseFlat():
            model(*batch)

    return prior
