"""The terms of a bound, as numbers are reported of it.

bound = reconstruction - sum over latent sites of KL
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Bound"]


class Bound(NamedTuple):
    """The terms of a bound in nats, summed over the rows: bound = reconstruction - sum of kl.

    Attributes:
        reconstruction: log p(x | z), averaged over the draws.
        kl: by latent site, unweighted. Where a bound has no such terms, one entry holds
            reconstruction - bound.
        loss: what is minimized, where it is not the weighted sum of these terms.
    """

    reconstruction: Tensor
    kl: dict[str, Tensor]
    loss: Tensor | None = None

    def numbers(self) -> tuple[float, float]:
        """Return the reconstruction, and the KL summed over the latent sites, as numbers."""
        reconstruction, *kl = torch.stack([self.reconstruction, *self.kl.values()]).tolist()
        return reconstruction, sum(kl)

    def times(self, scale: Any) -> "Bound":
        """Return all terms times a number."""
        if isinstance(scale, float) and scale == 1:
            return self
        kl = {name: term * scale for name, term in self.kl.items()}
        loss = None if self.loss is None else self.loss * scale
        return Bound(self.reconstruction * scale, kl, loss)
