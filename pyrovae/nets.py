"""Networks h = f(x, c): maps of tensors, with no distribution in them.

MLP           h_0 = (x, c),            h_l = a(W_l h_(l-1) + b_l),                    f = W h_L + b
ResidualMLP   h_0 = W_0 (x, c) + b_0,  h_l = h_(l-1) + V_l a(U_l a(norm h_(l-1))),    f = W a(norm h_L) + b
ConvEncoder   a convolution, a and a pooling for each scale; one more convolution; a linear map of the features and c
ConvDecoder   a linear map of (z, c); a convolution, a and an upsampling for each scale; two more convolutions

Every network takes any leading axes, `()`, `(B,)` or `(K, B)`. A context c comes as further inputs, which are joined on
the feature axis with broadcast leading axes. `shape_out` is the shape of what comes out, without the leading axes.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from pyrovae.axes import Network, Shape, concatenated, over_leading_axes

__all__ = ["MLP", "AnyLeading", "ConvDecoder", "ConvEncoder", "ResidualMLP", "WithoutContext", "over_leading_axes"]

Features = int | Sequence[int]
Activation = type[nn.Module]


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
        self.features_in, self.features_out = _int_or_tuple(features_in), _int_or_tuple(features_out)
        self.hidden, self.activation, self.context = tuple(hidden), activation, context
        self.shape_in, self.shape_out = _shape(features_in), _shape(features_out)
        widths = [prod(self.shape_in) + context, *hidden, prod(self.shape_out)]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), activation()]
        self.layers = nn.Sequential(*layers[:-1])
        self._ready = self.shape_in if len(self.shape_in) == 1 and not context else None  # of inputs that need no work

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
        self.features_in, self.features_out = _int_or_tuple(features_in), _int_or_tuple(features_out)
        self.hidden, self.blocks, self.activation, self.context = hidden, blocks, activation, context
        self.shape_in, self.shape_out = _shape(features_in), _shape(features_out)
        self.first = nn.Linear(prod(self.shape_in) + context, hidden)
        self.residuals = nn.ModuleList(self._residual() for _ in range(blocks))
        self.last = nn.Sequential(nn.LayerNorm(hidden), activation(), nn.Linear(hidden, prod(self.shape_out)))

    def _residual(self) -> nn.Sequential:
        n, a = self.hidden, self.activation
        return nn.Sequential(nn.LayerNorm(n), a(), nn.Linear(n, n), a(), nn.Linear(n, n))

    def forward(self, *inputs: Tensor) -> Tensor:
        """(x, *c) with shapes (*, *features_in), (*, C_i) -> f(x, c) with shape (*, *features_out)."""
        h = self.first(self.joined(inputs))
        for residual in self.residuals:
            h = h + residual(h)
        return self.last(h).unflatten(-1, self.shape_out)


class ConvEncoder(Network):
    """Convolutional network from an image of any C x H x W to a vector.

    Each scale is a 3 x 3 convolution and a pooling that halves height and width, rounded up; a last one follows.
    The defaults take 28 x 28 x 1 to 4 x 4 x 8 by four convolutions and three poolings, 28 -> 14 -> 7 -> 4.

    Args:
        shape_in: (C, H, W).
        features_out: features that come out; None leaves the last linear layer out and gives the maps, flattened.
        channels: channels of the scales, from the image inwards.
        activation: a class of `torch.nn`, made without arguments.
        context: features of the further inputs c, all together. They join the flattened feature maps.

    Attributes:
        code: the shape of the feature maps, (8, 4, 4) by default.

    Raises:
        ValueError: for a context without a last linear layer to take it.

    Example:
        >>> net = ConvEncoder((1, 28, 28), 2 * 20)
        >>> net.code, net(torch.zeros(5, 1, 28, 28)).shape
        ((8, 4, 4), torch.Size([5, 40]))
    """

    def __init__(
        self,
        shape_in: Sequence[int],
        features_out: int | None,
        channels: Sequence[int] = (16, 8, 8),
        activation: Activation = nn.ReLU,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.shape_in, self.features_out, self.channels = tuple(shape_in), features_out, tuple(channels)
        self.activation, self.context = activation, context
        self.code = (channels[-1], *_scales(self.shape_in, len(channels))[-1])
        layers: list[nn.Module] = []
        for before, after in zip((shape_in[0], *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1), activation(), nn.MaxPool2d(2, ceil_mode=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], channels[-1], 3, padding=1), activation())
        self.linear = _linear_or_none(self, prod(self.code), features_out)
        self.shape_out = (features_out or prod(self.code),)

    def forward(self, *inputs: Tensor) -> Tensor:
        """(x, *c) with shapes (*, C, H, W), (*, C_i) -> f(x, c) with shape (*, features_out)."""
        x, *c = self.checked(inputs)
        code = over_leading_axes(self.layers, x, event_dims=[3]).flatten(-3)
        return self.linear(concatenated([code, *c]))


class ConvDecoder(Network):
    """Convolutional network from a vector to an image of any C x H x W: `ConvEncoder` walked backwards.

    A linear map to the feature maps of the coarsest scale; for each scale a 3 x 3 convolution and an upsampling to just
    the size that the encoder had there, odd ones too; then two more convolutions. The defaults take 4 x 4 x 8 to
    28 x 28 x 1 by five convolutions and three upsamplings, 4 -> 7 -> 14 -> 28.

    Args:
        features_in: features of z; None leaves the first linear layer out and takes the maps themselves, flattened.
        shape_out: (C, H, W); a likelihood with P parameters a value needs P C channels here.
        channels: channels of the scales, from the image inwards, as for the encoder.
        activation: a class of `torch.nn`, made without arguments.
        context: features of the further inputs c, all together. They join z.

    Attributes:
        code: the shape of the first feature maps, (8, 4, 4) by default.

    Raises:
        ValueError: for a context without a first linear layer to take it.

    Example:
        >>> ConvDecoder(20, (3, 65, 49))(torch.zeros(7, 5, 20)).shape
        torch.Size([7, 5, 3, 65, 49])
    """

    def __init__(
        self,
        features_in: int | None,
        shape_out: Sequence[int],
        channels: Sequence[int] = (16, 8, 8),
        activation: Activation = nn.ReLU,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.features_in, self.shape_out, self.channels = features_in, tuple(shape_out), tuple(channels)
        self.activation, self.context = activation, context
        *sizes, smallest = _scales(self.shape_out, len(channels))
        self.code = (channels[-1], *smallest)
        self.shape_in = (features_in or prod(self.code),)
        self.linear = _linear_or_none(self, features_in, prod(self.code))
        inwards, layers = channels[::-1], []
        for before, after, size in zip((channels[-1], *inwards), inwards, sizes[::-1], strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1), activation(), nn.Upsample(size)]
        layers += [nn.Conv2d(channels[0], channels[0], 3, padding=1), activation()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[0], shape_out[0], 3, padding=1))

    def forward(self, *inputs: Tensor) -> Tensor:
        """(z, *c) with shapes (*, features_in), (*, C_i) -> f(z, c) with shape (*, C, H, W)."""
        code = self.linear(self.joined(inputs)).unflatten(-1, self.code)
        return over_leading_axes(self.layers, code, event_dims=[3])


class WithoutContext(nn.Module):
    """f(x, c) = f(x), or f(x, c_1 .. c_k): for a network that does not want all of the context that other parts of the graph get.

    Args:
        net: any network of one input, or of two if it keeps some of the context.
        keep: k, the first columns of the context that it does want.

    Example:
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
        self.features_in, self.features_out = _int_or_tuple(features_in), _int_or_tuple(features_out)
        self.shape_in, self.shape_out = _shape(features_in), _shape(features_out)

    def forward(self, x: Tensor, *c: Tensor) -> Tensor:
        """(x, *c) with shapes (*, *features_in), (*, C_i) -> f(x, c) with shape (*, *features_out)."""
        (x,) = self.checked((x,))
        return over_leading_axes(self.net, x, *c, event_dims=[len(self.shape_in), *(1 for _ in c)])


# -------------------------------------------------------------------------------------------------------------- helpers
def _shape(features: Features) -> Shape:
    return (features,) if isinstance(features, int) else tuple(features)


def _int_or_tuple(features: Features) -> int | Shape:
    return features if isinstance(features, int) else tuple(features)


def _scales(shape: Shape, poolings: int) -> list[Shape]:
    """(H, W) before each pooling and after the last: 28 -> 14 -> 7 -> 4."""
    h, w = shape[1:]
    return [(-(-h // 2**i), -(-w // 2**i)) for i in range(poolings + 1)]  # halving, rounded up, i times


def _linear_or_none(net: Network, features_in: int | None, features_out: int | None) -> nn.Module:
    if features_in is not None and features_out is not None:
        return nn.Linear(features_in + net.context, features_out)
    if net.context:
        raise ValueError(
            f"{type(net).__name__}: {net.context} context features need the linear layer that None leaves out; give "
            "the number of features, or context=0 and WithoutContext(net)"
        )
    return nn.Identity()
