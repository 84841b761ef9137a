"""Posterior over angles in radians: q(theta | x) = prod_d WrappedNormal(theta_d; mu_d, sigma_d)."""

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrovae import distributions
from pyrovae.posteriors.factorized import Factorized

__all__ = ["WrappedNormal"]


class WrappedNormal(Factorized):
    """q(theta | x) = prod_d sum_k N(theta_d + 2 pi k; mu_d(x), sigma_d(x)^2), over the circle.

    theta = wrap(mu + sigma * eps) is reparameterized as a draw of a normal is. theta and theta + 2
    pi are the same angle, and draws lie in [-pi, pi).

    Args:
        net: maps x (and c) to 2 D numbers, mu in radians and log sigma.

    Raises:
        ValueError: when it is called, if the network outputs an odd number.

    Example:
        >>> import torch
        >>> WrappedNormal(torch.nn.Linear(784, 2))(torch.zeros(5, 784)).event_shape
        torch.Size([1])
    """

    def distribution(self, mu: Tensor, log_sigma: Tensor) -> TorchDistribution:
        """Return the wrapped normal at mu and sigma."""
        return distributions.WrappedNormal(mu, log_sigma.exp())
