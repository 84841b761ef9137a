"""Densities over latents.

KL( N(mu, sigma^2) || N(0, 1) ) = (mu^2 + sigma^2 - 1) / 2 - log sigma      (Kingma & Welling 2014, appendix B)
"""

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints, register_kl

__all__ = ["CircularUniform", "Improper", "UnitNormal"]


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


class CircularUniform(dist.TorchDistribution):
    """p(theta) = 1 / (2 pi) for every real theta, of which theta + 2 pi is the same angle. Draws lie in [-pi, pi).

    Args:
        zero: zeros, which give shape, type and device, with shape (*).
    """

    arg_constraints = {"zero": constraints.real}  # noqa: RUF012 (as in torch)
    support = constraints.real

    def __init__(self, zero: Tensor, validate_args: bool | None = None) -> None:
        self.zero = zero
        super().__init__(zero.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "CircularUniform":
        """The same distribution with a larger batch shape."""
        return CircularUniform(self.zero.expand(batch_shape), self._validate_args)

    @property
    def mean(self) -> Tensor:
        """The middle of the interval of draws; on the circle there is no mean direction."""
        return self.zero

    def log_prob(self, value: Tensor) -> Tensor:
        """-log 2 pi, with the shape of the value."""
        return (value + self.zero) * 0 - math.log(2 * math.pi)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 (as in torch)
        """Draws with shape (*sample_shape, *)."""
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            return (torch.rand(shape, dtype=self.zero.dtype, device=self.zero.device) * 2 - 1) * math.pi


@register_kl(dist.Normal, UnitNormal)
def _kl_normal_unit(q: dist.Normal, p: UnitNormal) -> Tensor:
    mu, sigma, _ = torch.broadcast_tensors(q.loc, q.scale, p.loc)
    rest = torch.addcmul(-0.5 - sigma.log(), sigma, sigma, value=0.5)
    return torch.addcmul(rest, mu, mu, value=0.5)
