"""Images of more than 8 bits, with alpha, or as the pages of a TIFF, through the commands."""

import json

import numpy as np
import pytest
from command_line import call
from PIL import Image

from pyrovae.data import datasets

SETTINGS = ["--epochs", 3, "--latents", 2, "--hidden", 16, "--samples", 0, "--no-report"]


def spots(n=40, side=8):
    """Images of spots, as a camera of 12 bits counts them."""
    rng = np.random.default_rng(0)
    at = np.arange(side)
    y, x = rng.uniform(1, side - 1, (2, n, 1, 1))
    mean = 3000 * np.exp(-((at[:, None] - y) ** 2 + (at - x) ** 2) / 4) + 100
    return rng.poisson(mean).astype(np.uint16)


def write(folder, x):
    folder.mkdir()
    for i, image in enumerate(x):
        Image.fromarray(image).save(folder / f"{i:02}.tif")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs on the same spots as whole numbers and as floats, beside folders, array and TIFF."""
    folder, x = tmp_path_factory.mktemp("spots"), spots()
    write(folder / "whole", x)
    write(folder / "floats", x.astype(np.float32) + np.float32(0.5))
    np.save(folder / "whole.npy", x)
    first, *others = [Image.fromarray(image) for image in x]
    first.save(folder / "whole.tif", save_all=True, append_images=others)
    call("fit", folder / "whole", "-o", folder / "run whole", "--likelihood", "poisson", *SETTINGS)
    call("fit", folder / "floats", "-o", folder / "run floats", *SETTINGS)
    return folder


def test_folder_array_and_tiff_of_the_same_images_are_one(folder, tmp_path):
    for name in ("whole", "whole.npy", "whole.tif"):
        call("evaluate", folder / "run whole", folder / name, "-o", tmp_path / f"{name}.json")
        call("encode", folder / "run whole", folder / name, "-o", tmp_path / f"{name}.npz")
    first, *others = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    assert first["test"]["elbo"] < -100
    assert all(other == first for other in others)
    first, *others = [np.load(file)["z"] for file in tmp_path.glob("*.npz")]
    assert len(first) == 40
    assert all(np.array_equal(other, first) for other in others)


@pytest.mark.parametrize("kind", ["whole", "floats"])
def test_restored_images_are_floats_in_the_unit_of_the_data(kind, folder, tmp_path):
    given = ["--corrupt", "--mask", "lower-half", "--method", "encoder", "--draws", 2]
    out = tmp_path / "out"
    call("impute", folder / f"run {kind}", folder / kind, "-o", out, *given)
    restored = datasets.image_folder(out / "restored")
    clean = datasets.image_folder(folder / kind).x
    names = [int(file.stem) for file in datasets.image_files(out / "restored")]
    assert restored.x.dtype == np.float32
    assert len(names) == 8  # the held-out rows of the fit
    np.testing.assert_allclose(restored.x[:, :, :4], clean[names][:, :, :4], rtol=1e-5)
    assert datasets.image_folder(out / "standard_deviation").x.max() < 3000
    assert len(datasets.image_files(out / "draws" / "2")) == 8


@pytest.mark.parametrize("command", ["encode", "evaluate", "interpolate", "denoise", "impute"])
def test_data_in_another_unit_are_refused_by_name(command, tmp_path):
    grey = np.random.default_rng(0).random((40, 8, 8)).astype(np.float32)
    np.save(tmp_path / "grey.npy", grey)
    run, likelihood = tmp_path / "run", ["--likelihood", "continuous-bernoulli"]
    call("fit", tmp_path / "grey.npy", "-o", run, *likelihood, *SETTINGS)
    np.save(tmp_path / "bytes.npy", (255 * grey).astype(np.uint8))
    options = {"impute": ["--hidden", 0.5, "--corrupt"], "evaluate": ["--samples", 0]}
    out = tmp_path / ("out.npy" if command in ("encode", "interpolate") else "out")
    args = [command, run, tmp_path / "bytes.npy", "-o", out, *options.get(command, [])]
    printed = call(*args, code=2)
    assert f"{tmp_path / 'bytes.npy'} " in printed
    assert "the model" in printed
    assert "fitted on" in printed
    assert not out.exists()


def test_nan_in_a_tiff_of_floats_is_hidden(folder, tmp_path):
    x = spots(3).astype(np.float32)
    x[:, 2, 5] = np.nan
    out = tmp_path / "out"
    given = ["-o", out, "--method", "encoder", "--draws", 2]
    call("impute", folder / "run floats", write(tmp_path / "nan", x), *given)
    filled = datasets.image_folder(out / "restored").x
    assert 0 < filled[:, 0, 2, 5].min() <= filled[:, 0, 2, 5].max() < 4000
    np.testing.assert_allclose(filled[:, 0, 3:], x[:, 3:], rtol=1e-5)


def test_a_model_of_four_channels_reads_images_whose_alpha_was_left_out(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 4)).astype(np.uint8)
    x[..., -1] = 255
    seen = x.copy()
    seen[3, 1, 2, -1] = 0
    write(tmp_path / "seen", seen)
    call("fit", tmp_path / "seen", "-o", tmp_path / "run", "--likelihood", "gaussian", *SETTINGS)
    assert datasets.image_folder(write(tmp_path / "opaque", x)).shape == (3, 4, 4)
    for name in ("seen", "opaque"):
        call("encode", tmp_path / "run", tmp_path / name, "-o", tmp_path / f"{name}.npz")
    z = [np.load(tmp_path / f"{name}.npz")["z"] for name in ("seen", "opaque")]
    same = np.arange(30) != 3
    np.testing.assert_allclose(z[1][same], z[0][same], atol=1e-5)
    given = ["--corrupt", "--hidden", 0.5, "--method", "encoder", "--draws", 2]
    out = tmp_path / "out"
    call("impute", tmp_path / "run", tmp_path / "opaque", "--rows", 3, "-o", out, *given)
    assert datasets.image_folder(out / "degraded").shape == (4, 4, 4)
