"""Importance weights of each row and their uses.

log w_k = log p(x | z_k) - (log q(z_k | x) - log p(z_k)),  shape (K, B)

A minibatch of M rows that stands for N scales all densities by N / M. Terms per row are without
this factor, and a bound is multiplied by it: log mean_k w_k^(N / M) would be no bound of a row.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.objectives.base import Objective
from pyrovae.objectives.bounds import Bound
from pyrovae.programs import Site, Trace, total

__all__ = [
    "log_drawn",
    "log_guide",
    "log_joint",
    "log_latent",
    "log_model",
    "log_weights",
    "make_bound",
    "with_gradient_of",
]


def log_weights(p: Trace, q: Trace) -> tuple[Tensor, dict[str, Tensor]]:
    """Return log p(x | z_k), and log q(z_k | x) - log p(z_k) by latent site, shape (K, B) each.

    log w_k is their difference.
    """
    rec = total([_per_row(programs.log_prob(site), site, p) for site in programs.observed(p)])
    prior = programs.latent_by_name(p)
    kl = {
        name: _per_row(programs.sampled_kl(site, prior.get(name)), site, q)
        for name, site in programs.densities(q).items()
    }
    return rec, kl


def log_latent(trace: Trace) -> dict[str, Tensor]:
    """Return the log density of each latent site's value, shape (K, B)."""
    sites = programs.latent(trace)
    return {site["name"]: _per_row(programs.log_prob(site), site, trace) for site in sites}


def log_joint(p: Trace) -> Tensor:
    """Return log p(x, z_k), shape (K, B)."""
    sites = programs.latent(p) + programs.observed(p)
    return total([_per_row(programs.log_prob(site), site, p) for site in sites])


def log_drawn(q: Trace) -> Tensor:
    """Return the log density by which the guide draws z, shape (K, B): its gradient is the score.

    A handler's scale or mask weighs the density in a bound, and does not change the draw.
    """
    sites = programs.latent(q)
    return total([q.layout.per_row(site["fn"].log_prob(site["value"]), site) for site in sites])


def log_guide(q: Trace) -> Tensor:
    """Return log q(z_k | x) as the programs weigh it, shape (K, B), to be maximized."""
    return total(log_latent(q).values())


def _per_row(term: Tensor, site: Site, trace: Trace) -> Tensor:
    by_row = trace.layout.per_row(term, site)
    return by_row if isinstance(trace.scale, float) and trace.scale == 1 else by_row / trace.scale


def log_model(objective: Objective, rec: Tensor, p: Trace) -> Tensor:
    """Return log p(x | z_k) + beta * log p(z_k), shape (K, B).

    This is the part of log w that depends on the model's parameters.
    """
    return rec + objective.total_kl(log_latent(p))


def make_bound(
    p: Trace,
    rec: Tensor,
    kl: dict[str, Tensor],
    of_weights: Callable[[Tensor], Tensor],
    loss: Tensor,
) -> Bound:
    """Return a bound that is a function of the weights at beta = 1, with the loss that trains.

    It is reported as reconstruction minus the remainder. All are multiplied by the factor of the
    minibatch that the terms per row are without.
    """
    with torch.no_grad():
        mean, bound = rec.mean(0).sum(), of_weights(rec - total(kl.values())).sum()
    return Bound(mean, {"remainder": mean - bound}, loss).times(p.scale)


def with_gradient_of(surrogate: Tensor, value: Tensor) -> Tensor:
    """Return a tensor with this value and the surrogate's gradient."""
    return surrogate - surrogate.detach() + value.detach()
