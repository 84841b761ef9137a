"""A network with a linear map beside it: f(x, c) = W x + b + g(x, c)."""

from math import prod
from typing import Any

from torch import Tensor, nn

from pyrovae.nets.batching import Network

__all__ = ["PlusLinear"]


class PlusLinear(Network):
    """f(x, c) = W x + b + g(x, c), a linear map of x added to the output of a network.

    The linear part can be set to a solution in closed form, such as principal components; the
    network then learns what that leaves out.

    Args:
        net: g, with `shape_in` and `shape_out`, such as `MLP`.

    Example:
        >>> import torch
        >>> from pyrovae.nets import MLP
        >>> PlusLinear(MLP((1, 28, 28), [400], 40))(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 40])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        shapes: Any = net
        self.net, self.context = net, shapes.context
        self.shape_in, self.shape_out = tuple(shapes.shape_in), tuple(shapes.shape_out)
        self.linear = nn.Linear(prod(self.shape_in), prod(self.shape_out))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return f(x, c) with shape (*, *shape_out), for x (*, *shape_in) and c (*, C_i)."""
        x, *c = self.checked(inputs)
        linear = self.linear(x.flatten(-len(self.shape_in)))
        return self.net(x, *c) + linear.unflatten(-1, self.shape_out)
