"""Negative binomial counts, plain and zero-inflated, by mean mu and inverse dispersion theta.

NB(x) = Gamma(x + theta) / (Gamma(theta) x!) (1 + mu / theta)^-theta (1 + theta / mu)^-x
ZINB(0) = pi + (1 - pi) NB(0),   ZINB(x) = (1 - pi) NB(x),   pi = sigmoid(gate logits)
"""

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.distributions import Gamma

from pyrovae.distributions.negative_binomial_log_prob import negative_binomial_log_prob

__all__ = ["NegativeBinomial", "ZeroInflatedNegativeBinomial"]

_ONE = Size()  # sample_shape of one draw
_LEAST_MEAN = 1e-20  # added to mu: log p and its gradient stay finite in float32 at mu = 0


class _GammaPoisson(TorchDistribution):
    """Abstract: Poisson counts whose rate is Gamma distributed with mean mu, and perhaps gated.

    It holds log mu and log theta, either computed from mu and theta in double precision, or given,
    in which case everything but the non-zero counts is computed in their own precision.
    """

    support = constraints.nonnegative_integer
    log_mu: Tensor
    log_theta: Tensor
    gate_logits: Tensor | None = None
    dtype: torch.dtype  # of means, log probabilities and draws

    def __init__(
        self,
        mu: Tensor | None,
        theta: Tensor | None,
        log_mu: Tensor | None,
        log_theta: Tensor | None,
        gate_logits: Tensor | None,
        validate_args: bool | None,
    ) -> None:
        if mu is not None and theta is not None:
            self.log_mu, self.log_theta, self.dtype = _log(mu), _log(theta), mu.dtype
        elif log_mu is not None and log_theta is not None:
            self.log_mu, self.log_theta, self.dtype = log_mu, log_theta, log_mu.dtype
        else:
            raise ValueError(
                f"{type(self).__name__}: expected mu and theta, or log_mu and log_theta"
            )
        shape = np.broadcast_shapes(self.log_mu.shape, self.log_theta.shape)
        if gate_logits is not None:
            self.gate_logits = gate_logits
            shape = np.broadcast_shapes(shape, gate_logits.shape)
        super().__init__(Size(shape), validate_args=validate_args)

    def expand(self, batch_shape: Size, _instance: object = None) -> Any:
        """Return the same distribution with a larger batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        new.log_mu, new.log_theta = self.log_mu.expand(batch_shape), self.log_theta
        new.dtype = self.dtype
        if self.gate_logits is not None:
            new.gate_logits = self.gate_logits.expand(batch_shape)
        TorchDistribution.__init__(new, batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mu(self) -> Tensor:
        """The mean of the negative binomial, with shape (*)."""
        return self.log_mu.exp().to(self.dtype).expand(self.batch_shape)

    @property
    def theta(self) -> Tensor:
        """The inverse dispersion, with shape (*)."""
        return self.log_theta.exp().to(self.dtype).expand(self.batch_shape)

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """E[x], with shape (*)."""

    @property
    @abstractmethod
    def variance(self) -> Tensor:
        """Var[x], with shape (*)."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log probability of counts, with shape (*)."""
        if self._validate_args:
            self._validate_sample(value)
        shape, g = np.broadcast_shapes(value.shape, self.batch_shape), self.gate_logits
        g = None if g is None else g.to(self.log_mu.dtype).expand(shape)
        log_p = negative_binomial_log_prob(self.log_mu.expand(shape), self.log_theta, g, value)
        return log_p.to(self.dtype)

    def _draw(self, shape: Size) -> Tensor:
        """Return Poisson counts at a rate mu y, y ~ Gamma(theta, theta)."""
        theta = self.theta.double().expand(shape)
        y = Gamma(theta, torch.ones_like(theta), validate_args=False).sample() / theta
        return torch.poisson(self.mu.double() * y).to(self.dtype)


class NegativeBinomial(_GammaPoisson):
    """Counts with mean mu and variance mu + mu^2 / theta (Lopez et al. 2018, supplementary note).

    Args:
        mu: mean, at least 0, with shape (*).
        theta: inverse dispersion, positive, with a shape that broadcasts with it.
        log_mu: log mu, instead of mu.
        log_theta: log theta, instead of theta.
        validate_args: whether to check arguments and values.

    Raises:
        ValueError: if neither both parameters nor both logarithms are given.

    Example:
        >>> NegativeBinomial(torch.tensor(2.0), torch.tensor(3.0)).log_prob(torch.arange(2.0))
        tensor([-1.5325, -1.3502])
    """

    arg_constraints = {"mu": constraints.nonnegative, "theta": constraints.positive}  # noqa: RUF012

    def __init__(
        self,
        mu: Tensor | None = None,
        theta: Tensor | None = None,
        *,
        log_mu: Tensor | None = None,
        log_theta: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(mu, theta, log_mu, log_theta, None, validate_args)

    @classmethod
    def from_logs(
        cls, log_mu: Tensor, log_theta: Tensor, validate_args: bool | None = None
    ) -> "NegativeBinomial":
        """Return the distribution with these logarithms."""
        return cls(log_mu=log_mu, log_theta=log_theta, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        """E[x] = mu, with shape (*)."""
        return self.mu

    @property
    def variance(self) -> Tensor:
        """Var[x] = mu + mu^2 / theta, with shape (*)."""
        return self.mu + self.mu**2 / self.theta

    @torch.no_grad()
    def sample(self, sample_shape: Size = _ONE) -> Tensor:
        """Return draws with shape (*sample_shape, *)."""
        return self._draw(self._extended_shape(sample_shape))


class ZeroInflatedNegativeBinomial(_GammaPoisson):
    """A zero with probability pi, otherwise a negative binomial count (Lopez et al. 2018, eq. 4).

    Args:
        mu: mean of the negative binomial, at least 0, with shape (*).
        theta: inverse dispersion, positive.
        gate_logits: log pi / (1 - pi); the logit, because the probability loses the tail.
        log_mu: log mu, instead of mu.
        log_theta: log theta, instead of theta.
        validate_args: whether to check arguments and values.

    Raises:
        ValueError: if neither both parameters nor both logarithms are given.

    Example:
        >>> mu, theta, gate_logits = torch.tensor(2.0), torch.tensor(3.0), torch.tensor(0.0)
        >>> p = ZeroInflatedNegativeBinomial(mu, theta, gate_logits)
        >>> p.mean, p.log_prob(torch.zeros(()))
        (tensor(1.), tensor(-0.4976))
    """

    arg_constraints = NegativeBinomial.arg_constraints | {"gate_logits": constraints.real}
    gate_logits: Tensor

    def __init__(
        self,
        mu: Tensor | None = None,
        theta: Tensor | None = None,
        gate_logits: Tensor | None = None,
        *,
        log_mu: Tensor | None = None,
        log_theta: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if gate_logits is None:
            raise ValueError(f"{type(self).__name__}: expected gate_logits, the logit of a zero")
        super().__init__(mu, theta, log_mu, log_theta, gate_logits, validate_args)

    @classmethod
    def from_logs(
        cls,
        log_mu: Tensor,
        log_theta: Tensor,
        gate_logits: Tensor,
        validate_args: bool | None = None,
    ) -> "ZeroInflatedNegativeBinomial":
        """Return the distribution with these logarithms."""
        return cls(
            gate_logits=gate_logits,
            log_mu=log_mu,
            log_theta=log_theta,
            validate_args=validate_args,
        )

    @property
    def mean(self) -> Tensor:
        """E[x] = (1 - pi) mu, with shape (*)."""
        return torch.sigmoid(-self.gate_logits) * self.mu

    @property
    def variance(self) -> Tensor:
        """Var[x] = (1 - pi) (mu + mu^2 / theta + pi mu^2), with shape (*)."""
        pi = torch.sigmoid(self.gate_logits)
        return (1 - pi) * (self.mu + self.mu**2 * (1 / self.theta + pi))

    @torch.no_grad()
    def sample(self, sample_shape: Size = _ONE) -> Tensor:
        """Return draws with shape (*sample_shape, *)."""
        x = self._draw(self._extended_shape(sample_shape))
        return x * (torch.rand_like(x) < torch.sigmoid(-self.gate_logits))


def _log(positive: Tensor) -> Tensor:
    """Return log y in double precision, finite at 0."""
    return (positive.double() + _LEAST_MEAN).log()
