"""scVI's fully connected layers, for counts: the context enters every layer.

h_0 = x,    h_l = dropout(relu(BN(W_l (h_(l-1), c) + b_l))),    f = W h_L + b

(Lopez et al. 2018, supplementary note 1)
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.nets.batching import Network, concatenated, over_leading_axes

__all__ = ["Blocks", "WideLinear"]


_WIDE = 100_000  # weights


class WideLinear(nn.Linear):
    """x W^T + b, multiplied in bfloat16 in training on a CPU with instructions for it (AVX-512).

    Weights, sums, accumulated gradients and every evaluation stay in single precision. Products
    rounded to 8 bits add noise far below that of the minibatches. `benchmarks/scvi.py` reports the
    time and the held-out log p(x) with and without.

    Args:
        features_in: number of input features.
        features_out: number of output features.
        bf16: whether to multiply in bfloat16 where the CPU can, and there are enough weights to
            make up for the conversion.
    """

    def __init__(self, features_in: int, features_out: int, bf16: bool = True) -> None:
        super().__init__(features_in, features_out)
        self.features_in, self.features_out = features_in, features_out
        wide = features_in * features_out >= _WIDE
        self.bf16, self._rounds = bf16, bf16 and wide and _multiplies_bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b with shape (*, features_out), in the type of the weights."""
        if not (self._rounds and self.training and self._is_single_on_cpu()):
            return super().forward(x)
        weight, bias = self.weight.bfloat16(), self.bias.bfloat16()
        return nn.functional.linear(x.bfloat16(), weight, bias).float()

    def _is_single_on_cpu(self) -> bool:
        return self.weight.dtype == torch.float32 and self.weight.device.type == "cpu"


def _multiplies_bfloat16() -> bool:
    """Return whether the CPU has AVX-512 instructions for bfloat16; no if torch cannot tell."""
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16", False))


class Blocks(Network):
    """Linear layers with batch normalization, ReLU and dropout, each taking the context too.

    Batch normalization has scVI's settings, momentum 0.01 and eps 0.001: slow statistics over small
    minibatches.

    Args:
        features_in: features D of x.
        hidden: widths of the layers.
        features_out: features of a final linear layer without the context; None omits that layer.
        context: total number of features of the further inputs c.
        dropout: fraction of a layer's units dropped in training, in [0, 1).
        bf16: multiply in bfloat16 in the first layer while training, see `WideLinear`.

    Example:
        >>> net = Blocks(2000, [128], 2 * 10, context=3, dropout=0.1)
        >>> net(torch.zeros(5, 2000), torch.zeros(5, 3)).shape
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
        layers = [self._layer(m, n, bf16 and i == 0) for i, (m, n) in enumerate(pairwise(widths))]
        self.blocks = nn.ModuleList(layers)
        self.last = nn.Identity() if features_out is None else nn.Linear(widths[-1], features_out)
        self.shape_in, self.shape_out = (features_in,), (features_out or widths[-1],)

    def _layer(self, features_in: int, features_out: int, bf16: bool) -> nn.Sequential:
        linear = WideLinear(features_in + self.context, features_out, bf16)
        norm = nn.BatchNorm1d(features_out, eps=1e-3, momentum=0.01)
        dropout = [nn.Dropout(self.dropout)] if self.dropout else []
        return nn.Sequential(linear, norm, nn.ReLU(), *dropout)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return f(x, c) with shape (*, features_out), for x (*, D) and c (*, C_i)."""
        h, *c = self.checked(inputs)
        for layer in self.blocks:
            h = concatenated([h, *c])
            h = layer(h) if h.dim() == 2 else over_leading_axes(layer, h, event_dims=[1])
        return self.last(h)
