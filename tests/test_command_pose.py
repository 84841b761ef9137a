"""`pyrovae fit DATA --pose`: images with a rotation, a translation and a scale of their own."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from command_line import call

import pyrovae as pv

OPTIONS = ["--epochs", 2, "--hidden", 8, "--latents", 2, "--samples", 0]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An .npz of small images, each with a bar at its own angle, and a label."""
    path = tmp_path_factory.mktemp("images") / "bars.npz"
    x = np.zeros((60, 1, 9, 9), np.float32)
    x[:, 0, 4, 1:8] = 1
    turned = pv.datasets.posed(x, rotation=math.inf, translation=0.7, seed=0).x
    np.savez(path, x=(turned > 0.5).astype(np.uint8), labels=np.arange(60) % 3)
    return path


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    printed = call(
        "fit", images, "--pose", "scale, rotation,translation", "-o", folder / "run", *OPTIONS
    )
    assert "loss" in printed
    assert "nan" not in printed
    return folder / "run"


def test_the_graph_has_the_latents_named(run):
    graph = pv.load(run / "model")
    assert set(graph.zero_pose(1)) == {"theta", "s", "dx"}
    assert json.loads((run / "run.json").read_text())["settings"]["pose"] == (
        "rotation,translation,scale"
    )
    assert graph.turns_from > 0


def test_the_report_shows_contents_at_zero_pose_and_the_poses(run):
    page = (run / "report.html").read_text()
    for title in ("At zero pose", "Poses", "Manifold", "Interpolations"):
        assert title in page


def test_an_embedding_has_columns_for_the_pose(run, images, tmp_path):
    call("encode", run, images, "-o", tmp_path / "z.csv")
    with (tmp_path / "z.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["z1", "z2", "theta", "s", "dx_right", "dx_up", "label"]
    call("encode", run, images, "-o", tmp_path / "z.npz")
    with np.load(tmp_path / "z.npz") as found:
        assert found["theta"].shape == (len(found["z"]),)
    graph = pv.load(run / "model")
    with np.load(images) as stored:
        x = stored["x"].astype(np.float32)
    expected = pv.embed(graph, x, site=("theta", "dx"))
    given = [[float(row["theta"]), float(row["dx_right"])] for row in rows]
    found = np.stack([expected["theta"][:, 0], expected["dx"][:, 0]], 1)
    assert all(np.abs(found - one).sum(1).min() < 1e-4 for one in np.array(given))


def test_the_other_commands_take_a_run_with_a_pose(run, images, tmp_path):
    call("interpolate", run, images, "-o", tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 0
    call("sample", run, "-o", tmp_path / "samples.npy")
    assert np.load(tmp_path / "samples.npy").shape[1:] == (1, 9, 9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--pose", "tilt"], "tilt is no part of a pose"),
        (["--pose", "rotation", "--posterior", "iaf"], "--posterior diagonal-normal"),
        (["--pose", "rotation", "--draws", 3], "--draws 1"),
        (["--pose", "translation", "--denoise", 0.5], "--denoise 0"),
    ],
)
def test_what_has_no_pose_is_refused(options, words, images, tmp_path):
    printed = call("fit", images, "-o", tmp_path / "run", *OPTIONS, *options, code=2)
    assert words in " ".join(printed.split())
    assert not (tmp_path / "run").exists()


def test_vectors_have_no_pose(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 5)))
    printed = call(
        "fit", tmp_path / "x.npy", "--pose", "rotation", "-o", tmp_path / "run", *OPTIONS, code=2
    )
    assert "--pose rotation needs images" in " ".join(printed.split())


def test_counts_of_16_bits_train_with_a_rotation(tmp_path):
    """The encoder of the pose sees them standardized: it drew angles of 1e10, and diverged."""
    bars = np.zeros((80, 1, 20, 20), np.float32)
    bars[:, 0, 8:11, 2:17] = 2000
    turned = pv.datasets.posed(bars, rotation=math.inf, seed=0).x
    noise = np.random.default_rng(0).normal(100, 30, bars.shape)
    np.save(tmp_path / "counts.npy", (turned + noise).clip(0).astype(np.uint16))
    arguments = ["--pose", "rotation", "--likelihood", "negative-binomial", "--samples", 0]
    size = ["--epochs", 8, "--hidden", 200, "--latents", 2, "--no-report"]
    printed = call("fit", tmp_path / "counts.npy", "-o", tmp_path / "run", *arguments, *size)
    assert "all epochs ran" in printed
    encoder = pv.load(tmp_path / "run" / "model").encoder.net
    x = torch.from_numpy(turned + noise).float()
    assert encoder.shift == pytest.approx(x.mean().item(), rel=0.1)
    assert encoder.scale == pytest.approx(x.std().item(), rel=0.1)
