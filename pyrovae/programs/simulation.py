"""Run a model forwards: what it observes is drawn, from latents that are drawn or given."""

from collections.abc import Callable, Collection, Mapping
from itertools import product
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae.programs.checks import check_all_rows
from pyrovae.programs.isolation import looking, random_stream
from pyrovae.programs.layout import Layout
from pyrovae.programs.plates import check_subsample
from pyrovae.programs.terms import log_prob
from pyrovae.programs.traces import Program, Site, Trace, is_deterministic, latent, leaf, record

__all__ = ["Simulated", "check_forwards", "look", "look_for_rows", "simulate", "simulated"]

_ROWS = 3, 5  # of a model that is looked at; no other plate of it follows both
_RUNS = 3  # that draw other latents, of which classes may be the same twice


class Simulated(NamedTuple):
    """The sites of a model that ran forwards, by name.

    Attributes:
        observed: the observed sites that were drawn.
        latent: the latent sites, drawn or given.
        unread: an example of the value of the observed site that no other site follows, by name.
    """

    observed: dict[str, Site]
    latent: dict[str, Site]
    unread: dict[str, Tensor]


class _Uncondition(Messenger):
    """Draw observed sites instead of observing them, as `poutine.uncondition` does for all."""

    def __init__(
        self,
        names: Collection[str] | None,
        batch: tuple[Tensor, ...],
        unread: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.names, self.batch, self.unread = names, batch, unread or {}

    def _pyro_sample(self, msg: Site) -> None:
        check_subsample(msg)
        if isinstance(leaf(msg["fn"]), dist.Unit):  # a factor, which draws nothing
            return
        if msg["is_observed"] and not is_deterministic(msg) and self._drawn(msg):
            msg["infer"]["was_observed"] = True
            msg["is_observed"], msg["value"], msg["done"] = False, None, False
            if msg["name"] in self.unread:
                shape = msg["fn"].batch_shape + msg["fn"].event_shape
                msg["value"], msg["done"] = self.unread[msg["name"]].new_zeros(shape), True

    def _drawn(self, msg: Site) -> bool:
        if self.names is not None:
            return msg["name"] in self.names
        return not _observes_context(msg["value"], self.batch)


class _Improper(Messenger):
    """Put latents without a proper prior at zero: only names and shapes are wanted."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.like = like

    def _pyro_sample(self, msg: Site) -> None:
        if msg["is_observed"] or msg["done"]:
            return
        try:
            msg["value"] = msg["fn"](*msg["args"], **msg["kwargs"])
        except NotImplementedError:
            msg["value"] = self.like.new_zeros(msg["fn"].batch_shape + msg["fn"].event_shape)
        msg["done"] = True


def simulated(
    model: Program,
    *batch: Tensor,
    given: Mapping[str, Tensor] | None = None,
    observed: str | None = None,
    unread: Mapping[str, Tensor] | None = None,
) -> Simulated:
    """Run the model with its observed sites drawn, and return what they are drawn from.

    Args:
        model: a program of (x, *c).
        batch: (x, *c); of x most models use only the number of rows.
        given: values of latents by name; the others are drawn.
        observed: the only observed site to draw. By default all are, but a site that observes a
            context itself, such as the label of a semi-supervised model, which stays as given.
        unread: examples of values by name, as found in another run: of observed sites that are
            zero instead of drawn, if no site follows them. Their distributions are what is wanted.

    Raises:
        ValueError: if the model has no latent, or observes no site, of a given name, or draws some
            of the rows by itself.
    """
    values = Trace({name: {"value": value} for name, value in (given or {}).items()})
    trace = _run_forwards(model, batch, values, observed, unread)
    if unread and not _is_last(trace, unread):  # another site may depend on its value
        trace = _run_forwards(model, batch, values, observed)
    check_all_rows(trace)
    sites = {site["name"]: site for site in latent(trace) if not is_deterministic(site)}
    drawn = {name: site for name, site in sites.items() if site["infer"].get("was_observed")}
    latents = {name: site for name, site in sites.items() if name not in drawn}
    unknown = [name for name in values if name not in latents]
    if unknown:
        raise ValueError(
            f'the model has no latent site "{unknown[0]}", it has {list(latents)}: name one of '
            "them by site="
        )
    if observed is not None and not drawn:
        others = [name for name, site in trace.items() if site["is_observed"]]
        raise ValueError(
            f'the model observes no site "{observed}", it observes {others}: name one of them by '
            "observed="
        )
    last = {name: site["value"] for name, site in drawn.items() if _is_last(trace, (name,))}
    return Simulated(drawn, latents, last)


def _is_last(trace: Trace, names: Collection[str]) -> bool:
    """Return whether no site follows those of these names."""
    places = [place for place, name in enumerate(trace) if name in names]
    return not places or places == [len(trace) - 1]


def look(model: Program, *batch: Tensor) -> Simulated:
    """Return the sites of a model as `simulated` does, latents with a flat prior at zero.

    The random stream stays where it is.
    """
    devices = sorted({part.device.index for part in batch if part.device.type == "cuda"})
    with random_stream(0, devices), _Improper(batch[0]):
        return simulated(model, *batch)


def look_for_rows(
    model: Program, rows: Callable[[int], tuple[Tensor, ...]]
) -> tuple[Simulated, Layout]:
    """Return the sites of a model that is looked at on few rows, and where its rows are.

    Args:
        model: a program of (x, *c).
        rows: returns (x, *c) of so many rows.
    """
    few = [look(model, *rows(n)) for n in _ROWS]
    plates = map(_plates_of_size, few, _ROWS)
    return few[0], Layout(_ROWS[0], plates=frozenset.intersection(*plates))


def _plates_of_size(found: Simulated, size: int) -> frozenset[str]:
    sites = (*found.latent.values(), *found.observed.values())
    frames = [frame for site in sites for frame in site["cond_indep_stack"]]
    return frozenset(frame.name for frame in frames if frame.vectorized and frame.size == size)


def simulate(model: Program, *batch: Tensor) -> tuple[Site, list[Site]]:
    """Run the model with nothing observed; return the site of x, and the latent sites.

    Arguments are those of `simulated`.

    Raises:
        ValueError: if the model observes no site, or more than one.
    """
    drawn, latents, _ = simulated(model, *batch)
    if len(drawn) != 1:
        raise ValueError(
            f"the model observes {list(drawn)}, expected one site, the guide's first argument, "
            "to simulate x from; a site that observes a context must observe that tensor itself, "
            "or a view of it, to be left out"
        )
    return next(iter(drawn.values())), list(latents.values())


def check_forwards(
    model: Program,
    *batch: Tensor,
    given: Mapping[str, Tensor] | None = None,
    factors: bool = True,
) -> None:
    """Refuse a model whose run forwards draws from no joint distribution of its sites.

    A factor, and a site that observes a context, weigh what is drawn before them: to draw given
    them takes the posterior. They do not where their densities are the same at several draws.

    The model's modules and the random stream do not change.

    Args:
        model: a program of (x, *c).
        batch: (x, *c).
        given: values of latents by name; the others are drawn.
        factors: whether factors count. One that is the density of an auxiliary variable, such as
            that of a `PoseVAE` with turns, integrates to one, and leaves p(x) as it is.

    Raises:
        ValueError: if such a density depends on a value that is drawn.
    """
    values = Trace({name: {"value": value} for name, value in (given or {}).items()})
    with looking(model, model, batch):
        first = _run_forwards(model, batch, values)
        kept = [name for name, site in first.items() if _weighs(site, batch, factors)]
        others = [_run_forwards(model, batch, values) for _ in range(_RUNS if kept else 0)]
    for name, other in product(kept, others):
        densities = log_prob(first[name]), log_prob(other[name])
        if not torch.allclose(*densities, rtol=1e-4, atol=1e-4, equal_nan=True):
            raise ValueError(
                f'site "{name}" is a factor, or observes the context, and depends on values that '
                "the model draws before it: a run forwards would draw as if it were not there. "
                "Give the latents that it depends on, leave it out by pyro.poutine.block, or give "
                "the model another observed value than the context itself, so that it is drawn too"
            )


def _run_forwards(
    model: Program,
    batch: tuple[Tensor, ...],
    values: Trace,
    observed: str | None = None,
    unread: Mapping[str, Tensor] | None = None,
) -> Trace:
    names = None if observed is None else {observed}
    return record(_Uncondition(names, batch, unread)(model), *batch, given=values)


def _weighs(site: Site, batch: tuple[Tensor, ...], factors: bool) -> bool:
    """Return whether a site has a density, and a value that is not drawn."""
    if isinstance(leaf(site["fn"]), dist.Unit):
        return factors
    return site["is_observed"] and _observes_context(site["value"], batch)


def _observes_context(value: Any, batch: tuple[Tensor, ...]) -> bool:
    """Return whether an observed value is a context, or a view of it, and none of x."""
    if not isinstance(value, Tensor) or not value.numel():
        return False
    x, *context = batch
    return not _within(value, x) and any(_within(value, part) for part in context)


def _within(value: Tensor, part: Tensor) -> bool:
    """Return whether the first and the last element of a tensor are also another's."""
    if value.untyped_storage().data_ptr() != part.untyped_storage().data_ptr():
        return False
    first = value.storage_offset()
    steps = (stride * (size - 1) for stride, size in zip(value.stride(), value.shape, strict=True))
    return _has_element(part, first) and _has_element(part, first + sum(steps))


def _has_element(part: Tensor, place: Any) -> bool:
    """Return whether an element of a tensor lies at a place in its storage."""
    rest = place - part.storage_offset()
    if rest < 0:
        return False
    for stride, size in sorted(zip(part.stride(), part.shape, strict=True), reverse=True):
        rest -= stride * min(rest // stride, size - 1) if stride else 0
    return bool(rest == 0)
