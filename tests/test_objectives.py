"""SGVB A and B: equal to Pyro's ELBOs, unbiased over minibatches, exact on probabilistic PCA."""

import itertools

import linear_gaussian
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyrovae as pv
from pyrovae import programs
from pyrovae.objectives import SGVB_A, SGVB_B, cyclical, warm_up

PAIRS = [(SGVB_A, Trace_ELBO), (SGVB_B, TraceMeanField_ELBO)]


def small_vae(latents=2, features=6):
    return pv.VAE(
        pv.priors.StandardNormal(latents),
        pv.posteriors.DiagonalNormal(nn.Linear(features, 2 * latents)),
        pv.likelihoods.Bernoulli(nn.Linear(latents, features)),
    )


def loss_and_gradient(objective, graph, x, seed=3):
    torch.manual_seed(seed)
    graph.zero_grad()
    loss = objective.loss_and_grads(graph.model, graph.guide, x)
    return loss, [p.grad.clone() for p in graph.parameters()]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_loss_and_gradient_equal_pyros(ours, theirs):
    graph, x = small_vae().double(), torch.rand(7, 6).round().double()
    a, grad_a = loss_and_gradient(ours(), graph, x)
    b, grad_b = loss_and_gradient(theirs(), graph, x)
    assert a == pytest.approx(b, rel=1e-12)
    for u, v in zip(grad_a, grad_b, strict=True):
        torch.testing.assert_close(u, v, rtol=1e-9, atol=1e-12)


class WithFactor:
    """A VAE whose guide has a factor, a part of its log density."""

    def __init__(self):
        self.vae = small_vae().double()
        self.model, self.parameters = self.vae.model, self.vae.parameters

    def guide(self, x):
        z = self.vae.guide(x)
        with programs.data_plate(x):
            pyro.factor("more", self.vae.posterior.net(x).square().sum(-1), has_rsample=True)
        return z

    def zero_grad(self):
        self.vae.zero_grad()


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_a_factor_of_the_guide_counts_as_pyro_counts_it(ours, theirs):
    graph, x = WithFactor(), torch.rand(7, 6).round().double()
    a, grad_a = loss_and_gradient(ours(), graph, x)
    b, grad_b = loss_and_gradient(theirs(), graph, x)
    plain, _ = loss_and_gradient(ours(), graph.vae, x)
    assert a == pytest.approx(b, rel=1e-12)
    assert a > plain + 0.01
    for u, v in zip(grad_a, grad_b, strict=True):
        torch.testing.assert_close(u, v, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_many_samples_have_the_same_expectation_as_pyros(ours, theirs):
    graph, x = small_vae().double(), torch.rand(7, 6).round().double()
    a = ours(samples=20_000).loss(graph.model, graph.guide, x)
    b = theirs(num_particles=20_000, vectorize_particles=True).loss(graph.model, graph.guide, x)
    assert a == pytest.approx(b, abs=0.05)  # nats over 7 rows; the standard error is near 0.01


def test_exact_posterior_makes_the_bound_tight_for_every_draw():
    graph, x = linear_gaussian.exact(), linear_gaussian.data(50)
    expected = linear_gaussian.evidence(graph, x).sum()
    for seed in range(5):
        torch.manual_seed(seed)
        assert -SGVB_A().loss(graph.model, graph.guide, x) == pytest.approx(
            expected.item(), abs=1e-9
        )


def test_a_and_b_agree_in_expectation():
    graph, x = small_vae(), torch.rand(5, 6).round()
    a = SGVB_A(samples=20_000).loss(graph.model, graph.guide, x)
    b = SGVB_B(samples=20_000).loss(graph.model, graph.guide, x)
    assert a == pytest.approx(b, abs=0.05)


def test_minibatch_estimator_is_unbiased():
    """AEVB, eq. 8: the mean over all minibatches equals the bound of all data."""
    graph = linear_gaussian.exact()  # the bound of each row is then the same for every draw
    x = linear_gaussian.data(5)
    whole = SGVB_A().loss(graph.model, graph.guide, x)
    parts = [
        SGVB_A(data_size=5).loss(graph.model, graph.guide, x[list(rows)])
        for rows in itertools.combinations(range(5), 2)
    ]
    assert sum(parts) / len(parts) == pytest.approx(whole, rel=1e-10)


@pytest.mark.parametrize(("ours", "_"), PAIRS)
def test_beta_weighs_the_kl_and_nothing_else(ours, _):
    graph, x = small_vae(), torch.rand(5, 6).round()
    values = []
    for beta in (0.0, 1.0, 4.0):
        torch.manual_seed(0)
        values.append(ours(beta=beta).loss(graph.model, graph.guide, x))
    torch.manual_seed(0)
    bound = ours().bound(graph.model, graph.guide, x)
    rec, kl = bound.numbers()
    assert values == pytest.approx([-rec, -rec + kl, -rec + 4 * kl], rel=1e-5)


def test_only_annealed_sites_are_weighed():
    graph, x = small_vae(), torch.rand(5, 6).round()
    losses = []
    for sites in (("z",), ()):
        torch.manual_seed(0)
        losses.append(SGVB_B(beta=0.0, annealed=sites).loss(graph.model, graph.guide, x))
    torch.manual_seed(0)
    rec, kl = SGVB_B().bound(graph.model, graph.guide, x).numbers()
    assert losses == pytest.approx([-rec, -rec + kl], rel=1e-5)


def test_twice_the_pixels_twice_the_reconstruction():
    """A mean over pixels would be a hidden beta."""
    graph, x = small_vae(), torch.rand(4, 6).round()
    wide = small_vae(features=12)
    with torch.no_grad():
        wide.posterior.net.weight.copy_(
            torch.cat([graph.posterior.net.weight, torch.zeros(4, 6)], 1)
        )
        wide.posterior.net.bias.copy_(graph.posterior.net.bias)
        wide.likelihood.net.weight.copy_(graph.likelihood.net.weight.repeat(2, 1))
        wide.likelihood.net.bias.copy_(graph.likelihood.net.bias.repeat(2))
    bounds = []
    for one, batch in ((graph, x), (wide, x.repeat(1, 2))):
        torch.manual_seed(0)
        bounds.append(SGVB_B().bound(one.model, one.guide, batch).numbers())
    assert bounds[1][0] == pytest.approx(2 * bounds[0][0], rel=1e-5)
    assert bounds[1][1] == pytest.approx(bounds[0][1], rel=1e-5)


@pytest.mark.parametrize("target", [1.0, 4.0])
def test_schedules_end_at_their_target(target):
    for schedule in (
        warm_up(0.3, target),
        warm_up(1.0, target),
        cyclical(4, 0.5, target),
        cyclical(1, 1.0, target),
    ):
        weights = [schedule(t / 100) for t in range(101)]
        assert weights[0] == 0
        assert weights[-1] == target
        assert all(0 <= w <= target for w in weights)


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
def test_the_last_step_has_the_target_weight_however_short_the_run(steps):
    graph, x = small_vae(), torch.rand(steps * 2, 6).round()
    history = pv.fit(
        graph, x, epochs=1, batch_size=2, objective=SGVB_B(beta=warm_up(0.9)), progress=False
    )
    assert history.beta == [1.0]


@pytest.mark.parametrize(
    "bad",
    [
        dict(samples=0),
        dict(beta=-1.0),
        dict(beta=float("nan")),
        dict(beta=warm_up(0.5, float("inf"))),
    ],
)
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match="expected"):
        SGVB_B(**bad)


@pytest.mark.parametrize("make", [lambda: warm_up(0.0), lambda: warm_up(1.5), lambda: cyclical(0)])
def test_bad_schedules_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()


def test_a_posterior_without_reparameterization_is_named():
    class Coin(nn.Module):
        def __init__(self):
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(2))

        def forward(self, x):
            return pyro.distributions.Bernoulli(logits=self.logits.expand(len(x), 2)).to_event(1)

    graph = pv.VAE(pv.priors.StandardNormal(2), Coin(), pv.likelihoods.Bernoulli(nn.Linear(2, 6)))
    with pytest.raises(ValueError, match=r'site "z".*reparameterized'):
        pv.fit(graph, torch.rand(4, 6).round(), epochs=1, progress=False)


def test_a_latent_that_the_guide_lacks_is_named():
    class Half(pv.VAE):
        def guide(self, x, *c):
            pass

    graph = Half(*[getattr(small_vae(), part) for part in ("prior", "posterior", "likelihood")])
    with pytest.raises(
        ValueError, match=r'site "z": latent in the model but absent from the guide'
    ):
        pv.fit(graph, torch.rand(4, 6).round(), epochs=1, progress=False)
