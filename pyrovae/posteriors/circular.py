"""A posterior over angles, in radians: theta and theta + 2 pi are the same angle, and draws lie in [-pi, pi)."""

from pyro.distributions import Distribution
from torch import Tensor, nn

from pyrovae import distributions
from pyrovae.distributions import Conditional, chunk_parameters

__all__ = ["WrappedNormal"]


class WrappedNormal(Conditional):
    """q(theta | x) = prod_d sum_k N(theta_d + 2 pi k; mu_d(x), sigma_d(x)^2), a normal wound around the circle.

    theta = wrap(mu + sigma * eps): reparameterized as a normal's draw is, with the density of all its turns together.

    Args:
        net: maps x (and c) to 2 D numbers, mu in radians and log sigma.

    Raises:
        ValueError: when it is called, if the network puts out an odd number.

    Example:
        >>> import torch
        >>> WrappedNormal(nn.Linear(784, 2))(torch.zeros(5, 784)).event_shape
        torch.Size([1])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(theta | x, c), batch shape (*), event shape (D,)."""
        mu, log_sigma = chunk_parameters(
            self.net(x, *c), 2, "WrappedNormal", "mu and log sigma of each angle"
        )
        return distributions.WrappedNormal(mu, log_sigma.exp()).to_event(1)
