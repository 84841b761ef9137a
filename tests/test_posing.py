"""`datasets.posed`: turned and moved images, in the sense of `PoseVAE`."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from pyrovae import graphs
from pyrovae.data import datasets


def ink(places):
    """A smooth picture without symmetry, as a function of the place."""
    right, up = places[..., 0], places[..., 1]
    return np.exp(-8 * ((right - 0.15) ** 2 + (1.5 * up + 0.1) ** 2 + right * up))


@pytest.mark.parametrize("shape", [(61, 61), (61, 41)])
def test_an_image_is_its_content_read_at_the_places_of_the_graph(shape):
    grid = graphs.pixel_grid(*shape)
    x = np.repeat(ink(grid.numpy())[None].astype(np.float32), 4, 0)
    found = datasets.posed(x, rotation=1.0, translation=2.0, seed=1)
    angle, shift = torch.from_numpy(found.theta), torch.from_numpy(found.dx)
    cos, sin = angle.cos()[..., None], angle.sin()[..., None]
    right, up = grid.unbind(-1)
    places = torch.stack([cos * right - sin * up, sin * right + cos * up], -1)
    places = (places + shift[:, None, None]).numpy()
    inside = (np.abs(places[..., 0]) < 0.9 * grid[..., 0].max().item()) & (
        np.abs(places[..., 1]) < 0.9 * grid[..., 1].max().item()
    )
    difference = np.abs(found.x - ink(places))[inside]
    assert difference.max() < 0.02  # bilinear interpolation of a smooth picture
    assert np.abs(found.x - x)[inside].max() > 0.2


def test_no_pose_gives_the_images_back():
    x = np.random.default_rng(0).random((3, 2, 7, 9)).astype(np.float32)
    found = datasets.posed(x, rotation=0.0)
    np.testing.assert_allclose(found.x, x, atol=1e-5)
    assert not found.theta.any()
    assert not found.dx.any()


def test_angles_and_shifts_have_the_distributions_asked_for():
    x = np.zeros((4000, 1, 15, 15), dtype=np.float32)
    found = datasets.posed(x, translation=1.4, seed=3)
    assert stats.kstest(found.theta[:, 0] / (math.pi / 4), "norm").pvalue > 1e-3
    assert stats.kstest(found.dx.ravel() * 7 / 1.4, "norm").pvalue > 1e-3
    around = datasets.posed(x, rotation=math.inf, seed=3)
    assert stats.kstest(around.theta[:, 0], "uniform", (-math.pi, 2 * math.pi)).pvalue > 1e-3


def test_a_seed_repeats_and_leaves_the_global_streams_alone():
    x = np.random.default_rng(0).random((5, 8, 8)).astype(np.float32)
    state = torch.get_rng_state()
    first, again, other = (datasets.posed(x, translation=1.0, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first.x, again.x)
    assert not np.array_equal(first.x, other.x)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("shape", "settings", "words"),
    [
        ((3, 9), {}, "shape"),
        ((3, 9, 9), {"rotation": -1.0}, "rotation"),
        ((3, 8, 12, 3), {}, r"ends in the colours.*np\.moveaxis"),
        ((3, 9, 9), {"translation": math.nan}, "translation"),
    ],
)
def test_what_is_no_image_or_no_deviation_is_refused(shape, settings, words):
    with pytest.raises(ValueError, match=words):
        datasets.posed(np.zeros(shape, dtype=np.float32), **settings)
