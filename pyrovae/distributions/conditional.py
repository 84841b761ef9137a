"""A conditional distribution p(y | given) is a module that returns a Pyro distribution over y.

Priors p(z | c), posteriors q(z | x, c) and likelihoods p(x | z, c) are all of this one kind, so
that a graph can be assembled from any of them, from this library's or from a user's.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, overload

from pyro.distributions import Distribution
from torch import Tensor, nn
from torch.distributions import Distribution as OfTorch
from torch.distributions.constraints import Constraint

from pyrovae.distributions.torch_adapter import as_pyro

__all__ = ["Conditional", "FromTorch", "Standardized", "from_torch"]


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


@overload
def from_torch(p: OfTorch, net: None = ..., support: Constraint | None = ...) -> Any: ...
@overload
def from_torch(
    p: Callable[..., OfTorch], net: nn.Module | None = ..., support: Constraint | None = ...
) -> "FromTorch": ...
def from_torch(p: Any, net: nn.Module | None = None, support: Constraint | None = None) -> Any:
    """Return a distribution of torch's or zuko's as a Pyro distribution, or a part that returns it.

    Args:
        p: a `torch.distributions.Distribution`; or what returns one when it is called, a module
            such as a flow of zuko's, or a function.
        net: only with the latter: maps the inputs of the part, such as (x, *c), to what `p` is
            called with.
        support: the values that have a density, for a distribution that does not state them; by
            default those that its transform takes, if it has one.

    Returns:
        A Pyro distribution; a module whose forward returns one, if `p` returns distributions.

    Raises:
        TypeError: if `p` is neither, or a Pyro distribution is given a network.

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> from_torch(Independent(Normal(torch.zeros(5, 2), 1.0), 1))().shape
        torch.Size([5, 2])
        >>> part = from_torch(lambda y: Independent(Normal(y, 1.0), 1), nn.Linear(6, 2))
        >>> part(torch.zeros(5, 6)).event_shape
        torch.Size([2])
    """
    if isinstance(p, OfTorch | Distribution) and net is None:
        return as_pyro(p, support)
    if isinstance(p, OfTorch | Distribution) or not callable(p):
        raise TypeError(
            f"from_torch: p is a {type(p).__name__}, expected a distribution of torch or zuko, or "
            "(with a net) a module or function that returns one"
        )
    return FromTorch(p, net, support)


class FromTorch(Conditional):
    """The part whose distribution is what `from_torch` makes of p(net(*given)), or of p(*given).

    Args:
        p: a module or function that returns a distribution of torch's.
        net: its inputs; None passes on what the part is given.
        support: as for `from_torch`.
    """

    def __init__(
        self,
        p: Callable[..., OfTorch],
        net: nn.Module | None = None,
        support: Constraint | None = None,
    ) -> None:
        super().__init__()
        self.p, self.net, self.support = p, net, support

    def forward(self, *given: Tensor) -> Distribution:
        """Return p(y | given) as a Pyro distribution."""
        found = self.p(*given) if self.net is None else self.p(self.net(*given))
        return from_torch(found, support=self.support)
