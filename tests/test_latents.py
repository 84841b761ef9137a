"""What latents hold: means by draws, latents drawn given other latents, classes, order of rows."""

import math
from contextlib import contextmanager

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.contrib.zuko import ZukoToPyro
from torch import nn

import pyrovae as pv
from pyrovae import posteriors, programs
from pyrovae.evaluation import information, latents

X = torch.randn(1000, 6, generator=torch.Generator().manual_seed(1))


def linear(weight, bias):
    """Return a linear network with these weights."""
    net = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        net.weight.copy_(weight)
        net.bias.copy_(bias)
    return net


def hierarchical(slope=0.0, log_sigma=-2.0):
    """q(z1 | x) = N(slope x_12, I), q(z2 | z1) = N(3 z1, e^(2 log_sigma) I), two latents each."""
    to_z1 = torch.zeros(4, 6)
    to_z1[0, 0] = to_z1[1, 1] = slope
    to_z2 = torch.cat([3 * torch.eye(2), torch.zeros(2, 2)])
    bias = torch.tensor([0.0, 0.0, log_sigma, log_sigma])
    return pv.HierarchicalVAE(
        pv.priors.StandardNormal(2),
        pv.priors.ConditionalNormal(nn.Linear(2, 4)),
        posteriors.DiagonalNormal(linear(to_z1, torch.zeros(4))),
        posteriors.DiagonalNormal(linear(to_z2, bias)),
        pv.likelihoods.Gaussian(nn.Linear(2, 6)),
    )


class Graph(nn.Module):
    """A prior N(0, I), a posterior that is given, and a linear likelihood."""

    def __init__(self, q, d=8, prior=None):
        super().__init__()
        self.q, self.d, self.decoder = q, d, nn.Linear(d, 6)
        self.prior = prior or (lambda: dist.Normal(torch.zeros(d), 1.0).to_event(1))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.q(x))


# ------------------------------------------------------------------- latents given other latents
@pytest.mark.parametrize("log_sigma", [-2.0, -4.0])
def test_a_latent_that_follows_another_ones_noise_holds_nothing(log_sigma):
    """I(x; z2) = 0: it was 5.9 nats and 2 of 2 units, those of one draw of z1."""
    summary = pv.latent_summary(hierarchical(log_sigma=log_sigma), X, site="z2")
    assert summary.active.tolist() == [False, False]
    assert summary.mutual_information < 0.05
    assert "posterior collapse: 0 of 2" in summary.warning


@pytest.mark.parametrize("slope", [0.5, 2.0])
def test_information_that_passes_through_another_latent(slope):
    """z2 = 3 z1 + noise, z1 = slope x + noise: log(1 + 9 slope^2 / (9 + sigma^2)) of two units."""
    exact = math.log(1 + 9 * slope**2 / (9 + math.exp(-4)))
    summary = pv.latent_summary(hierarchical(slope), X, site="z2")
    assert summary.active.tolist() == [True, True]
    assert summary.mutual_information == pytest.approx(exact, abs=0.1)


def test_the_mean_of_a_latent_given_another_is_over_both():
    graph = hierarchical(slope=1.0)
    means = pv.embed(graph, X[:300], site="z2")
    off = means - 3 * X[:300, :2]
    error = 3 / math.sqrt(256)  # of a mean of 256 draws of z1
    assert off.abs().max() < 5 * error
    assert (off.std(0) < 0.01 * error).all()  # the noise is common to the rows
    assert torch.equal(means, pv.embed(graph, X[:300], site="z2"))


def test_the_dependence_on_another_latent_is_seen():
    graph = hierarchical()
    with programs.evaluation(graph):
        assert programs.depends_on_other_latents(graph, (X,), "z2")
        assert not programs.depends_on_other_latents(graph, (X,), "z1")
    with pytest.raises(ValueError, match='no latent site "z3"'):
        pv.embed(graph, X, site="z3")


class Independent(Graph):
    """Two latents, of which neither depends on the other."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("l", dist.Normal(0.0, 1.0))
            z = pyro.sample("z", self.prior())
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("l", dist.Normal(x[:, 0], 1.0))
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


def test_a_latent_beside_another_has_its_exact_mean():
    graph = Independent(None, 6)
    assert torch.equal(pv.embed(graph, X), X)


@pytest.mark.parametrize("d", [2, 6])
def test_information_by_nearest_neighbours_is_the_closed_form(d):
    """x ~ N(0, I), z = a x + noise: d / 2 log(1 + a^2); too low in many dimensions."""
    for a in (0.0, 0.5, 1.0):
        z = a * torch.randn(700, d) + torch.randn(24, 700, d)
        exact = d / 2 * math.log(1 + a**2)
        assert information.from_draws(z) == pytest.approx(exact, abs=0.1 + 0.12 * exact)


# --------------------------------------------------------------------------- means by draws
def iaf(weight, **options):
    net = linear(weight, torch.tensor([0.0] * 8 + [math.log(2)] * 8 + [0.0] * 4))
    return posteriors.IAF(net, 8, context=4, hidden=(16,), **options)


@pytest.mark.parametrize("gated", [True, False])
def test_the_noise_of_means_by_draws_is_no_activity(gated):
    """An IAF that ignores x: the variance of its means by 256 draws is 4 / 256 > 0.01."""
    graph = Graph(iaf(torch.zeros(20, 6), gated=gated))
    rows = torch.randn(2000, 6)  # more than one minibatch
    assert pv.active_units(graph, rows).sum() == 0
    means = pv.embed(graph, rows[:1].expand(3, 6))
    assert torch.equal(means[0], means[1])


def test_units_of_a_flow_that_follow_x_are_active():
    weight = torch.zeros(20, 6)
    weight[0, 0] = weight[1, 1] = 0.5
    q = iaf(weight, steps=1)
    for parameter in q.networks.parameters():
        nn.init.zeros_(parameter)  # an affine map that depends on nothing
    assert pv.active_units(Graph(q), X).tolist() == [True, True] + [False] * 6


def test_the_variance_of_a_mean_is_estimated_without_its_noise():
    """16 estimates whose noise is far above the signal, for 400 data sets."""
    signal, noise, rows = 0.1, 1.0, 200
    found = torch.stack([
        latents._variance(signal * torch.randn(rows, 1) + noise * torch.randn(16, rows, 1))
        for _ in range(400)
    ])  # fmt: skip
    expected = signal**2 * (1 - 1 / rows)
    assert abs(found.mean().item() - expected) < 4 * found.std().item() / 20


def test_a_posterior_without_a_mean_has_medians():
    graph = Graph(lambda x: dist.Cauchy(torch.zeros(len(x), 8), 1.0).to_event(1))
    assert pv.active_units(graph, X).sum() == 0
    location = nn.Linear(6, 8)
    graph = Graph(lambda x: dist.Cauchy(location(x), 1.0).to_event(1))
    assert pv.active_units(graph, X).all()
    off = pv.embed(graph, X) - location(X).detach()
    assert off.abs().max() < 5 * math.pi / 2 / math.sqrt(256) + 0.05


# ---------------------------------------------------------------------------------- classes
class Classes(nn.Module):
    """A class y, and a z that is drawn given it."""

    def __init__(self, one_hot=False, given=False):
        super().__init__()
        self.kind = dist.OneHotCategorical if one_hot else dist.Categorical
        self.given = given

    def model(self, x):
        with pyro.plate("data", len(x)):
            if self.given:
                pyro.sample("w", dist.Normal(0.0, 1.0))
            y = pyro.sample("y", self.kind(torch.ones(3) / 3))
            mean = y if y.dim() > 1 else nn.functional.one_hot(y, 3).to(x)
            pyro.sample("x", dist.Normal(mean @ torch.ones(3, 6), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            if self.given:
                w = pyro.sample("w", dist.Normal(x[:, 5], 1.0))
                sign = w.sign()[:, None] * torch.tensor([1.0, -1.0, 0.0])
                pyro.sample("y", self.kind(logits=3 * sign))
            else:
                pyro.sample("y", self.kind(logits=2 * x[:, :3]))


@pytest.mark.parametrize("one_hot", [False, True])
def test_a_class_is_summarized_by_its_probabilities(one_hot):
    summary = pv.latent_summary(Classes(one_hot), X, site="y")
    p = (2 * X[:, :3]).softmax(-1).double()
    q = p.mean(0)
    exact = (p * (p / q).log()).sum(-1).mean().item()
    assert summary.mutual_information == pytest.approx(exact, abs=1e-5)
    assert summary.active.all()
    torch.testing.assert_close(pv.embed(Classes(one_hot), X, site="y"), p.float())


def test_a_class_given_another_latent_is_averaged_over_it():
    p = torch.tensor([3.0, -3.0, 0.0]).softmax(0)
    positive = torch.special.ndtr(X[:, 5])[:, None]  # P(w > 0 | x)
    exact = positive * p + (1 - positive) * p[[1, 0, 2]]
    found = pv.embed(Classes(given=True), X, site="y")
    assert (found - exact).abs().max() < 5 * 0.5 / math.sqrt(256)


# ------------------------------------------------------------------------ the rows that are used
@pytest.mark.parametrize("order", ["sorted", "periodic"])
def test_rows_for_information_are_of_all_classes(order):
    """Ten separate classes: log 10. Evenly spread rows are of one class where classes alternate."""
    n = 20_000
    labels = torch.arange(n) % 10 if order == "periodic" else torch.arange(n) * 10 // n
    x = nn.functional.one_hot(labels, 10).float()
    graph = pv.VAE(
        pv.priors.StandardNormal(2),
        posteriors.DiagonalNormal(
            linear(torch.cat([20 * torch.randn(2, 10), torch.zeros(2, 10)]), torch.zeros(4))
        ),
        pv.likelihoods.Gaussian(nn.Linear(2, 10)),
    )
    found = pv.latent_summary(graph, x).mutual_information
    assert found == pytest.approx(math.log(10), abs=0.15)


# -------------------------------------------------------- distributions with Pyro's protocol only
class Flow(nn.Module):
    """A flow of zuko's as a posterior or a prior: no `sample`, no `mean`, no `support`."""

    def __init__(self, context):
        super().__init__()
        zuko = pytest.importorskip("zuko")
        self.flow = zuko.flows.NSF(2, context, transforms=1, hidden_features=(8,))

    def forward(self, *given):
        return ZukoToPyro(self.flow(*given))


@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")  # a guide that is not yet trained
@pytest.mark.parametrize("place", ["prior", "posterior"])
def test_a_flow_that_states_no_support_is_trained_and_evaluated(place):
    prior = Flow(0) if place == "prior" else pv.priors.StandardNormal(2)
    q = Flow(6) if place == "posterior" else posteriors.DiagonalNormal(nn.Linear(6, 4))
    graph, x = pv.VAE(prior, q, pv.likelihoods.Gaussian(nn.Linear(2, 6))), X[:200]
    pv.fit(graph, x, epochs=10, batch_size=20, seed=0, progress=False)
    x = x[:5]
    importance = pv.log_evidence(graph, x, samples=4000)
    annealed = pv.annealed_log_evidence(
        graph, x, samples=40, temperatures=10, leapfrog=2, from_guide=True
    )
    error = (importance.standard_error**2 + annealed.standard_error**2).sqrt()
    assert ((importance.log_p - annealed.log_p).abs() < 5 * error + 0.01).all()
    assert pv.elbo(graph, x, samples=100).elbo.mean() < importance.mean + 0.1
    assert pv.embed(graph, x).shape == (5, 2)
    assert pv.latent_summary(graph, x).mutual_information >= 0


def test_a_site_that_is_not_there_is_named():
    normal = lambda a, b: pv.posteriors.DiagonalNormal(nn.Linear(a, 2 * b))  # noqa: E731
    graph = pv.HierarchicalVAE(
        pv.priors.StandardNormal(2),
        pv.priors.ConditionalNormal(nn.Linear(2, 6)),
        normal(6, 3),
        normal(3, 2),
        pv.likelihoods.Bernoulli(nn.Linear(3, 6)),
    )
    x = torch.rand(5, 6).round()
    for figure in (pv.kl_per_dimension, pv.latent_summary, pv.active_units):
        with pytest.raises(ValueError, match=r"z1.*z2.*name one by site="):
            figure(graph, x)


class InnerPlateFirst:
    """The plate of the features is entered before that of the rows."""

    def model(self, x):
        with self.plates(x):
            z = pyro.sample("z", dist.Normal(torch.arange(8.0).expand(len(x), 8), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x):
        with self.plates(x):
            pyro.sample("z", dist.Normal(0.5 * x, 0.7))

    @staticmethod
    @contextmanager
    def plates(x):
        with pyro.plate("features", 8, dim=-1), pyro.plate("data", len(x), dim=-2):
            yield


@pytest.mark.parametrize("rows", [5, 8, 1032])
def test_a_plate_inside_the_rows_may_be_as_large_as_the_batch(rows):
    """1032 rows leave 8 for the last batch."""
    graph, x = InnerPlateFirst(), torch.randn(rows, 8)
    torch.testing.assert_close(pv.embed(graph, x), 0.5 * x)
    kl = torch.distributions.kl_divergence(
        dist.Normal(0.5 * x, 0.7), dist.Normal(torch.arange(8.0), 1.0)
    )
    torch.testing.assert_close(pv.kl_per_dimension(graph, x), kl.mean(0))


def test_a_prior_that_depends_on_a_later_latent_is_named():
    graph = pv.HierarchicalVAE(
        pv.priors.StandardNormal(1),
        pv.priors.ConditionalNormal(nn.Linear(1, 4)),
        posteriors.DiagonalNormal(nn.Linear(3, 4)),
        posteriors.DiagonalNormal(nn.Linear(2, 2)),
        pv.likelihoods.Gaussian(nn.Linear(2, 3)),
    )
    with pytest.raises(ValueError, match=r"z1.*depends on a latent that the guide draws after it"):
        pv.kl_per_dimension(graph, torch.randn(5, 3), site="z1")
