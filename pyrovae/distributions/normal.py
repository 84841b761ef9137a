"""Priors over real latents: p(z) = N(0, 1), and the improper p(z) = 1."""

import pyro.distributions as dist
from torch import Tensor

__all__ = ["ImproperUniform", "UnitNormal"]


class ImproperUniform(dist.ImproperUniform):
    """p(z) = 1 over the support: Pyro's class, with log densities of the value's dtype and device.

    Pyro's own are float32 on the CPU, whatever the value is.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """Return zeros with shape (*), for values with shape (*, *event)."""
        return value.new_zeros(()).expand(super().log_prob(value).shape)


class UnitNormal(dist.Normal):
    """N(0, 1) as a type of its own, by which `kl_divergence` knows that the short formula holds.

    Args:
        loc: zeros, with shape (*).
        scale: ones, with shape (*).
    """
