"""Priors p(z | c) over the latent z, with shape (*, D).

A variational autoencoder has p(z) = N(0, I); an autoencoder has none, which is the flat p(z) = 1.
"""

import torch
from pyro.distributions import Distribution, constraints
from torch import Tensor

from pyrovae.conditional import Conditional
from pyrovae.distributions import Improper, UnitNormal

__all__ = ["Flat", "StandardNormal"]


class StandardNormal(Conditional):
    """p(z) = N(0, I) (Kingma & Welling 2014, section 3). The context c is not looked at.

    Args:
        d: number of latents D.

    Example:
        >>> StandardNormal(2)().event_shape
        torch.Size([2])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, d: int) -> None:
        super().__init__()
        self.d = d
        self.register_buffer("loc", torch.zeros(d), persistent=False)
        self.register_buffer("scale", torch.ones(d), persistent=False)

    def forward(self, *c: Tensor) -> Distribution:
        """Return N(0, I), batch shape (), event shape (D,)."""
        return UnitNormal(self.loc, self.scale).to_event(1)


class Flat(Conditional):
    """p(z) = 1: an improper prior that adds nothing to the loss.

    With the point posterior `pyrovae.posteriors.Point` it makes an autoencoder of the same graph. There is nothing to draw
    from: an autoencoder has no distribution over its codes.

    Args:
        d: number of latents D.

    Example:
        >>> Flat(2)().log_prob(torch.tensor([3.0, -1.0]))
        tensor(0.)
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.d = d

    def forward(self, *c: Tensor) -> Distribution:
        """Return the improper uniform distribution over R^D, batch shape (), event shape (D,)."""
        return Improper(constraints.real_vector, torch.Size(), torch.Size((self.d,)))
