"""Programs like Pyro's examples: names in the store, PyroModule, guides of single rows."""

import types

import pyro
import pyro.distributions as dist
import pytest
import torch
import user_graphs
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam, pyro_method
from torch import nn
from torch.utils.data import DataLoader

import pyrovae as pv
from pyrovae import programs
from pyrovae.objectives import IWAE, SGVB_B


class Example(nn.Module):
    """Two programs that name their networks in the store, as Pyro's examples do."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", user_graphs.unit_normal(len(x), 2))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", user_graphs.normal(self.encoder(x)))


class OfPyro(PyroModule):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = PyroModule[nn.Linear](6, 4), PyroModule[nn.Linear](2, 6)
        self.sigma = PyroParam(torch.tensor(0.5), dist.constraints.positive)

    @pyro_method
    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", user_graphs.unit_normal(len(x), 2))
            pyro.sample("x", dist.Normal(self.decoder(z), self.sigma).to_event(1), obs=x)

    @pyro_method
    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", user_graphs.normal(self.encoder(x)))


def pair_of(owner):
    """Return the two programs of an object, as a graph that is no module."""
    return types.SimpleNamespace(model=owner.model, guide=owner.guide)


@pytest.mark.parametrize(
    "objective", [SGVB_B(), IWAE(3), Trace_ELBO()], ids=lambda o: type(o).__name__
)
@pytest.mark.parametrize("make", [Example, OfPyro])
@pytest.mark.parametrize("as_graph", [pair_of, lambda owner: owner], ids=["pair", "module"])
def test_a_second_network_under_the_same_name_in_the_store_trains(make, as_graph, objective):
    """As where a cell of a notebook is run again: the store still has the first one's tensors."""
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    for _ in range(2):
        owner = make()
        networks = owner.encoder, owner.decoder
        before = [parameter.detach().clone() for net in networks for parameter in net.parameters()]
        pv.fit(as_graph(owner), x, epochs=2, batch_size=16, objective=objective, progress=False)
        after = [parameter for net in networks for parameter in net.parameters()]
        assert all(bool((a != b).all()) for a, b in zip(after, before, strict=True))


def test_a_network_that_takes_its_tensors_from_the_store_trains_those():
    """`update_module_params=True` gives a second network the first one's tensors."""
    x = torch.randn(32, 6)

    def pair():
        encoder, decoder = nn.Linear(6, 4), nn.Linear(2, 6)

        def model(x):
            net = pyro.module("decoder", decoder, update_module_params=True)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", user_graphs.unit_normal(len(x), 2))
                pyro.sample("x", dist.Normal(net(z), 0.5).to_event(1), obs=x)

        def guide(x):
            net = pyro.module("encoder", encoder, update_module_params=True)
            with pyro.plate("data", len(x)):
                pyro.sample("z", user_graphs.normal(net(x)))

        return types.SimpleNamespace(model=model, guide=guide), decoder

    graph, first = pair()
    pv.fit(graph, x, epochs=1, progress=False)
    graph, second = pair()
    before = first.weight.detach().clone()
    pv.fit(graph, x, epochs=1, progress=False)
    assert second.weight is first.weight
    assert bool((first.weight != before).all())


def test_a_network_that_is_not_trained_is_warned_of():
    class Hidden(nn.Module):
        """Its decoder is in a list, where torch does not look for modules."""

        def __init__(self):
            super().__init__()
            self.encoder, self.decoders = nn.Linear(6, 4), [nn.Linear(2, 6)]

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", user_graphs.unit_normal(len(x), 2))
                pyro.sample("x", dist.Normal(self.decoders[0](z), 0.5).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", user_graphs.normal(self.encoder(x)))

    graph, x = Hidden(), torch.randn(32, 6)
    with pytest.warns(UserWarning, match="call a Linear whose parameters are not trained"):
        pv.fit(graph, x, epochs=1, progress=False)
    graph.decoders[0].requires_grad_(False)
    pv.fit(graph, x, epochs=1, progress=False)


class Guided(nn.Module):
    """A linear model of correlated Gaussians, whose guide has parameters for each row."""

    def __init__(self, autoguide=AutoNormal):
        super().__init__()
        weight = torch.tensor([[1.0, 0.5, 0.0, -0.5], [0.0, 0.5, 1.0, 0.5]])
        self.mean, self.weight = nn.Parameter(torch.zeros(4)), weight
        self.guide = autoguide(self.model)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", user_graphs.unit_normal(len(x), 2))
            mean = z @ self.weight + self.mean
            pyro.sample("x", dist.Normal(mean, 0.5).to_event(1), obs=x)

    def exact(self, x):
        covariance = self.weight.T @ self.weight + torch.eye(4) / 4
        return dist.MultivariateNormal(self.mean.detach(), covariance).log_prob(x)


def test_a_guide_of_single_rows_trains_on_all_rows_in_their_order():
    torch.manual_seed(0)
    graph, x = Guided(), 2 * torch.randn(30, 4)
    pv.fit(graph, x, epochs=400, batch_size=30, learning_rate=0.05, progress=False)
    exact = graph.exact(x)
    evidence = pv.log_evidence(graph, x, samples=500)
    assert ((evidence.log_p - exact).abs() < 5 * evidence.standard_error + 1e-3).all()
    gap = exact - pv.elbo(graph, x, samples=500).elbo
    assert -0.05 < gap.mean() < 0.25  # shuffled rows: 10 nats


class Rows(Guided):
    """A guide with parameters for each of 100 rows, as in Pyro's deep exponential family."""

    def __init__(self):
        super().__init__()
        del self.guide

    def guide(self, x):
        loc = pyro.param("loc", torch.zeros(100, 2))[: len(x)]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))


@pytest.mark.parametrize(
    "make", [Guided, lambda: Guided(AutoDelta), lambda: Guided(AutoDiagonalNormal), Rows]
)
def test_minibatches_of_a_guide_of_single_rows_are_refused(make):
    x = torch.randn(30, 4)
    refused = r'fit: the parameter ".*" belongs to rows by their place .*batch_size=30'
    with pytest.raises(ValueError, match=refused):
        pv.fit(make(), x, batch_size=10, epochs=1, progress=False)
    with pytest.raises(ValueError, match=refused):
        pv.fit(make(), DataLoader(x, batch_size=30, shuffle=True), epochs=1, progress=False)
    pv.fit(make(), DataLoader(x, batch_size=30), epochs=1, progress=False)


def test_parameters_that_rows_look_up_by_number_are_trained_in_minibatches():
    class LookedUp(Rows):
        def model(self, x, row):
            super().model(x)

        def guide(self, x, row):
            loc = pyro.param("loc", torch.zeros(100, 2))[row]
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(loc, 0.5).to_event(1))

    pv.fit(LookedUp(), (torch.randn(30, 4), torch.arange(30)), batch_size=10, epochs=1)


def test_other_rows_than_those_of_the_guide_are_named():
    graph, x = Guided(), torch.randn(30, 4)
    pv.fit(graph, x, batch_size=30, epochs=1, progress=False)
    refused = r"30 rows, x has 12\. A guide|no latent of the guide.*over the 12 rows.* A guide"
    for task in (pv.elbo, pv.log_evidence, pv.embed, pv.latent_summary):
        with pytest.raises(ValueError, match=refused):
            task(graph, x[:12])


@pytest.mark.parametrize("autoguide", [AutoNormal, AutoDiagonalNormal])
def test_the_tensors_of_an_earlier_autoguide_in_the_store_are_named(autoguide):
    x = torch.randn(30, 4)
    pv.fit(Guided(autoguide), x, batch_size=30, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"of an earlier autoguide.*pyro\.clear_param_store"):
        pv.fit(Guided(autoguide), x[:12], batch_size=12, epochs=1, progress=False)


def test_a_flow_without_an_inverse_is_trained_with_several_draws_in_one_run():
    class Planar(Example):
        def __init__(self):
            super().__init__()
            self.flow = dist.transforms.Planar(2)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                base = user_graphs.normal(self.encoder(x))
                pyro.sample("z", dist.TransformedDistribution(base, [self.flow]))

    torch.manual_seed(0)
    graph, x = Planar(), torch.randn(20, 6)
    pv.fit(graph, x, objective=IWAE(4), epochs=1, progress=False)
    assert not programs.find_layout(graph.model, graph.guide, x, draws=4).separate
    alone = [pv.log_evidence(graph, x, samples=1, seed=seed).log_p for seed in range(400)]
    together = pv.elbo(graph, x, samples=400).elbo
    weights = torch.stack(alone)
    assert ((together - weights.mean(0)).abs() < 6 * weights.std(0) * (2 / 400) ** 0.5).all()
    with pytest.raises(ValueError, match='site "z": a transform of the posterior has no inverse'):
        pv.latent_summary(graph, x)


def test_a_factor_outside_the_plate_over_the_rows_is_named():
    class Penalized(Example):
        def model(self, x):
            super().model(x)
            pyro.factor("penalty", -self.decoder.weight.square().sum())

    for task in (pv.elbo, pv.log_evidence):
        with pytest.raises(ValueError, match=r'"penalty" is a factor outside the plate.*weight_de'):
            task(Penalized(), torch.randn(20, 6))


def test_a_chain_of_classes_has_no_mean_to_reconstruct():
    class Chain(Example):
        def model(self, x):
            chain, classes = torch.zeros(3, 3), dist.Categorical(logits=torch.randn(3, 4))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", user_graphs.unit_normal(len(x), 2))
                start = torch.cat([z, -z[..., :1]], -1)
                pyro.sample("x", dist.DiscreteHMM(start, chain, classes, duration=6), obs=x)

        def guide(self, x):
            super().guide(x.float())

    with pytest.raises(ValueError, match=r"DiscreteHMM has no mean .*mean=False"):
        pv.reconstruct(Chain(), torch.randint(4, (5, 6)))


def test_measures_of_latents_take_the_only_site_of_the_guide():
    class Named(Example):
        """The names of Pyro's example of a VAE."""

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("latent", user_graphs.unit_normal(len(x), 2))
                pyro.sample("obs", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("latent", user_graphs.normal(self.encoder(x)))

    graph, x = Named(), torch.randn(20, 6)
    for measure in (pv.latent_summary, pv.kl_per_dimension, pv.active_units, pv.mutual_information):
        found, named = measure(graph, x), measure(graph, x, site="latent")
        assert str(found) == str(named)
