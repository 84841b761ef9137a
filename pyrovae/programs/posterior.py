"""The guide's distribution at a latent site, and the mean of a distribution."""

from typing import Any

import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae.programs.traces import sites

__all__ = ["mean", "posterior"]

_DRAWS = 256  # for a mean that no formula gives
_DRAWS_AT_ONCE = 4


def mean(fn: TorchDistribution, draws: int = _DRAWS) -> Tensor:
    """Return a distribution's mean; by its draws where no formula is known (a flow's), their median where there is none (a Cauchy's)."""
    try:
        value = fn.mean
    except NotImplementedError:
        parts = [min(_DRAWS_AT_ONCE, draws - start) for start in range(0, draws, _DRAWS_AT_ONCE)]
        return torch.stack([fn.sample((n,)).sum(0) for n in parts]).sum(0) / draws
    return fn.sample((draws,)).median(0).values if value.isnan().any() else value


def posterior(graph: Any, batch: tuple[Tensor, ...], site: str) -> TorchDistribution:
    """Return the distribution q(z | x, c) of a latent site, from one run of the guide on a minibatch.

    Raises:
        ValueError: if the guide has no such site.
    """
    trace = poutine.trace(graph.guide).get_trace(*batch)
    if site not in trace.nodes:
        raise ValueError(
            f'the guide has no site "{site}", it has {[s["name"] for s in sites(trace, observed=False)]}'
        )
    return trace.nodes[site]["fn"]
