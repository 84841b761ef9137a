"""What the latents hold: KL of each dimension, active units, mutual information, and whether the posterior has collapsed.

I_q(x; z) = E_x KL( q(z | x) || q(z) ),   q(z) = (1 / N) sum_n q(z | x_n)      (Hoffman & Johnson 2016)
"""

import math
from typing import Any, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import kl_divergence

from pyrovae import programs
from pyrovae.data import Array, as_sources, batches_in_order, device_and_dtype, take
from pyrovae.programs import mean, posterior

__all__ = [
    "LatentSummary",
    "active_units",
    "kl_per_dimension",
    "latent_summary",
    "mutual_information",
]

_ROWS = 1024
_PAIRS_AT_ONCE = 1 << 22  # values of a block of the N x N x D table behind q(z)
_ROWS_OF_A_FLOW = (
    256  # that mutual information is taken from, where a density takes D passes: 4 s at 40 latents
)
_PAIRS_OF_A_FLOW = 1 << 16  # its hidden layers stay in the cache then: a quarter of the time
_INFORMATION = 0.1  # nats; below it the latents say next to nothing of x


class LatentSummary(NamedTuple):
    """What one latent site holds.

    Attributes:
        kl_per_dimension: mean over the rows, in nats, with shape (D,); None where q or p does not factorize over dimensions.
        active: units whose posterior mean moves with x, with shape (D,).
        mutual_information: I_q(x; z) in nats; at most log N.
        warning: what is wrong, in words, or None.
    """

    kl_per_dimension: Tensor | None
    active: Tensor
    mutual_information: float
    warning: str | None


def kl_per_dimension(graph: Any, x: Array, *c: Array, site: str = "z") -> Tensor:
    """Return KL(q(z_d | x) || p(z_d)) averaged over the rows, with shape (D,), in nats.

    Raises:
        ValueError: if q or p does not factorize over the dimensions with a known KL: there is no KL of one dimension then.
    """
    pieces = []
    with programs.evaluation(graph):
        for batch in batches_in_order(graph, as_sources((x, *c))):
            p, q = programs.run(graph.model, graph.guide, *batch)
            pieces.append(_kl_of_factors(p[site], q[site]))
    return torch.cat(pieces).mean(0)


def active_units(
    graph: Any, x: Array, *c: Array, threshold: float = 0.01, site: str = "z"
) -> Tensor:
    """Return which units have Var_x( E_q[z_d | x] ) above the threshold, with shape (D,) (Burda et al. 2016, section 5.1.2)."""
    with programs.evaluation(graph):
        means = torch.cat(
            [
                mean(posterior(graph, batch, site))
                for batch in batches_in_order(graph, as_sources((x, *c)))
            ]
        )
    return means.var(0, correction=0) > threshold


def mutual_information(
    graph: Any, x: Array, *c: Array, site: str = "z", seed: int | None = 0
) -> float:
    """Estimate I_q(x; z) = E log q(z | x) - log q(z) by one draw a row, in nats.

    With N rows the aggregate posterior q(z) is a mixture of N, so the figure cannot exceed log N: give enough of them.
    The work grows as N^2; two thousand rows are plenty for most latents.

    An inverse autoregressive flow has to be solved for each of the N^2 densities. Of its rows 256 are taken, spread evenly: the
    figure cannot exceed log 256 = 5.5 nats then, whatever N is.
    """
    data = as_sources((x, *c))
    with programs.evaluation(graph, seed):
        fn = posterior(graph, take(data, slice(None), *device_and_dtype(graph, data)), site)
        solved_for = _solved_for(fn)
        if solved_for and len(data[0]) > _ROWS_OF_A_FLOW:
            rows = torch.linspace(0, len(data[0]) - 1, _ROWS_OF_A_FLOW).long()
            fn = posterior(graph, take(data, rows, *device_and_dtype(graph, data)), site)
        z = fn.sample()  # (N, D)
        block = max(1, (_PAIRS_OF_A_FLOW if solved_for else _PAIRS_AT_ONCE) // z.numel())
        log_q = torch.cat(
            [fn.log_prob(part.unsqueeze(1)).logsumexp(1) for part in z.split(block)]
        ) - math.log(len(z))
        return (fn.log_prob(z) - log_q).mean().item()


def latent_summary(graph: Any, x: Array, *c: Array, site: str = "z") -> LatentSummary:
    """Return all of this module's figures together, with a warning where the posterior has collapsed onto the prior."""
    try:
        kl = kl_per_dimension(graph, x, *c, site=site)
    except ValueError:
        kl = None
    active = active_units(graph, x, *c, site=site)
    information = mutual_information(graph, x[:2000], *(part[:2000] for part in c), site=site)
    return LatentSummary(kl, active, information, _warning(active, information))


def _solved_for(fn: TorchDistribution) -> bool:
    """Whether the density at a z that was not drawn takes a pass for each dimension."""
    return any(getattr(step, "autoregressive", False) for step in getattr(fn, "transforms", ()))


def _warning(active: Tensor, information: float) -> str | None:
    if active.any() and information >= _INFORMATION:
        return None
    return (
        f"posterior collapse: {int(active.sum())} of {len(active)} units are active, the latents hold {information:.2f} nats. "
        "Warm the KL up (beta=objectives.warm_up(0.25)), lower beta, or weaken the likelihood's network"
    )


def _kl_of_factors(p: programs.Site, q: programs.Site) -> Tensor:
    """Return KL(q_d || p_d) with shape (B, D), for distributions that are independent over their last axis."""
    p_fn, q_fn = p["fn"], q["fn"]
    try:
        if (
            q.get("entangled")
            or not q_fn.event_shape == p_fn.event_shape == q_fn.base_dist.batch_shape[-1:]
        ):
            raise NotImplementedError
        return kl_divergence(q_fn.base_dist, p_fn.base_dist)
    except (AttributeError, NotImplementedError):
        names = f"{type(q_fn).__name__} and {type(p_fn).__name__}"
        raise ValueError(
            f'site "{q["name"]}": {names} do not factorize into dimensions with a known KL'
        ) from None
