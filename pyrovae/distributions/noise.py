"""Noise y ~ p(y | x), which corrupts data, and what a noisy y says of x where x ~ p.

p(y) = E_p(x)[ p(y | x) ],    p(x | y) = p(y | x) p(x) / p(y)

y = x + sigma eps                                           GaussianNoise
y = x, or with probability r a value that tells nothing     SaltAndPepperNoise, MaskingNoise
"""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from pyrovae.distributions.levels import expected, levels, moments, points

__all__ = ["GaussianNoise", "MaskingNoise", "Noise", "SaltAndPepperNoise"]


_LOG_NORMAL = -math.log(2 * math.pi) / 2


class Noise(nn.Module):
    """Abstract: noise of single values. Call it to corrupt data, with new noise at each call.

    In its methods, p is a distribution of independent values x with batch shape (*), such as
    `Normal(loc, scale)`, and y noisy values with shape (*).
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return y ~ p(y | x), of the shape of x."""

    @abstractmethod
    def log_prob(self, y: Tensor, p: Any) -> Tensor:
        """Return log p(y) = log E_p(x)[p(y | x)] of each value, with shape (*).

        Raises:
            ValueError: if it cannot be computed for such a p.
        """

    @abstractmethod
    def mean(self, y: Tensor, p: Any) -> Tensor:
        """Return E[x | y] of each value, with shape (*)."""

    @abstractmethod
    def draw(self, y: Tensor, p: Any) -> Tensor:
        """Return x ~ p(x | y) for each value, with shape (*)."""


class GaussianNoise(Noise):
    """x~ = x + sigma * eps, eps ~ N(0, I).

    Its methods are exact for a normal p, for discrete values with bounds (by their sum), and for
    densities on [0, 1] where sigma is not below 0.02 (by a quadrature). Any other p counts as a
    normal distribution with its mean and variance.

    Args:
        sigma: standard deviation, in units of x.

    Raises:
        ValueError: if sigma is negative or not finite.

    Example:
        >>> GaussianNoise(1.0).mean(torch.tensor([2.0]), Normal(torch.zeros(1), 1.0))
        tensor([1.])
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        value = torch.as_tensor(sigma)
        if not ((value >= 0) & value.isfinite()).all():
            raise ValueError(
                f"GaussianNoise: sigma is {sigma}, expected a standard deviation, at least 0"
            )
        self.sigma, self._has_zeros = sigma, bool((value == 0).any())

    def forward(self, x: Tensor) -> Tensor:
        """Return x with noise added, of the same shape."""
        return x + self.sigma * torch.randn_like(x)

    def log_prob(self, y: Tensor, p: Any) -> Tensor:
        """Return log p(y) of each value, with shape (*)."""
        found = points(p)
        if found is not None:
            noisy = found.log_expected(_log_normal, *self._given(y))
            if not self._has_zeros:
                return noisy
            return torch.where(self._without(y), _log_prob_inside(y, p)[0], noisy)
        mean, variance = self._moments(p)
        return Normal(mean, (variance + self.sigma**2).sqrt(), validate_args=False).log_prob(y)

    def mean(self, y: Tensor, p: Any) -> Tensor:
        """Return E[x | y] of each value, with shape (*)."""
        found = points(p)
        if found is None:
            return self._normal(y, p).mean
        return torch.where(self._without(y), y, found.mean(_log_normal, *self._given(y)))

    def draw(self, y: Tensor, p: Any) -> Tensor:
        """Return x ~ p(x | y) for each value, with shape (*)."""
        found = points(p)
        if found is None:
            return self._normal(y, p).sample()
        return torch.where(self._without(y), y, found.draw(_log_normal, *self._given(y)))

    def _without(self, y: Tensor) -> Tensor:
        """Return where there is no noise, with the shape of y."""
        return torch.as_tensor(self.sigma, device=y.device).expand(y.shape) == 0

    def _given(self, y: Tensor) -> tuple[Tensor, Tensor]:
        sigma = torch.as_tensor(self.sigma, dtype=y.dtype, device=y.device).expand(y.shape)
        return y, torch.where(sigma == 0, 1.0, sigma)  # of values without noise, which is not used

    def _normal(self, y: Tensor, p: Any) -> Normal:
        mean, variance = self._moments(p)
        gain = variance / (variance + self.sigma**2)
        scale = self.sigma * gain.sqrt()
        return Normal(mean + gain * (y - mean), scale, validate_args=False)

    def _moments(self, p: Any) -> tuple[Tensor, Tensor]:
        try:
            return moments(p)
        except NotImplementedError:
            raise ValueError(
                f"GaussianNoise: {type(p).__name__} has no known variance, so the probability of a "
                "noisy value is not known. Use a likelihood with a variance, or denoise by the "
                "encoder alone (noise=None)"
            ) from None


class _Replacing(Noise):
    """Abstract: y is x, or with a probability of `share` a value that does not depend on x.

    Args:
        share: expected fraction of the values that are replaced, in [0, 1).
        resolution: of the values x of a density, the step in which they are recorded: 1 / 255 for
            grey levels in [0, 1] that were 8 bits. Then a value that equals the replacement may be
            a clean one. 0 takes a value that equals the replacement for a replaced one, since a
            density has no mass there. Probabilities of discrete values need none.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(self, share: float, resolution: float = 0.0) -> None:
        super().__init__()
        if not 0 <= share < 1 or not 0 <= resolution < math.inf:
            raise ValueError(
                f"{type(self).__name__}: share is {share} and resolution {resolution}, expected a "
                "fraction in [0, 1) and a step of at least 0"
            )
        self.share, self.resolution = share, resolution

    @abstractmethod
    def log_replaced(self, y: Tensor) -> Tensor:
        """Return the log of the probability that a value is replaced, and by y."""

    def log_prob(self, y: Tensor, p: Any) -> Tensor:
        """Return log p(y) of each value, with shape (*)."""
        return torch.logaddexp(*self._logs(y, p))

    def mean(self, y: Tensor, p: Any) -> Tensor:
        """Return E[x | y] of each value, with shape (*)."""
        kept = self._kept(y, p)
        return kept * y + (1 - kept) * expected(p)

    def draw(self, y: Tensor, p: Any) -> Tensor:
        """Return x ~ p(x | y) for each value, with shape (*)."""
        kept = self._kept(y, p)
        return torch.where(torch.rand_like(kept) < kept, y, p.sample())

    def _kept(self, y: Tensor, p: Any) -> Tensor:
        """Return the probability that y is x."""
        kept, replaced = self._logs(y, p)
        return (kept - torch.logaddexp(kept, replaced)).exp()

    def _logs(self, y: Tensor, p: Any) -> tuple[Tensor, Tensor]:
        replaced = self.log_replaced(y)
        clean, discrete = _log_prob_inside(y, p)
        if not discrete and not self.resolution:
            clean = torch.where(replaced.isneginf(), clean, -math.inf)
        width = 0.0 if discrete or not self.resolution else math.log(self.resolution)
        kept = clean + math.log1p(-self.share) + width
        return kept, replaced.expand(kept.shape)


class SaltAndPepperNoise(_Replacing):
    """Each value is set to `low` or `high`, with probability share / 2 each.

    Args:
        share: as for `MaskingNoise`.
        low: the value of pepper.
        high: the value of salt.
        resolution: the step in which values of a density are recorded: 1 / 255 for grey levels in
            [0, 1] that were 8 bits, of which many are 0 without noise. 0: a value that equals
            `low` or `high` is noise, since a density has no mass there. Discrete values need none.

    Example:
        >>> noisy = SaltAndPepperNoise(0.5)(torch.full((1000,), 0.3))
        >>> sorted({round(value, 1) for value in noisy.tolist()})
        [0.0, 0.3, 1.0]
    """

    def __init__(
        self, share: float, low: float = 0.0, high: float = 1.0, resolution: float = 0.0
    ) -> None:
        super().__init__(share, resolution)
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        """Return x with some values set to low or high, of the same shape."""
        u = torch.rand_like(x)
        x = torch.where(u < self.share / 2, self.low, x)
        return torch.where((u >= self.share / 2) & (u < self.share), self.high, x)

    def log_replaced(self, y: Tensor) -> Tensor:
        """Return log(share / 2) where y is low or high, and -inf elsewhere."""
        extreme = (y == self.low) | (y == self.high)
        return torch.where(extreme, _log(self.share / 2), -math.inf).to(y.dtype)


class MaskingNoise(_Replacing):
    """x~ = x * m, each m ~ Bernoulli(1 - share) (Vincent et al. 2008, section 2.3).

    Args:
        share: expected fraction of the values that are set to zero, in [0, 1).
        resolution: as for `SaltAndPepperNoise`.
    """

    def __init__(self, share: float, resolution: float = 0.0) -> None:
        super().__init__(share, resolution)

    def forward(self, x: Tensor) -> Tensor:
        """Return x with some values set to zero, of the same shape."""
        return x * (torch.rand_like(x) >= self.share)

    def log_replaced(self, y: Tensor) -> Tensor:
        """Return log(share) where y is 0, and -inf elsewhere."""
        return torch.where(y == 0, _log(self.share), -math.inf).to(y.dtype)


def _log_normal(x: Tensor, y: Tensor, sigma: Tensor) -> Tensor:
    """Return log N(y; x, sigma^2)."""
    return (_LOG_NORMAL - sigma.log()) - ((y - x) * (math.sqrt(0.5) / sigma)).square()


def _log(share: float) -> float:
    return math.log(share) if share > 0 else -math.inf


def _log_prob_inside(y: Tensor, p: Any) -> tuple[Tensor, bool]:
    """Return log p(y), -inf outside the support of p, and whether p is discrete."""
    inside, discrete = _inside(y, p)
    log_prob = p.log_prob(torch.where(inside, y, p.sample()))
    return torch.where(inside, log_prob, -math.inf), discrete


def _inside(y: Tensor, p: Any) -> tuple[Tensor, bool]:
    """Return where y has a density or probability under p, and whether p is discrete."""
    try:
        support = p.support
    except (NotImplementedError, AttributeError):
        return torch.ones_like(y, dtype=torch.bool), levels(p) is not None
    return support.check(y), support.is_discrete
