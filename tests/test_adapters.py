"""Distributions of torch and zuko as parts: training, evaluation, tasks and files."""

import sys
from importlib.util import find_spec

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from torch.distributions import (
    Beta,
    Categorical,
    Distribution,
    Gamma,
    HalfNormal,
    Independent,
    MultivariateNormal,
    Normal,
    constraints,
)

import pyrovae as pv
from pyrovae.distributions import from_torch, kl_divergence

X = torch.rand(20, 6).round()


def diagonal(y):
    mu, log_sigma = y.chunk(2, -1)
    return Independent(Normal(mu, log_sigma.exp()), 1)


def bernoulli(logits):
    return Independent(torch.distributions.Bernoulli(logits=logits), 1)


class StandardNormal(nn.Module):
    def forward(self, *c):
        return from_torch(Independent(Normal(torch.zeros(2), 1.0), 1))


def of_torch():
    return pv.VAE(
        StandardNormal(),
        from_torch(diagonal, nn.Linear(6, 4)),
        from_torch(bernoulli, nn.Linear(2, 6)),
    )


def imported_zuko():
    """Return zuko, imported by the library: its own import turns torch's validation off."""
    if not find_spec("zuko"):
        pytest.skip("zuko is not installed")
    pv.priors.NeuralSplineFlow(2)
    return sys.modules["zuko"]


def of_zuko():
    zuko = imported_zuko()
    return pv.VAE(
        from_torch(zuko.flows.NSF(2, transforms=1, hidden_features=(8,))),
        from_torch(
            zuko.flows.NSF(2, 5, transforms=1, hidden_features=(8,), passes=2), nn.Linear(6, 5)
        ),
        from_torch(bernoulli, nn.Linear(2, 6)),
    )


@pytest.mark.parametrize("make", [of_torch, of_zuko])
def test_everything_takes_them(make, tmp_path):
    graph = make()
    history = pv.fit(graph, X, epochs=3, batch_size=10, progress=False, seed=0)
    assert history.elbo[-1] > history.elbo[0] - 1
    assert pv.elbo(graph, X).elbo.shape == (20,)
    exact = pv.log_evidence(graph, X[:3], samples=2000)
    annealed = pv.annealed_log_evidence(graph, X[:3], samples=16, temperatures=50)
    error = (exact.standard_error.square() + annealed.standard_error.square()).sqrt()
    assert ((exact.log_p - annealed.log_p).abs() < 4 * error + 0.02).all()
    assert pv.embed(graph, X).shape == (20, 2)
    assert pv.reconstruct(graph, X).shape == (20, 6)
    assert pv.latent_summary(graph, X).active.shape == (2,)
    assert pv.generate(graph, 4).shape == (4, 6)
    SVI(graph.model, graph.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO()).step(X)
    folder = pv.save(graph, tmp_path / "model")
    other = pv.load(folder, into=make())
    wanted = pv.log_evidence(graph, X, samples=3).log_p
    torch.testing.assert_close(pv.log_evidence(other, X, samples=3).log_p, wanted)
    with pytest.raises(ValueError, match="into="):
        pv.load(folder)


def test_the_same_numbers_as_the_librarys_parts():
    """The same networks: equal ELBO, its KL in closed form, and equal evidence."""
    graph = of_torch()
    ours = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(graph.posterior.net),
        pv.likelihoods.Bernoulli(graph.likelihood.net),
    )
    for a, b in zip(pv.elbo(graph, X), pv.elbo(ours, X), strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(
        pv.log_evidence(graph, X, samples=9).log_p, pv.log_evidence(ours, X, samples=9).log_p
    )
    torch.testing.assert_close(pv.generate(graph, 4, seed=1), pv.generate(ours, 4, seed=1))


@pytest.mark.parametrize(
    "p",
    [
        Normal(torch.zeros(3), torch.ones(3)),
        Gamma(torch.ones(3), 2.0),
        Beta(torch.ones(3), 2.0),
        HalfNormal(torch.ones(3)),
        Categorical(torch.ones(3, 4)),
        Independent(Normal(torch.zeros(3, 2), 1.0), 1),
        MultivariateNormal(torch.zeros(3, 2), torch.eye(2)),
    ],
    ids=lambda p: type(p).__name__,
)
def test_a_distribution_keeps_what_it_is(p):
    q = from_torch(p)
    assert isinstance(q, type(p))
    assert isinstance(q, pyro.distributions.torch_distribution.TorchDistributionMixin)
    assert not isinstance(p, pyro.distributions.torch_distribution.TorchDistributionMixin)
    x = q()
    assert torch.equal(q.log_prob(x), p.log_prob(x))
    assert q.support is not None
    wide = q.expand((5, 3))
    assert wide.batch_shape == (5, 3)
    assert wide().shape == (5, 3, *p.event_shape)
    assert q.mask(torch.tensor([True, False, True])).log_prob(x)[1] == 0
    assert from_torch(q) is q
    if not isinstance(p, Categorical):
        assert torch.equal(q.mean, p.mean)
        torch.testing.assert_close(kl_divergence(q, p), torch.zeros(3), atol=1e-6, rtol=0)


def test_a_support_can_be_stated():
    class NoSupport(Distribution):
        arg_constraints = {}  # noqa: RUF012
        has_rsample = False

        def expand(self, batch_shape, _instance=None):
            return NoSupport(torch.Size(batch_shape))

    assert from_torch(NoSupport(), support=constraints.positive).support is constraints.positive
    wide = from_torch(NoSupport(), support=constraints.positive).expand((2,))
    assert wide.support is constraints.positive
    with pytest.raises(NotImplementedError):
        from_torch(NoSupport()).support  # noqa: B018


def test_a_flow_computes_the_density_of_its_draw_once():
    zuko = imported_zuko()
    q = from_torch(zuko.flows.NSF(2, 3))(torch.randn(4, 3))
    z = q.rsample()
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()), atol=1e-4, rtol=1e-4)
    assert q.support.event_dim == 1


class Raw(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 4)

    def forward(self, x, *c):
        return diagonal(self.net(x))


def plain(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", Independent(Normal(torch.zeros(len(x), 2), 1.0), 1))


class PlainPyro(nn.Module):
    model = guide = staticmethod(plain)


@pytest.mark.parametrize(
    "use",
    [
        lambda graph: pv.fit(graph, X, epochs=1, progress=False),
        lambda graph: pv.elbo(graph, X),
        lambda graph: pv.embed(graph, X),
        lambda graph: graph.guide(X),
    ],
    ids=["fit", "elbo", "embed", "guide"],
)
def test_a_raw_distribution_is_refused_by_name(use):
    graph = pv.VAE(pv.priors.StandardNormal(2), Raw(), pv.likelihoods.Bernoulli(nn.Linear(2, 6)))
    with pytest.raises(TypeError, match=r'site "z".*Independent.*from_torch'):
        use(graph)


def test_a_raw_distribution_in_a_users_program_is_refused_too():
    for use in (pv.embed, pv.elbo):
        with pytest.raises(TypeError, match=r'site "z".*from_torch'):
            use(PlainPyro(), X)


class OnlyCalled(pyro.distributions.TorchDistribution):
    """A distribution with Pyro's protocol alone: a call with a shape, and a log density."""

    arg_constraints = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, p):
        self.p = p
        super().__init__(p.batch_shape, p.event_shape)

    def __call__(self, sample_shape=torch.Size()):  # noqa: B008
        return self.p.rsample(sample_shape)

    def log_prob(self, value):
        return self.p.log_prob(value)

    def expand(self, batch_shape, _instance=None):
        return OnlyCalled(self.p.expand(batch_shape))


class Called(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 4)

    def forward(self, x):
        return OnlyCalled(diagonal(self.net(x)))


def test_tasks_take_pyros_protocol_alone():
    likelihood = pv.likelihoods.Bernoulli(nn.Linear(2, 6))
    graph = pv.VAE(pv.priors.StandardNormal(2), Called(), likelihood)
    mu, log_sigma = graph.posterior.net(X).chunk(2, -1)
    error = (pv.embed(graph, X) - mu) / (log_sigma.exp() / 256**0.5)  # the mean of 256 draws
    assert error.abs().max() < 5
    assert pv.reconstruct(graph, X).shape == (20, 6)


def test_errors():
    with pytest.raises(TypeError, match="p is a int"):
        from_torch(3)
    with pytest.raises(TypeError, match="p is a Normal"):
        from_torch(Normal(0.0, 1.0), nn.Linear(2, 2))
