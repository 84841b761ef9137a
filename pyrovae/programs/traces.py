"""Run the guide and the model once, and keep their sample sites.

    z ~ guide(x),   then the model at that z

Objectives, evaluation and tasks read everything else from the two traces, so they serve every pair
of Pyro programs, whoever wrote it.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import reduce
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import SineBivariateVonMises, constraints
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import TransformedDistribution, VonMises

from pyrovae.distributions import CIRCLE
from pyrovae.programs.layout import Layout
from pyrovae.programs.plain import is_plain
from pyrovae.programs.plates import check_callable
from pyrovae.programs.unimplemented import named_error

__all__ = [
    "Program",
    "Site",
    "StopGradient",
    "Trace",
    "densities",
    "is_deterministic",
    "latent",
    "latent_by_name",
    "leaf",
    "mark_not_mean_field",
    "observed",
    "record",
    "run",
    "support_of",
    "total",
]

Site = Any  # a node of a Pyro trace, a dict: name, fn, value, scale, mask, is_observed, ...
Program = Callable[..., object]
StopGradient = Callable[[Tensor], Tensor]


class Trace(dict[str, Site]):
    """Sample sites by name in the order of sampling, and the layout of their draws.

    Attributes:
        layout: where rows and draws are.
        scale: the factor of all log densities that their terms per row are divided by.
    """

    layout: Layout
    scale: Any = 1.0


class _Recorder(Messenger):
    """Record a program's sample sites, with the latent ones at given values.

    It does the work of `poutine.trace` and `poutine.replay` without copying each site.
    """

    def __init__(self, given: Trace | None, stop_gradient: StopGradient | None) -> None:
        super().__init__()
        self.given, self.stop_gradient, self.trace = given or Trace(), stop_gradient, Trace()

    def _pyro_sample(self, msg: Site) -> None:
        check_callable(msg)
        if not msg["is_observed"] and msg["name"] in self.given:
            msg["done"], msg["value"] = True, self.given[msg["name"]]["value"]

    def _pyro_post_sample(self, msg: Site) -> None:
        if self.stop_gradient and not msg["is_observed"] and not site_is_subsample(msg):
            msg["drawn"], msg["value"] = msg["value"], self.stop_gradient(msg["value"])
        self.trace[msg["name"]] = msg


def record(
    program: Program,
    *batch: Tensor,
    given: Trace | None = None,
    layout: Layout | None = None,
    stop_gradient: StopGradient | None = None,
) -> Trace:
    """Run one program and return its trace.

    Args:
        program: a model or a guide.
        batch: (x, *c), B rows each.
        given: values for the latents that it names.
        layout: how several draws lie in the run; None is one draw.
        stop_gradient: replaces each draw by `stop_gradient(draw)`, such as `Tensor.detach`; the
            site keeps the draw itself as "drawn".

    Raises:
        NotImplementedError: if a site's distribution cannot be drawn from, or expanded to a plate.
    """
    layout = layout or Layout(len(batch[0]))
    program, batch = layout.applied(program, batch)
    try:
        if is_plain() and not stop_gradient:
            trace = _plain_record(program, batch, given)
        else:
            with _Recorder(given, stop_gradient) as recorder:
                program(*batch)
            trace = recorder.trace
    except NotImplementedError as error:
        raise named_error(error) from error
    trace.layout = layout
    return trace


def _plain_record(program: Program, batch: tuple[Tensor, ...], given: Trace | None) -> Trace:
    replayed = poutine.Trace()
    for name, site in (given or {}).items():
        replayed.add_node(name, **{"type": "sample", "is_observed": False, "infer": {}, **site})
    nodes = poutine.trace(poutine.replay(program, trace=replayed)).get_trace(*batch).nodes
    return Trace({name: node for name, node in nodes.items() if node["type"] == "sample"})


def run(
    model: Program,
    guide: Program,
    *batch: Tensor,
    layout: Layout | None = None,
    stop_gradient: StopGradient | None = None,
) -> tuple[Trace, Trace]:
    """Draw the latents from the guide, run the model at them, and return (model's, guide's) trace.

    Arguments are those of `record`.
    """
    q = record(guide, *batch, layout=layout, stop_gradient=stop_gradient)
    p = record(model, *batch, given=q, layout=layout)
    mark_not_mean_field(p, q)
    return p, q


def mark_not_mean_field(p: Trace, q: Trace) -> None:
    """Mark the guide's sites whose prior may depend on a latent that the guide draws after them.

    In z2 -> z1 -> x with q(z1 | x) q(z2 | z1), E log q(z1) / p(z1 | z2) over (z1, z2) ~ q is not
    KL(q(z1) || p(z1 | z2)): z2 was drawn given that very z1.
    """
    drawn = [site["name"] for site in latent(q)]
    of_model = [site["name"] for site in latent(p)]
    if drawn == of_model:  # as in most graphs
        return
    for i, name in enumerate(drawn):
        parents = of_model[: of_model.index(name)] if name in of_model else []
        q[name]["not_mean_field"] = not set(parents) <= set(drawn[:i])


def latent(trace: Trace) -> list[Site]:
    """Return the latent sample sites of a trace in their order, without those of plates."""
    sites = [site for site in trace.values() if not site["is_observed"]]
    return [site for site in sites if not site_is_subsample(site)]


def latent_by_name(trace: Trace) -> dict[str, Site]:
    """Return the latent sample sites of a trace by name."""
    return {site["name"]: site for site in latent(trace)}


def densities(trace: Trace) -> dict[str, Site]:
    """Return what a guide's log density is the sum of, by name: its latents, and its factors.

    A factor of the guide (`pyro.factor(..., has_rsample=True)`) counts as one of log q.
    """
    return {site["name"]: site for site in latent(trace) + observed(trace)}


def observed(trace: Trace) -> list[Site]:
    """Return the observed sample sites of a trace in their order, without `pyro.deterministic`."""
    sites = [site for site in trace.values() if site["is_observed"]]
    return [site for site in sites if not is_deterministic(site)]


def is_deterministic(site: Site) -> bool:
    """Return whether the site is a `pyro.deterministic`, which has a value and no density."""
    return bool(site["infer"].get("_deterministic"))  # how Pyro 1.9 marks pyro.deterministic


def total(terms: Iterable[Tensor]) -> Tensor:
    """Return the sum of tensors."""
    return reduce(torch.add, terms)


def leaf(fn: Any) -> Any:
    """Return the distribution inside all wrappers such as `Independent`."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def support_of(*fns: Any) -> Any:
    """Return the support that the first of some distributions states, all of R^n if none does.

    A distribution need not state one, such as a wrapped flow of zuko's. Of von Mises distributions
    it is the circle, where torch states the real line, over which their mass is infinite.
    """
    for fn in fns:
        with suppress(NotImplementedError, AttributeError):
            support = fn.support
            if not _is_von_mises(fn):
                return support
            events = support.event_dim
            return constraints.independent(CIRCLE, events) if events else CIRCLE
    return constraints.real


def _is_von_mises(fn: Any) -> bool:
    while hasattr(fn, "base_dist") and not isinstance(fn, TransformedDistribution):
        fn = fn.base_dist
    return isinstance(fn, VonMises | SineBivariateVonMises)
