"""Densities over angles, in radians, on the circle: theta and theta + 2 pi are the same angle, and draws lie in [-pi, pi).

theta = wrap(mu + sigma * eps),  eps ~ N(0, 1)                                        the wrapped normal
q(theta) = sum_k N(theta + 2 pi k; mu, sigma^2)                                       by its images: few where sigma is small
         = (1 + 2 sum_n exp(-n^2 sigma^2 / 2) cos(n (theta - mu))) / (2 pi)           by its waves: few where sigma is large
                                                                                      (Mardia & Jupp 2000, eqs. 3.5.64, 3.5.66)
"""

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

__all__ = ["CIRCLE", "CircularUniform", "CircularVonMises", "WrappedNormal", "wrap"]

CIRCLE = constraints.interval(-math.pi, math.pi)
_IMAGES = 3  # to either side; what they leave out at sigma = pi is 1e-8 of the density
_WAVES = 3  # what they leave out at sigma = pi is 1e-34


def wrap(theta: Tensor) -> Tensor:
    """Return the same angle in [-pi, pi); its gradient is that of theta."""
    return theta - 2 * math.pi * torch.floor((theta.detach() + math.pi) / (2 * math.pi))


class WrappedNormal(dist.TorchDistribution):
    """A normal wound around the circle, with reparameterized draws.

    Args:
        loc: mu, with shape (*).
        scale: sigma, above 0, with shape (*).

    Example:
        >>> WrappedNormal(torch.tensor(3.0), torch.tensor(0.5)).rsample((5,)).abs().max() <= math.pi
        tensor(True)
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012 (as in torch)
    support = CIRCLE
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "WrappedNormal":
        """The same distribution with a larger batch shape."""
        return WrappedNormal(
            self.loc.expand(batch_shape), self.scale.expand(batch_shape), self._validate_args
        )

    @property
    def mean(self) -> Tensor:
        """The mean direction, mu in [-pi, pi)."""
        return wrap(self.loc)

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 (as in torch)
        """Draws with shape (*sample_shape, *)."""
        shape = self._extended_shape(sample_shape)
        return wrap(
            self.loc + self.scale * torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density over [-pi, pi), with the shape of the value."""
        if self._validate_args:
            self._validate_sample(value)
        turn = wrap(value - self.loc)
        wide = self.scale > math.pi
        return torch.where(wide, self._by_waves(turn), self._by_images(turn))

    def _by_images(self, turn: Tensor) -> Tensor:
        images = turn.unsqueeze(-1) + 2 * math.pi * torch.arange(
            -_IMAGES, _IMAGES + 1, device=turn.device
        )
        squares = (images / self.scale.unsqueeze(-1)).square()
        return (-0.5 * squares).logsumexp(-1) - self.scale.log() - 0.5 * math.log(2 * math.pi)

    def _by_waves(self, turn: Tensor) -> Tensor:
        n = torch.arange(1, _WAVES + 1, device=turn.device)
        scale = self.scale.clamp(min=math.pi).unsqueeze(
            -1
        )  # below, the sum may be negative, and is not used
        waves = torch.exp(-0.5 * (n * scale).square()) * torch.cos(n * turn.unsqueeze(-1))
        return (2 * waves.sum(-1)).log1p() - math.log(2 * math.pi)


class CircularVonMises(dist.VonMises):
    """torch's von Mises distribution, known to live on the circle; torch says the real line, over which its mass is infinite."""

    support = CIRCLE


class CircularUniform(dist.TorchDistribution):
    """p(theta) = 1 / (2 pi), with theta + 2 pi the same angle as theta. Draws lie in [-pi, pi).

    Args:
        zero: zeros, which give shape, type and device, with shape (*).
    """

    arg_constraints = {"zero": constraints.real}  # noqa: RUF012 (as in torch)
    support = CIRCLE

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
            return (
                torch.rand(shape, dtype=self.zero.dtype, device=self.zero.device) * 2 - 1
            ) * math.pi
