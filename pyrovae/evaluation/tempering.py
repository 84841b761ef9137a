"""Geometric annealing path from the prior or the guide to the posterior, in unconstrained vectors.

f_t(z) = f_0(z)^(1 - t) f_1(z)^t,   f_1(z) = p(x, z),   f_0(z) = p(z | c) or q(z | x, c)

HMC moves u with z = T(u); as a function of u, each f is multiplied by |dz/du|. Angles go round.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.evaluation.checking import check_rows
from pyrovae.programs import Layout, Program, Trace, hmc, total

__all__ = ["COPIES", "TemperedPath", "check_counts", "check_latents", "initial_step_sizes"]

Tensors = tuple[Tensor, ...]

COPIES = 4  # of each site's values in a run: a gradient keeps what its forward pass computed
_INITIAL_STEP_SIZE = 0.1  # in units of the latents


class TemperedPath:
    """log f_t over the latents of K x B chains, one unconstrained vector u each, shape (K, B, D).

    Args:
        graph: anything with `model` and `guide`.
        batch: (x, *c), B rows each.
        layout: how the K draws lie in a run.
        from_guide: whether f_0 is q(z | x, c) or p(z | c).

    Raises:
        ValueError: if a latent has no density, is discrete, is shared by the rows, belongs to only
            one of the programs, or the path starts at a guide with another support.
    """

    def __init__(self, graph: Any, batch: Tensors, layout: Layout, from_guide: bool) -> None:
        self.graph, self.batch, self.layout, self.from_guide = graph, batch, layout, from_guide
        p, q = programs.run(graph.model, graph.guide, *batch, layout=layout)
        for site in programs.latent(p) + programs.latent(q):
            programs.check_density(site)
        _check_pair(p, q, supports=from_guide)
        self.latent = programs.latent_by_name(p)
        values = {name: layout.by_row(site["value"], site) for name, site in self.latent.items()}
        supports = {name: programs.support_of(p[name]["fn"], q[name]["fn"]) for name in values}
        self.coordinates = hmc.Coordinates(values, supports, 2, periodic=True)

    def start(self) -> Tensor:
        """Draw u from f_0."""
        return self.drawn(self.graph.guide if self.from_guide else self.graph.model)

    def drawn(self, program: Program) -> Tensor:
        """Draw u from the guide or the model."""
        trace = programs.record(program, *self.batch, layout=self.layout)
        sites = {name: trace[name] for name in self.latent}
        return self.coordinates.vector(
            {name: self.layout.by_row(site["value"], site) for name, site in sites.items()}
        )

    def vector(self, z: dict[str, Tensor]) -> Tensor:
        """Return given latents of each row, shape (B, *), as u of every chain."""
        draws = self.layout.draws
        every = {name: value.expand(draws, *value.shape) for name, value in z.items()}
        return self.coordinates.vector(every)

    def ends(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return log f_0 and log f_1 at u, shape (K, B) each."""
        p, log_det = self._run(self.graph.model, u), self.coordinates.log_det(u)
        prior = self._latent(p)
        first = self._latent(self._run(self.graph.guide, u)) if self.from_guide else prior
        return first + log_det, prior + self._observed(p) + log_det

    def joint(self, u: Tensor) -> Tensor:
        """Return log f_1 at u, shape (K, B), without running the guide.

        The guide's density may be zero there.
        """
        p = self._run(self.graph.model, u)
        return self._latent(p) + self._observed(p) + self.coordinates.log_det(u)

    def at(self, t: float) -> Callable[[Tensor], Tensor]:
        """Return u -> log f_t(u)."""

        def log_f(u: Tensor) -> Tensor:
            first, last = self.ends(u)
            return first + t * (last - first)

        return log_f

    def _run(self, program: Program, u: Tensor) -> Trace:
        z = self.coordinates.sites(u)
        as_sites = {name: self.layout.as_site(z[name], site) for name, site in self.latent.items()}
        given = Trace({name: {"value": value} for name, value in as_sites.items()})
        return programs.record(program, *self.batch, given=given, layout=self.layout)

    @staticmethod
    def _latent(trace: Trace) -> Tensor:
        return total(programs.log_prob_of_rows(trace, site) for site in programs.latent(trace))

    @staticmethod
    def _observed(trace: Trace) -> Tensor:
        return total(programs.log_prob_of_rows(trace, site) for site in programs.observed(trace))


def _check_pair(p: Trace, q: Trace, supports: bool) -> None:
    of_model, of_guide = programs.latent_by_name(p), programs.latent_by_name(q)
    if of_model.keys() != of_guide.keys():
        raise ValueError(
            f"the model's latents are {sorted(of_model)}, the guide's "
            f"{sorted(of_guide)}; expected the same"
        )
    for name, site in of_guide.items() if supports else ():
        fns = of_model[name]["fn"], site["fn"]
        prior, guide = (programs.support_of(*order) for order in (fns, fns[::-1]))
        if not hmc.same_support(prior, guide, site["value"], name):
            raise ValueError(
                f'site "{name}": the prior has the support {prior}, the guide {guide}, which '
                "annealing from the guide would not leave. Anneal from the prior "
                "(from_guide=False)"
            )


def check_latents(p: Trace, q: Trace) -> None:
    """Refuse latents that belong to one of the programs only, or that the rows share."""
    _check_pair(p, q, supports=False)
    check_rows(p, q)


def initial_step_sizes(u: Tensor) -> Tensor:
    """Return the step size with which adaptation starts for each row, shape (B,)."""
    return torch.full_like(u[0, :, 0], _INITIAL_STEP_SIZE)


def check_counts(name: str, count: int, least: int, leapfrog: int) -> None:
    """Raise a ValueError if a number of temperatures, transitions or leapfrog steps is too low."""
    if count < least or leapfrog < 1:
        raise ValueError(
            f"{name} is {count} and leapfrog {leapfrog}, expected at least {least} and 1"
        )
