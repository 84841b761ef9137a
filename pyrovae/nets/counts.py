"""Networks for counts: blocks of a linear layer, batch normalization, ReLU and dropout, with a context that enters every block.

h_0 = x,    h_l = dropout( relu( BN( W_l (h_(l-1), c) + b_l ) ) ),    f = W (h_L, c) + b        (Lopez et al. 2018, supplementary note 1)
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyrovae.nets.batching import Network, concatenated, over_leading_axes

__all__ = ["Blocks", "WideLinear"]


class WideLinear(nn.Linear):
    """x W^T + b whose products, while training on a CPU that multiplies bfloat16, are taken in it: half the time at 2,000 genes.

    Weights, sums, gradients' accumulation and every evaluation stay in single precision. Rounding a product to eight bits is
    noise far below that of the minibatch; `benchmarks/scvi.py` shows held-out log p(x) with and without.

    Args:
        features_in: as for `nn.Linear`.
        features_out: as for `nn.Linear`.
        bf16: whether to do so.
    """

    def __init__(self, features_in: int, features_out: int, bf16: bool = True) -> None:
        super().__init__(features_in, features_out)
        self.bf16 = bf16 and torch.cpu._is_avx512_bf16_supported()

    def forward(self, x: Tensor) -> Tensor:
        """(*, features_in) -> (*, features_out), in the type of the weights."""
        if not (
            self.bf16
            and self.training
            and self.weight.dtype == torch.float32
            and self.weight.device.type == "cpu"
        ):
            return super().forward(x)
        weight, bias = self.weight.bfloat16(), None if self.bias is None else self.bias.bfloat16()
        return nn.functional.linear(x.bfloat16(), weight, bias).float()


class Blocks(Network):
    """Normalized blocks with the context joined to the input of each, and a last linear layer on request.

    Batch normalization has scVI's settings (momentum 0.01, eps 0.001): slow statistics over small minibatches.

    Args:
        features_in: features D of x.
        hidden: widths of the blocks.
        features_out: features of a last linear layer; None leaves it out.
        context: features of the further inputs c, all together.
        dropout: share of a block's units dropped in training, in [0, 1).
        bf16: take the products of the first block in bfloat16 while training, see `WideLinear`.

    Example:
        >>> Blocks(2000, [128], 2 * 10, context=3, dropout=0.1)(torch.zeros(5, 2000), torch.zeros(5, 3)).shape
        torch.Size([5, 20])
    """

    def __init__(
        self,
        features_in: int,
        hidden: Sequence[int],
        features_out: int | None = None,
        context: int = 0,
        dropout: float = 0.0,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.features_in, self.hidden, self.features_out = features_in, tuple(hidden), features_out
        self.context, self.dropout, self.bf16 = context, dropout, bf16
        widths = [features_in, *hidden]
        self.blocks = nn.ModuleList(
            self._block(m, n, bf16 and i == 0) for i, (m, n) in enumerate(pairwise(widths))
        )
        self.last = nn.Identity() if features_out is None else nn.Linear(widths[-1], features_out)
        self.shape_in, self.shape_out = (features_in,), (features_out or widths[-1],)

    def _block(self, features_in: int, features_out: int, bf16: bool) -> nn.Sequential:
        linear = WideLinear(features_in + self.context, features_out, bf16)
        norm = nn.BatchNorm1d(features_out, eps=1e-3, momentum=0.01)
        return nn.Sequential(
            linear, norm, nn.ReLU(), *([nn.Dropout(self.dropout)] if self.dropout else [])
        )

    def forward(self, *inputs: Tensor) -> Tensor:
        """(x, *c) with shapes (*, D), (*, C_i) -> f(x, c) with shape (*, features_out)."""
        h, *c = self.checked(inputs)
        for block in self.blocks:
            h = concatenated([h, *c])
            h = block(h) if h.dim() == 2 else over_leading_axes(block, h, event_dims=[1])
        return self.last(h)
