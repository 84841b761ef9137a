"""Networks for counts: blocks of a linear layer, batch normalization, ReLU and dropout, with a context that enters every block.

h_0 = x,    h_l = dropout( relu( BN( W_l (h_(l-1), c) + b_l ) ) ),    f = W (h_L, c) + b        (Lopez et al. 2018, supplementary note 1)
"""

from collections.abc import Sequence
from itertools import pairwise

import torch  # noqa: F401 (the example names it)
from torch import Tensor, nn

from pyrovae.axes import Network, concatenated, over_leading_axes

__all__ = ["Blocks"]


class Blocks(Network):
    """Normalized blocks with the context joined to the input of each, and a last linear layer on request.

    Batch normalization has scVI's settings (momentum 0.01, eps 0.001): slow statistics over small minibatches.

    Args:
        features_in: features D of x.
        hidden: widths of the blocks.
        features_out: features of a last linear layer; None leaves it out.
        context: features of the further inputs c, all together.
        dropout: share of a block's units dropped in training, in [0, 1).

    Example:
        >>> Blocks(2000, [128], 2 * 10, context=3, dropout=0.1)(torch.zeros(5, 2000), torch.zeros(5, 3)).shape
        torch.Size([5, 20])
    """

    def __init__(
        self, features_in: int, hidden: Sequence[int], features_out: int | None = None, context: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.features_in, self.hidden, self.features_out = features_in, tuple(hidden), features_out
        self.context, self.dropout = context, dropout
        widths = [features_in, *hidden]
        self.blocks = nn.ModuleList(self._block(m, n) for m, n in pairwise(widths))
        self.last = nn.Identity() if features_out is None else nn.Linear(widths[-1], features_out)
        self.shape_in, self.shape_out = (features_in,), (features_out or widths[-1],)

    def _block(self, features_in: int, features_out: int) -> nn.Sequential:
        layers = nn.Linear(features_in + self.context, features_out), nn.BatchNorm1d(features_out, eps=1e-3, momentum=0.01)
        return nn.Sequential(*layers, nn.ReLU(), *([nn.Dropout(self.dropout)] if self.dropout else []))

    def forward(self, *inputs: Tensor) -> Tensor:
        """(x, *c) with shapes (*, D), (*, C_i) -> f(x, c) with shape (*, features_out)."""
        h, *c = self.checked(inputs)
        for block in self.blocks:
            h = concatenated([h, *c])
            h = block(h) if h.dim() == 2 else over_leading_axes(block, h, event_dims=[1])
        return self.last(h)
