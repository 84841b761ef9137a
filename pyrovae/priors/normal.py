"""Simple priors.

p(z) = N(0, I)                               StandardNormal
p(z) = N(0, s^2 I)                           CentredNormal
p(z) = 1                                     Flat, improper
p(z | c) = N(mu(c), diag sigma(c)^2)         ConditionalNormal
"""

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution, constraints
from torch import Tensor, nn

from pyrovae.distributions import (
    Conditional,
    ImproperUniform,
    UnitNormal,
    check_network,
    chunk_parameters,
    whole_number,
)

__all__ = ["CentredNormal", "ConditionalNormal", "Flat", "StandardNormal"]


class StandardNormal(Conditional):
    """p(z) = N(0, I) (Kingma & Welling 2014, section 3). It does not depend on the context c.

    Args:
        d: number of latents D.

    Raises:
        ValueError: if `d` is not a whole number of at least 1.

    Example:
        >>> StandardNormal(2)().event_shape
        torch.Size([2])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, d: int) -> None:
        super().__init__()
        self.d = whole_number(d, "StandardNormal: d")
        self.register_buffer("loc", torch.zeros(self.d), persistent=False)
        self.register_buffer("scale", torch.ones(self.d), persistent=False)

    def forward(self, *c: Tensor) -> Distribution:
        """Return N(0, I), batch shape (), event shape (D,)."""
        return UnitNormal(self.loc, self.scale).to_event(1)


class CentredNormal(Conditional):
    """p(z) = N(0, s^2 I), for latents with a scale of their own, such as a translation.

    Args:
        d: number of latents D.
        sd: standard deviation s, above 0.

    Raises:
        ValueError: if `d` is not a whole number of at least 1, or `sd` not above 0.

    Example:
        >>> CentredNormal(2, sd=0.1)().stddev
        tensor([0.1000, 0.1000])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, d: int, sd: float) -> None:
        super().__init__()
        if not sd > 0:
            raise ValueError(f"CentredNormal: sd is {sd}, expected a number above 0")
        self.d, self.sd = whole_number(d, "CentredNormal: d"), sd
        self.register_buffer("loc", torch.zeros(self.d), persistent=False)
        self.register_buffer("scale", torch.full((self.d,), float(sd)), persistent=False)

    def forward(self, *c: Tensor) -> Distribution:
        """Return N(0, s^2 I), batch shape (), event shape (D,)."""
        return dist.Normal(self.loc, self.scale).to_event(1)


class Flat(Conditional):
    """p(z) = 1: an improper prior that adds nothing to the loss.

    With the point posterior `pyrovae.posteriors.Point` it turns a variational autoencoder into an
    autoencoder. It cannot be sampled: an autoencoder has no distribution over its latents.

    Args:
        d: number of latents D.

    Raises:
        ValueError: if `d` is not a whole number of at least 1.

    Example:
        >>> Flat(2)().log_prob(torch.tensor([3.0, -1.0]))
        tensor(0.)
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.d = whole_number(d, "Flat: d")

    def forward(self, *c: Tensor) -> Distribution:
        """Return the improper uniform distribution over R^D, batch shape (), event shape (D,)."""
        return ImproperUniform(constraints.real_vector, torch.Size(), torch.Size((self.d,)))


class ConditionalNormal(Conditional):
    """p(z | c) = N(mu(c), diag sigma(c)^2), of a conditional VAE (Sohn et al. 2015, section 3).

    Args:
        net: maps the context c to 2 D numbers, mu and log sigma, with shape (*, 2 D).

    Raises:
        TypeError: if `net` is no network.
        ValueError: when it is called without a context, or the network outputs an odd number.

    Example:
        >>> ConditionalNormal(nn.Linear(10, 4))(torch.zeros(5, 10)).batch_shape
        torch.Size([5])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        check_network(net, "ConditionalNormal")
        self.net = net

    def forward(self, *c: Tensor) -> Distribution:
        """Return p(z | c), batch shape (*), event shape (D,)."""
        if not c:
            raise ValueError(
                "ConditionalNormal: there is no context, expected data (x, c), because p(z | c) "
                "is computed from c. Without a context use StandardNormal"
            )
        mu, log_sigma = chunk_parameters(
            self.net(*c), 2, "ConditionalNormal", "mu and log sigma of each latent"
        )
        return dist.Normal(mu, log_sigma.exp()).to_event(1)
