"""Normal posteriors q(z | x) = N(mu(x), Sigma(x)), and the point mass of an autoencoder.

z = mu + sigma * eps         Sigma = diag sigma^2              D numbers beside the means
z = mu + L eps               Sigma = L L^T                     D (D + 1) / 2
z = mu + W u + sigma * eps   Sigma = W W^T + diag sigma^2      D (R + 1),  R the rank of W
z = f(x)                     Sigma = 0                         0
"""

import math

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution, TorchDistribution
from torch import Tensor, nn

from pyrovae.distributions import (
    Conditional,
    check_network,
    checked_output,
    cholesky_factor,
    split_parameters,
)
from pyrovae.posteriors.factorized import Factorized

__all__ = ["DiagonalNormal", "FullRankNormal", "LowRankNormal", "Point"]


class DiagonalNormal(Factorized):
    """q(z | x) = N(mu(x), diag sigma(x)^2), reparameterized as z = mu + sigma * eps.

    Kingma & Welling 2014, eq. 10.

    Args:
        net: maps x (and c) to 2 D numbers, mu and log sigma (*not* log sigma^2), with shape (*, 2
            D).
        floor: added to the variance, sigma^2 = exp(2 log sigma) + floor, so that no posterior
            collapses to a point; scVI uses 1e-4.

    Raises:
        ValueError: if `floor` is negative; when it is called, if the network outputs an odd number.

    Example:
        >>> q = DiagonalNormal(nn.Linear(784, 2 * 20))
        >>> q(torch.zeros(5, 784)).rsample().shape
        torch.Size([5, 20])
    """

    def __init__(self, net: nn.Module, floor: float = 0.0) -> None:
        super().__init__(net)
        if floor < 0:
            raise ValueError(
                f"DiagonalNormal: floor is {floor}, expected a variance of at least 0 to add, "
                "e.g. 1e-4"
            )
        self.floor = floor

    def distribution(self, mu: Tensor, log_sigma: Tensor) -> TorchDistribution:
        """Return N(mu, sigma^2)."""
        sigma = (torch.exp(2 * log_sigma) + self.floor).sqrt() if self.floor else log_sigma.exp()
        return dist.Normal(mu, sigma)


class FullRankNormal(Conditional):
    """q(z | x) = N(mu(x), L(x) L(x)^T), reparameterized as z = mu + L eps.

    L = diag sigma (I + N / D) is lower triangular, N strictly so (Kingma & Welling 2019, section
    2.5.1, with another parameterization). A row of L is in units of its sigma, so that one number
    scales the whole row. The D (D - 1) / 2 entries of N are noise at the start; divided by D, they
    are small beside the diagonal.

    Args:
        net: maps x (and c) to D (D + 3) / 2 numbers: mu, log sigma, and N below its diagonal, row
            by row.

    Raises:
        ValueError: when it is called, if the size of the network's output is not of the form
            D (D + 3) / 2.

    Example:
        >>> q = FullRankNormal(nn.Linear(784, 20 * 23 // 2))
        >>> q(torch.zeros(5, 784)).rsample().shape
        torch.Size([5, 20])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        check_network(net, "FullRankNormal")
        self.net = net

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(z | x, c), batch shape (*), event shape (D,)."""
        y = checked_output(self.net(x, *c), "FullRankNormal")
        d = (math.isqrt(9 + 8 * y.shape[-1]) - 3) // 2  # the largest D with D (D + 3) / 2 numbers
        sizes = [d, d, d * (d - 1) // 2]
        meaning = (
            f"D (D + 3) / 2 for D latents, such as {sum(sizes)} for {d} "
            f"or {sum(sizes) + d + 2} for {d + 1}"
        )
        mu, log_sigma, lower = split_parameters(y, sizes, "FullRankNormal", meaning)
        correlated = cholesky_factor(torch.zeros_like(mu), lower / d)
        return dist.MultivariateNormal(mu, scale_tril=log_sigma.exp()[..., None] * correlated)


class LowRankNormal(Conditional):
    """q(z | x) = N(mu(x), W(x) W(x)^T + diag sigma(x)^2), with W of shape (D, R).

    It captures the leading correlations with O(D R) parameters.

    Args:
        net: maps x (and c) to D (R + 2) numbers: mu, log sigma, and W, row by row.
        d: number of latents D.
        rank: R, at least 1.

    Raises:
        ValueError: if a number is below 1; when it is called, if the network does not output D (R
            + 2) numbers.

    Example:
        >>> q = LowRankNormal(nn.Linear(784, 20 * (3 + 2)), 20, rank=3)
        >>> q(torch.zeros(5, 784)).rsample().shape
        torch.Size([5, 20])
    """

    def __init__(self, net: nn.Module, d: int, rank: int = 1) -> None:
        super().__init__()
        check_network(net, "LowRankNormal")
        if d < 1 or rank < 1:
            raise ValueError(
                f"LowRankNormal: d is {d} and rank {rank}, expected at least 1 of each"
            )
        self.net, self.d, self.rank = net, d, rank

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(z | x, c), batch shape (*), event shape (D,)."""
        d, r = self.d, self.rank
        meaning = f"mu, log sigma and a factor of rank {r} over {d} latents"
        y = self.net(x, *c)
        mu, log_sigma, w = split_parameters(y, [d, d, d * r], "LowRankNormal", meaning)
        return dist.LowRankMultivariateNormal(mu, w.unflatten(-1, (d, r)), (2 * log_sigma).exp())


class Point(Conditional):
    """q(z | x) = delta(z - f(x)): all mass at one point, the encoder of an autoencoder.

    Args:
        net: maps x (and c) to the latent f(x), with shape (*, D).

    Example:
        >>> Point(nn.Linear(784, 20))(torch.zeros(5, 784)).event_shape
        torch.Size([20])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        check_network(net, "Point")
        self.net = net

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return the point mass at f(x, c), batch shape (*), event shape (D,)."""
        return dist.Delta(checked_output(self.net(x, *c), "Point"), event_dim=1)
