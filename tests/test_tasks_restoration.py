"""Impute, denoise, super-resolve against closed forms, enumeration, and what a user may get wrong.

In a linear-Gaussian model everything that is asked for is a conditional of one normal distribution:
x ~ N(m, C), y = A x + noise, x | y ~ N(m + G (y - A m), C - G A C).
"""

import copy
import math
import warnings

import linear_gaussian
import pyro
import pyro.distributions as dist
import pytest
import torch
import user_graphs
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.distributions import MultivariateNormal

import pyrovae as pv
from pyrovae import programs
from pyrovae.graphs import GaussianNoise, MaskingNoise, SaltAndPepperNoise
from pyrovae.tasks import targets
from pyrovae.tasks.measurements import Corrupted

NAN = float("nan")
FEATURES = 16  # an image of 4 x 4
EYE = torch.eye(FEATURES, dtype=torch.double)
POOL = torch.nn.functional.avg_pool2d(EYE.reshape(-1, 1, 4, 4), 2).reshape(FEATURES, 4).T


def linear(rows=60):
    """Return an exact linear VAE, rows that it generated, their mean and covariance."""
    graph = linear_gaussian.exact(features=FEATURES)
    x = pv.generate(graph, rows, mean=False, seed=1)
    w, m = graph.likelihood.net.weight.detach(), graph.likelihood.net.bias.detach()
    return graph, x, m, w @ w.T + graph.likelihood.sigma**2 * EYE


def conditional(m, covariance, a, y, noise=0.0):
    """Return mean and covariance of x given y = a x + noise eps."""
    gain = covariance @ a.T @ torch.linalg.inv(a @ covariance @ a.T + noise**2 * torch.eye(len(a)))
    return m + (y - a @ m) @ gain.T, covariance - gain @ a @ covariance


def coverage(found, x, counted):
    low, high = found.interval(0.9)
    return ((x >= low) & (x <= high))[counted].double().mean().item()


# --------------------------------------------------------------------- closed forms, linear-normal
@pytest.mark.parametrize("method", ["importance", "refine", "hmc"])
def test_imputation_of_the_linear_model(method):
    graph, x, m, covariance = linear(40)
    hidden = torch.rand(x.shape) < 0.5
    if method == "importance":  # weights are bounded where the guide is wider than the posterior
        nn.init.zeros_(graph.posterior.net.weight)
        nn.init.zeros_(graph.posterior.net.bias)
    steps, samples = 30 if method == "hmc" else 60, 5000 if method == "importance" else 800
    found = pv.impute(
        graph, x, hidden=hidden, method=method, draws=199, samples=samples, steps=steps, seed=0
    )
    assert torch.equal(found.mean[~hidden], x[~hidden])
    assert torch.equal(found.draws[:, ~hidden], x[~hidden].expand(199, -1))
    for i, h in enumerate(hidden):
        mean, spread = conditional(m, covariance, EYE[~h], x[i, ~h])
        scale = spread.diagonal().clamp(min=0).sqrt()[h]
        size = found.effective_sample_size[i]
        enough = size > 100 or method != "importance"
        assert not enough or ((found.mean[i, h] - mean[h]).abs() <= 5 * scale / size**0.5).all()
    assert found.effective_sample_size.median() > 190
    assert 0.85 <= coverage(found, x, hidden) <= 0.95


def test_the_refined_normal_is_the_posterior_and_its_score_exact():
    graph, x, m, covariance = linear()
    hidden = torch.rand(x.shape) < 0.5
    score = pv.hidden_log_prob(graph, x, hidden=hidden, samples=2000)
    exact = []
    for row, h in zip(x, hidden, strict=True):
        mean, spread = conditional(m, covariance, EYE[~h], row[~h])
        exact.append(MultivariateNormal(mean[h], spread[h][:, h]).log_prob(row[h]))
    z = (score.log_p - torch.stack(exact)) / score.standard_error
    assert z.abs().max() < 4.5
    assert score.standard_error.max() < 0.2
    assert score.effective_sample_size.min() > 1900  # of 2000: the normals are the posteriors
    naive = pv.hidden_log_prob(graph, x, hidden=hidden, method="encoder", samples=2000)
    assert naive.log_p.mean() < torch.stack(exact).mean() - 1  # a proper score finds it


@pytest.mark.parametrize("sums", [False, True])
def test_super_resolution_of_the_linear_model(sums):
    graph, x, m, covariance = linear()
    y = x @ POOL.T
    pooled = (4 * y if sums else y).reshape(-1, 2, 2)
    found = pv.super_resolve(graph, pooled, sums=sums, draws=199, samples=2000, seed=0)
    mean, spread = conditional(m, covariance, POOL, y)
    scale = spread.diagonal().sqrt()
    assert ((found.mean - mean).abs() <= 5 * scale / 1900**0.5).all()
    torch.testing.assert_close(found.draws @ POOL.T, y.expand(199, -1, -1))
    off = found.draws - mean
    second = torch.einsum("kbi,kbj->ij", off, off) / off[..., 0].numel()
    torch.testing.assert_close(second, spread, atol=0.02, rtol=0)  # 5 of its standard errors
    assert 0.85 <= coverage(found, x, x == x) <= 0.95


def test_the_path_and_the_grid_of_the_linear_model():
    """E[x | z] = W z + m on the line from E[z | a] to E[z | b], and at quantiles."""
    graph, x, m, covariance = linear(2)
    w = graph.likelihood.net.weight.detach()
    of_row = torch.linalg.solve(covariance, x.T - m[:, None]).T @ w  # E[z | x] = W^T C^-1 (x - m)
    t = torch.linspace(0, 1, 5, dtype=torch.double)[:, None]
    path = pv.interpolate(graph, x[0], x[1], steps=5)
    torch.testing.assert_close(path, torch.lerp(of_row[0], of_row[1], t) @ w.T + m)
    side = torch.special.ndtri(torch.tensor([0.2, 0.5, 0.8])).double()
    grid = pv.manifold(graph, steps=3, low=0.2, high=0.8)
    for i, j in ((0, 0), (0, 2), (2, 1)):
        torch.testing.assert_close(
            grid[i, j], w @ torch.stack([side[j], -side[i]]) + m, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_denoising_of_the_linear_model(sigma):
    graph, x, m, covariance = linear()
    noise = GaussianNoise(sigma)
    y = noise(x)
    found = pv.denoise(graph, y, noise=noise, draws=199, samples=2000, seed=0)
    mean, spread = conditional(m, covariance, EYE, y, sigma)
    assert ((found.mean - mean).abs() <= 5 * spread.diagonal().sqrt() / 1900**0.5).all()
    off = found.draws - mean
    second = torch.einsum("kbi,kbj->ij", off, off) / off[..., 0].numel()
    torch.testing.assert_close(second, spread, atol=0.03, rtol=0)
    assert 0.85 <= coverage(found, x, x == x) <= 0.95


def test_values_replaced_by_noise_are_those_hidden():
    """A continuous value that equals salt or pepper is noise, so the answers are the same."""
    graph, x, _, _ = linear(20)
    noise = SaltAndPepperNoise(0.4, low=-9.0, high=9.0)
    y = noise(x)
    replaced = y.abs() == 9
    given = {"draws": 2, "samples": 4000, "seed": 0}
    a = pv.denoise(graph, y, noise=noise, **given)
    b = pv.impute(graph, x, hidden=replaced, **given)
    torch.testing.assert_close(a.mean, b.mean, atol=0.1, rtol=0)
    assert torch.equal(a.mean[~replaced], x[~replaced])


def test_without_a_noise_it_is_the_encoders_answer():
    graph, x, _, _ = linear()
    found = pv.denoise(graph, x, samples=4000, seed=0)
    torch.testing.assert_close(found.mean, pv.reconstruct(graph, x), atol=0.05, rtol=0)
    encoder = pv.posteriors.Point(nn.Linear(6, 2))
    autoencoder = pv.VAE(pv.priors.Flat(2), encoder, pv.likelihoods.Gaussian(nn.Linear(2, 6)))
    y = torch.randn(5, 6)
    found = pv.denoise(autoencoder, y, samples=3)
    torch.testing.assert_close(found.mean, pv.reconstruct(autoencoder, y))
    with pytest.raises(ValueError, match="Delta or flat"):
        pv.denoise(autoencoder, y, noise=GaussianNoise(0.1))


# ------------------------------------------------------------------------- discrete, by enumeration
class Toy(nn.Module):
    """One of three classes, and six binary values given it."""

    def __init__(self):
        super().__init__()
        self.prior, self.logits = torch.tensor([0.5, 0.3, 0.2]), torch.randn(3, 6)
        self.probs = self.logits.sigmoid()

    def model(self, x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(self.prior))
            return pyro.sample("x", dist.Bernoulli(self.probs[k]).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            return pyro.sample("k", dist.Categorical(torch.full((3,), 1 / 3)))


def test_a_discrete_latent_by_enumeration():
    graph, x = Toy(), torch.randint(2, (8, 6)).float()
    hidden = torch.rand(8, 6) < 0.5
    log_p = torch.where(hidden[:, None], 0.0, dist.Bernoulli(graph.probs).log_prob(x[:, None]))
    weights = (log_p.sum(-1) + graph.prior.log()).softmax(-1)  # of the classes, (8, 3)
    exact = torch.where(hidden, weights @ graph.probs, x)
    given = {"hidden": hidden, "method": "importance", "seed": 0}
    found = pv.impute(graph, x, samples=20_000, draws=5, **given)
    assert (found.mean - exact).abs().max() < 5 * 0.5 / found.effective_sample_size.min() ** 0.5
    of_class = dist.Bernoulli(graph.probs).log_prob(x[:, None])
    log_hidden = torch.where(hidden[:, None], of_class, 0.0).sum(-1)
    wanted = (log_hidden + weights.log()).logsumexp(-1)
    score = pv.hidden_log_prob(graph, x, samples=20_000, **given)
    z = (score.log_p - wanted) / score.standard_error.clamp(min=1e-6)
    assert z.abs().max() < 4.5
    with pytest.raises(ValueError, match=r'"k" is discrete.*method="importance"'):
        pv.impute(graph, x, hidden=hidden)


def pixels(likelihood, latents=2):
    """Return a VAE of images of 4 x 4 whose decoder varies."""
    decoder = nn.Linear(latents, FEATURES)
    nn.init.normal_(decoder.weight)
    q = pv.posteriors.DiagonalNormal(nn.Linear(FEATURES, 2 * latents))
    return pv.VAE(pv.priors.StandardNormal(latents), q, likelihood(decoder))


def by_quadrature(graph, log_p_of_y):
    """Return nodes z and the weights p(z | y) of each row on a fine grid, (G, 2) and (G, B)."""
    side = torch.linspace(-5, 5, 101)
    z = torch.cartesian_prod(side, side)
    log_prior = graph.prior().log_prob(z)
    return z, (log_prior[:, None] + log_p_of_y(graph.likelihood(z).base_dist)).softmax(0)


def test_a_binary_image_from_its_means_by_quadrature():
    """Every square of four binary pixels is summed over its sixteen states."""
    graph = pixels(pv.likelihoods.Bernoulli)
    x = pv.generate(graph, 12, mean=False, seed=0)
    sums = 4 * x @ POOL.float().T
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)  # (16, 4)

    def squares(values):
        return values.reshape(-1, 2, 2, 2, 2).transpose(2, 3).reshape(-1, 4, 4)

    def log_states(p):  # (G, 4 squares, 16 states)
        probs = squares(p.probs)[:, :, None]
        return dist.Bernoulli(probs).log_prob(states).sum(-1)

    def log_p(p):
        fits = states.sum(-1) == sums[..., None]  # (B, 4, 16)
        log = log_states(p)[:, None].masked_fill(~fits, -torch.inf)
        return log.logsumexp(-1).sum(-1)

    z, weights = by_quadrature(graph, log_p)
    fits = states.sum(-1) == sums[..., None]
    log = log_states(graph.likelihood(z).base_dist)[:, None].masked_fill(~fits, -torch.inf)
    of_z = torch.einsum("gbst,ti->gbsi", log.softmax(-1), states)
    exact = torch.einsum("gb,gbsi->bsi", weights, of_z)
    found = pv.super_resolve(graph, sums.reshape(-1, 2, 2) / 4, samples=4000, draws=400, seed=0)
    assert (squares(found.mean) - exact).abs().max() < 5 * 0.5 / 1000**0.5
    assert found.effective_sample_size.min() > 1000
    assert (squares(found.draws.mean(0)) - exact).abs().max() < 5 * 0.5 / 400**0.5
    assert (4 * found.draws @ POOL.float().T == sums).all()


@pytest.mark.parametrize("noise", [GaussianNoise(0.7), SaltAndPepperNoise(0.4), MaskingNoise(0.5)])
def test_noise_on_binary_pixels_by_quadrature(noise):
    graph = pixels(pv.likelihoods.Bernoulli)
    y = noise(pv.generate(graph, 12, mean=False, seed=0))

    def densities(p):  # p(x = k) p(y | x = k), k in {0, 1}, (2, G, B, 16)
        prob = p.probs[:, None]
        if isinstance(noise, GaussianNoise):
            given = [dist.Normal(k, 0.7).log_prob(y).exp() for k in (0.0, 1.0)]
        elif isinstance(noise, SaltAndPepperNoise):
            given = [0.6 * (y == k) + 0.2 for k in (0.0, 1.0)]
        else:
            given = [(y == 0).float(), 0.5 * torch.ones_like(y)]
        return torch.stack([(1 - prob) * given[0], prob * given[1]])

    z, weights = by_quadrature(graph, lambda p: densities(p).sum(0).log().sum(-1))
    both = densities(graph.likelihood(z).base_dist)
    exact = torch.einsum("gb,gbi->bi", weights, both[1] / both.sum(0))
    found = pv.denoise(graph, y, noise=noise, samples=4000, draws=400, seed=0)
    assert found.effective_sample_size.min() > 1000
    assert (found.mean - exact).abs().max() < 5 * 0.5 / 1000**0.5
    assert (found.draws.mean(0) - exact).abs().max() < 5 * 0.5 / 400**0.5


# ---------------------------------------------------------------------------------- other graphs
def counts(cells=300, genes=12):
    """Return counts of cells of two kinds, of different sizes."""
    profile = torch.softmax(torch.randn(2, genes), -1)
    size = torch.distributions.LogNormal(5.0, 0.6).sample((cells, 1))
    return torch.poisson(size * profile[torch.randint(2, (cells,))])


@pytest.mark.parametrize("latent_size", [True, False])
def test_hidden_genes_of_a_cell(latent_size):
    """The library size is inferred from the genes that are seen, however many are hidden."""
    x = counts()
    graph = count_graph(x, latent_size)
    hidden = torch.zeros(12, dtype=torch.bool)
    hidden[:8] = True
    pv.fit(graph, x, epochs=40, batch_size=50, seed=0, progress=False)
    test = x[:60]
    given = {"hidden": hidden, "draws": 99, "seed": 0}
    refined = pv.impute(graph, test, **given)
    naive = pv.impute(graph, test, method="encoder", **given)
    error, of_naive, of_mean = (
        (mean - test)[:, hidden].square().mean().sqrt().item()
        for mean in (refined.mean, naive.mean, x.mean(0).expand(60, -1))
    )
    assert error < 0.75 * of_naive
    assert error < 0.75 * of_mean
    off, of_zeros = (
        (found.mean.sum(-1) / test.sum(-1)).log().abs().mean() for found in (refined, naive)
    )
    assert off < 0.35 * of_zeros
    assert (refined.draws[:, :, hidden] % 1 == 0).all()
    score = pv.hidden_log_prob(graph, test, hidden=hidden, samples=300)
    with pytest.warns(pv.RestorationWarning, match="fewer than 2 of samples=300"):
        of_zeros = pv.hidden_log_prob(graph, test, hidden=hidden, samples=300, method="encoder")
    assert score.log_p.mean() > of_zeros.log_p.mean() + 10


def count_graph(x, latent_size):
    mlp = pv.nets.MLP
    totals = x.sum(-1).log()
    prior = pv.priors.LibraryNormal([totals.mean().item()], [totals.std().item()])
    q = pv.posteriors.LibraryNormal(mlp(12, [16], 2), empty=totals.mean().item())
    hidden = pv.nets.MLP(2, [16], 16)
    return pv.CountVAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(mlp(12, [16], 4)),
        pv.expression.Poisson(hidden, 12),
        *((prior, q) if latent_size else ()),
    )


class Far(nn.Module):
    """An encoder that is far off: its mean grows with what it sees, and it is sure of it."""

    def forward(self, x):
        mean = x.sum(-1, keepdim=True).log1p() - 8
        return torch.cat([mean, mean.new_full(mean.shape, -4.0)], -1)


@pytest.mark.parametrize("encoder", [Far(), nn.Linear(12, 2)], ids=["far", "not finite"])
def test_dense_counts_are_not_carried_away_by_an_encoder_far_off(encoder):
    """x_j ~ Poisson(80 e^(w z)): the posterior of z by a sum over a fine grid."""
    decoder = nn.Linear(1, 12)
    with torch.no_grad():
        decoder.weight.fill_(0.5)
        decoder.bias.fill_(80.0).log_()
        if isinstance(encoder, nn.Linear):
            encoder.weight.copy_(torch.tensor([[1.0], [10.0]]))  # exp(10 * 960) is infinite
    q = pv.posteriors.DiagonalNormal(encoder)
    graph = pv.VAE(pv.priors.StandardNormal(1), q, pv.likelihoods.Poisson(decoder))
    x = torch.poisson(80 * (torch.randn(20, 1) / 2).exp().expand(20, 12))
    hidden = torch.arange(12) < 5
    grid = torch.linspace(-6, 6, 24_001, dtype=torch.double)[:, None]
    log_rate = grid / 2 + math.log(80)  # (G, 1)
    seen = x[:, 5:].double().sum(1)  # (B,)
    log_p = seen * log_rate - 7 * log_rate.exp() - grid.square() / 2  # (G, B)
    exact = (log_p.softmax(0) * log_rate.exp()).sum(0)
    found = pv.impute(graph, x, hidden=hidden, draws=99, seed=0)
    size = found.effective_sample_size
    assert size.min() > 100
    spread = (log_p.softmax(0) * (log_rate.exp() - exact).square()).sum(0).sqrt()
    assert ((found.mean[:, 0] - exact).abs() <= 5 * spread / size**0.5).all()
    assert 0.85 <= coverage(found, x, hidden.expand(20, 12)) <= 0.95


def test_two_layers_of_latents():
    mlp = lambda a, b: pv.nets.MLP(a, [32], b, activation=nn.Tanh)  # noqa: E731
    graph = pv.HierarchicalVAE(
        pv.priors.StandardNormal(2),
        pv.priors.ConditionalNormal(mlp(2, 6)),
        pv.posteriors.DiagonalNormal(mlp(6, 6)),
        pv.posteriors.DiagonalNormal(mlp(3, 4)),
        pv.likelihoods.Gaussian(mlp(3, 6), sigma=0.5),
    )
    x = linear_gaussian.data(400).float()
    pv.fit(graph, x, epochs=60, batch_size=50, seed=0, progress=False)
    hidden = torch.rand(60, 6) < 0.5
    found = [
        pv.hidden_log_prob(graph, x[:60], hidden=hidden, method=m, samples=300).log_p.mean()
        for m in ("refine", "encoder")
    ]
    assert found[0] > found[1] + 1
    restored = pv.impute(graph, x[:60], hidden=hidden, draws=50, seed=0)
    assert 0.8 <= coverage(restored, x[:60], hidden) <= 0.97  # the model is fitted, not true


def test_a_program_of_a_users_own_and_a_wrapped_one():
    graph, x = user_graphs.PyroExample(), torch.rand(5, 6).round()
    hidden = torch.rand(5, 6) < 0.5
    assert pv.impute(graph, x, hidden=hidden, draws=3).draws.shape == (3, 5, 6)
    assert pv.impute(graph, x, hidden=hidden, draws=3, observed="obs").mean.shape == (5, 6)
    vae = linear_gaussian.exact()
    x = linear_gaussian.data(5)
    hidden[:, 0] = True
    holed = x.masked_fill(hidden, NAN)
    seen = (~hidden).to(x.dtype)
    a = pv.impute(vae, holed, samples=4000, seed=0)
    b = pv.impute(pv.Missing(vae), holed, seen, hidden=hidden, samples=4000, seed=0)
    torch.testing.assert_close(a.mean, b.mean, atol=0.1, rtol=0)
    c = pv.impute(pv.Denoising(vae, GaussianNoise(1.0)), holed, samples=4000, seed=0)
    torch.testing.assert_close(a.mean, c.mean, atol=0.1, rtol=0)


def test_draws_as_repeated_rows_and_a_label_as_context():
    """A program that concatenates latents and labels takes no plate of draws."""
    graph, x = user_graphs.SemiSupervised(), torch.rand(5, 6).round()
    hidden, y = torch.rand(5, 6) < 0.5, torch.eye(3)[[0, 1, 2, 0, 1]]
    found = pv.impute(graph, x, y, hidden=hidden, samples=20_000, draws=5, seed=0, steps=50)
    z = torch.cartesian_prod(*[torch.linspace(-5, 5, 61)] * 2)
    both = torch.cat([z[:, None].expand(-1, 5, -1), y.expand(len(z), -1, -1)], -1)
    p = dist.Bernoulli(logits=graph.decode(both).detach())
    log_p = p.log_prob(x).masked_fill(hidden, 0.0).sum(-1) - z.square().sum(-1)[:, None] / 2
    exact = torch.einsum("gb,gbi->bi", log_p.softmax(0), p.probs)
    error = 5 * 0.5 / found.effective_sample_size.min() ** 0.5
    assert (found.mean - exact)[hidden].abs().max() < error < 0.1
    assert pv.impute(graph, x, hidden=hidden, method="importance", draws=3).draws.shape[0] == 3


LIKELIHOODS = [
    lambda net: pv.likelihoods.Categorical(net(18), levels=3),
    lambda net: pv.likelihoods.Binomial(net(6), 2),
    lambda net: pv.likelihoods.DiscretizedLogistic(net(12), levels=3),
    lambda net: pv.likelihoods.Poisson(net(6)),
    lambda net: pv.likelihoods.NegativeBinomial(net(6)),
    lambda net: pv.likelihoods.HeteroscedasticGaussian(net(12)),
]


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_is_restored(likelihood):
    """Values of the support, of the shape of x, from each kind of knowledge."""
    p = likelihood(lambda outputs: pv.nets.MLP(2, [8], outputs))
    q = pv.posteriors.DiagonalNormal(pv.nets.MLP(6, [8], 4))
    graph = pv.VAE(pv.priors.StandardNormal(2), q, p)
    x = torch.randint(3, (4, 6)).float()
    hidden = torch.tensor([True, False] * 3)
    given = {"steps": 5, "samples": 20, "draws": 3, "seed": 0}
    noise = pv.graphs.GaussianNoise(0.5)
    for found in (
        pv.impute(graph, x, hidden=hidden, **given),
        pv.denoise(graph, noise(x), noise=noise, **given),
        pv.denoise(graph, x, noise=MaskingNoise(0.5), **given),
        pv.denoise(graph, x, noise=SaltAndPepperNoise(0.2, high=2.0), **given),
        pv.super_resolve(graph, x.reshape(4, 1, 6), factor=1, **given),
    ):
        assert found.mean.shape == (4, 6)
        assert found.draws.shape == (3, 4, 6)
        assert torch.isfinite(found.mean).all()
        assert torch.isfinite(found.draws).all()


# ------------------------------------------------------------------------ isolation, chunks, errors
def test_a_seed_repeats_and_nothing_changes():
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))
    q = pv.posteriors.DiagonalNormal(net)
    graph = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(nn.Linear(2, 6)))
    x, hidden = torch.rand(7, 6).round(), torch.rand(7, 6) < 0.5
    before, stream = copy.deepcopy(graph.state_dict()), torch.get_rng_state()
    for method in ("encoder", "importance", "refine", "hmc"):
        given = {"hidden": hidden, "method": method, "steps": 4, "samples": 20}
        a, b, c = (pv.impute(graph, x, seed=seed, **given) for seed in (3, 3, 4))
        assert torch.equal(a.draws, b.draws)
        assert torch.equal(a.mean, b.mean)
        assert not torch.equal(a.mean, c.mean)
    assert torch.equal(torch.get_rng_state(), stream)
    assert graph.training
    assert all(torch.equal(value, before[name]) for name, value in graph.state_dict().items())
    assert all(parameter.grad is None for parameter in graph.parameters())
    torch.manual_seed(5)
    a = pv.impute(graph, x, hidden=hidden, steps=2)
    torch.manual_seed(5)
    b = pv.impute(graph, x, hidden=hidden, steps=2)
    assert torch.equal(a.draws, b.draws)


def test_batches_bar_and_rows_with_everything_or_nothing_hidden(capsys):
    graph, x, m, covariance = linear(7)
    hidden = torch.zeros_like(x, dtype=torch.bool)
    hidden[0], hidden[1:3, :5] = True, True
    found = pv.impute(graph, x, hidden=hidden, batch_size=3, progress=True, samples=4000, seed=0)
    assert "impute" in capsys.readouterr().err
    assert torch.equal(found.mean[3:], x[3:])
    scale = covariance.diagonal().sqrt()
    assert ((found.mean[0] - m).abs() < 5 * scale / 3000**0.5).all()
    assert (found.interval()[0] <= found.interval()[1]).all()


@pytest.mark.parametrize(("draws", "level"), [(19, 0.9), (99, 0.9), (99, 0.5), (16, 0.9), (1, 0.9)])
def test_an_interval_holds_one_further_draw_at_its_level(draws, level):
    values = torch.rand(draws, 20_000)
    low, high = pv.Restored(values[0], values, values[0]).interval(level)
    x = torch.rand(20_000)
    held = ((x >= low) & (x <= high)).double().mean()
    wanted = min(level, (draws - 1) / (draws + 1))
    assert abs(held - wanted) < 4.5 * (wanted * (1 - wanted) / 20_000) ** 0.5 + 1e-9
    assert (low <= high).all()


def test_what_does_not_fit_is_refused():
    graph, x, *_ = linear(4)
    none = torch.zeros(4, FEATURES, dtype=torch.bool)
    some = none.clone()
    some[0, 0] = True
    for arguments, words in [
        ({"hidden": some[:, :3]}, r"hidden has shape \(4, 3\).*\(4, 16\)"),
        ({"hidden": some.float()}, "expected bool"),
        ({"hidden": none}, "no value is hidden"),
        ({}, "no value is hidden"),
        ({"hidden": some, "method": "guess"}, 'method is "guess".*refine'),
        ({"hidden": some, "fill": None}, "fill is None, expected a finite number"),
        ({"hidden": some, "draws": 0}, "draws is 0"),
        ({"hidden": some, "components": 129}, "components is 129, expected at most 128"),
        ({"hidden": some, "observed": "y"}, 'none is "y".*observed='),
    ]:
        with pytest.raises(ValueError, match=words):
            pv.impute(graph, x, **arguments)
    with pytest.raises(TypeError, match=r"impute: hidden is the path 'mask\.npy'"):
        pv.impute(graph, x, hidden="mask.npy")
    with pytest.raises(ValueError, match="a mask is given by name, hidden=mask"):
        pv.impute(graph, x, some)
    with pytest.raises(ValueError, match="row 2 that is not finite"):
        pv.impute(graph, x.masked_fill(torch.arange(4)[:, None] == 2, NAN), hidden=some)
    with pytest.raises(ValueError, match=r"\(6, 6\).*\(16,\)"):
        pv.super_resolve(graph, torch.ones(4, 3, 3))
    with pytest.raises(ValueError, match="reshape flat rows"):
        pv.super_resolve(graph, torch.ones(4, 3))
    with pytest.raises(ValueError, match="noise is None"):
        pv.denoise(graph, x, method="refine")
    with pytest.raises(ValueError, match=r"Dropout.*GaussianNoise"):
        pv.denoise(graph, x, noise=nn.Dropout(0.1))
    y = torch.zeros(4, 2, 2).index_fill(0, torch.tensor(3), 0.1)
    with pytest.raises(ValueError, match=r"row 3 has probability zero.*binarize"):
        pv.super_resolve(pixels(pv.likelihoods.Bernoulli), y)
    with pytest.raises(ValueError, match="level is 2"):
        pv.impute(graph, x, hidden=some, steps=1).interval(2)
    counted = pixels(pv.likelihoods.Bernoulli)
    with pytest.raises(ValueError, match=r"0.5 at row 1"):
        pv.impute(
            counted, torch.full((4, FEATURES), 1.0).index_fill(0, torch.tensor(1), 0.5), hidden=some
        )


def test_a_likelihood_that_is_not_independent_is_refused():
    class Full(nn.Module):
        def forward(self, z):
            return dist.MultivariateNormal(z, torch.eye(2))

    q = pv.posteriors.DiagonalNormal(nn.Linear(2, 4))
    graph = pv.VAE(pv.priors.StandardNormal(2), q, Full())
    with pytest.raises(ValueError, match=r"MultivariateNormal.*not independent"):
        pv.impute(graph, torch.tensor([[1.0, NAN]]))


def test_rows_of_another_kind_are_anomalies():
    """The exact score of the true model ranks rows with other latents above its own."""
    graph = linear_gaussian.exact()
    own = pv.generate(graph, 200, mean=False, seed=0)
    other = own[torch.randperm(200)] * torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 1.0])
    scores = pv.anomaly_score(graph, torch.cat([own, other]))
    exact = -linear_gaussian.evidence(graph, torch.cat([own, other]))
    is_other = [0] * 200 + [1] * 200
    assert roc_auc_score(is_other, scores) > 0.85
    assert roc_auc_score(is_other, scores) == roc_auc_score(is_other, exact)


def test_the_anomaly_score_and_draws_of_an_embedding():
    graph, x = linear_gaussian.exact(), linear_gaussian.data(5)
    torch.testing.assert_close(pv.anomaly_score(graph, x), -linear_gaussian.evidence(graph, x))
    z = pv.embed(graph, x, draws=4000, seed=0)
    q = graph.posterior(x)
    assert z.shape == (4000, 5, 2)
    assert ((z.mean(0) - q.mean) / q.stddev * 4000**0.5).abs().max() < 4.5
    assert torch.equal(z, pv.embed(graph, x, draws=4000, seed=0))
    with pytest.raises(ValueError, match="draws is 0"):
        pv.embed(graph, x, draws=0)


MANY_LEVELS = {
    "Binomial": (lambda: pv.likelihoods.Binomial(pv.nets.MLP(2, [8], 6), 30), 31),
    "Categorical": (lambda: pv.likelihoods.Categorical(pv.nets.MLP(2, [8], 6 * 31), 31), 31),
    "Bernoulli": (lambda: pv.likelihoods.Bernoulli(pv.nets.MLP(2, [8], 6)), 2),
}


@pytest.mark.parametrize("likelihood", MANY_LEVELS)
def test_several_runs_give_what_one_gives(likelihood, monkeypatch):
    """log p(z, y | c), its gradient and E[x | y] of 7 draws: 2 at a time, or all in one run."""
    make, n = MANY_LEVELS[likelihood]
    q = pv.posteriors.DiagonalNormal(pv.nets.MLP(6, [8], 4))
    vae = pv.VAE(pv.priors.StandardNormal(2), q, make()).double()
    y, noise = torch.rand(5, 6, dtype=torch.double) * n, GaussianNoise(2.0)
    both = vae.model, vae.guide
    layout = programs.find_layout(*both, y, draws=2, scaled=False)
    z, w = torch.randn(7, 5, 2, dtype=torch.double), torch.rand(7, 5, dtype=torch.double)
    found = []
    for numbers in (1 << 23, 2 * 5 * 256):
        monkeypatch.setattr(targets, "_AT_ONCE", numbers)
        target = targets.Target(vae, (y,), Corrupted(y, noise), layout, None, "denoise")
        leaf = z.clone().requires_grad_()
        log_p = target.log_joint({"z": leaf})
        (gradient,) = torch.autograd.grad((w * log_p).sum(), leaf)
        found.append((log_p, gradient, target.mean({"z": z}, w / w.sum(0))))
        assert (target.at_once < 7) == (numbers < 1 << 20)
    torch.testing.assert_close(*found)


def test_rows_of_one_effective_draw_are_told():
    """64 pixels seen sharply, and a guide that is the prior: one of 50 draws has all the weight."""
    graph, x, *_ = linear(20)
    nn.init.zeros_(graph.posterior.net.weight)
    nn.init.zeros_(graph.posterior.net.bias)
    graph.likelihood.sigma = torch.tensor(0.01, dtype=torch.double)
    hidden = torch.arange(FEATURES) < 4
    options = {"hidden": hidden, "samples": 50, "seed": 0}
    with pytest.warns(
        pv.RestorationWarning, match=r"impute: in \d+ of 20 rows .* samples=50 "
    ) as w:
        found = pv.impute(graph, x, method="importance", **options)
    assert len(w) == 1
    assert w[0].filename == __file__
    bad = int((found.effective_sample_size < 2).sum())
    assert f"in {bad} of 20 rows" in str(w[0].message)
    assert bad > 2
    refined = pv.impute(graph, x, **options)  # no warning
    assert (refined.effective_sample_size < 2).sum() <= 2
    pv.impute(graph, x, method="hmc", draws=1, steps=2, **options)  # equal weights: no warning
    with pytest.warns(pv.RestorationWarning, match="hidden_log_prob: .* log_p is likely") as w:
        few = pv.hidden_log_prob(graph, x, method="importance", **options)
    assert w[0].filename == __file__
    with warnings.catch_warnings(action="ignore"):  # what is hidden is seen as sharply
        many = pv.hidden_log_prob(graph, x, **{**options, "samples": 1000})
    assert few.log_p.mean() < many.log_p.mean()


def test_a_batch_shape_that_holds_pixels_is_told_what_to_declare():
    net = nn.Sequential(nn.Linear(2, 16), nn.Unflatten(-1, (1, 4, 4)))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    likelihood = pv.likelihoods.Gaussian(net, sigma=0.5)
    vae = pv.VAE(pv.priors.StandardNormal(2), pv.posteriors.DiagonalNormal(encoder), likelihood)
    x = torch.zeros(5, 1, 4, 4)
    x[:, :, 2:] = NAN
    with pytest.raises(ValueError, match="event_dim=3"):
        pv.impute(vae, x, draws=2, samples=4, steps=2)


def test_hidden_values_that_say_much_more_than_the_others_are_told():
    """With everything hidden no weight is uneven, and one draw explains a row best."""
    graph, *_ = linear(20)
    nn.init.zeros_(graph.posterior.net.weight)
    nn.init.zeros_(graph.posterior.net.bias)  # the guide is the prior
    with torch.no_grad():
        graph.likelihood.net.weight.mul_(30)
    x = pv.generate(graph, 20, mean=False, seed=1)
    hidden = torch.ones(FEATURES, dtype=torch.bool)
    with pytest.warns(pv.RestorationWarning, match="hidden_log_prob: .* log_p is likely too low"):
        score = pv.hidden_log_prob(
            graph, x, hidden=hidden, samples=200, method="importance", seed=0
        )
    off = linear_gaussian.evidence(graph, x) - score.log_p
    assert off.max() > 10
    assert score.effective_sample_size.min() > 199  # the weights are even: they tell nothing
