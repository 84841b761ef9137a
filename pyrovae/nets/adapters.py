"""Wrappers that adapt a network to its inputs: g(x, c) = f(x), and g for any batch dimensions."""

import torch
from torch import Tensor, nn

from pyrovae.nets.batching import Features, Network, int_or_tuple, over_leading_axes, shape_of

__all__ = ["AnyLeading", "WithoutContext"]


class WithoutContext(nn.Module):
    """f(x, c) = f(x), or f(x, c_1 .. c_k): for a network that uses no context, or part of it.

    Args:
        net: a network of x, or of x and a context of k columns.
        keep: k, the number of leading columns of the context that the network takes.

    Example:
        >>> from pyrovae.nets import MLP
        >>> WithoutContext(MLP(784, [400], 40))(torch.zeros(5, 784), torch.zeros(5, 10)).shape
        torch.Size([5, 40])
    """

    def __init__(self, net: nn.Module, keep: int = 0) -> None:
        super().__init__()
        self.net, self.keep = net, keep
        if hasattr(net, "shape_out"):  # a network from elsewhere need not have it
            self.shape_out = net.shape_out

    def forward(self, x: Tensor, *c: Tensor) -> Tensor:
        """Return f(x), or f of x and the first k columns of the context."""
        return self.net(x, torch.cat(c, -1)[..., : self.keep]) if self.keep else self.net(x)


class AnyLeading(Network):
    """A network for one batch dimension, such as one with `BatchNorm1d`, applied to any of them.

    Args:
        net: maps (N, *features_in), and contexts (N, C_i) where given, to (N, *features_out).
        features_in: features or shape of x.
        features_out: features or shape of the output.

    Raises:
        ValueError: in `forward`, if x does not have the features expected.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
        >>> AnyLeading(net, 3, 2)(torch.zeros(7, 5, 3)).shape
        torch.Size([7, 5, 2])
    """

    def __init__(self, net: nn.Module, features_in: Features, features_out: Features) -> None:
        super().__init__()
        self.net = net
        self.features_in, self.features_out = int_or_tuple(features_in), int_or_tuple(features_out)
        self.shape_in, self.shape_out = shape_of(features_in), shape_of(features_out)

    def forward(self, x: Tensor, *c: Tensor) -> Tensor:
        """Return f(x, c) with shape (*, *features_out), for x (*, *features_in) and c (*, C_i)."""
        (x,) = self.checked((x,))
        return over_leading_axes(self.net, x, *c, event_dims=[len(self.shape_in), *(1 for _ in c)])
