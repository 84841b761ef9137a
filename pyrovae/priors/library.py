"""Prior of the log library size: p(l | s) = N(mean_s, deviation_s^2), fixed for each batch s.

Lopez et al. 2018, section 2.1.
"""

from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor

from pyrovae.distributions import Conditional

__all__ = ["LibraryNormal"]


class LibraryNormal(Conditional):
    """p(l | s) over the log library size l, with the moments of batch s in the training cells.

    Args:
        mean: mean of the cells' log totals in each batch, S numbers.
        deviation: their standard deviation (not variance) in each batch, S positive numbers.

    Raises:
        ValueError: if the two differ in length or a standard deviation is not positive.

    Example:
        >>> LibraryNormal([7.0, 8.0], [0.5, 0.4])(torch.eye(2)).mean
        tensor([[7.],
                [8.]])
    """

    means: Tensor
    deviations: Tensor

    def __init__(self, mean: Any, deviation: Any) -> None:
        super().__init__()
        means, deviations = _column(mean), _column(deviation)
        if means.shape != deviations.shape or not (deviations > 0).all():
            raise ValueError(
                f"LibraryNormal: {len(means)} means and {len(deviations)} standard deviations, the "
                f"smallest {deviations.min().item():g}: expected one of each for every batch, and "
                "standard deviations above 0"
            )
        self.mean, self.deviation = means.flatten().tolist(), deviations.flatten().tolist()
        self.register_buffer("means", means, persistent=False)
        self.register_buffer("deviations", deviations, persistent=False)

    def forward(self, *c: Tensor) -> Distribution:
        """Return p(l | s), event shape (1,), batch shape (*) of c, or () for a single batch."""
        if len(self.means) == 1:
            return dist.Normal(self.means[0], self.deviations[0]).to_event(1)
        batch = np.broadcast_shapes(*(part.shape[:-1] for part in c))
        columns = torch.cat([part.expand(*batch, -1) for part in c], -1)
        s = columns[..., : len(self.means)]  # one-hot code of the batch
        return dist.Normal(s @ self.means, s @ self.deviations).to_event(1)


def _column(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.get_default_dtype()).reshape(-1, 1)
