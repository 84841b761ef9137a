"""Weighted draws from the posterior p(z | y, c): the ways to infer the latents from a part of x.

encoder       z ~ q(z | x~), x~ filled in once, all with equal weights
importance    z ~ q(z | x~), w = p(z, y) / q(z | x~)
refine        z ~ N fitted to the row,  w = p(z, y) |dz/du| / N(u)
hmc           chains of Hamiltonian Monte Carlo from the draws of `importance`

In all but the first, x~ is E[x | y] from a few draws of the guide given the x~ before, repeated
(after Rezende et al. 2014, appendix F): hidden values that are zeros are far from what an encoder
was trained on, and a library size that a model reads from x~ must count the hidden genes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae.programs import Program, hmc
from pyrovae.tasks.refining import refined
from pyrovae.tasks.targets import Latents, Target

__all__ = ["METHODS", "MOST_COMPONENTS", "Effort", "Weighted", "resampled"]

_ROUNDS = 24  # of filling in: what a model reads of x~, such as its sum, must converge
_PER_ROUND = 16  # draws of the guide and of the prior each
_FIRST = 64  # draws of the guide and of the prior each, from which a refinement starts
MOST_COMPONENTS = 2 * _FIRST  # each starts from a draw of its own
_LEAPFROG = 10
_STEP_SIZE = 0.1


class Effort(NamedTuple):
    """How much is computed for each row.

    Attributes:
        draws: K, of x.
        samples: N, proposals.
        steps: of the refinement, or transitions of each chain.
        components: M, of the refinement.
    """

    draws: int
    samples: int
    steps: int
    components: int


class Weighted(NamedTuple):
    """Draws of the latents with weights.

    Attributes:
        target: of which they are draws, at the last x~.
        z: with shapes (N, B, *).
        log_w: with shape (N, B), up to a constant for each row.
        impossible: whether y has probability 0 at every draw, with shape (B,).
    """

    target: Target
    z: Latents
    log_w: Tensor
    impossible: Tensor

    @property
    def weights(self) -> Tensor:
        """The weights, with shape (N, B), which sum to one for each row."""
        return self.log_w.softmax(0)

    @property
    def effective_sample_size(self) -> Tensor:
        """(sum w)^2 / sum w^2 of each row, with shape (B,)."""
        return 1 / self.weights.square().sum(0)


def resampled(found: Weighted, draws: int) -> Latents:
    """Return draws with equal weights, with shapes (K, B, *)."""
    chosen = torch.multinomial(found.weights.T, draws, replacement=True).T  # (K, B)
    rows = torch.arange(chosen.shape[1], device=chosen.device)
    return {name: value[chosen, rows] for name, value in found.z.items()}


def _encoder(target: Target, effort: Effort) -> Weighted:
    z, log_q = target.drawn(target.graph.guide, effort.samples)
    return _weighed(target, z, torch.zeros_like(log_q))


def _importance(target: Target, effort: Effort) -> Weighted:
    return _proposed(_filled_in(target), effort.samples)


def _refine(target: Target, effort: Effort) -> Weighted:
    target = _filled_in(target)
    first = [target.drawn(part, _FIRST)[0] for part in (target.graph.guide, target.graph.model)]
    z = {name: torch.cat([part[name] for part in first]) for name in first[0]}
    coordinates = target.coordinates(z)

    def log_f(u: Tensor) -> Tensor:
        return target.log_joint(coordinates.sites(u)) + coordinates.log_det(u)

    normals = refined(log_f, coordinates.vector(z), effort.components, effort.steps)
    u = normals.sample(effort.samples)
    found = _weighed(target, coordinates.sites(u), log_f(u) - normals.log_prob(u))
    return _or_else(found, _proposed)


def _or_else(found: Weighted, propose: Callable[[Target, int], Weighted]) -> Weighted:
    """Return draws of another proposal for the rows that have none of positive density."""
    rows = found.impossible
    if not rows.any():
        return found
    other = propose(found.target, len(found.log_w))

    def either(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(rows.reshape(-1, *[1] * (a.dim() - 2)), a, b)

    z = {name: either(other.z[name], value) for name, value in found.z.items()}
    log_w = either(other.log_w, found.log_w)
    return Weighted(found.target, z, log_w, rows & other.impossible)


def _hmc(target: Target, effort: Effort) -> Weighted:
    target = _filled_in(target)
    proposed = _proposed(target, effort.samples)
    if proposed.impossible.any():
        return proposed
    start = resampled(proposed, effort.draws)
    size = target.batch[0].new_full((target.rows,), _STEP_SIZE)
    half = max(1, effort.steps // 2)
    given: dict[str, Any] = {
        "steps": half,
        "leapfrog": _LEAPFROG,
        "supports": target.supports(),
    }
    z, size = hmc.adapt(target.log_joint, start, step_size=size, **given)
    z, _ = hmc.sample(target.log_joint, z, step_size=size, **given)
    return _weighed(target, z, size.new_zeros(effort.draws, target.rows))


def _proposed(target: Target, samples: int) -> Weighted:
    """Return draws of the guide; of the prior where an encoder far off gives no finite density."""
    return _or_else(_drawn(target, target.graph.guide, samples), _from_prior)


def _from_prior(target: Target, samples: int) -> Weighted:
    return _drawn(target, target.graph.model, samples)


def _drawn(target: Target, program: Program, samples: int) -> Weighted:
    z, log_q = target.drawn(program, samples)
    return _weighed(target, z, target.log_joint(z) - log_q)


def _weighed(target: Target, z: Latents, log_w: Tensor) -> Weighted:
    """Return weighted draws: of weight 0 where a density is not finite, equal ones if all are 0."""
    log_w = log_w.nan_to_num(nan=-torch.inf, neginf=-torch.inf, posinf=-torch.inf)
    impossible = log_w.isneginf().all(0)
    return Weighted(target, z, torch.where(impossible, 0.0, log_w), impossible)


def _filled_in(target: Target) -> Target:
    """Return the target whose guide sees E[x | y], hidden values filled in."""
    for _ in range(_ROUNDS):
        found = _both(_proposed(target, _PER_ROUND), _from_prior(target, _PER_ROUND))
        x = target.mean(found.z, found.weights)
        target = target.given(torch.where(torch.isfinite(x), x, target.batch[0]))
    return target


def _both(one: Weighted, other: Weighted) -> Weighted:
    """Return the draws of two proposals, each of which has the posterior for its target."""
    z = {name: torch.cat([value, other.z[name]]) for name, value in one.z.items()}
    log_w = [torch.where(part.impossible, -torch.inf, part.log_w) for part in (one, other)]
    return _weighed(one.target, z, torch.cat(log_w))


METHODS: dict[str, Callable[[Target, Effort], Weighted]] = {
    "encoder": _encoder,
    "importance": _importance,
    "refine": _refine,
    "hmc": _hmc,
}
