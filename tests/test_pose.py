"""`PoseVAE`: coordinates, the plain decoder at zero pose, and the sense of turns and shifts."""

import math

import pytest
import torch
from pyro.poutine import trace
from torch import nn

import pyrovae as pv
from pyrovae import graphs, likelihoods, nets, posteriors, priors

SHAPE = (1, 7, 7)


def pose_vae(shape=SHAPE, rotation=True, translation=True, scale=False, latents=2, **settings):
    decoder = nets.CoordinateDecoder(latents, shape, [16], **settings)
    encoder = nets.MLP(shape, [12], 12)
    pose = {}
    if rotation:
        pose["rotation_prior"] = priors.UniformAngle(1)
        pose["rotation_posterior"] = posteriors.WrappedNormal(nn.Linear(12, 2))
    if translation:
        pose["translation_prior"] = priors.CentredNormal(2, 0.1)
        pose["translation_posterior"] = posteriors.DiagonalNormal(nn.Linear(12, 4))
    if scale:
        pose["scale_prior"] = priors.CentredNormal(1, 0.2)
        pose["scale_posterior"] = posteriors.DiagonalNormal(nn.Linear(12, 2))
    return graphs.PoseVAE(
        priors.StandardNormal(latents),
        posteriors.DiagonalNormal(nn.Linear(12, 2 * latents)),
        likelihoods.Bernoulli(decoder),
        shape=shape,
        encoder=encoder,
        **pose,
    )


def content_at(graph, z, **pose):
    return graph.likelihood(z, graph.places(**pose)).mean


def test_zero_pose_is_the_plain_coordinate_decoder():
    torch.manual_seed(0)
    graph, z = pose_vae(scale=True), torch.randn(5, 2)
    plain = graph.likelihood.net(z, graphs.pixel_grid(7, 7).expand(5, 7, 7, 2)).sigmoid()
    zero = torch.zeros(5, 2)
    posed = content_at(graph, z, theta=zero[:, :1], dx=zero, s=zero[:, :1])
    torch.testing.assert_close(posed, plain)
    torch.testing.assert_close(content_at(graph, z), plain)
    decoded = pv.decode(graph, {"z": z, "theta": zero[:, :1], "dx": zero, "s": zero[:, :1]})
    torch.testing.assert_close(decoded, plain)


@pytest.mark.parametrize("shape", [(1, 7, 7), (1, 8, 8)])
def test_a_quarter_turn_of_the_content_is_a_quarter_turn_of_the_picture(shape):
    torch.manual_seed(0)
    graph, z = pose_vae(shape), torch.randn(5, 2)
    upright = content_at(graph, z)
    turned = content_at(graph, z, theta=torch.full((5, 1), math.pi / 2))
    torch.testing.assert_close(turned, torch.rot90(upright, -1, (-2, -1)))  # clockwise


def test_turns_add_up_and_pictures_of_other_than_square_shape_do_not_shear():
    graph = pose_vae((1, 5, 9))
    a, b = torch.tensor([[0.3]]), torch.tensor([[1.1]])
    lengths = graph.places(theta=a).square().sum(-1)
    torch.testing.assert_close(lengths[0], graph.grid.square().sum(-1))
    step = graph.grid[0, 1] - graph.grid[0, 0], graph.grid[0, 0] - graph.grid[1, 0]
    torch.testing.assert_close(step[0].norm(), step[1].norm())

    def turn(t):
        return torch.stack(
            [torch.stack([t.cos(), -t.sin()], -1), torch.stack([t.sin(), t.cos()], -1)], -2
        ).squeeze()

    torch.testing.assert_close(turn(a) @ turn(b), turn(a + b))
    torch.testing.assert_close(graph.places(theta=a)[0], graph.grid @ turn(a).T)


def test_a_shift_by_one_pixel_moves_the_picture_by_one_pixel():
    torch.manual_seed(0)
    graph, z = pose_vae(), torch.randn(5, 2)
    pixel = 2 / 6
    upright = content_at(graph, z)
    right_up = torch.tensor([[pixel, pixel]]).expand(5, 2)
    moved = content_at(graph, z, dx=right_up)  # the content moves to the left and down
    torch.testing.assert_close(moved[..., 1:, :-1], upright[..., :-1, 1:])


def test_scale_enlarges_the_field_of_view():
    graph = pose_vae(scale=True)
    s = torch.tensor([[math.log(2.0)]])
    torch.testing.assert_close(graph.places(s=s)[0], 2 * graph.grid)


@pytest.mark.parametrize("rotation", [False, True])
@pytest.mark.parametrize("translation", [False, True])
def test_each_latent_of_the_pose_is_optional(rotation, translation):
    graph = pose_vae(rotation=rotation, translation=translation)
    x = torch.rand(20, *SHAPE).round()
    history = pv.fit(graph, x, epochs=2, batch_size=10, progress=False, seed=0)
    assert math.isfinite(history.loss[-1])
    named = set(trace(graph.guide).get_trace(x).nodes)
    assert ("theta" in named, "dx" in named) == (rotation, translation)
    assert pv.generate(graph, 3, seed=0).shape == (3, *SHAPE)
    assert pv.embed(graph, x).shape == (20, 2)
    if rotation:
        assert pv.embed(graph, x, site="theta").shape == (20, 1)
