"""Densities over angles in radians, on the circle.

theta and theta + 2 pi are the same angle, and draws lie in [-pi, pi).

theta = wrap(mu + sigma * eps),  eps ~ N(0, 1)                             wrapped normal
q(theta) = sum_k N(theta + 2 pi k; mu, sigma^2)                            wrapped sum
         = (1 + 2 sum_n e^(-n^2 sigma^2 / 2) cos(n (theta - mu))) / (2 pi)   Fourier series

The sum needs few terms where sigma is small, the series where it is large (Mardia & Jupp 2000,
eqs. 3.5.64, 3.5.66).
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["CIRCLE", "CircularUniform", "CircularVonMises", "WrappedNormal", "is_circle", "wrap"]

CIRCLE = constraints.interval(-math.pi, math.pi)
# Both truncations are worst at sigma = pi, where one takes over from the other.
_TERMS = 3  # of the sum, to either side: the fourth is at most e^(-7^2 / 2) = 2e-11
_WAVES = 3  # of the series: the fourth is at most 2 e^(-16 pi^2 / 2) = 1e-34


def is_circle(support: Any) -> bool:
    """Return whether a support is the circle, or that of independent or mixed angles."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is CIRCLE


def wrap(theta: Tensor) -> Tensor:
    """Return the same angle in [-pi, pi); its gradient is that of theta."""
    return theta - 2 * math.pi * torch.floor((theta.detach() + math.pi) / (2 * math.pi))


class WrappedNormal(dist.TorchDistribution):
    """The wrapped normal distribution, with reparameterized draws.

    Args:
        loc: mu, with shape (*).
        scale: sigma, above 0, with shape (*).

    Example:
        >>> WrappedNormal(torch.tensor(3.0), torch.tensor(0.5)).rsample((5,)).abs().max() <= math.pi
        tensor(True)
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012
    support = CIRCLE
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "WrappedNormal":
        """Return the same distribution with a larger batch shape."""
        loc, scale = self.loc.expand(batch_shape), self.scale.expand(batch_shape)
        return WrappedNormal(loc, scale, self._validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean direction, mu in [-pi, pi)."""
        return wrap(self.loc)

    @property
    def variance(self) -> Tensor:
        """The circular variance, 1 - |E exp(i theta)| = 1 - e^(-sigma^2 / 2)."""
        return -torch.expm1(-self.scale.square() / 2)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Return draws with shape (*sample_shape, *), differentiable in mu and sigma."""
        shape = self._extended_shape(sample_shape)
        eps = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return wrap(self.loc + self.scale * eps)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density over [-pi, pi), with the shape of the value."""
        if self._validate_args:
            self._validate_sample(value)
        angle = wrap(value - self.loc)
        wide = self.scale > math.pi
        return torch.where(wide, self._fourier_series(angle), self._wrapped_sum(angle))

    def _wrapped_sum(self, angle: Tensor) -> Tensor:
        k = torch.arange(-_TERMS, _TERMS + 1, device=angle.device)
        eps = (angle.unsqueeze(-1) + 2 * math.pi * k) / self.scale.unsqueeze(-1)
        normal = (-0.5 * eps.square()).logsumexp(-1)
        return normal - self.scale.log() - 0.5 * math.log(2 * math.pi)

    def _fourier_series(self, angle: Tensor) -> Tensor:
        n = torch.arange(1, _WAVES + 1, device=angle.device)
        # Below pi the truncated series may be negative; it is not used there.
        scale = self.scale.clamp(min=math.pi).unsqueeze(-1)
        waves = torch.exp(-0.5 * (n * scale).square()) * torch.cos(n * angle.unsqueeze(-1))
        return (2 * waves.sum(-1)).log1p() - math.log(2 * math.pi)


class CircularVonMises(dist.VonMises):
    """torch's von Mises distribution with the circle as its support.

    torch gives the real line, over which the mass of a periodic density is infinite.
    """

    support = CIRCLE


class CircularUniform(dist.TorchDistribution):
    """p(theta) = 1 / (2 pi), with theta + 2 pi the same angle as theta. Draws lie in [-pi, pi).

    Args:
        zero: zeros, whose shape (*), dtype and device are the distribution's.
    """

    arg_constraints = {"zero": constraints.real}  # noqa: RUF012
    support = CIRCLE

    def __init__(self, zero: Tensor, validate_args: bool | None = None) -> None:
        self.zero = zero
        super().__init__(zero.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "CircularUniform":
        """Return the same distribution with a larger batch shape."""
        return CircularUniform(self.zero.expand(batch_shape), self._validate_args)

    @property
    def mean(self) -> Tensor:
        """0, the middle of the interval of draws; on the circle there is no mean direction."""
        return self.zero

    @property
    def variance(self) -> Tensor:
        """The circular variance, 1."""
        return self.zero + 1

    def log_prob(self, value: Tensor) -> Tensor:
        """Return -log(2 pi), with the shape of the value."""
        return (value + self.zero) * 0 - math.log(2 * math.pi)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Return draws with shape (*sample_shape, *)."""
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            u = torch.rand(shape, dtype=self.zero.dtype, device=self.zero.device)
            return (2 * u - 1) * math.pi
