"""Amortized posteriors q(z | x, c): a network reads x (and c) and puts out the parameters of a distribution over z.

q(z | x) = N(mu(x), diag sigma(x)^2) for the variational autoencoder, a single point z = f(x) for the autoencoder.
"""

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from pyrovae.conditional import Conditional

__all__ = ["DiagonalNormal", "Point"]


class DiagonalNormal(Conditional):
    """q(z | x) = N(mu(x), diag sigma(x)^2), reparameterized as z = mu + sigma * eps (Kingma & Welling 2014, eq. 10).

    Args:
        net: maps x (and c) to 2 D numbers, mu and log sigma (*not* log sigma^2), with shape (*, 2 D).
        floor: added to the variance, sigma^2 = exp(2 log sigma) + floor, so that no posterior becomes a point; scVI takes 1e-4.

    Raises:
        ValueError: if `floor` is negative.

    Example:
        >>> q = DiagonalNormal(nn.Linear(784, 2 * 20))
        >>> q(torch.zeros(5, 784)).rsample().shape
        torch.Size([5, 20])
    """

    def __init__(self, net: nn.Module, floor: float = 0.0) -> None:
        super().__init__()
        if floor < 0:
            raise ValueError(f"DiagonalNormal: floor is {floor}, expected a variance of at least 0 to add, e.g. 1e-4")
        self.net, self.floor = net, floor

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(z | x, c), batch shape (*), event shape (D,)."""
        mu, log_sigma = self.net(x, *c).chunk(2, -1)  # (*, D) each
        sigma = (torch.exp(2 * log_sigma) + self.floor).sqrt() if self.floor else log_sigma.exp()
        return dist.Normal(mu, sigma).to_event(1)


class Point(Conditional):
    """q(z | x) = delta(z - f(x)): all mass in one code, the encoder of an autoencoder.

    Args:
        net: maps x (and c) to the code f(x), with shape (*, D).

    Example:
        >>> Point(nn.Linear(784, 20))(torch.zeros(5, 784)).event_shape
        torch.Size([20])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return the point mass at f(x, c), batch shape (*), event shape (D,)."""
        return dist.Delta(self.net(x, *c), event_dim=1)
