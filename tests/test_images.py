"""Image files of every depth: the values that are read, and what is refused by name."""

import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pyrovae.data import Kind, datasets

H, W = 5, 6


def values(dtype, n=4):
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=(n, H, W)).astype(dtype)
    return rng.integers(0, 4096 if np.dtype(dtype).itemsize > 1 else 256, (n, H, W)).astype(dtype)


def written(folder, images, suffix, **options):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}{suffix}", **options)
    return folder


def pages(path, images, **options):
    first, *others = [Image.fromarray(image) for image in images]
    first.save(path, save_all=True, append_images=others, **options)
    return path


@pytest.mark.parametrize(
    ("dtype", "suffix", "options"),
    [
        (np.uint16, ".png", {}),
        (np.uint16, ".tif", {}),
        (np.uint16, ".TIFF", {"compression": "tiff_lzw"}),
        (np.dtype(">u2"), ".tif", {}),
        (np.int32, ".tif", {}),
        (np.float32, ".tif", {}),
    ],
)
def test_a_folder_is_read_as_the_same_array_would_be(dtype, suffix, options, tmp_path):
    x = values(dtype)
    data = datasets.image_folder(written(tmp_path / "images", x, suffix, **options))
    np.save(tmp_path / "x.npy", x)
    array = datasets.array(tmp_path / "x.npy")
    assert data.x.dtype == array.x.dtype == (np.float32 if x.dtype.kind == "f" else np.int64)
    assert data.kind is array.kind
    np.testing.assert_array_equal(data.x, array.x)


@pytest.mark.parametrize(("dtype", "form", "off"), [(np.int32, 1, 1 << 32), (np.uint8, 2, -256)])
def test_the_sign_of_a_tiff_is_the_one_that_it_names(dtype, form, off, tmp_path):
    bits = np.array([[1, 2, 255 if off < 0 else -1]], dtype)
    path = pages(tmp_path / "a.tif", [bits], tiffinfo={339: 3 - form})
    entry = struct.pack("<HHI", 339, 3, 1)  # Pillow writes the sign of its own mode
    assert entry in path.read_bytes()
    path.write_bytes(re.sub(entry + b".", entry + bytes([form]), path.read_bytes(), flags=re.S))
    assert datasets.pages(path).x.ravel().tolist() == [1, 2, int(bits[0, 2]) + off]


def test_floats_beyond_single_precision_are_named_and_nan_is_read_if_asked(tmp_path):
    x = values(np.float32)
    x[2, 3, 4] = np.nan
    folder = written(tmp_path / "images", x, ".tif")
    with pytest.raises(ValueError, match=r"2\.tif, pixels: the value at \(0, 3, 4\) is nan"):
        datasets.image_folder(folder)
    data = datasets.image_folder(folder, missing=True)
    np.testing.assert_array_equal(data.x[:, 0], x)
    assert data.kind is Kind.REAL


@pytest.mark.parametrize(
    ("dtype", "words"),
    [(np.uint16, "whole numbers of 16 bits"), (np.float32, "floats"), (bool, "1 bit")],
)
def test_depths_that_mean_two_things_are_refused(dtype, words, tmp_path):
    written(tmp_path, values(np.uint8 if dtype is not bool else np.uint16), ".tif")
    Image.fromarray(values(np.uint16)[0].astype(dtype)).save(tmp_path / "odd.tif")
    with pytest.raises(ValueError, match=rf"odd\.tif has {words}.* while 0\.tif has .* one depth"):
        datasets.image_folder(tmp_path)


@pytest.mark.parametrize(("colours", "mode"), [(1, "LA"), (3, "RGBA")])
def test_alpha_is_a_channel_unless_it_is_opaque_everywhere(colours, mode, tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (3, H, W, colours + 1)).astype(np.uint8)
    x[..., -1] = 255
    opaque = datasets.image_folder(written(tmp_path / "opaque", x, ".png"))
    with Image.open(tmp_path / "opaque" / "0.png") as image:
        assert image.mode == mode
    np.testing.assert_array_equal(opaque.x, np.moveaxis(x[..., :-1], -1, 1))
    x[1, 2, 3, -1] = 254
    seen = datasets.image_folder(written(tmp_path / "seen", x, ".png"))
    np.testing.assert_array_equal(seen.x, np.moveaxis(x, -1, 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_pages_of_a_tiff_are_rows(dtype, tmp_path):
    x = values(dtype)
    data = datasets.pages(pages(tmp_path / "stack.tif", x))
    assert (data.name, data.shape) == ("stack", (1, H, W))
    np.testing.assert_array_equal(data.x[:, 0], x)


def test_pages_of_bits_and_a_smaller_copy(tmp_path):
    bits = values(np.uint8) > 100
    data = datasets.pages(pages(tmp_path / "bits.tif", bits))
    assert data.kind is Kind.BINARY
    np.testing.assert_array_equal(data.x[:, 0], bits)
    image, copy = Image.fromarray(values(np.uint8)[0]), Image.new("L", (2, 2))
    copy.encoderinfo = {"tiffinfo": {254: 1}}  # for this page alone
    image.save(tmp_path / "a.tif", save_all=True, append_images=[copy])
    assert datasets.pages(tmp_path / "a.tif").x.shape == (1, 1, H, W)


@pytest.mark.parametrize("suffix", [".tif", ".gif", ".png", ".webp"])
def test_several_images_in_a_file_of_a_folder_are_refused(suffix, tmp_path):
    pages(tmp_path / f"a{suffix}", values(np.uint8))
    with pytest.raises(ValueError, match=rf"a\{suffix} holds more than one image.*pages"):
        datasets.image_folder(tmp_path)


def test_pages_of_two_sizes_are_named(tmp_path):
    path = pages(tmp_path / "a.tif", [*values(np.uint16), np.ones((3, 3), np.uint16)])
    with pytest.raises(ValueError, match=r"a\.tif, page 5 is 3 x 3 .* a\.tif, page 1 is 6 x 5"):
        datasets.pages(path)


def test_a_stack_of_imagej_with_one_page_is_not_read_as_one_image(tmp_path):
    said = "ImageJ=1.53t\nimages=120\nslices=120\n"
    path = pages(tmp_path / "a.tif", values(np.uint16)[:1], description=said)
    with pytest.raises(ValueError, match=r"ImageJ wrote 120 images as 1.*tifffile"):
        datasets.pages(path)


def test_colours_of_16_bits_are_cut_to_8_with_a_warning(tmp_path):
    row = b"\0" + b"\x12\x34" * 3

    def chunk(name, content):
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)  # one pixel of 16-bit colours
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.warns(UserWarning, match=r"a\.png has 16 bits a colour, as 1 of 1 .* upper 8"):
        data = datasets.image_folder(tmp_path)
    assert data.x.ravel().tolist() == [0x12] * 3
