"""Networks h = f(x, c): maps of tensors, with no distribution in them.

MLP           h_0 = (x, c),            h_l = a(W_l h_(l-1) + b_l),                    f = W h_L + b
ResidualMLP   h_0 = W_0 (x, c) + b_0,  h_l = h_(l-1) + V_l a(U_l a(norm h_(l-1))),    f = W a(norm h_L) + b
ConvEncoder   a convolution, a and a pooling for each scale; one more convolution; a linear map of the features and c
ConvDecoder   a linear map of (z, c); a convolution, a and an upsampling for each scale; two more convolutions

Every network takes any leading axes, `()`, `(B,)` or `(K, B)`. A context c comes as further inputs, which are joined on
the feature axis with broadcast leading axes. `shape_out` is the shape of what comes out, without the leading axes.
"""

from pyrovae.nets.adapters import AnyLeading, WithoutContext
from pyrovae.nets.batching import concatenated, over_leading_axes
from pyrovae.nets.conv import ConvDecoder, ConvEncoder
from pyrovae.nets.counts import Blocks, WideLinear
from pyrovae.nets.dense import MLP, ResidualMLP

__all__ = [
    "MLP",
    "AnyLeading",
    "Blocks",
    "ConvDecoder",
    "ConvEncoder",
    "ResidualMLP",
    "WideLinear",
    "WithoutContext",
    "concatenated",
    "over_leading_axes",
]
