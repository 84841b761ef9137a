"""Annealed importance sampling, bidirectional bounds, appendix D against closed forms."""

import math

import linear_gaussian
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae import programs
from pyrovae.distributions import Conditional
from pyrovae.evaluation import chunking

DIRECTIONS = pytest.mark.parametrize(
    "from_guide", [False, True], ids=["from the prior", "from the guide"]
)


def poor():
    """Probabilistic PCA with a guide that is far off and too narrow.

    Importance sampling from it fails by tens of nats.
    """
    graph = linear_gaussian.exact()
    with torch.no_grad():
        graph.posterior.net.bias += torch.tensor([2.0, -2.0, -1.0, -1.0])
    return graph


def near():
    """Probabilistic PCA with a guide that is a little off."""
    graph = linear_gaussian.exact()
    with torch.no_grad():
        graph.posterior.net.bias += torch.tensor([0.2, -0.3, 0.3, 0.3])
    return graph


def scores(result, exact):
    """How many standard errors each row is off."""
    return (result.log_p - exact) / result.standard_error


def test_the_exact_posterior_gives_the_exact_evidence_at_every_chain():
    graph, x = linear_gaussian.exact(), linear_gaussian.data(20)
    result = pv.annealed_log_evidence(
        graph, x, samples=3, temperatures=5, leapfrog=2, from_guide=True
    )
    torch.testing.assert_close(result.log_p, linear_gaussian.evidence(graph, x), rtol=0, atol=1e-9)
    torch.testing.assert_close(
        result.effective_sample_size, torch.full((20,), 3.0, dtype=torch.double)
    )
    bounds = pv.bidirectional_bounds(
        graph, rows=20, samples=3, temperatures=5, leapfrog=2, from_guide=True
    )
    for bound in (bounds.lower, bounds.upper):
        torch.testing.assert_close(
            bound, linear_gaussian.evidence(graph, bounds.x), rtol=0, atol=1e-9
        )


@DIRECTIONS
def test_weights_are_unbiased_so_the_bound_rises_with_the_temperatures_and_stays_below(from_guide):
    graph, x = near(), linear_gaussian.data(30).repeat(10, 1)
    exact = linear_gaussian.evidence(graph, x)
    means = []
    for temperatures in (1, 8, 40):
        log_w = pv.annealed_log_evidence(
            graph, x, samples=1, temperatures=temperatures, leapfrog=3, from_guide=from_guide
        ).log_p
        means.append((log_w - exact).mean().item())
    ratio = (log_w - exact).exp()  # at 40; with few temperatures a few weights carry the mean
    assert (ratio.mean() - 1).abs() < 4 * ratio.std() / len(x) ** 0.5
    assert means[0] < means[1] < means[2] < 0.02


@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")  # few or poor draws, on purpose
def test_many_temperatures_reach_the_evidence_within_the_standard_error():
    graph, x = poor(), linear_gaussian.data(30)
    exact = linear_gaussian.evidence(graph, x)
    assert (
        pv.log_evidence(graph, x).log_p - exact
    ).mean() < -20  # importance sampling from that guide
    for from_guide, temperatures in ((False, 60), (True, 250)):
        result = pv.annealed_log_evidence(
            graph, x, temperatures=temperatures, leapfrog=4, from_guide=from_guide
        )
        assert scores(result, exact).abs().median() < 1.5  # 0.67 of a standard normal
        assert (result.log_p - exact).mean() == pytest.approx(0, abs=0.4)
    assert (pv.naive_log_evidence(graph, x, samples=16).log_p - exact).mean() < -2


@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")  # few or poor draws, on purpose
def test_one_temperature_is_importance_sampling():
    graph, x = near(), linear_gaussian.data(40)
    for from_guide, plain in ((True, pv.log_evidence), (False, pv.naive_log_evidence)):
        annealed = pv.annealed_log_evidence(
            graph, x, samples=4000, temperatures=1, from_guide=from_guide
        )
        other = plain(graph, x, samples=4000, seed=1)
        error = (annealed.standard_error.square() + other.standard_error.square()).sqrt()
        assert (
            (annealed.log_p - other.log_p) / error
        ).abs().median() < 1.2  # 0.67 of a standard normal


@DIRECTIONS
def test_bidirectional_bounds_bracket_the_evidence(from_guide):
    graph = near()
    wide, tight = (
        pv.bidirectional_bounds(
            graph, rows=300, samples=2, temperatures=t, leapfrog=4, from_guide=from_guide
        )
        for t in (2, 40)
    )
    for bounds in (wide, tight):
        exact = linear_gaussian.evidence(graph, bounds.x)
        ratios = torch.stack(
            [bounds.lower - exact, exact - bounds.upper]
        )  # log of w to p(x), of 1/w to 1/p(x)
        assert (ratios.mean(1) < 3 * ratios.std(1) / 300**0.5).all()
        assert bounds.gap == pytest.approx((bounds.upper - bounds.lower).mean().item())
    unbiased = ratios.exp()  # of the tight ones
    assert ((unbiased.mean(1) - 1).abs() < 4 * unbiased.std(1) / 300**0.5).all()
    assert wide.gap > 4 * wide.gap_standard_error
    assert -3 * tight.gap_standard_error < tight.gap < 0.5 * wide.gap


def test_simulated_rows_are_the_models_own():
    graph = linear_gaussian.exact()
    x = pv.bidirectional_bounds(graph, rows=2000, samples=1, temperatures=1).x
    w, s = graph.likelihood.net.weight.detach(), graph.likelihood.sigma
    assert (torch.cov(x.T) - w @ w.T - s**2 * torch.eye(6)).abs().max() < 5 * 5 * math.sqrt(
        2 / 2000
    )


def test_appendix_d_is_within_its_error():
    graph, x = poor(), linear_gaussian.data(40)
    exact = linear_gaussian.evidence(graph, x)
    result = pv.reciprocal_log_evidence(graph, x, samples=200, moves=50, leapfrog=4)
    deviates = scores(result, exact)
    assert deviates.std() == pytest.approx(1, abs=0.4)
    assert deviates.mean().abs() < 0.6
    assert result.standard_error.max() < 0.05
    assert result.effective_sample_size.min() > 100


class Positive(Conditional):
    """p(z | c) = LogNormal(c, 0.5) per dimension."""

    def forward(self, c):
        return dist.LogNormal(c, 0.5).to_event(1)


class PositivePosterior(Conditional):
    """q(z | x, c): a log-normal that looks at nothing but c."""

    def forward(self, x, c):
        return dist.LogNormal(c + 0.3, 0.7).to_event(1)


def quadrature(likelihood, x, c):
    """log p(x | c) by the trapezium rule over log z, z = (z_1, z_2) > 0."""
    side = torch.linspace(-3.5, 3.5, 71, dtype=torch.double)
    log_z = torch.cartesian_prod(side, side)[:, None] + c  # (71^2, B, 2)
    prior = dist.Normal(c, 0.5).to_event(1).log_prob(log_z)
    return (prior + likelihood(log_z.exp()).log_prob(x)).logsumexp(0) + 2 * math.log(0.1)


def test_constrained_latents_with_a_context_and_a_posterior_that_is_no_normal():
    """Bernoulli data, positive latents: p(x | c) by numerical integration."""
    torch.manual_seed(3)
    likelihood = pv.likelihoods.Bernoulli(pv.nets.WithoutContext(nn.Linear(2, 8)))
    with torch.no_grad():
        likelihood.net.net.weight.mul_(4)
    graph = pv.VAE(Positive(), PositivePosterior(), likelihood).double()
    x, c = torch.rand(6, 8).round().double(), torch.randn(6, 2).double() / 2
    with torch.no_grad():
        exact = quadrature(likelihood, x, c)
    for from_guide in (False, True):
        result = pv.annealed_log_evidence(
            graph, x, c, samples=200, temperatures=20, leapfrog=4, from_guide=from_guide
        )
        assert scores(result, exact).abs().max() < 4
        assert result.standard_error.median() < 0.2
    result = pv.reciprocal_log_evidence(graph, x, c, samples=300, moves=30, leapfrog=5)
    assert scores(result, exact).abs().max() < 4
    assert result.standard_error.max() < 0.1
    bounds = pv.bidirectional_bounds(
        graph, c.repeat(8, 1), rows=48, samples=4, temperatures=30, leapfrog=4
    )
    with torch.no_grad():
        exact = quadrature(likelihood, bounds.x, c.repeat(8, 1))
    assert (bounds.lower - exact).mean() == pytest.approx(0, abs=0.15)
    assert (bounds.upper - exact).mean() == pytest.approx(0, abs=0.15)


def test_a_guide_on_less_than_the_priors_support():
    """Annealing from such a guide would see a part of p(x) only, and is refused.

    From the prior, and by chains that leave the guide's support, all of it is found.
    """
    torch.manual_seed(0)
    graph, x = linear_gaussian.exact(), linear_gaussian.data(4)
    graph.posterior = pv.posteriors.LogNormal(pv.nets.MLP(6, [], 4)).double()
    with pytest.raises(
        ValueError,
        match=r'"z": the prior has the support .*Real.*, the guide .*Greater.*from_guide=False',
    ):
        pv.annealed_log_evidence(graph, x, temperatures=5, from_guide=True)
    exact = linear_gaussian.evidence(graph, x)
    assert (
        scores(pv.annealed_log_evidence(graph, x, samples=100, temperatures=40, leapfrog=3), exact)
        .abs()
        .max()
        < 4
    )
    assert (
        scores(pv.reciprocal_log_evidence(graph, x, samples=200, moves=100, leapfrog=5), exact)
        .abs()
        .max()
        < 4
    )


@pytest.mark.parametrize(("prior", "from_guide"), [
    # A guide that misses one of the modes would never find it.
    (lambda: pv.priors.Mixture(2, 3), False),
    (lambda: pv.priors.Flow(2, steps=2, hidden=(8,)), False),
    (lambda: pv.priors.StandardNormal(2), True),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")  # few or poor draws, on purpose
def test_priors_and_posteriors_that_are_no_normals(prior, from_guide):
    torch.manual_seed(0)
    posterior = pv.posteriors.IAF(pv.nets.MLP(6, [], 4 + 5), 2, steps=2, context=5, hidden=(8,))
    graph, x = (
        pv.VAE(prior(), posterior, pv.likelihoods.Bernoulli(nn.Linear(2, 6))),
        torch.rand(5, 6).round(),
    )
    with torch.no_grad():
        z = torch.cartesian_prod(*2 * [torch.linspace(-15, 15, 151)])[:, None]  # (151^2, 1, 2)
        exact = (graph.prior().log_prob(z) + graph.likelihood(z).log_prob(x)).double().logsumexp(
            0
        ) + 2 * math.log(0.2)
    result = pv.annealed_log_evidence(
        graph, x, samples=100, temperatures=10, leapfrog=3, from_guide=from_guide
    )
    assert scores(result, exact).abs().max() < 4
    assert result.standard_error.max() < 0.5


class Two(nn.Module):
    """z_2 ~ N(0, 1), z_1 ~ N(z_2, 0.5^2), x ~ N(z_1, 0.5^2): x ~ N(0, 1.5)."""

    def model(self, x):
        with programs.data_plate(x):
            top = pyro.sample("z2", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            z = pyro.sample("z1", dist.Normal(top, 0.5).to_event(1))
            return pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    def guide(self, x):
        with programs.data_plate(x):
            z = pyro.sample("z1", dist.Normal(x, 1.0).to_event(1))
            return pyro.sample("z2", dist.Normal(z, 1.0).to_event(1))


@DIRECTIONS
def test_two_sites(from_guide):
    x = torch.tensor([[0.0], [1.0], [-3.0]])
    exact = dist.Normal(0.0, 1.5**0.5).log_prob(x)[:, 0].double()
    result = pv.annealed_log_evidence(
        Two(), x, samples=500, temperatures=20, leapfrog=4, from_guide=from_guide
    )
    assert scores(result, exact).abs().max() < 4
    assert result.standard_error.max() < 0.1


def figures(graph, x):
    yield pv.annealed_log_evidence(graph, x, samples=3, temperatures=3).log_p
    yield pv.bidirectional_bounds(graph, rows=5, samples=3, temperatures=3).upper
    yield pv.reciprocal_log_evidence(graph, x, samples=3, moves=4).log_p


@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")  # few or poor draws, on purpose
def test_twice_the_same_and_nothing_is_changed():
    graph, x = linear_gaussian.exact(), linear_gaussian.data(5)
    graph.posterior.eval()
    before = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    modes, state = [m.training for m in graph.modules()], torch.get_rng_state()
    once = list(figures(graph, x))
    torch.randn(7)
    state = torch.get_rng_state()
    for first, second in zip(once, figures(graph, x), strict=True):
        assert torch.equal(first, second)
        assert torch.isfinite(first).all()
        assert not first.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in graph.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in graph.state_dict().items())
    assert all(parameter.grad is None for parameter in graph.parameters())
    assert not list(pyro.get_param_store().keys())


def test_no_chain_starts_where_the_simulated_row_came_from():
    """Simulation and annealing draw from one random stream, one after the other.

    With a stream each, the first chain would start at z.
    """
    graph = linear_gaussian.exact()
    with torch.no_grad():
        graph.likelihood.net.weight.mul_(5)
    bounds = pv.bidirectional_bounds(graph, rows=200, samples=1, temperatures=1)
    exact = linear_gaussian.evidence(graph, bounds.x)
    assert (
        bounds.lower - exact
    ).mean() < -20  # a draw from the prior; near 5 above it were it the z behind x


@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")  # few or poor draws, on purpose
def test_pieces_change_no_law(monkeypatch):
    graph, x = near(), linear_gaussian.data(30)
    exact = linear_gaussian.evidence(graph, x)
    monkeypatch.setattr(chunking, "_AT_ONCE", 256 * 4 * 11 * 13)
    monkeypatch.setattr(chunking, "_ROWS", 11)
    annealed = pv.annealed_log_evidence(graph, x, samples=30, temperatures=10, leapfrog=3)
    assert annealed.log_p.shape == (30,)
    assert scores(annealed, exact).abs().median() < 1.5
    reciprocal = pv.reciprocal_log_evidence(graph, x, samples=30, moves=20, leapfrog=4)
    assert (reciprocal.log_p - exact).abs().median() < 0.1
    bounds = pv.bidirectional_bounds(graph, rows=30, samples=30, temperatures=10, leapfrog=3)
    exact = linear_gaussian.evidence(graph, bounds.x)
    assert (
        max((bound - exact).abs().median() for bound in bounds[1:]) < 2
    )  # 0.2 and 0.5; tens of nats at another row's z


def test_fewer_than_three_effective_chains_in_eight_are_told():
    """Where few rows are below one in eight, so that nothing was said, the mean is far off."""
    graph = linear_gaussian.exact(sigma=0.15)
    x = pv.generate(graph, 200, mean=False, seed=3)
    with pytest.warns(pv.EvidenceWarning, match=r"few effective draws \(below 6: "):
        found = pv.annealed_log_evidence(graph, x, temperatures=50, leapfrog=4)
    assert (found.effective_sample_size < 2).double().mean() < 0.1
    off = (found.log_p - linear_gaussian.evidence(graph, x)).mean()
    assert off < -3 * found.mean_monte_carlo_error
    found = pv.annealed_log_evidence(graph, x[:40], temperatures=300, leapfrog=4)  # no warning
    off = (found.log_p - linear_gaussian.evidence(graph, x[:40])).mean()
    assert abs(off) < 3 * found.mean_monte_carlo_error


class NoGuide(nn.Module):
    """Two(), with a guide that cannot be run."""

    model = Two.model

    def guide(self, x):
        raise AssertionError("the guide was asked")


def test_from_the_prior_no_guide_is_asked():
    x = torch.tensor([[0.0], [1.0], [-3.0]])
    exact = dist.Normal(0.0, 1.5**0.5).log_prob(x)[:, 0].double()
    result = pv.annealed_log_evidence(NoGuide(), x, samples=500, temperatures=20, leapfrog=4)
    assert scores(result, exact).abs().max() < 4
    assert scores(pv.naive_log_evidence(NoGuide(), x, samples=5000), exact).abs().max() < 4
    bounds = pv.bidirectional_bounds(NoGuide(), rows=50, temperatures=40, leapfrog=4)
    assert (bounds.lower - dist.Normal(0.0, 1.5**0.5).log_prob(bounds.x)[:, 0]).mean().abs() < 0.1
    with pytest.raises(AssertionError, match="the guide was asked"):
        pv.annealed_log_evidence(NoGuide(), x, from_guide=True)


class Discrete(nn.Module):
    def model(self, x):
        with programs.data_plate(x):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(k[..., None].expand(*k.shape, 6), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with programs.data_plate(x):
            pyro.sample("k", dist.Bernoulli(0.5))


def test_errors():
    x, graph = torch.randn(3, 6), linear_gaussian.exact().float()
    auto = pv.VAE(
        pv.priors.Flat(2),
        pv.posteriors.Point(nn.Linear(6, 2)),
        pv.likelihoods.Gaussian(nn.Linear(2, 6)),
    )
    for estimate in (pv.annealed_log_evidence, pv.reciprocal_log_evidence):
        with pytest.raises(ValueError, match="no density over its latents"):
            estimate(auto, x)
        with pytest.raises(ValueError, match='site "k" is discrete'):
            estimate(Discrete(), x)
        with pytest.raises(ValueError, match="samples is 0, expected a whole number of at least 1"):
            estimate(graph, x, samples=0)
        with pytest.raises(ValueError, match="and leapfrog 0, expected at least"):
            estimate(graph, x, leapfrog=0)
    with pytest.raises(
        ValueError, match="temperatures is 0 and leapfrog 10, expected at least 1 and 1"
    ):
        pv.annealed_log_evidence(graph, x, temperatures=0)
    with pytest.raises(ValueError, match="moves is 1 and leapfrog 10, expected at least 2 and 1"):
        pv.reciprocal_log_evidence(graph, x, moves=1)
    with pytest.raises(ValueError, match="2 samples for 2 latents of a row"):
        pv.reciprocal_log_evidence(graph, x, samples=2)
    graph.guide = lambda x: None
    with pytest.raises(ValueError, match=r"the model's latents are \['z'\], the guide's \[\]"):
        pv.annealed_log_evidence(graph, x, temperatures=2, from_guide=True)
