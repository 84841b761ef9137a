"""Networks h = f(x, c): maps of tensors, with no distribution in them.

With h = h_(l-1), the output of layer l - 1, and a the activation:

MLP           h_0 = (x, c),            h_l = a(W_l h + b_l),            f = W h_L + b
ResidualMLP   h_0 = W_0 (x, c) + b_0,  h_l = h + V_l a(U_l a(norm h)),  f = W a(norm h_L) + b
Blocks        h_0 = x,                 h_l = dropout(relu(BN(W_l (h, c) + b_l))),  f = W h_L + b
PlusLinear    f = W x + b + g(x, c), g another network
ConvEncoder   a convolution, a and a pooling per scale; a convolution; a linear map of (maps, c)
ConvDecoder   a linear map of (z, c); a convolution, a and an upsampling per scale; two convolutions
MapDecoder    (z, c) as maps; a convolution, a and an upsampling per scale; two convolutions
CoordinateDecoder   a function of (place, z, c), for the places of all pixels
InterpolatedImage   the image of a network of (z, c), read at places between its pixels
TurnedCopies        a network of K turned copies of an image

Every network takes any batch dimensions, `()`, `(B,)` or `(K, B)`. A context c comes as further
inputs, which are concatenated to the features, batch dimensions broadcast. `shape_out` is the shape
of one output.
"""

from pyrovae.nets import counts as blocks
from pyrovae.nets.adapters import AnyLeading, WithoutContext
from pyrovae.nets.batching import concatenated, over_leading_axes
from pyrovae.nets.conv import ConvDecoder, ConvEncoder, MapDecoder
from pyrovae.nets.coordinates import CoordinateDecoder
from pyrovae.nets.counts import Blocks, WideLinear
from pyrovae.nets.dense import MLP, ResidualMLP
from pyrovae.nets.interpolating import InterpolatedImage
from pyrovae.nets.linear import PlusLinear
from pyrovae.nets.turning import TurnedCopies

__all__ = [
    "MLP",
    "AnyLeading",
    "Blocks",
    "ConvDecoder",
    "ConvEncoder",
    "CoordinateDecoder",
    "InterpolatedImage",
    "MapDecoder",
    "PlusLinear",
    "ResidualMLP",
    "TurnedCopies",
    "WideLinear",
    "WithoutContext",
    "blocks",
    "concatenated",
    "over_leading_axes",
]
