"""Wrappers that fit a network to the inputs that it gets."""

import torch
from torch import Tensor, nn

from pyrovae.nets.batching import Features, Network, int_or_tuple, over_leading_axes, shape_of

__all__ = ["AnyLeading", "WithoutContext"]


class WithoutContext(nn.Module):
    """f(x, c) = f(x), or f(x, c_1 .. c_k): for a network that does not want all of the context that other parts of the graph get.

    Args:
        net: any network of one input, or of two if it keeps some of the context.
        keep: k, the first columns of the context that it does want.

    Example:
        >>> from pyrovae.nets import MLP
        >>> WithoutContext(MLP(784, [400], 40))(torch.zeros(5, 784), torch.zeros(5, 10)).shape
        torch.Size([5, 40])
    """

    def __init__(self, net: nn.Module, keep: int = 0) -> None:
        super().__init__()
        self.net, self.keep = net, keep
        if hasattr(net, "shape_out"):
            self.shape_out = net.shape_out

    def forward(self, x: Tensor, *c: Tensor) -> Tensor:
        """Return f(x), or f of x and the columns that it keeps."""
        return self.net(x, torch.cat(c, -1)[..., : self.keep]) if self.keep else self.net(x)


class AnyLeading(Network):
    """Any network that knows one batch axis, such as one with `BatchNorm1d`, as one that takes any leading axes.

    Args:
        net: maps (N, *features_in), and contexts (N, C_i) where given, to (N, *features_out).
        features_in: features or shape of x.
        features_out: features or shape of what comes out.

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
        """(x, *c) with shapes (*, *features_in), (*, C_i) -> f(x, c) with shape (*, *features_out)."""
        (x,) = self.checked((x,))
        return over_leading_axes(self.net, x, *c, event_dims=[len(self.shape_in), *(1 for _ in c)])
