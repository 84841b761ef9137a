"""The prior of the log library size: a fixed normal for each batch (Lopez et al. 2018, section 2.1)."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor

from pyrovae.distributions import Conditional

__all__ = ["LibraryNormal"]


class LibraryNormal(Conditional):
    """p(l | s) = N(mean_s, deviation_s^2) over the log library size, fixed to what the training cells of batch s show.

    Args:
        mean: of the log totals of each batch, S numbers.
        deviation: their standard deviation (not variance), S positive numbers.

    Raises:
        ValueError: if the two differ in length or a deviation is not positive.

    Example:
        >>> LibraryNormal([7.0, 8.0], [0.5, 0.4])(torch.eye(2)).mean
        tensor([[7.],
                [8.]])
    """

    means: Tensor
    deviations: Tensor

    def __init__(self, mean: Any, deviation: Any) -> None:
        super().__init__()
        means, deviations = (
            torch.as_tensor(v, dtype=torch.get_default_dtype()).reshape(-1, 1)
            for v in (mean, deviation)
        )
        if means.shape != deviations.shape or not (deviations > 0).all():
            raise ValueError(
                f"LibraryNormal: {len(means)} means and {len(deviations)} deviations, the least {deviations.min().item():g}: "
                "expected one of each for every batch, deviations above 0"
            )
        self.mean, self.deviation = means.flatten().tolist(), deviations.flatten().tolist()
        self.register_buffer("means", means, persistent=False)
        self.register_buffer("deviations", deviations, persistent=False)

    def forward(self, *c: Tensor) -> Distribution:
        """Return p(l | s), batch shape (*) of the context, or () with a single batch, event shape (1,)."""
        if len(self.means) == 1:
            return dist.Normal(self.means[0], self.deviations[0]).to_event(1)
        batch = torch.broadcast_shapes(*(part.shape[:-1] for part in c))
        columns = torch.cat([part.expand(*batch, -1) for part in c], -1)
        s = columns[..., : len(self.means)]  # the one-hot of the batch
        return dist.Normal(s @ self.means, s @ self.deviations).to_event(1)
