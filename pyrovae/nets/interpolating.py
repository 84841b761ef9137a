"""An image as a function of the place: made on a grid by a network of z, read between its pixels.

f(u, z) = sum_i a_i(z) w_i(u),     a(z) = net(z), an image,
w_i(u) the bilinear weights of the four pixels around u     (Jaderberg et al. 2015, eq. 5)
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

__all__ = ["InterpolatedImage"]


class InterpolatedImage(nn.Module):
    """The image that a network makes of z, read at places between its pixels.

    It stands where a `CoordinateDecoder` can stand. The network is evaluated once for an image and
    not once for each place, which takes a small part of the time; what it cannot do is show more
    detail at a finer resolution than that of its image. Outside the image the border is repeated.

    Args:
        net: maps z (and c) to images (*, C, H, W), such as `MLP(2, [500, 500], (1, 28, 28))` or
            `ConvDecoder(2, (1, 28, 28))`.
        shape_out: (C, H, W), what the network returns.

    Example:
        >>> from pyrovae.nets import MLP
        >>> net = InterpolatedImage(MLP(2, [32], (1, 28, 28)), (1, 28, 28))
        >>> net(torch.zeros(5, 2), torch.zeros(5, 14, 20, 2)).shape
        torch.Size([5, 1, 14, 20])
    """

    def __init__(self, net: nn.Module, shape_out: Sequence[int]) -> None:
        super().__init__()
        if len(shape_out) != 3:
            raise ValueError(
                f"InterpolatedImage: shape_out is {tuple(shape_out)}, expected (C, H, W)"
            )
        self.net, self.shape_out = net, tuple(shape_out)
        longer = max(max(shape_out[1:]) - 1, 1)
        stretch = [longer / max(shape_out[2] - 1, 1), -longer / max(shape_out[1] - 1, 1)]
        self.register_buffer("stretch", torch.tensor(stretch), persistent=False)

    stretch: Tensor

    def forward(self, z: Tensor, places: Tensor, *c: Tensor) -> Tensor:
        """Return f with shape (*, C, H', W'), for z (*, D), places (*, H', W', 2) and c (*, C_i).

        Raises:
            ValueError: if the places do not have this shape, or the network does not return images
                of the given one.
        """
        if places.shape[-1] != 2 or places.dim() < 3:
            raise ValueError(
                f"InterpolatedImage: the places have shape {tuple(places.shape)}, expected "
                "(*, H, W, 2): right and up of every pixel"
            )
        image = self.net(z, *c)
        if tuple(image.shape[-3:]) != self.shape_out:
            raise ValueError(
                f"InterpolatedImage: the network returns {tuple(image.shape[-3:])}, expected "
                f"{self.shape_out}, the given shape"
            )
        batch = np.broadcast_shapes(image.shape[:-3], places.shape[:-3])
        image = image.expand(*batch, *image.shape[-3:]).reshape(-1, *self.shape_out)
        read_at = (places * self.stretch).expand(*batch, *places.shape[-3:])  # torch's y goes down
        read = grid_sample(
            image,
            read_at.reshape(-1, *places.shape[-3:]),
            padding_mode="border",
            align_corners=True,
        )
        return read.reshape(*batch, *read.shape[-3:])
