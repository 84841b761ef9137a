"""Which pixels are hidden: half an image, a fraction at random, or what a file says."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyrovae import programs

__all__ = ["hidden", "random", "read"]

_HALVES = ("lower-half", "upper-half", "left-half", "right-half")
_WHITE = 128  # from here on a pixel of a mask of 8 bits is hidden


def hidden(x: Tensor, mask: str | None, fraction: float | None, seed: int) -> Tensor:
    """Return where images are hidden: by a mask, at random, and wherever a value is NaN.

    Raises:
        OSError, ValueError: As `read`, or there is neither mask nor fraction nor NaN.
    """
    unknown = x.isnan()
    if mask is not None:
        return unknown | read(mask, x)
    if fraction is not None:
        return unknown | random(fraction, x, seed)
    if not unknown.any():
        raise ValueError(
            "no pixel is hidden; give either --mask or --hidden, or an array in which the hidden "
            "values are NaN"
        )
    return unknown


def random(fraction: float, x: Tensor, seed: int) -> Tensor:
    """Return a mask for images (N, C, H, W) or vectors (N, D): each pixel at random, all channels.

    Args:
        fraction: Expected fraction of hidden pixels.
        x: The images.
        seed: Of the draws.
    """
    shape = (len(x), 1, *x.shape[2:]) if x.ndim == 4 else x.shape
    with programs.random_stream(seed, []):
        return (torch.rand(shape) < fraction).expand(x.shape)


def read(mask: str, x: Tensor) -> Tensor:
    """Return the mask that a word or a file describes, with the shape of the images.

    Raises:
        OSError, ValueError: There is no such word or file, or it does not fit the images.
    """
    if mask in _HALVES:
        return _half(mask, x)
    path = Path(mask)
    if path.suffix.lower() == ".npy":
        return _fitted(mask, _array(path), x)
    return _fitted(mask, _picture(path), x)


def _half(word: str, x: Tensor) -> Tensor:
    if x.ndim != 4:
        raise ValueError(f"--mask {word} is for images, but these rows are vectors; use --hidden")
    vertical = word.startswith(("lower", "upper"))
    side = x.shape[-2 if vertical else -1]
    late = torch.arange(side) >= side // 2
    late = late[:, None] if vertical else late
    return (late if word.startswith(("lower", "right")) else ~late).expand(x.shape)


def _array(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        try:
            mask = np.load(file, allow_pickle=False)
        except Exception as error:  # NumPy and zipfile raise many kinds for damaged bytes
            raise ValueError(
                f"--mask {path} cannot be read as numbers ({error}); write it again by numpy.save"
            ) from error
    if not np.isin(mask, (0, 1)).all():
        raise ValueError(f"--mask {path}: expected true and false, or 1 and 0, and nothing else")
    return mask.astype(bool)


def _picture(path: Path) -> np.ndarray:
    from PIL import Image, ImageOps

    if not path.is_file():
        raise FileNotFoundError(
            f"--mask {path}: no such file; expected {', '.join(_HALVES)}, an .npy or an image file"
        )
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("L")) >= _WHITE
    except Exception as error:  # Pillow raises many kinds for damaged bytes, and for huge images
        raise ValueError(
            f"--mask {path} cannot be read as an image ({error}); write it again, as a PNG file"
        ) from error


def _fitted(name: str, mask: np.ndarray, x: Tensor) -> Tensor:
    """Return a mask of one image or of all with the shape of the images."""
    try:
        if mask.ndim == 3 and x.ndim == 4 and len(mask) == len(x) and x.shape[1] == 1:
            mask = mask[:, None]
        return torch.from_numpy(np.broadcast_to(mask, x.shape).copy())
    except ValueError:
        raise ValueError(
            f"--mask {name} has shape {mask.shape}, the images {tuple(x.shape)}; expected the "
            "shape of one image or of all"
        ) from None
