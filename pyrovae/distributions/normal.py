"""Densities over latents.

KL( N(mu, sigma^2) || N(0, 1) ) = (mu^2 + sigma^2 - 1) / 2 - log sigma      (Kingma & Welling 2014, appendix B)
"""

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import register_kl

__all__ = ["Improper", "UnitNormal"]


class Improper(dist.ImproperUniform):
    """p(z) = 1 over the support: Pyro's `ImproperUniform`, whose log density has the type and device of the value."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Zeros with shape (*), for values with shape (*, *event)."""
        return value.new_zeros(()).expand(super().log_prob(value).shape)


class UnitNormal(dist.Normal):
    """N(0, 1), known to be so: `Normal(zeros, ones)` to which KL(N(mu, sigma^2) || N(0, 1)) is one short formula.

    Args:
        loc: zeros, with shape (*).
        scale: ones, with shape (*).
    """


@register_kl(dist.Normal, UnitNormal)
def _kl_normal_unit(q: dist.Normal, p: UnitNormal) -> Tensor:
    mu, sigma, _ = torch.broadcast_tensors(q.loc, q.scale, p.loc)
    rest = torch.addcmul(-0.5 - sigma.log(), sigma, sigma, value=0.5)
    return torch.addcmul(rest, mu, mu, value=0.5)
