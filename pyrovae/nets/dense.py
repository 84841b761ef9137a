"""Fully connected networks.

MLP           h_0 = (x, c),            h_l = a(W_l h_(l-1) + b_l),                    f = W h_L + b
ResidualMLP   h_0 = W_0 (x, c) + b_0,  h_l = h_(l-1) + V_l a(U_l a(norm h_(l-1))),    f = W a(norm h_L) + b
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from pyrovae.nets.batching import Activation, Features, Network, int_or_tuple, shape_of

__all__ = ["MLP", "ResidualMLP"]


class MLP(Network):
    """Fully connected layers with an activation between them; `hidden=[]` is one linear map.

    Args:
        features_in: features D of x, or a shape such as (1, 28, 28), which is flattened on the way in.
        hidden: widths of the hidden layers.
        features_out: features that come out, or a shape, to which they are unflattened.
        activation: a class of `torch.nn`, made without arguments.
        context: features of the further inputs c, all together; they may be counted in `features_in` instead, 784 + 10.

    Example:
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
        self.features_in, self.features_out = int_or_tuple(features_in), int_or_tuple(features_out)
        self.hidden, self.activation, self.context = tuple(hidden), activation, context
        self.shape_in, self.shape_out = shape_of(features_in), shape_of(features_out)
        widths = [prod(self.shape_in) + context, *hidden, prod(self.shape_out)]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), activation()]
        self.layers = nn.Sequential(*layers[:-1])
        self._ready = (
            self.shape_in if len(self.shape_in) == 1 and not context else None
        )  # of inputs that need no work

    def forward(self, *inputs: Tensor) -> Tensor:
        """(x, *c) with shapes (*, *features_in), (*, C_i) -> f(x, c) with shape (*, *features_out)."""
        x = inputs[0]
        if len(inputs) > 1 or x.shape[-1:] != self._ready or not x.is_floating_point():
            x = self.joined(inputs)
        h = self.layers(x)
        return h if len(self.shape_out) == 1 else h.unflatten(-1, self.shape_out)


class ResidualMLP(Network):
    """Fully connected residual network with pre-activation blocks (He et al. 2016, "Identity mappings", figure 1b).

    A block adds to its input what two layers make of it, so that depth costs no gradient. It normalizes its input over
    the features (Ba et al. 2016) and not over the batch: no row sees its neighbours, and training equals evaluation.

    Args:
        features_in: as for `MLP`.
        hidden: width of all blocks.
        features_out: as for `MLP`.
        blocks: number of blocks.
        activation: a class of `torch.nn`, made without arguments.
        context: features of the further inputs c, all together.

    Example:
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
        self.hidden, self.blocks, self.activation, self.context = (
            hidden,
            blocks,
            activation,
            context,
        )
        self.shape_in, self.shape_out = shape_of(features_in), shape_of(features_out)
        self.first = nn.Linear(prod(self.shape_in) + context, hidden)
        self.residuals = nn.ModuleList(self._residual() for _ in range(blocks))
        self.last = nn.Sequential(
            nn.LayerNorm(hidden), activation(), nn.Linear(hidden, prod(self.shape_out))
        )

    def _residual(self) -> nn.Sequential:
        n, a = self.hidden, self.activation
        return nn.Sequential(nn.LayerNorm(n), a(), nn.Linear(n, n), a(), nn.Linear(n, n))

    def forward(self, *inputs: Tensor) -> Tensor:
        """(x, *c) with shapes (*, *features_in), (*, C_i) -> f(x, c) with shape (*, *features_out)."""
        h = self.first(self.joined(inputs))
        for residual in self.residuals:
            h = h + residual(h)
        return self.last(h).unflatten(-1, self.shape_out)


# -------------------------------------------------------------------------------------------------------------- helpers
