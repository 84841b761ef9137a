"""A conditional distribution p(y | given) is a module that returns a Pyro distribution over y.

Priors p(z | c), posteriors q(z | x, c) and likelihoods p(x | z, c) are all of this one kind, so
that a graph can be assembled from any of them, from this library's or from a user's.
"""

from abc import ABC, abstractmethod

from pyro.distributions import Distribution
from torch import Tensor, nn

__all__ = ["Conditional", "Standardized"]


class Conditional(nn.Module, ABC):
    """p(y | given), the abstract base class of all parts.

    A concrete part is final: to change one, wrap it (as `Standardized` does) or write another. It
    keeps each constructor argument as an attribute of the same name, from which `pyrovae.save`
    describes it.
    """

    @abstractmethod
    def forward(self, *given: Tensor) -> Distribution:
        """Return p(y | given) with batch shape (*), for given tensors of shape (*, D_i)."""


class Standardized(Conditional):
    """The posterior q(z | (x - shift) / scale, c), for data whose values are far from unit size.

    Counts or grey levels are examples. The likelihood still explains x itself.

    Args:
        part: the posterior to wrap.
        shift: what is subtracted from x.
        scale: what x - shift is divided by; not zero.

    Raises:
        ValueError: if `scale` is zero.
    """

    def __init__(self, part: nn.Module, shift: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        if scale == 0:
            raise ValueError(
                "Standardized: scale is 0, expected the (non-zero) unit in which x is measured"
            )
        self.part, self.shift, self.scale = part, shift, scale

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return the wrapped posterior at the standardized x."""
        return self.part((x - self.shift) / self.scale, *c)
