"""Image files, read as NumPy arrays by Pillow: a folder of them, or the pages of one TIFF.

Pixels keep their values. What they mean must be one thing: 1 and 8 bits mix, where white is 255,
and other depths do not.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyrovae.data.reading import Arrays, as_rows

__all__ = ["image_files", "read_images", "read_pages"]

_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
)
_WHITE = 255  # of 8 bits
_OPAQUE = 255
_BIT, _BYTE, _WHOLE, _FLOAT = "1 bit", "8 bits", "whole numbers of 16 bits or more", "floats"
_DEPTHS = {  # by Pillow's names of modes
    "1": _BIT,
    **dict.fromkeys(("L", "LA", "RGB", "RGBA"), _BYTE),
    **dict.fromkeys(("I", "I;16", "I;16B", "I;16L", "I;16N"), _WHOLE),
    "F": _FLOAT,
}
_PAINTED = {"P": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "PA": "RGBA"}  # what they are converted to
# Tags of a page of a TIFF, and what they say.
_COPY, _BITS, _WORDS, _FORMAT = 254, 258, 270, 339
_SMALLER_COPY, _UNSIGNED, _SIGNED = 1, 1, 2
_IMAGES = re.compile(r"^ImageJ=.*^images=(\d+)", re.DOTALL | re.MULTILINE)


class _Frame(NamedTuple):
    """One image: mode and pixels as of Pillow, and whether colours lost the lower 8 of 16 bits."""

    mode: str
    pixels: np.ndarray
    cut: bool


class _Image(NamedTuple):
    """Pixels (C, H, W), what they are, and what errors call the image."""

    name: str
    pixels: np.ndarray
    depth: str
    cut: bool


def read_images(path: Path, missing: bool = False) -> Arrays:
    """Read a folder of images; the names of sub-folders, if there are any, are the labels.

    White is 1 where all images have 1 bit, else 255, also of an image of 1 bit among others.

    Args:
        path: The folder.
        missing: Whether a float may be NaN, which says that it is not known.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder")
    files, classes = _image_files(path)
    x = _stacked(_only_image(file, missing) for file in files)
    names = tuple(sorted(set(classes)))
    labels = np.array([names.index(name) for name in classes]) if names else None
    return Arrays(x, labels, label_names=names)


def read_pages(path: Path, missing: bool = False) -> Arrays:
    """Read the pages of a TIFF as rows; a page that is marked as a smaller copy is left out."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    frames = enumerate(_frames(path))
    return Arrays(_stacked(_image(f"{path}, page {i + 1}", frame, missing) for i, frame in frames))


def image_files(path: Path) -> list[Path]:
    """Return the images of a folder in the order in which `read_images` stacks them."""
    return _image_files(path)[0]


def _image_files(path: Path) -> tuple[list[Path], list[str]]:
    """Return the images of a folder in order, and the class of each where there are sub-folders."""
    files = sorted(
        file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file()
    )
    beside = [file for file in files if file.parent == path]
    if not files:
        raise ValueError(
            f"{path} holds no image; expected files that end in {', '.join(sorted(_SUFFIXES))}"
            f"{_instead(path)}"
        )
    if len(beside) == len(files):
        return files, []
    if beside:
        raise ValueError(
            f"{path}: {beside[0].name} lies beside the sub-folders that name classes; "
            "move it into one of them"
        )
    return files, [file.relative_to(path).parts[0] for file in files]


def _instead(folder: Path) -> str:
    """Return how to read the cells that a folder holds; nothing for other files."""
    names = [file.name for file in folder.iterdir()]
    if any(name.endswith((".h5ad", ".zarr")) for name in names):
        return "; cells in many files are read by singlecell.open_shards"
    if any(name.endswith((".mtx", ".mtx.gz")) for name in names):
        return (
            "; counts in a .mtx file become an .h5ad file by "
            "scanpy.read_10x_mtx(folder).write_h5ad(path)"
        )
    return ""


# ----------------------------------------------------------------------------------- many as one
def _stacked(images: Iterator[_Image]) -> np.ndarray:
    """Stack images of one size and depth; an alpha channel that is opaque everywhere is left out.

    Warns:
        UserWarning: Of 16 bits a colour only 8 were read.
    """
    first = next(images)
    kept = [first, *(_like(first, image) for image in images)]
    cut = [image.name for image in kept if image.cut]
    if cut:
        warnings.warn(
            f"{cut[0]} has 16 bits a colour, as {len(cut)} of {len(kept)} images do: their upper "
            "8 bits are read. To keep all, write the images as an array (N, C, H, W) by "
            "numpy.save",
            stacklevel=4,
        )
    x = np.stack([image.pixels for image in kept])
    if x.shape[1] in (2, 4) and (x[:, -1] == _OPAQUE).all():
        x = np.ascontiguousarray(x[:, :-1])
    return x // _WHITE if all(image.depth == _BIT for image in kept) else x


def _like(first: _Image, image: _Image) -> _Image:
    """Return an image, which must be like the first in size, number of channels and depth."""
    (c, h, w), (c0, h0, w0) = image.pixels.shape, first.pixels.shape
    model = Path(first.name).name
    if (c, h, w) != (c0, h0, w0):
        raise ValueError(
            f"{image.name} is {w} x {h} with {c} channels, while {model} is {w0} x {h0} with {c0}; "
            "convert all images to one size and mode"
        )
    if image.depth != first.depth and {image.depth, first.depth} != {_BIT, _BYTE}:
        raise ValueError(
            f"{image.name} has {image.depth}, while {model} has {first.depth}, and a value would "
            "mean two things; convert all images to one depth"
        )
    return image


# ------------------------------------------------------------------------------------ one image
def _only_image(file: Path, missing: bool) -> _Image:
    """Read the image of a file that holds one."""
    frames = list(islice(_frames(file), 2))
    if len(frames) > 1:
        raise ValueError(
            f"{file} holds more than one image, while each file of a folder is one row; give a "
            ".tif file alone as DATA, whose pages are then the rows, or write one file an image"
        )
    return _image(str(file), frames[0], missing)


def _image(name: str, frame: _Frame, missing: bool) -> _Image:
    """Return an image as (C, H, W): bytes, whole numbers as int64, or floats."""
    mode, pixels, cut = frame
    if mode not in _DEPTHS:
        raise ValueError(
            f"{name}: expected grey values or colours, got mode {mode}; convert it, for example "
            "to a PNG of 8 bits"
        )
    depth = _DEPTHS[mode]
    if depth in (_WHOLE, _FLOAT):
        return _Image(name, as_rows(pixels[None], f"{name}, pixels", missing)[0], depth, cut)
    levels = pixels.astype(np.uint8) * np.uint8(_WHITE if mode == "1" else 1)
    return _Image(name, np.atleast_3d(levels).transpose(2, 0, 1), depth, cut)


def _frames(file: Path) -> Iterator[_Frame]:
    """Yield the images that a file holds, turned as its camera says; of a photograph only that."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            said = _IMAGES.match(str(_tags(image).get(_WORDS, "")))
            if said and int(said[1]) > pages:
                raise ValueError(f"ImageJ wrote {said[1]} images as {pages}, as it does from 4 GB")
            for page in range(pages):
                image.seek(page)
                if page == 0 or not _tags(image).get(_COPY, 0) & _SMALLER_COPY:
                    yield _frame(image)
    except Exception as error:  # Pillow raises many kinds for damaged bytes, and for huge images
        remedy = "repair or remove it"
        if file.suffix.lower() in (".tif", ".tiff"):
            remedy += ", or write its values by numpy.save(path, tifffile.imread(file))"
        raise ValueError(f"{file} cannot be read as an image ({error}); {remedy}") from error


def _frame(image: Any) -> _Frame:
    """Read the pixels of an open image, upright and without a palette."""
    from PIL import ImageOps

    tags, tile = _tags(image), str(image.tile)  # both are gone once the pixels are read
    bits, form = max(tags.get(_BITS, (8,))), tags.get(_FORMAT, (_UNSIGNED,))[0]
    upright = ImageOps.exif_transpose(image)
    painted = _PAINTED.get(upright.mode)
    plain = upright.convert(painted) if painted else upright
    mode, pixels = plain.mode, np.asarray(plain)
    if mode == "L" and form == _SIGNED:  # Pillow takes it for unsigned
        mode, pixels = "I", pixels.view(np.int8)
    elif mode == "I" and form == _UNSIGNED and bits == 32 and tags:  # and this for signed
        pixels = pixels.view(np.uint32)
    return _Frame(mode, pixels, _DEPTHS.get(mode) == _BYTE and (bits > 8 or ";16" in tile))


def _tags(image: Any) -> Mapping[int, Any]:
    """Return the tags of the page of a TIFF, of other files none."""
    return getattr(image, "tag_v2", {})
