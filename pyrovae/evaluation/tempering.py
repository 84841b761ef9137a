"""The way from a density that can be drawn from to the posterior, as functions of vectors that HMC can move.

f_t(z) = f_0(z)^(1 - t) f_1(z)^t,   f_1(z) = p(x, z),   f_0(z) = p(z | c) or q(z | x, c);   in u with z = T(u), each f times |dz/du|
"""

from typing import Any

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.evaluation.chunking import log_prob, many
from pyrovae.programs import check_density, hmc, total

__all__ = ["COPIES", "Path", "check_counts", "step_sizes_at_first"]

Tensors = tuple[Tensor, ...]

COPIES = (
    4  # what a pass holds of each site's numbers: a gradient keeps what its forward pass computed
)
_FIRST_STEP = 0.1  # where the search for step sizes starts, in the latents' unit


class Path:
    """log f_t over the latents of K x B chains, as one unconstrained vector u a chain, with shape (K, B, D).

    Args:
        graph: anything with `model` and `guide`.
        batch: (x, *c), B rows each.
        draws: K.
        from_guide: whether f_0 is q(z | x, c) or p(z | c).

    Raises:
        ValueError: if a latent has no density, is discrete, is shared by the rows, belongs to only one of the programs, or has
            two supports, of which the way from the guide would see one.
    """

    def __init__(self, graph: Any, batch: Tensors, draws: int, from_guide: bool) -> None:
        self.batch, self.draws, self.from_guide = batch, draws, from_guide
        self.model, self.guide = many(graph.model, draws), many(graph.guide, draws)
        p, q = programs.run(self.model, self.guide, *batch)
        latent = programs.sites(p, observed=False)
        for site in latent + programs.sites(q, observed=False):
            check_density(site)
        _check_pair(p, q, supports=from_guide)
        values = {site["name"]: site["value"] for site in latent}
        self.coordinates = hmc.Coordinates(
            values, {site["name"]: site["fn"].support for site in latent}, 2
        )

    def start(self) -> Tensor:
        """Draw u from f_0."""
        return self.drawn(self.guide if self.from_guide else self.model)

    def drawn(self, program: programs.Program) -> Tensor:
        """Draw u from the guide or the model."""
        trace = programs.record(program, *self.batch)
        return self.coordinates.vector(
            {name: trace[name]["value"] for name in self.coordinates.shapes}
        )

    def vector(self, z: dict[str, Tensor]) -> Tensor:
        """Return given latents of each row, with shapes (B, *event), as u of every chain."""
        return self.coordinates.vector(
            {name: value.expand(self.draws, *value.shape) for name, value in z.items()}
        )

    def ends(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return log f_0 and log f_1 at u, with shape (K, B) each."""
        p, det = self._run(self.model, u), self.coordinates.log_det(u)
        prior = self._sum(p, False)
        first = self._sum(self._run(self.guide, u), False) if self.from_guide else prior
        return first + det, prior + self._sum(p, True) + det

    def joint(self, u: Tensor) -> Tensor:
        """Return log f_1 at u, with shape (K, B): the guide, whose density may be zero there, is not asked."""
        p = self._run(self.model, u)
        return self._sum(p, False) + self._sum(p, True) + self.coordinates.log_det(u)

    def at(self, t: Any) -> Any:
        """Return u -> log f_t(u)."""

        def log_f(u: Tensor) -> Tensor:
            first, last = self.ends(u)
            return first + t * (last - first)

        return log_f

    def _run(self, program: programs.Program, u: Tensor) -> programs.Trace:
        given = programs.Trace(
            {name: {"value": value} for name, value in self.coordinates.sites(u).items()}
        )
        return programs.record(program, *self.batch, given=given)

    def _sum(self, trace: programs.Trace, observed: bool) -> Tensor:
        return total(log_prob(site, self.batch) for site in programs.sites(trace, observed))


def _check_pair(p: programs.Trace, q: programs.Trace, supports: bool) -> None:
    names = [{site["name"] for site in programs.sites(trace, observed=False)} for trace in (p, q)]
    if names[0] != names[1]:
        raise ValueError(
            f"annealing: the model's latents are {sorted(names[0])}, the guide's {sorted(names[1])}; expected the same"
        )
    for name in names[0] if supports else ():
        if not hmc.same_support(
            p[name]["fn"].support, q[name]["fn"].support, q[name]["value"], name
        ):
            raise ValueError(
                f'site "{name}": the prior lives on {p[name]["fn"].support}, the guide on {q[name]["fn"].support}, and annealing '
                "from the guide would stay there. Anneal from the prior (from_guide=False)"
            )


def step_sizes_at_first(u: Tensor) -> Tensor:
    """Return where the search for step sizes starts, one a row, with shape (B,)."""
    return torch.full_like(u[0, :, 0], _FIRST_STEP)


def check_counts(name: str, count: int, least: int, leapfrog: int) -> None:
    """Refuse numbers of temperatures, moves or leapfrog steps that do nothing: a ValueError."""
    if count < least or leapfrog < 1:
        raise ValueError(
            f"{name} is {count} and leapfrog {leapfrog}, expected at least {least} and 1"
        )
