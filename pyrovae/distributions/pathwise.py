"""A mixture of diagonal normals with pathwise gradients, drawn in any shape."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

__all__ = ["PathwiseMixture"]


class PathwiseMixture(dist.MixtureOfDiagNormals):
    """Pyro's `MixtureOfDiagNormals` (Jankowiak & Karaletsos 2019), which draws for batches only if no further shape is asked for.

    Args:
        locs: mu_k, with shape (*, K, D).
        coord_scale: sigma_k, with shape (*, K, D).
        component_logits: of the weights, with shape (*, K).
    """

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        shape = torch.Size(batch_shape)
        k, d = self.locs.shape[-2:]
        locs, scale = self.locs.expand(*shape, k, d), self.coord_scale.expand(*shape, k, d)
        return PathwiseMixture(locs, scale, self.component_logits.expand(*shape, k))

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 (as in torch)
        """Draws with shape (*sample_shape, *, D)."""
        if not sample_shape:
            return super().rsample()
        return self.expand(torch.Size(sample_shape) + self.batch_shape).rsample()
