"""Generate, embed, reconstruct, interpolate, manifold: shapes, and the linear case exactly."""

import linear_gaussian
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.tasks import linear, spherical


def test_reconstruction_of_the_linear_vae_is_the_posterior_mean_decoded():
    graph, x = linear_gaussian.exact(), linear_gaussian.data(9)
    z = graph.posterior(x).mean
    torch.testing.assert_close(pv.embed(graph, x), z.detach())
    torch.testing.assert_close(pv.reconstruct(graph, x), graph.likelihood.net(z).detach())


def test_generated_data_have_the_models_moments():
    graph = linear_gaussian.exact()
    x = pv.generate(graph, 20_000, mean=False, seed=0)
    w = graph.likelihood.net.weight.detach()
    torch.testing.assert_close(
        torch.cov(x.T), w @ w.T + 0.25 * torch.eye(6, dtype=torch.double), atol=0.1, rtol=0
    )
    means = pv.generate(graph, 20_000, seed=0)
    torch.testing.assert_close(torch.cov(means.T), w @ w.T, atol=0.1, rtol=0)


@pytest.mark.parametrize("path", [linear, spherical])
def test_paths_have_their_ends(path):
    a, b = torch.randn(5), torch.randn(5)
    points = path(a, b, torch.linspace(0, 1, 7))
    torch.testing.assert_close(points[[0, -1]], torch.stack([a, b]), rtol=1e-4, atol=1e-5)


def test_the_spherical_path_keeps_the_norm():
    a, b = torch.eye(4)[0] * 3, torch.eye(4)[1] * 3
    torch.testing.assert_close(
        spherical(a, b, torch.linspace(0, 1, 9)).norm(dim=-1), torch.full((9,), 3.0)
    )
    torch.testing.assert_close(spherical(a, a, torch.linspace(0, 1, 3)), a.expand(3, 4))


def test_interpolation_ends_at_the_reconstructions():
    graph, x = linear_gaussian.exact(), linear_gaussian.data(2)
    points = pv.interpolate(graph, x[0], x[1], steps=5, path=spherical)
    torch.testing.assert_close(points[[0, -1]], pv.reconstruct(graph, x))
    with pytest.raises(ValueError, match="steps is 1, expected a whole number of at least 2"):
        pv.interpolate(graph, x[0], x[1], steps=1)
    for a, b in ((x[:1], x[1:2]), (x[:2], x[:2]), (x[0], x[:1]), (x[:2], x[:1])):
        with pytest.raises(ValueError, match=r"interpolate: .* without the axis of rows"):
            pv.interpolate(graph, a, b)


def test_the_manifold_is_ordered_as_a_picture():
    """z_1 increases to the right, z_2 decreases downwards."""
    graph = linear_gaussian.vae(features=2)
    with torch.no_grad():
        graph.likelihood.net.weight.copy_(torch.eye(2))
        graph.likelihood.net.bias.zero_()
    grid = pv.manifold(graph, steps=3, low=0.1, high=0.9)
    edge = torch.special.ndtri(torch.tensor(0.9, dtype=torch.double)).item()
    assert grid[0, 0].tolist() == pytest.approx([-edge, edge], abs=1e-5)
    assert grid[2, 2].tolist() == pytest.approx([edge, -edge], abs=1e-5)
    wide = linear_gaussian.vae(latents=3)
    with pytest.raises(ValueError, match=r"expected \(2,\)"):
        pv.manifold(wide)
    for quantiles in ({"low": 0.0}, {"high": 1}, {"low": "0.1"}):
        with pytest.raises(ValueError, match=r"low is .* and high .*between 0 and 1"):
            pv.manifold(graph, steps=3, **quantiles)
    with pytest.raises(TypeError, match="embed: site is 3, expected the name of a latent site"):
        pv.embed(graph, torch.zeros(2, 2), site=3)


@pytest.mark.parametrize("objective", [pv.objectives.SGVB_A(), pv.objectives.SGVB_B()])
def test_a_linear_autoencoder_reaches_the_floor_of_pca(objective):
    """Delta posterior, flat prior, Gaussian likelihood: PCA's error (Baldi & Hornik 1989)."""
    x = linear_gaussian.data(200)
    graph = pv.VAE(
        pv.priors.Flat(2),
        pv.posteriors.Point(nn.Linear(6, 2)),
        pv.likelihoods.Gaussian(nn.Linear(2, 6), sigma=1.0),
    ).double()
    pv.fit(
        graph,
        x,
        epochs=300,
        batch_size=200,
        objective=objective,
        progress=False,
        seed=0,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.03),
    )
    error = (pv.reconstruct(graph, x) - x).square().sum(1).mean()
    floor = torch.linalg.eigvalsh(torch.cov(x.T, correction=0))[:4].sum()
    assert floor - 1e-9 <= error < 1.01 * floor
