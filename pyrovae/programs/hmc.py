"""Hamiltonian Monte Carlo for many independent chains, each with its own acceptance and step size.

H(z, v) = -log f(z) + v^T v / 2,   v ~ N(0, I)                                          the energy
v <- v + eps/2 grad log f(z);   z <- z + eps v;   v <- v + eps/2 grad log f(z)     a leapfrog step
z' accepted with probability min(1, exp(H(z, v) - H(z', v')))
                                                         (Duane et al. 1987; Neal 2011, figure 2)

Pyro's `HMC` and `NUTS` run one chain over all latents of a program: for B rows, that is a single
acceptance and a single step size for B unrelated posteriors, and K chains are K programs. Here each
of K x B chains is accepted on its own, and all run together.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pyro
import torch
from torch import Tensor

from pyrovae.programs.coordinates import Coordinates, same_support, transform_to_support

__all__ = [
    "Coordinates",
    "adapt",
    "adapted",
    "leapfrog_steps",
    "same_support",
    "sample",
    "transform_to_support",
    "transition",
]

Position = TypeVar("Position", Tensor, dict[str, Tensor])
Supports = Mapping[str, Any]
# Of the step size: a trajectory of fixed length can return to its start (Neal 2011, section 5.3.2).
_JITTER = 0.2
_ALONE = "z"  # the site's name where only a tensor is given


def sample(
    log_density: Callable[[Position], Tensor],
    z0: Position,
    *,
    steps: int = 10,
    leapfrog: int = 10,
    step_size: float | Tensor = 0.1,
    supports: Supports | None = None,
) -> tuple[Position, Tensor]:
    """Move every chain by a number of transitions that leave f invariant.

    Args:
        log_density: maps latents in the form of `z0` to log f, with shape (*), up to a constant per
            chain.
        z0: where the chains start: a tensor with shape (*, D), or a dict of sites with shapes
            (*, *event).
        steps: transitions.
        leapfrog: L, leapfrog steps a transition.
        step_size: eps, in units of the latents; a number, or a tensor that broadcasts to (*), such
            as `adapt` returns.
        supports: the constraint of each site whose support is not all of R^n; such a site moves in
            the coordinates of `biject_to`, and one on the circle goes round it.

    Returns:
        The last state of every chain, in the form of `z0` and without a gradient, and its mean
        acceptance probability, with shape (*).

    Raises:
        ValueError: if a number of steps is below 1, or a chain starts where f is not finite.

    Example:
        >>> def log_f(z):
        ...     return -z.square().sum(-1) / 2
        >>> z, acceptance = sample(log_f, torch.zeros(500, 3, 2), steps=20, step_size=0.3)
        >>> z.shape, acceptance.shape
        (torch.Size([500, 3, 2]), torch.Size([500, 3]))
    """
    _check(steps, leapfrog)
    log_f, u, back = _unconstrained(log_density, z0, supports or {})
    total = u.new_zeros(u.shape[:-1])
    # A trajectory that diverges is rejected; it must not stop the other chains by an error.
    with pyro.validation_enabled(False):
        for _ in range(steps):
            u, accepted = transition(log_f, u, step_size, leapfrog)
            total += accepted
    return back(u), total / steps


def adapt(
    log_density: Callable[[Position], Tensor],
    z0: Position,
    *,
    steps: int = 50,
    leapfrog: int = 10,
    step_size: float | Tensor = 0.1,
    target: float = 0.65,
    supports: Supports | None = None,
) -> tuple[Position, Tensor]:
    """Warm up: move the chains while their step sizes are adapted to an acceptance of `target`.

    log eps <- log eps + (acceptance - target) / sqrt(i) after transition i. While it adapts, the
    chain leaves f only approximately invariant; run `sample` with the step sizes that it returns.
    Source: Andrieu & Thoms 2008, section 5.1.

    Args:
        log_density: as for `sample`.
        z0: as for `sample`.
        steps: transitions.
        leapfrog: L.
        step_size: the first step sizes. Chains share one as its shape says: () all chains, (B,) the
            K chains of each row, (K, B) none.
        target: mean acceptance to reach; 0.65 is optimal for many dimensions (Neal 2011, section
            5.4.4).
        supports: as for `sample`.

    Returns:
        The chains' states, and the step sizes with the shape of `step_size`.

    Raises:
        ValueError: as `sample`.
    """
    _check(steps, leapfrog)
    log_f, u, back = _unconstrained(log_density, z0, supports or {})
    eps = torch.as_tensor(step_size, dtype=u.dtype, device=u.device)
    with pyro.validation_enabled(False):
        for i in range(1, steps + 1):
            u, accepted = transition(log_f, u, eps, leapfrog)
            eps = adapted(eps, accepted, i**-0.5, target)
    return back(u), eps


def adapted(eps: Tensor, accepted: Tensor, gain: float, target: float = 0.65) -> Tensor:
    """Return eps exp(gain (a - target)), a the mean acceptance of the chains with one step size."""
    mean = accepted.sum_to_size(eps.shape) * (eps.numel() / accepted.numel())
    return eps * torch.exp(gain * (mean - target))


def transition(
    log_f: Callable[[Tensor], Tensor], u: Tensor, step_size: float | Tensor, leapfrog: int
) -> tuple[Tensor, Tensor]:
    """Make one transition of every chain, with step sizes jittered by 20 %.

    Args:
        log_f: maps (*, D) to (*), defined on all of R^D.
        u: states, with shape (*, D).
        step_size: a number, or a tensor that broadcasts to (*).
        leapfrog: L.

    Returns:
        The next states, and the acceptance probability of each, with shape (*). A trajectory whose
        energy is not finite is rejected.
    """
    eps = step_size * torch.empty_like(u[..., 0]).uniform_(1 - _JITTER, 1 + _JITTER)
    v = torch.randn_like(u)
    u1, v1, gain = leapfrog_steps(log_f, u, v, eps, leapfrog)
    probability = (
        (gain + (v.square() - v1.square()).sum(-1) / 2)
        .nan_to_num(nan=-torch.inf)
        .clamp(max=0)
        .exp()
    )
    accepted = torch.rand_like(probability) < probability
    return torch.where(accepted[..., None], u1, u), probability


def leapfrog_steps(
    log_f: Callable[[Tensor], Tensor], u: Tensor, v: Tensor, eps: Tensor, leapfrog: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Integrate Hamilton's equations by L leapfrog steps.

    The map is reversible (negate v and integrate back), preserves volume, and changes H by an error
    of order eps^2 (Neal 2011, section 5.2.3).

    Returns:
        Position and momentum at the end, and log f(end) - log f(start), with shape (*).
    """
    eps = eps[..., None]
    first, gradient = _gradient(log_f, u)
    v = v + eps / 2 * gradient
    for _ in range(leapfrog - 1):
        u = u + eps * v
        v = v + eps * _gradient(log_f, u)[1]
    u = u + eps * v
    last, gradient = _gradient(log_f, u)
    return u, v + eps / 2 * gradient, last - first


def _gradient(log_f: Callable[[Tensor], Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
    """Return log f and its gradient in u, also under `no_grad`; parameters get no gradient."""
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        value = log_f(u)
        (gradient,) = torch.autograd.grad(value.sum(), u)
    return value.detach(), gradient


def _unconstrained(
    log_density: Callable[[Any], Tensor], z0: Any, supports: Supports
) -> tuple[Callable[[Tensor], Tensor], Tensor, Callable[[Tensor], Any]]:
    """Return log f of vectors, the first vectors, and the map from vectors to the form of `z0`."""
    alone = isinstance(z0, Tensor)
    values = {_ALONE: z0} if alone else dict(z0)
    with torch.no_grad():
        start = log_density(z0)
        if not torch.isfinite(start).all():
            bad = (~torch.isfinite(start)).nonzero()
            raise ValueError(
                f"hmc: {len(bad)} of {start.numel()} chains start where the density is zero or not "
                f"finite, the first at {tuple(bad[0].tolist())}; start them from draws of the "
                "guide or the prior"
            )
        coordinates = Coordinates(values, supports, start.dim(), periodic=True)
        u = coordinates.vector(values)

    def back(u: Tensor) -> Any:
        z = coordinates.sites(u)
        return z[_ALONE] if alone else z

    return lambda u: log_density(back(u)) + coordinates.log_det(u), u, back


def _check(steps: int, leapfrog: int) -> None:
    if steps < 1 or leapfrog < 1:
        raise ValueError(
            f"hmc: steps is {steps} and leapfrog {leapfrog}, expected at least 1 of each"
        )
