"""The information in the latents: KL per dimension, active units, mutual information, collapse.

I_q(x; z) = E_x KL( q(z | x) || q(z) ),   q(z) = (1 / N) sum_n q(z | x_n)  (Hoffman & Johnson 2016)
"""

import math
from typing import Any, NamedTuple

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae import programs
from pyrovae.data import Array, as_sources, batches_in_order, device_and_dtype, spread, take

__all__ = [
    "LatentSummary",
    "active_units",
    "kl_per_dimension",
    "latent_summary",
    "mutual_information",
]

_ROWS_FOR_INFORMATION = 2000  # evenly spread, in a summary
_PAIRS_AT_ONCE = 1 << 22  # values of a block of the N x N x D table behind q(z)
_ROWS_OF_A_FLOW = 256  # for mutual information, where one density takes D passes
_PAIRS_OF_A_FLOW = 1 << 16  # so that the flow's hidden layers stay in the cache
_COLLAPSED = 0.1  # nats of mutual information, below which the latents are as good as unused


class LatentSummary(NamedTuple):
    """The information in one latent site.

    Attributes:
        kl_per_dimension: mean over the rows, in nats, with shape (D,); None where q or p does not
            factorize over dimensions.
        active: whether each unit's posterior mean varies with x, with shape (D,).
        mutual_information: I_q(x; z) in nats; at most log N.
        warning: a description of posterior collapse, or None.
    """

    kl_per_dimension: Tensor | None
    active: Tensor
    mutual_information: float
    warning: str | None


def kl_per_dimension(graph: Any, x: Array, *c: Array, site: str = "z") -> Tensor:
    """Return KL(q(z_d | x) || p(z_d)) averaged over the rows, with shape (D,), in nats.

    Raises:
        ValueError: if q or p does not factorize over the dimensions with a known KL.
    """
    pieces = []
    with programs.evaluation(graph):
        for batch in batches_in_order(graph, as_sources((x, *c))):
            p, q = programs.run(graph.model, graph.guide, *batch)
            try:
                pieces.append(programs.kl_of_dimensions(q[site], p[site]))
            except NotImplementedError:
                names = f"{type(q[site]['fn']).__name__} and {type(p[site]['fn']).__name__}"
                raise ValueError(
                    f'site "{site}": {names} do not factorize into dimensions with a known KL'
                ) from None
    return torch.cat(pieces).mean(0)


def active_units(
    graph: Any, x: Array, *c: Array, threshold: float = 0.01, site: str = "z"
) -> Tensor:
    """Return which units have Var_x( E_q[z_d | x] ) above the threshold, with shape (D,).

    Source: Burda et al. 2016, section 5.1.2.
    """
    with programs.evaluation(graph):
        batches = batches_in_order(graph, as_sources((x, *c)))
        means = [programs.mean(programs.posterior(graph, batch, site)) for batch in batches]
    return torch.cat(means).var(0, correction=0) > threshold


def mutual_information(
    graph: Any, x: Array, *c: Array, site: str = "z", seed: int | None = 0
) -> float:
    """Estimate I_q(x; z) = E log q(z | x) - log q(z) in nats, by one draw per row.

    With N rows the aggregate posterior q(z) is a mixture of N components, so the result cannot
    exceed log N. The cost grows as N^2; two thousand rows are enough for most latents.

    The density of an inverse autoregressive flow takes D passes for each of the N^2 pairs. It is
    therefore estimated on 256 evenly spread rows; the result cannot exceed log 256 = 5.5 nats.
    """
    data = as_sources((x, *c))
    with programs.evaluation(graph, seed):
        fn = programs.posterior(
            graph, take(data, slice(None), *device_and_dtype(graph, data)), site
        )
        slow = _takes_passes(fn)
        if slow and len(data[0]) > _ROWS_OF_A_FLOW:
            rows = spread(len(data[0]), _ROWS_OF_A_FLOW)
            fn = programs.posterior(graph, take(data, rows, *device_and_dtype(graph, data)), site)
        z = fn.sample()  # (N, D)
        block = max(1, (_PAIRS_OF_A_FLOW if slow else _PAIRS_AT_ONCE) // z.numel())
        log_sums = [fn.log_prob(part.unsqueeze(1)).logsumexp(1) for part in z.split(block)]
        log_q = torch.cat(log_sums) - math.log(len(z))  # of the aggregate posterior
        return (fn.log_prob(z) - log_q).mean().item()


def latent_summary(graph: Any, x: Array, *c: Array, site: str = "z") -> LatentSummary:
    """Return all figures of this module, with a warning if the posterior has collapsed."""
    data = as_sources((x, *c))
    try:
        kl = kl_per_dimension(graph, *data, site=site)
    except ValueError:
        kl = None
    active = active_units(graph, *data, site=site)
    rows = spread(len(data[0]), _ROWS_FOR_INFORMATION)
    information = mutual_information(graph, *(part.select(rows) for part in data), site=site)
    return LatentSummary(kl, active, information, _warning(active, information))


def _takes_passes(fn: TorchDistribution) -> bool:
    """Return whether the density at a given z takes one pass per dimension."""
    return any(getattr(step, "autoregressive", False) for step in getattr(fn, "transforms", ()))


def _warning(active: Tensor, information: float) -> str | None:
    if active.any() and information >= _COLLAPSED:
        return None
    return (
        f"posterior collapse: {int(active.sum())} of {len(active)} units are active, and the "
        f"mutual information of x and z is {information:.2f} nats. Warm up the KL "
        "(beta=objectives.warm_up(0.25)), lower beta, or weaken the likelihood's network"
    )
