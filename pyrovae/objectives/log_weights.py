"""Importance weights of each row, log w_k = log p(x | z_k) - (log q(z_k | x) - log p(z_k)), with shape (K, B), and their uses."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.objectives.base import Bound, Objective
from pyrovae.programs import Trace, per_row, total

__all__ = [
    "log_latent",
    "log_mean_exp",
    "log_weights",
    "of_model",
    "report",
    "weighed",
    "with_gradient_of",
]


def log_weights(p: Trace, q: Trace, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Return log p(x | z_k), with shape (K, B), and log q(z_k | x) - log p(z_k) by latent site: log w_k is their difference."""
    prior = {site["name"]: site for site in programs.sites(p, observed=False)}
    rec = total(
        [per_row(programs.log_prob(site), site, rows) for site in programs.sites(p, observed=True)]
    )
    latent = programs.sites(q, observed=False)
    return rec, {
        s["name"]: per_row(programs.sampled_kl(s, prior.get(s["name"])), s, rows) for s in latent
    }


def weighed(objective: Objective, kl: dict[str, Tensor]) -> Tensor:
    """Return the sum of beta times each site's term."""
    return total([objective.weigh(name, term) for name, term in kl.items()])


def log_latent(trace: Trace, rows: int) -> dict[str, Tensor]:
    """Return the log density of each latent site's value, with shape (K, B)."""
    return {
        site["name"]: per_row(programs.log_prob(site), site, rows)
        for site in programs.sites(trace, observed=False)
    }


def of_model(objective: Objective, rec: Tensor, p: Trace, rows: int) -> Tensor:
    """Return what of log w the model's parameters move: log p(x | z_k) + beta * log p(z_k), with shape (K, B)."""
    return rec + weighed(objective, log_latent(p, rows))


def log_mean_exp(log_w: Tensor) -> Tensor:
    """Return log (1 / K) sum_k w_k, with shape (B,)."""
    return log_w.logsumexp(0) - math.log(len(log_w))


def report(
    rec: Tensor, kl: dict[str, Tensor], of_weights: Callable[[Tensor], Tensor], loss: Tensor
) -> Bound:
    """Return a bound of the weights at beta = 1 as reconstruction and what is left of it, with the loss that trains."""
    with torch.no_grad():
        mean, bound = rec.mean(0).sum(), of_weights(rec - total(kl.values())).sum()
    return Bound(mean, {"rest": mean - bound}, loss)


def with_gradient_of(surrogate: Tensor, value: Tensor) -> Tensor:
    """Return a tensor with this value and the surrogate's gradient."""
    return surrogate - surrogate.detach() + value.detach()
