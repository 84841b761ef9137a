"""Places of pixels, and how a pose moves them: u = e^s R(theta) g + dx (Bepler et al. 2019).

Places are (right, up). The longer side of an image spans [-1, 1], and pixels are squares: images of
other than square shape do not shear.
"""

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

__all__ = ["aligned", "centre_of_mass", "pixel_grid", "posed_places", "turned"]


def pixel_grid(height: int, width: int) -> Tensor:
    """Return the places (right, up) of the pixels of an image, with shape (H, W, 2).

    The centres of the outer pixels of the longer side lie at -1 and 1; 0 is the image's centre.

    Example:
        >>> pixel_grid(2, 3)[0]
        tensor([[-1.0000,  0.5000],
                [ 0.0000,  0.5000],
                [ 1.0000,  0.5000]])
    """
    half = max(height - 1, width - 1, 1) / 2
    up = -(torch.arange(height) - (height - 1) / 2) / half
    right = (torch.arange(width) - (width - 1) / 2) / half
    return torch.stack([right.expand(height, width), up[:, None].expand(height, width)], -1)


def turned(u: Tensor, theta: Tensor) -> Tensor:
    """Return R(theta) u, turned counter-clockwise, for u (*, 2) and theta (*) that broadcast."""
    cos, sin = theta.cos(), theta.sin()
    right, up = u.unbind(-1)
    return torch.stack([cos * right - sin * up, sin * right + cos * up], -1)


def posed_places(
    grid: Tensor, theta: Tensor | None = None, dx: Tensor | None = None, s: Tensor | None = None
) -> Tensor:
    """Return u = e^s R(theta) g + dx with shape (*, H, W, 2).

    Args:
        grid: g with shape (H, W, 2).
        theta: with shape (*, 1); None for no rotation.
        dx: with shape (*, 2).
        s: with shape (*, 1).
    """
    u = grid
    if theta is not None:
        u = turned(u, theta[..., None])
    if s is not None:
        u = s.exp()[..., None, None, :] * u
    return u if dx is None else u + dx[..., None, None, :]


def aligned(
    x: Tensor,
    grid: Tensor,
    theta: Tensor | None = None,
    dx: Tensor | None = None,
    s: Tensor | None = None,
) -> Tensor:
    """Return the images at zero pose: x read at g = e^-s R(-theta) (u - dx), u the pixels' places.

    The values between pixels are interpolated; outside the image those of its border are repeated.

    Args:
        x: with shape (B, C, H, W) or (B, H, W).
        grid: the places of its pixels, (H, W, 2).
        theta: with shape (*, B, 1).
        dx: with shape (*, B, 2).
        s: with shape (*, B, 1).

    Returns:
        Images with shape (*, *x.shape).
    """
    g = grid if dx is None else grid - dx[..., None, None, :]
    if theta is not None:
        g = turned(g, -theta[..., None])
    if s is not None:
        g = g * (-s).exp()[..., None, None, :]
    if g is grid:
        return x
    far = grid.flatten(0, 1).amax(0).clamp_min(1e-6)  # of the outer pixels, which torch has at 1
    places = g / far * grid.new_tensor([1.0, -1.0])
    lead = places.shape[:-3]
    images = x.expand(*lead, *x.shape[1:]).reshape(-1, *_channels(x), *x.shape[-2:])
    read = grid_sample(
        images, places.reshape(-1, *places.shape[-3:]), padding_mode="border", align_corners=True
    )
    return read.reshape(*lead, *x.shape[1:])


def centre_of_mass(x: Tensor, grid: Tensor) -> Tensor:
    """Return the mean place of each image's pixels with shape (B, 2).

    A pixel weighs as much as it differs from the median of its channel, the background.

    Args:
        x: with shape (B, C, H, W) or (B, H, W).
        grid: the places of its pixels, (H, W, 2).
    """
    values = x.flatten(-2)
    weights = (values - values.median(-1, keepdim=True).values).abs()
    weights = weights.reshape(len(x), -1, values.shape[-1]).sum(1)
    share = weights / weights.sum(-1, keepdim=True).clamp_min(1e-6)
    return share @ grid.flatten(0, 1)


def _channels(x: Tensor) -> tuple[int, ...]:
    """Return the channels of one image; torch wants the axis where a grey image has none."""
    return tuple(x.shape[1:-2]) or (1,)
