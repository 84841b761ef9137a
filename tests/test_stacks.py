"""MRC stacks of particles: read by mrcfile, refused with a reason where they are damaged."""

import sys

import mrcfile
import numpy as np
import pytest
from command_line import call

from pyrovae import datasets


def write(path, x):
    with mrcfile.new(path) as file:
        file.set_data(x)
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.float16, np.int8])
def test_a_stack_is_read_as_images(dtype, tmp_path):
    x = np.random.default_rng(0).normal(size=(5, 6, 4), scale=20).astype(dtype)
    found = datasets.stack(write(tmp_path / "particles.mrcs", x))
    assert found.shape == (1, 6, 4)
    assert found.name == "particles"
    np.testing.assert_array_equal(found.x[:, 0], x)


def test_one_image_is_a_stack_of_one(tmp_path):
    x = np.ones((6, 4), np.float32)
    assert datasets.stack(write(tmp_path / "one.mrc", x)).x.shape == (1, 1, 6, 4)


def test_damaged_stacks_are_refused_by_name(tmp_path):
    path = write(tmp_path / "particles.mrcs", np.ones((5, 6, 4), np.float32))
    content = path.read_bytes()
    for damaged in (content[:-40], content[:100], b"", content + b"123", b"x" * len(content)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"particles\.mrcs cannot be read"):
            datasets.stack(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        datasets.stack(tmp_path / "other.mrcs")
    volumes = np.ones((2, 3, 4, 5), np.float32)
    with pytest.raises(ValueError, match="expected a stack"):
        datasets.stack(write(tmp_path / "volumes.mrc", volumes))
    path = write(tmp_path / "missing.mrcs", np.ones((3, 4, 4), np.float32))
    content = path.read_bytes()
    path.write_bytes(content[:-4] + np.float32("nan").tobytes())
    with pytest.raises(ValueError, match="nan"):
        datasets.stack(path)


def test_without_mrcfile_the_error_names_the_extra(tmp_path, monkeypatch):
    path = write(tmp_path / "particles.mrcs", np.ones((5, 6, 4), np.float32))
    monkeypatch.setitem(sys.modules, "mrcfile", None)
    with pytest.raises(ImportError, match="microscopy"):
        datasets.stack(path)


def test_a_stack_is_fitted_by_the_command_line(tmp_path):
    x = np.random.default_rng(0).normal(size=(40, 8, 8)).astype(np.float32)
    path = write(tmp_path / "particles.mrcs", x)
    options = ["--epochs", 1, "--hidden", 8, "--samples", 0, "--no-report"]
    call("fit", path, "--pose", "rotation", "-o", tmp_path / "run", *options)
    assert (tmp_path / "run" / "model").exists()
