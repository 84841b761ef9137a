"""Amortized posteriors q(z | x, c): a network reads x (and c) and puts out the parameters of a distribution over z.

q(z | x) = N(mu(x), diag sigma(x)^2) for the variational autoencoder, a single point z = f(x) for the autoencoder.
"""

import pyro.distributions as dist
from pyro.distributions import Distribution
from torch import Tensor, nn

from pyrovae.conditional import Conditional

__all__ = ["DiagonalNormal", "Point"]


class DiagonalNormal(Conditional):
    """q(z | x) = N(mu(x), diag sigma(x)^2), reparameterized as z = mu + sigma * eps (Kingma & Welling 2014, eq. 10).

    Args:
        net: maps x (and c) to 2 D numbers, mu and log sigma (*not* log sigma^2), with shape (*, 2 D).

    Example:
        >>> import torch
        >>> q = DiagonalNormal(nn.Linear(784, 2 * 20))
        >>> q(torch.zeros(5, 784)).rsample().shape
        torch.Size([5, 20])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(z | x, c), batch shape (*), event shape (D,)."""
        mu, log_sigma = self.net(x, *c).chunk(2, -1)  # (*, D) each
        return dist.Normal(mu, log_sigma.exp()).to_event(1)


class Point(Conditional):
    """q(z | x) = delta(z - f(x)): all mass in one code, the encoder of an autoencoder.

    Args:
        net: maps x (and c) to the code f(x), with shape (*, D).

    Example:
        >>> import torch
        >>> Point(nn.Linear(784, 20))(torch.zeros(5, 784)).event_shape
        torch.Size([20])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return the point mass at f(x, c), batch shape (*), event shape (D,)."""
        return dist.Delta(self.net(x, *c), event_dim=1)
