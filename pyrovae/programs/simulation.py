"""Run a model forwards: what it observes is drawn, from latents that are drawn or given."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import pyro.distributions as dist
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae.programs.isolation import random_stream
from pyrovae.programs.traces import Program, Site, Trace, is_deterministic, latent, leaf, record

__all__ = ["Simulated", "look", "simulate", "simulated"]


class Simulated(NamedTuple):
    """The sites of a model that ran forwards, by name.

    Attributes:
        observed: the observed sites that were drawn.
        latent: the latent sites, drawn or given.
    """

    observed: dict[str, Site]
    latent: dict[str, Site]


class _Uncondition(Messenger):
    """Draw observed sites instead of observing them, as `poutine.uncondition` does for all."""

    def __init__(self, names: Collection[str] | None, context: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.names, self.context = names, context

    def _pyro_sample(self, msg: Site) -> None:
        if isinstance(leaf(msg["fn"]), dist.Unit):  # a factor, which draws nothing
            return
        if msg["is_observed"] and not is_deterministic(msg) and self._drawn(msg):
            msg["infer"]["was_observed"] = True
            msg["is_observed"], msg["value"], msg["done"] = False, None, False

    def _drawn(self, msg: Site) -> bool:
        if self.names is not None:
            return msg["name"] in self.names
        return not any(_share_values(msg["value"], part) for part in self.context)


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
) -> Simulated:
    """Run the model with its observed sites drawn, and return what they are drawn from.

    Args:
        model: a program of (x, *c).
        batch: (x, *c); of x most models use only the number of rows.
        given: values of latents by name; the others are drawn.
        observed: the only observed site to draw. By default all are, but a site that observes a
            context itself, such as the label of a semi-supervised model, which stays as given.

    Raises:
        ValueError: if the model has no latent, or observes no site, of a given name.
    """
    values = Trace({name: {"value": value} for name, value in (given or {}).items()})
    program = _Uncondition(None if observed is None else {observed}, batch[1:])(model)
    trace = record(program, *batch, given=values)
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
    return Simulated(drawn, latents)


def look(model: Program, *batch: Tensor) -> Simulated:
    """Return the sites of a model as `simulated` does, latents with a flat prior at zero.

    The random stream stays where it is.
    """
    devices = sorted({part.device.index for part in batch if part.device.type == "cuda"})
    with random_stream(0, devices), _Improper(batch[0]):
        return simulated(model, *batch)


def simulate(
    model: Program, *batch: Tensor, given: Mapping[str, Tensor] | None = None
) -> tuple[Site, list[Site]]:
    """Run the model with nothing observed; return the site of x, and the latent sites.

    Arguments are those of `simulated`.

    Raises:
        ValueError: if the model observes no site, or more than one, or has no latent of a given
            name.
    """
    drawn, latents = simulated(model, *batch, given=given)
    if len(drawn) != 1:
        raise ValueError(
            f"the model observes {list(drawn)}, expected one site, the guide's first argument, "
            "to simulate x from"
        )
    return next(iter(drawn.values())), list(latents.values())


def _share_values(value: Any, part: Tensor) -> bool:
    """Return whether an observed value is a context, or a view of it."""
    if not isinstance(value, Tensor) or not value.numel():
        return False
    return value.untyped_storage().data_ptr() == part.untyped_storage().data_ptr()
