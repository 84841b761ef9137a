"""Fully connected networks.

With h = h_(l-1), the output of layer l - 1, and a the activation:

MLP           h_0 = (x, c),            h_l = a(W_l h + b_l),            f = W h_L + b
ResidualMLP   h_0 = W_0 (x, c) + b_0,  h_l = h + V_l a(U_l a(norm h)),  f = W a(norm h_L) + b
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from numbers import Integral

from torch import Tensor, nn

from pyrovae.nets.batching import (
    Activation,
    Features,
    Network,
    checked_activation,
    int_or_tuple,
    shape_of,
)

__all__ = ["MLP", "ResidualMLP"]


class MLP(Network):
    """Fully connected layers with an activation between them; `hidden=[]` is one linear map.

    Args:
        features_in: features D of x, or a shape such as (1, 28, 28), which is flattened first.
        hidden: widths of the hidden layers.
        features_out: features of the output, or a shape.
        activation: a class of `torch.nn`, constructed without arguments.
        context: total number of features of the further inputs c. They may be counted in
            `features_in` instead, as 784 + 10.

    Example:
        >>> import torch
        >>> net = MLP(784, [400], (1, 28, 28), activation=nn.Tanh, context=10)
        >>> net(torch.zeros(7, 5, 784), torch.zeros(5, 10)).shape
        torch.Size([7, 5, 1, 28, 28])
    """

    def __init__(
        self,
        features_in: Features,
        hidden: Sequence[int],
        features_out: Features,
        activation: Activation = nn.ReLU,
        context: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(hidden, Integral):
            raise TypeError(
                f"MLP: hidden is {hidden!r} and features_out {features_out!r}, expected a list of "
                "widths and a number or a shape, as in MLP(784, [500], 20)"
            )
        self.features_in, self.features_out = int_or_tuple(features_in), int_or_tuple(features_out)
        self.hidden, self.context = shape_of(hidden), context
        self.activation = checked_activation(activation, self)
        self.shape_in, self.shape_out = shape_of(features_in), shape_of(features_out)
        widths = [prod(self.shape_in) + context, *self.hidden, prod(self.shape_out)]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), activation()]
        self.layers = nn.Sequential(*layers[:-1])
        # An input of floating-point vectors of this shape goes to the layers as it is.
        self._ready = self.shape_in if len(self.shape_in) == 1 and not context else None

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return f(x, c) with shape (*, *features_out), for x (*, *features_in) and c (*, C_i)."""
        x = inputs[0]
        if len(inputs) > 1 or x.shape[-1:] != self._ready or not x.is_floating_point():
            x = self.joined(inputs)
        h = self.layers(x)
        return h if len(self.shape_out) == 1 else h.unflatten(-1, self.shape_out)


class ResidualMLP(Network):
    """Residual network with pre-activation blocks (He et al. 2016, "Identity mappings", figure 1b).

    Each block adds the output of two layers to its input, so that gradients reach deep layers.
    Inputs are normalized over the features (Ba et al. 2016) and not over the batch: rows are
    independent, and training equals evaluation.

    Args:
        features_in: as for `MLP`.
        hidden: width of all blocks.
        features_out: as for `MLP`.
        blocks: number of blocks.
        activation: a class of `torch.nn`, constructed without arguments.
        context: total number of features of the further inputs c.

    Example:
        >>> import torch
        >>> ResidualMLP(784, 64, 20, blocks=3)(torch.zeros(5, 784)).shape
        torch.Size([5, 20])
    """

    def __init__(
        self,
        features_in: Features,
        hidden: int,
        features_out: Features,
        blocks: int = 2,
        activation: Activation = nn.ReLU,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.features_in, self.features_out = int_or_tuple(features_in), int_or_tuple(features_out)
        self.hidden, self.blocks = hidden, blocks
        self.activation, self.context = checked_activation(activation, self), context
        self.shape_in, self.shape_out = shape_of(features_in), shape_of(features_out)
        self.first = nn.Linear(prod(self.shape_in) + context, hidden)
        self.residuals = nn.ModuleList(self._residual() for _ in range(blocks))
        last = nn.Linear(hidden, prod(self.shape_out))
        self.last = nn.Sequential(nn.LayerNorm(hidden), activation(), last)

    def _residual(self) -> nn.Sequential:
        n, a = self.hidden, self.activation
        return nn.Sequential(nn.LayerNorm(n), a(), nn.Linear(n, n), a(), nn.Linear(n, n))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return f(x, c) with shape (*, *features_out), for x (*, *features_in) and c (*, C_i)."""
        h = self.first(self.joined(inputs))
        for residual in self.residuals:
            h = h + residual(h)
        return self.last(h).unflatten(-1, self.shape_out)
