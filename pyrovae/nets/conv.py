"""Convolutional networks between images and vectors.

ConvEncoder   (C, H, W) -> D: convolution, activation and pooling per scale, then a linear map
ConvDecoder   D -> (C, H, W): a linear map, then convolution, activation and upsampling per scale
MapDecoder    N n m -> (C, H, W): the same from N maps of n x m numbers, without a linear map
"""

from collections.abc import Sequence
from math import prod
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from pyrovae.nets.batching import (
    Activation,
    Network,
    Shape,
    checked_activation,
    concatenated,
    over_leading_axes,
)

__all__ = ["ConvDecoder", "ConvEncoder", "MapDecoder"]


class ConvEncoder(Network):
    """Convolutional network from an image of any shape (C, H, W) to a vector.

    Each scale is a 3 x 3 convolution and a pooling that halves height and width, rounded up; one
    more convolution follows. The defaults take 28 x 28 x 1 to 4 x 4 x 8 by four convolutions and
    three poolings, 28 -> 14 -> 7 -> 4.

    Args:
        shape_in: (C, H, W).
        features_out: features of the output; None omits the last linear layer and returns the
            flattened maps.
        channels: channels of the scales, from the finest to the coarsest.
        activation: a class of `torch.nn`, constructed without arguments.
        context: total number of features of the further inputs c, concatenated to the flattened
            maps.

    Attributes:
        code: shape of the last feature maps, (8, 4, 4) by default.

    Raises:
        ValueError: for a context without a last linear layer to take it.

    Example:
        >>> import torch
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
        self.shape_in, self.features_out = _image(self, shape_in), features_out
        self.channels, self.context = tuple(channels), context
        self.activation = checked_activation(activation, self)
        self.code = (channels[-1], *_scales(self.shape_in, len(channels))[-1])
        layers: list[nn.Module] = []
        for before, after in zip((shape_in[0], *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1), activation()]
            layers += [nn.MaxPool2d(2, ceil_mode=True)]
        layers += [nn.Conv2d(channels[-1], channels[-1], 3, padding=1), activation()]
        self.layers = nn.Sequential(*layers)
        self.linear = _linear_or_none(self, prod(self.code), features_out)
        self.shape_out = (features_out or prod(self.code),)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return f(x, c) with shape (*, features_out), for x (*, C, H, W) and c (*, C_i)."""
        x, *c = self.checked(inputs)
        maps = over_leading_axes(self.layers, x, event_dims=[3])  # (*, *code)
        return self.linear(concatenated([maps.flatten(-3), *c]))


class ConvDecoder(Network):
    """Convolutional network from a vector to an image (C, H, W), `ConvEncoder` reversed.

    A linear map to the feature maps of the coarsest scale; per scale a 3 x 3 convolution and an
    upsampling to the size that the encoder has there, odd sizes included; then two more
    convolutions. The defaults take 4 x 4 x 8 to 28 x 28 x 1 by five convolutions and three
    upsamplings, 4 -> 7 -> 14 -> 28.

    Args:
        features_in: features of z; None omits the first linear layer and takes the flattened maps.
        shape_out: (C, H, W). A likelihood with P parameters per value needs P C channels here.
        channels: channels of the scales, from the finest to the coarsest, as for the encoder.
        activation: a class of `torch.nn`, constructed without arguments.
        context: total number of features of the further inputs c, concatenated to z.

    Attributes:
        code: shape of the first feature maps, (8, 4, 4) by default.

    Raises:
        ValueError: for a context without a first linear layer to take it.

    Example:
        >>> import torch
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
        self.features_in, self.shape_out = features_in, _image(self, shape_out)
        self.channels, self.context = tuple(channels), context
        self.activation = checked_activation(activation, self)
        *sizes, smallest = _scales(self.shape_out, len(channels))
        self.code = (channels[-1], *smallest)
        self.shape_in = (features_in or prod(self.code),)
        self.linear = _linear_or_none(self, features_in, prod(self.code))
        coarse_to_fine = channels[::-1]
        inputs = (channels[-1], *coarse_to_fine)
        layers: list[nn.Module] = []
        for before, after, size in zip(inputs, coarse_to_fine, sizes[::-1], strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1), activation(), nn.Upsample(size)]
        layers += [nn.Conv2d(channels[0], channels[0], 3, padding=1), activation()]
        layers += [nn.Conv2d(channels[0], shape_out[0], 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return f(z, c) with shape (*, C, H, W), for z (*, features_in) and c (*, C_i)."""
        maps = self.linear(self.joined(inputs)).unflatten(-1, self.code)  # (*, *code)
        return over_leading_axes(self.layers, maps, event_dims=[3])


class MapDecoder(Network):
    """Convolutional network from N maps of n x m numbers to an image (C, H, W).

    Every layer is local, so that a part of the maps decides about a part of the image. Per scale a
    3 x 3 convolution and an upsampling, 3 -> 7 -> 14 -> 28 by default for maps of 3 x 3; then two
    more convolutions. How far a place reaches depends on the sizes: from the top row of maps of
    7 x 7 over two scales to the first 12 of 28 rows, from that of 3 x 3 over three to all of them,
    the lower ones by little.

    Args:
        maps: N.
        size: n, or (n, m).
        shape_out: (C, H, W).
        channels: channels of the scales, from the finest to the coarsest.
        activation: a class of `torch.nn`, constructed without arguments.
        context: total number of features of the further inputs c, which are constant maps.

    Example:
        >>> import torch
        >>> MapDecoder(64, 3, (1, 28, 28))(torch.zeros(7, 64 * 9)).shape
        torch.Size([7, 1, 28, 28])
    """

    def __init__(
        self,
        maps: int,
        size: int | Sequence[int],
        shape_out: Sequence[int],
        channels: Sequence[int] = (16, 32, 32),
        activation: Activation = nn.ReLU,
        context: int = 0,
    ) -> None:
        super().__init__()
        n, m = (size, size) if isinstance(size, int) else size
        self.maps, self.size, self.shape_out = maps, (n, m), _image(self, shape_out)
        self.channels, self.context = tuple(channels), context
        self.activation = checked_activation(activation, self)
        self.shape_in = (maps * n * m,)
        layers: list[nn.Module] = []
        before = maps + context
        for after, scale in zip(
            channels[::-1], _scales(self.shape_out, len(channels))[-2::-1], strict=True
        ):
            layers += [nn.Conv2d(before, after, 3, padding=1), activation(), nn.Upsample(scale)]
            before = after
        layers += [nn.Conv2d(before, before, 3, padding=1), activation()]
        layers += [nn.Conv2d(before, shape_out[0], 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return f(z, c) with shape (*, C, H, W), for z (*, N n m) and c (*, C_i)."""
        z, *c = self.checked(inputs)
        joined = concatenated([z, *c])
        maps, rest = joined.split([z.shape[-1], joined.shape[-1] - z.shape[-1]], -1)
        constant = rest[..., None, None].expand(*rest.shape, *self.size)
        x = torch.cat([maps.unflatten(-1, (self.maps, *self.size)), constant], -3)
        return over_leading_axes(self.layers, x, event_dims=[3])


def _image(net: Network, shape: Any) -> Shape:
    """Return the shape of an image, three sizes.

    Raises:
        ValueError: for another one.
    """
    sizes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    if len(sizes) != 3 or not all(isinstance(size, Integral) and int(size) >= 1 for size in sizes):
        raise ValueError(
            f"{type(net).__name__}: the shape of an image is {shape!r}, expected (C, H, W), such "
            "as (1, 28, 28) for one of grey values"
        )
    return sizes


def _scales(shape: Shape, poolings: int) -> list[Shape]:
    """Return (H, W) before each pooling and after the last: 28 -> 14 -> 7 -> 4."""
    h, w = shape[1:]
    return [(-(-h // 2**i), -(-w // 2**i)) for i in range(poolings + 1)]  # halved, rounded up


def _linear_or_none(net: Network, features_in: int | None, features_out: int | None) -> nn.Module:
    if features_in is not None and features_out is not None:
        return nn.Linear(features_in + net.context, features_out)
    if net.context:
        raise ValueError(
            f"{type(net).__name__}: {net.context} context features need the linear layer that None "
            "omits; give the number of features, or context=0 and WithoutContext(net)"
        )
    return nn.Identity()
