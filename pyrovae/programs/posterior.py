"""The guide's distribution at a latent site, and the mean of a distribution."""

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae.programs.traces import latent, record

__all__ = ["mean", "posterior"]

_DRAWS = 256  # for a mean without a formula
_DRAWS_AT_ONCE = 4  # so that memory stays near that of the distribution's parameters


def mean(fn: TorchDistribution, draws: int = _DRAWS) -> Tensor:
    """Return the mean of a distribution, shape (*batch, *event).

    Where no formula is known (a flow's) it is the mean of draws; where the mean does not exist (a
    Cauchy's) it is the median of draws.
    """
    try:
        value = fn.mean
    except NotImplementedError:
        parts = [min(_DRAWS_AT_ONCE, draws - start) for start in range(0, draws, _DRAWS_AT_ONCE)]
        return torch.stack([fn.sample((n,)).sum(0) for n in parts]).sum(0) / draws
    return fn.sample((draws,)).median(0).values if value.isnan().any() else value


def posterior(graph: Any, batch: tuple[Tensor, ...], site: str) -> TorchDistribution:
    """Return the distribution q(z | x, c) of a latent site, from one run of the guide.

    Raises:
        ValueError: if the guide has no such latent site.
    """
    trace = record(graph.guide, *batch)
    names = [each["name"] for each in latent(trace)]
    if site not in names:
        raise ValueError(f'the guide has no latent site "{site}", it has {names}')
    return trace[site]["fn"]
