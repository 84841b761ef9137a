"""Images turned and moved by known amounts, to see whether a model recovers them.

x'(g) = x(R(theta) g + dx),     g the place of a pixel,   zero outside the image

Places are those of `pyrovae.graphs.PoseVAE`: right and up, the longer side spans [-1, 1].
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

__all__ = ["Posed", "posed"]


_COLOURS = (1, 3, 4)  # channels of grey values, of RGB and of RGBA


class Posed(NamedTuple):
    """Images and their true poses.

    Attributes:
        x: images with the shape of those given.
        theta: angles in radians, with shape (N, 1).
        dx: shifts right and up in half lengths of the longer side, with shape (N, 2).
    """

    x: np.ndarray
    theta: np.ndarray
    dx: np.ndarray


def posed(
    x: np.ndarray, *, rotation: float = math.pi / 4, translation: float = 0.0, seed: int = 0
) -> Posed:
    """Return images, each turned and moved at random, with the angles and shifts.

    The defaults, and `translation=1.4`, make the rotated and the rotated-translated MNIST of Bepler
    et al. 2019 (section 4.1). An image with theta > 0 is turned clockwise.

    Args:
        x: images with shape (N, H, W) or (N, C, H, W), zero outside.
        rotation: standard deviation of the angle in radians; `math.inf` for angles that are
            uniform on the circle; 0 for none.
        translation: standard deviation of the shift, in pixels; 0 for none.
        seed: of the draws, for which the global random stream is not used.

    Raises:
        ValueError: if x has another number or order of axes, or a standard deviation is negative.

    Example:
        >>> import numpy as np
        >>> turned = posed(np.ones((3, 1, 8, 8), dtype=np.float32), translation=1.4)
        >>> turned.x.shape, turned.theta.shape, turned.dx.shape
        ((3, 1, 8, 8), (3, 1), (3, 2))
    """
    x = np.asarray(x)
    if x.ndim not in (3, 4):
        raise ValueError(f"posed: x has shape {x.shape}, expected (N, H, W) or (N, C, H, W)")
    if x.ndim == 4 and x.shape[-1] in _COLOURS and x.shape[1] not in _COLOURS:
        raise ValueError(
            f"posed: x has shape {x.shape}, which ends in the colours, expected (N, C, H, W): pass "
            "np.moveaxis(x, -1, 1)"
        )
    for name, sd in (("rotation", rotation), ("translation", translation)):
        if not sd >= 0:
            raise ValueError(f"posed: {name} is {sd}, expected a standard deviation, at least 0")
    random = np.random.default_rng(seed)
    theta = _angles(random, len(x), rotation)
    half = max(x.shape[-2] - 1, x.shape[-1] - 1, 1) / 2
    dx = (random.normal(size=(len(x), 2)) * translation / half).astype(np.float32)
    images = torch.from_numpy(x.reshape(len(x), -1, *x.shape[-2:]).astype(np.float32))
    places = _places(images.shape[-2:], torch.from_numpy(theta), torch.from_numpy(dx))
    moved = grid_sample(images, places, align_corners=True)
    return Posed(moved.numpy().reshape(x.shape), theta, dx)


def _angles(random: np.random.Generator, n: int, sd: float) -> np.ndarray:
    if math.isinf(sd):
        return random.uniform(-math.pi, math.pi, (n, 1)).astype(np.float32)
    return (sd * random.normal(size=(n, 1))).astype(np.float32)


def _places(size: tuple[int, ...], theta: Tensor, dx: Tensor) -> Tensor:
    """Return where to read each pixel, (N, H, W, 2), in torch's units: -1 to 1 on each side."""
    height, width = size
    half = max(height - 1, width - 1, 1) / 2
    sides = torch.tensor([max(width - 1, 1), -max(height - 1, 1)]) / 2 / half
    up, right = torch.meshgrid(
        torch.linspace(1, -1, height) * -sides[1],
        torch.linspace(-1, 1, width) * sides[0],
        indexing="ij",
    )
    cos, sin = theta.cos()[..., None], theta.sin()[..., None]
    turned = torch.stack([cos * right - sin * up, sin * right + cos * up], -1)
    return (turned + dx[:, None, None]) / sides
