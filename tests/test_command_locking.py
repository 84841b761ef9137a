"""One `pyrovae fit` at a time writes to a folder."""

import multiprocessing
import os

import numpy as np
import pytest
from command_line import call

from pyrovae.command.locking import alone_in

pytest.importorskip("fcntl")


def hold(folder, held, done):
    with alone_in(folder):
        held.set()
        done.wait(60)


@pytest.fixture
def data(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(60, 4)))
    return tmp_path / "x.npy"


def test_a_second_run_into_the_same_folder_is_refused(data, tmp_path):
    folder, context = tmp_path / "run", multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(folder, held, done))
    other.start()
    try:
        assert held.wait(60)
        words = call("fit", data, "-o", folder, "--epochs", 1, "--overwrite", code=2)
        assert "another `pyrovae fit` that still runs" in " ".join(words.split())
        assert not any(folder.iterdir())
    finally:
        done.set()
        other.join()
    call("fit", data, "-o", folder, "--epochs", 1, "--samples", 0, "--no-report")
    assert (folder / "model" / "model.json").is_file()


def test_a_process_that_ends_lets_go_of_its_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path / "run", held, done))
    other.start()
    assert held.wait(60)
    other.kill()
    other.join()
    with alone_in(tmp_path / "run"):
        pass


def test_a_folder_that_is_left_empty_is_removed(tmp_path):
    with alone_in(tmp_path / "empty"):
        assert (tmp_path / "empty").is_dir()
    assert not (tmp_path / "empty").exists()
    with alone_in(tmp_path / "above" / "empty"):
        pass
    assert not (tmp_path / "above").exists()
    with alone_in(tmp_path / "full"):
        (tmp_path / "full" / "file").touch()
    assert os.listdir(tmp_path / "full") == ["file"]


def test_an_empty_folder_that_was_there_before_stays(tmp_path):
    with alone_in(tmp_path):
        pass
    assert tmp_path.is_dir()


def test_an_output_that_is_a_broken_link_is_named(data, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    words = call("fit", data, "-o", tmp_path / "link", "--epochs", 1, code=2)
    assert "cannot be made" in words
    assert "--output" in words
