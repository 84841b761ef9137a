"""`torch.stack` for distributions: p(x)_k = p_k(x_k), k = 1 .. K, whatever their families."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

__all__ = ["Stacked"]


class Stacked(TorchDistribution):
    """A batch of K distributions, batch shape (K, *) for distributions with batch shape (*).

    Pyro has no such thing: each of its distributions is one family over tensors of parameters, and
    a function that returns a distribution cannot be passed through `torch.func.vmap`.

    Args:
        parts: K distributions with the same batch and event shape.

    Example:
        >>> from pyro.distributions import Laplace, Normal
        >>> Stacked([Normal(torch.zeros(3), 1.0), Laplace(torch.zeros(3), 1.0)]).batch_shape
        torch.Size([2, 3])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, parts: Sequence[Any], validate_args: bool | None = None) -> None:
        self.parts = list(parts)
        first = self.parts[0]
        batch_shape = torch.Size((len(self.parts), *first.batch_shape))
        super().__init__(batch_shape, first.event_shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        """The support of the parts."""
        return self.parts[0].support

    @property
    def has_rsample(self) -> bool:
        """Whether every part has reparameterized draws."""
        return all(part.has_rsample for part in self.parts)

    @property
    def mean(self) -> Tensor:
        """E[x_k], with shape (K, *, *event)."""
        return torch.stack([part.mean for part in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p_k(x_k), with shape (K, *), for x with shape (K, *, *event).

        Further batch dimensions may stand in front.
        """
        shape = self.batch_shape + self.event_shape
        value = value.expand(np.broadcast_shapes(value.shape, shape))
        parts = zip(self.parts, value.unbind(-len(shape)), strict=True)
        return torch.stack([part.log_prob(x) for part, x in parts], -len(self.batch_shape))

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw x_k ~ p_k, with shape (*sample_shape, K, *, *event)."""
        return self._stack(lambda part: part.sample(sample_shape))

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw as `sample` does, with gradients."""
        return self._stack(lambda part: part.rsample(sample_shape))

    def _stack(self, draw: Callable[[Any], Tensor]) -> Tensor:
        dim = -len(self.batch_shape) - len(self.event_shape)
        return torch.stack([draw(part) for part in self.parts], dim)
