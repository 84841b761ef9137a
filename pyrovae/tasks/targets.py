"""The posterior of the latents given what is known of x, as a density over K draws of B rows.

log p(z, y | c) = log p(z | c) + log p(y | z, c),   z by name with shapes (K, B, *)
"""

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent
from torch.utils.checkpoint import checkpoint

from pyrovae import programs
from pyrovae.programs import Layout, Program, Trace, hmc, total
from pyrovae.tasks.measurements import Measurement, Place

__all__ = ["Latents", "Target", "values_of"]

Latents = dict[str, Tensor]  # of the model by name, with shape (K, B, *)
OfValues = Callable[[Any, Place], Tensor]

_AT_ONCE = 1 << 23  # numbers in one run, for each of its steps: 32 MiB in float32


class Target:
    """log p(z, y | c) of B rows, for any graph.

    Args:
        graph: anything with `model` and `guide`.
        batch: (x, *c), x being what the guide sees, with shape (B, *event).
        measurement: what is known of x.
        layout: how draws lie in a run.
        observed: name of the site of x; None for the only one.
        task: what errors call it.

    Raises:
        ValueError: if the site is not there, has another shape than x, or its distribution is not
            independent over the values.
    """

    def __init__(
        self,
        graph: Any,
        batch: tuple[Tensor, ...],
        measurement: Measurement,
        layout: Layout,
        observed: str | None,
        task: str,
    ) -> None:
        self.graph, self.batch, self.measurement = graph, batch, measurement
        self.rows, self.layout = len(batch[0]), layout
        p, _ = programs.run(graph.model, graph.guide, *batch, layout=self._layout(1))
        self.site = _site_of(p, batch[0], observed, task)
        self._latents: dict[int, dict[str, programs.Site]] = {}
        site = p[self.site]
        numbers = measurement.numbers_per_value(values_of(site["fn"]), _Place(p.layout, site))
        width = max(batch[0][0].numel() * numbers, 256)
        self.at_once = 1 if layout.separate else max(1, _AT_ONCE // (self.rows * width))

    def given(self, x: Tensor) -> "Target":
        """Return the same target with another x for the guide."""
        other = copy(self)
        other.batch = (x, *self.batch[1:])
        return other

    def drawn(self, program: Program, draws: int) -> tuple[Latents, Tensor]:
        """Draw the model's latents from the guide, or the model; and log q, shape (K, B)."""
        pieces, log_q = [], []
        names = list(self._latents_of(1))
        for start in range(0, draws, self.at_once):
            layout = self._layout(min(self.at_once, draws - start))
            trace = programs.record(program, *self.batch, layout=layout)
            log_q.append(
                total(programs.log_prob_of_rows(trace, site) for site in programs.latent(trace))
            )
            pieces.append(
                {name: layout.by_row(trace[name]["value"], trace[name]) for name in names}
            )
        return {name: torch.cat([z[name] for z in pieces]) for name in names}, torch.cat(log_q)

    def log_joint(self, z: Latents) -> Tensor:
        """Return log p(z, y | c), with shape (K, B).

        Where it takes several runs, their gradients run each once more and hold that one alone.
        """
        pieces = self._pieces(z)
        if len(pieces) > 1 and torch.is_grad_enabled():
            found = [checkpoint(self._log_joint_of, part, use_reentrant=False) for part in pieces]
        else:
            found = [self._log_joint_of(part) for part in pieces]
        return torch.cat(found)

    def log_measured(self, z: Latents, measurement: Measurement) -> Tensor:
        """Return log p(y' | z, c) of another measurement of x, with shape (K, B)."""
        return torch.cat([self._measured(trace, measurement) for trace in self._traces(z)])

    def mean(self, z: Latents, weights: Tensor) -> Tensor:
        """Return sum_k w_k E[x | z_k, y], with shape (B, *event), for weights with shape (K, B)."""
        pieces, done = [self.batch[0]], 0  # off it by 0 where x is known: that stays as it is
        for trace in self._traces(_of_weight(z, weights)):
            x = self._by_row(trace, self.measurement, self.measurement.mean)
            w = weights[done : done + len(x)]
            w = w.reshape(*w.shape, *[1] * (x.dim() - 2))
            pieces.append(torch.where(w > 0, w * (x - self.batch[0]), 0.0).sum(0))
            done += len(x)
        return total(pieces).to(pieces[0].dtype)

    def draw(self, z: Latents) -> Tensor:
        """Return x ~ p(x | z, y), with shape (K, B, *event)."""
        known = self.measurement
        return torch.cat([self._by_row(trace, known, known.draw) for trace in self._traces(z)])

    def coordinates(self, z: Latents) -> hmc.Coordinates:
        """Return the unconstrained coordinates of the latents."""
        return hmc.Coordinates(z, self.supports(), 2)

    def supports(self) -> dict[str, Any]:
        """Return the support of each latent."""
        sites = self._latents_of(1)
        return {name: programs.support_of(site["fn"]) for name, site in sites.items()}

    def discrete(self) -> str | None:
        """Return the name of a discrete latent, None if all are continuous."""
        found = (name for name, support in self.supports().items() if support.is_discrete)
        return next(found, None)

    def _traces(self, z: Latents) -> Iterator[Trace]:
        return (self._trace(part) for part in self._pieces(z))

    def _pieces(self, z: Latents) -> list[Latents]:
        """Return the draws of each run."""
        pieces = zip(*(value.split(self.at_once) for value in z.values()), strict=True)
        return [dict(zip(z, part, strict=True)) for part in pieces]

    def _log_joint_of(self, z: Latents) -> Tensor:
        return self._log_joint(self._trace(z))

    def _trace(self, z: Latents) -> Trace:
        draws = len(next(iter(z.values())))
        layout, sites = self._layout(draws), self._latents_of(draws)
        values = {name: layout.as_site(value, sites[name]) for name, value in z.items()}
        given = Trace({name: {"value": value} for name, value in values.items()})
        return programs.record(self.graph.model, *self.batch, given=given, layout=layout)

    def _latents_of(self, draws: int) -> dict[str, programs.Site]:
        """Return the model's latent sites as they lie in a run of so many draws."""
        alike = draws > 1 if self.layout.depth is not None else draws  # where the draws lie
        if alike not in self._latents:
            layout = self._layout(draws)
            with torch.no_grad():
                q = programs.record(self.graph.guide, *self.batch, layout=layout)
                p = programs.record(self.graph.model, *self.batch, given=q, layout=layout)
            self._latents[alike] = programs.latent_by_name(p)
        return self._latents[alike]

    def _layout(self, draws: int) -> Layout:
        return self.layout._replace(draws=draws, rows=self.rows)

    def _log_joint(self, trace: Trace) -> Tensor:
        observed = [site for site in programs.observed(trace) if site["name"] != self.site]
        terms = [
            programs.log_prob_of_rows(trace, site) for site in programs.latent(trace) + observed
        ]
        return total([*terms, self._measured(trace, self.measurement)])

    def _measured(self, trace: Trace, measurement: Measurement) -> Tensor:
        def masked(p: Any, place: Place) -> Tensor:
            terms, mask = measurement.log_prob(p, place), _mask_of(site["fn"])
            if mask is not None and measurement.rows_first:
                mask = _mask_of_rows(place.rows(mask.expand(p.batch_shape)), site["name"], terms)
            return terms if mask is None else torch.where(mask, terms, 0.0)

        site = trace[self.site]
        terms = self._by_row(trace, measurement, masked)
        return terms.flatten(2).sum(2) if terms.dim() > 2 else terms

    def _by_row(self, trace: Trace, measurement: Measurement, of_values: OfValues) -> Tensor:
        site, layout = trace[self.site], trace.layout
        try:
            values = of_values(values_of(site["fn"]), _Place(layout, site))
        except NotImplementedError as error:
            raise programs.named_error(error) from error
        return values if measurement.rows_first else layout.by_row(values, site)


class _Place:
    """Where a layout has the rows of a site."""

    def __init__(self, layout: Layout, site: programs.Site) -> None:
        self.layout, self.site = layout, site

    def __call__(self, rows: Tensor) -> Tensor:
        return self.layout.as_site(rows.expand(self.layout.draws, *rows.shape), self.site)

    def rows(self, values: Tensor) -> Tensor:
        return self.layout.by_row(values, self.site)


def _of_weight(z: Latents, weights: Tensor) -> Latents:
    """Return draws with those of weight 0, which need not be finite, replaced by the likeliest."""
    best, rows = weights.argmax(0), torch.arange(weights.shape[1], device=weights.device)

    def likeliest(value: Tensor) -> Tensor:
        counts = (weights > 0).reshape(*weights.shape, *[1] * (value.dim() - 2))
        return torch.where(counts, value, value[best, rows])

    return {name: likeliest(value) for name, value in z.items()}


def _site_of(trace: Trace, x: Tensor, name: str | None, task: str) -> str:
    """Return the name of the site that observes x.

    Raises:
        ValueError: if the model observes no such site, or several and none is named; or the site is
            of another shape than x, or not independent over its values.
    """
    sites = {site["name"]: site for site in programs.observed(trace)}
    if name is None and len(sites) > 1:  # beside x, a label that is given as context
        first = {key: trace.layout.rows_first(site["value"], site) for key, site in sites.items()}
        of_x = {key: site for key, site in sites.items() if _is_same(first[key], x)}
        sites = of_x or sites
    if name not in sites and not (name is None and len(sites) == 1):
        found = "none is named" if name is None else f'none is "{name}"'
        raise ValueError(
            f"{task}: the model observes {list(sites)}, and {found}: name the site of x by "
            "observed="
        )
    site = sites[name or next(iter(sites))]
    base, event = values_of(site["fn"]), _event_of(site, trace.layout)
    if base.event_shape:
        raise ValueError(
            f'{task}: the distribution {type(base).__name__} of site "{site["name"]}" is not '
            "independent over the values of x, so nothing is known of a part of them. Use a "
            "likelihood of independent values, such as likelihoods.Gaussian"
        )
    if event != tuple(x.shape[1:]):
        raise ValueError(
            f'{task}: site "{site["name"]}" has values of shape {event}, x {tuple(x.shape[1:])}: '
            "expected the same. Name another site by observed=, or give x in the model's shape"
        )
    return site["name"]


def _event_of(site: programs.Site, layout: Layout) -> tuple[int, ...]:
    """Return the shape of one row of a site's values."""
    return tuple(layout.rows_first(site["value"], site).shape[1:])


def _is_same(value: Any, x: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == x.shape and value.data_ptr() == x.data_ptr()


def values_of(fn: Any) -> Any:
    """Return the distribution of single values inside `Independent` and masks."""
    while isinstance(fn, Independent | MaskedDistribution):
        fn = fn.base_dist
    return fn


def _mask_of_rows(mask: Tensor, name: str, like: Tensor) -> Tensor:
    """Return a mask of the values of whole rows, to broadcast with a tensor (K, B, ...)."""
    of_values = mask.flatten(2) if mask.dim() > 2 else mask.unsqueeze(2)
    whole = of_values.all(2)
    if not torch.equal(whole, of_values.any(2)):
        raise ValueError(
            f'site "{name}" masks some values of a row, of which sums are given: the others alone '
            "have no such sum. Mask whole rows only"
        )
    return whole.reshape(*whole.shape, *[1] * (like.dim() - 2))


def _mask_of(fn: Any) -> Tensor | None:
    """Return which values the model itself observes, None if all."""
    mask = None
    while isinstance(fn, Independent | MaskedDistribution):
        if isinstance(fn, MaskedDistribution):  # Pyro has no public name for its mask
            part = torch.as_tensor(fn._mask)
            part = part.reshape(*part.shape, *[1] * len(fn.event_shape))
            mask = part if mask is None else mask & part
        fn = fn.base_dist
    return mask
