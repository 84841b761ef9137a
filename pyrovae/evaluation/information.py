"""Mutual information of x and a latent, I_q(x; z), from the densities or the draws of q(z | x).

I_q(x; z) = E_x KL( q(z | x) || q(z) ),   q(z) = (1 / N) sum_n q(z | x_n)  (Hoffman & Johnson 2016)

densities     E log q(z | x) - log q(z), by one draw per row
classes       H( q(z) ) - E_x H( q(z | x) ), exact
draws         psi(N L) - psi(L) + psi(k) - E psi(m), where a ball around a draw that holds k other
              draws of its row holds m draws of any row           (Ross 2014, eq. 2)
"""

import math
from collections.abc import Sequence

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

__all__ = ["from_densities", "from_draws", "from_probabilities", "takes_passes"]

_PAIRS_AT_ONCE = 1 << 22  # values of a block of the N x N x D table behind q(z)
_PAIRS_OF_A_FLOW = 1 << 16  # so that the flow's hidden layers stay in the cache
_PAIRS = 10**8  # of a draw and a row: all of 10,000 rows
_LEAST_ROWS = 2000  # whose draws the expectation is over, of any number of rows
_NEIGHBOURS = 3  # k: more is less noise and more bias (Ross 2014)


def takes_passes(fn: TorchDistribution) -> bool:
    """Return whether the density at a given z takes one pass per dimension."""
    return any(getattr(step, "autoregressive", False) for step in getattr(fn, "transforms", ()))


def from_densities(fns: Sequence[TorchDistribution]) -> float:
    """Return E log q(z | x) - log q(z) at one draw for each of N rows; at most log N.

    Of many rows the expectation is over a random sample of them; q(z) is that of all.

    Args:
        fns: q(z | x) of minibatches that together are the N rows.
    """
    draws = [fn(torch.Size()) for fn in fns]  # of one minibatch (B, D)
    own = torch.cat([fn.log_prob(part) for fn, part in zip(fns, draws, strict=True)])
    z = torch.cat(draws)
    n, values = len(z), max(len(z), *(part.numel() for part in draws))
    pairs = _PAIRS_OF_A_FLOW if takes_passes(fns[0]) else _PAIRS_AT_ONCE
    block, at_most = max(1, pairs // values), max(_LEAST_ROWS, _PAIRS // n)
    if n > at_most:
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        chosen = order[:at_most].sort().values.to(z.device)
        z, own = z[chosen], own[chosen]
    log_sums = [
        torch.cat([fn.log_prob(part.unsqueeze(1)) for fn in fns], 1).logsumexp(1)
        for part in z.split(block)
    ]
    log_q = torch.cat(log_sums) - math.log(n)  # of the aggregate posterior
    return (own - log_q).mean().item()


def from_probabilities(p: Tensor) -> float:
    """Return the mutual information of row and class, given q(class | x) with shape (N, C)."""

    def entropy(q: Tensor) -> Tensor:
        return -torch.special.xlogy(q, q).sum(-1)

    return (entropy(p.double().mean(0)) - entropy(p.double()).mean()).item()


def from_draws(z: Tensor) -> float:
    """Return the mutual information of the row and z from L draws for each of N rows.

    It needs no density, and so serves latents whose density given x alone is an integral. At most
    log N; in many dimensions it is too low where draws are few.

    Args:
        z: draws, with shape (L, N, *event); L at least 5.
    """
    count, n = z.shape[:2]
    draws = z.reshape(count, n, -1).double()  # (L, N, D)
    query, others = draws[0], draws[1:]
    distances = (others - query).norm(dim=-1)  # (L - 1, N), to draws of the same row
    radius = distances.kthvalue(min(_NEIGHBOURS, count - 1), dim=0).values
    every = draws.flatten(0, 1)
    block = max(1, _PAIRS_AT_ONCE // len(every))
    pairs = zip(query.split(block), radius.split(block), strict=True)
    within = torch.cat([(torch.cdist(q, every) <= r[:, None]).sum(1) - 1 for q, r in pairs])
    sizes = torch.tensor([count * n, count, min(_NEIGHBOURS, count - 1)], dtype=torch.float64)
    every_draw, of_row, nearest = torch.digamma(sizes).tolist()
    neighbours = torch.digamma(within.clamp(min=1).double()).mean().item()
    return min(math.log(n), max(0.0, every_draw - of_row + nearest - neighbours))
