"""A network of turned copies of an image, of which one is upright (Nasiri & Bepler 2022).

h_k(x) = net(x_k),   x_k(g) = x(R(-phi_k) g),   phi_k = 2 pi k / K,   k = 0 .. K - 1

An image at angle theta is, in its copy k, at angle theta - phi_k.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

__all__ = ["TurnedCopies"]


class TurnedCopies(nn.Module):
    """The same network of K turned copies of an image.

    Args:
        net: maps an image (and contexts) to F features, with shape (*, F).
        turns: K.

    Example:
        >>> from pyrovae.nets import MLP
        >>> TurnedCopies(MLP((1, 8, 8), [16], 5), turns=4)(torch.zeros(7, 1, 8, 8)).shape
        torch.Size([4, 7, 5])
    """

    def __init__(self, net: nn.Module, turns: int) -> None:
        super().__init__()
        if turns < 1:
            raise ValueError(f"TurnedCopies: turns is {turns}, expected at least 1")
        self.net, self.turns = net, turns

    def forward(self, x: Tensor, *c: Tensor) -> Tensor:
        """Return h with shape (K, *, F), for x (*, C, H, W) or (*, H, W)."""
        copies = [self._turned(x, 2 * math.pi * k / self.turns) for k in range(self.turns)]
        return self.net(torch.stack(copies), *c)

    def _turned(self, x: Tensor, phi: float) -> Tensor:
        """Return x(R(-phi) g): the image turned by phi counter-clockwise."""
        if phi == 0:
            return x
        height, width = (max(2, side) for side in x.shape[-2:])
        turn = x.new_tensor(
            [
                [math.cos(phi), -math.sin(phi) * (height - 1) / (width - 1)],
                [math.sin(phi) * (width - 1) / (height - 1), math.cos(phi)],
            ]
        )
        return _sampled(x, turn)


def _sampled(x: Tensor, turn: Tensor) -> Tensor:
    """Return an image read at turned places; torch's have y downwards, and -1 to 1 on each side."""
    height, width = x.shape[-2:]
    down, right = torch.meshgrid(
        torch.linspace(-1, 1, height, dtype=x.dtype, device=x.device),
        torch.linspace(-1, 1, width, dtype=x.dtype, device=x.device),
        indexing="ij",
    )
    places = torch.stack([right, down], -1) @ turn.T
    images = x.reshape(1, -1, height, width)
    turned = grid_sample(images, places[None], padding_mode="border", align_corners=True)
    return turned.reshape(x.shape)
