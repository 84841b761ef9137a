"""Tasks and evaluation on many rows: minibatches give what all rows at once give."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae import programs
from pyrovae.data import rows_at_once
from pyrovae.evaluation import information

D, N = 3, 10_000
_ONE = torch.Size()


class _Counted(dist.Normal):
    """A normal that counts how many values it draws."""

    drawn = 0

    def rsample(self, sample_shape=_ONE):
        _Counted.drawn += self._extended_shape(sample_shape).numel()
        return super().rsample(sample_shape)

    def expand(self, batch_shape, _instance=None):
        return _Counted(self.loc.expand(batch_shape), self.scale.expand(batch_shape))


class _Graph(nn.Module):
    """A normal whose weight w all rows share, and after x another site if it is asked for."""

    def __init__(self, after: bool = False) -> None:
        super().__init__()
        self.net, self.after = nn.Linear(D, 4), after

    def model(self, x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
            loc = w + self.net(z)
            x = pyro.sample("x", _Counted(loc, torch.ones(4)).to_event(1), obs=x)
            if self.after:
                pyro.sample("y", dist.Delta(x.sum(-1)), obs=x.sum(-1))

    def guide(self, x):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))


@pytest.fixture(autouse=True)
def _none_drawn():
    _Counted.drawn = 0


def test_images_run_in_fewer_rows_than_vectors():
    assert rows_at_once((784,)) == rows_at_once(()) == 1024
    assert rows_at_once((3, 64, 64)) == 85
    assert rows_at_once((3, 512, 512)) == 32


def test_generated_rows_share_what_all_rows_share():
    """Each x is w + net(z) for the one w: its mean over many rows spreads as w does."""
    graph = _Graph()
    with torch.no_grad():
        graph.net.weight.zero_()
        graph.net.bias.zero_()
    x = pv.generate(graph, N, seed=0)
    assert x.shape == (N, 4)
    assert (x == x[0, 0]).all()


def test_expected_values_are_not_drawn():
    graph = _Graph()
    pv.generate(graph, N, seed=0)
    looked = _Counted.drawn
    assert looked < N * 4 / 2  # by the runs that look at the model
    _Counted.drawn = 0
    pv.generate(graph, N, mean=False, seed=0)
    assert _Counted.drawn >= N * 4
    _Counted.drawn = 0
    pv.decode(graph, torch.zeros(N, D), site="z", fixed={"w": 0.0})
    assert _Counted.drawn < N * 4


def test_a_value_that_another_site_reads_is_drawn():
    x = pv.generate(_Graph(after=True), N, seed=0)
    assert x["y"].std() > 1.0  # of draws of x, not of zeros


def test_decoded_rows_are_those_of_the_network():
    graph, z = _Graph(), torch.randn(N, D)
    found = pv.decode(graph, z, site="z", fixed={"w": 0.5})
    assert torch.allclose(found, 0.5 + graph.net(z).detach(), atol=1e-6)


def test_rows_that_no_plate_tells_apart_are_generated_at_once():
    class Whole:
        def model(self, x):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(z, 0.1), obs=x)

    x = pv.generate(Whole(), N, seed=0)
    assert x.shape == (N,)
    assert len(x.unique()) == N


def test_the_value_that_nothing_follows_is_named():
    batch = torch.zeros(3, 4)
    assert list(programs.look(_Graph().model, batch).unread) == ["x"]
    assert list(programs.look(_Graph(after=True).model, batch).unread) == ["y"]


def test_information_of_many_rows_is_that_of_all_pairs(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    fn = dist.Normal(torch.randn(3000, 2, generator=generator), 0.2).to_event(1)
    torch.manual_seed(0)
    every = information.from_densities([fn])
    monkeypatch.setattr(information, "_PAIRS", 3000 * 1000)
    monkeypatch.setattr(information, "_LEAST_ROWS", 1000)
    sizes = []
    log_prob = type(fn).log_prob
    monkeypatch.setattr(
        type(fn), "log_prob", lambda self, z: sizes.append(z.shape) or log_prob(self, z)
    )
    torch.manual_seed(0)
    assert abs(information.from_densities([fn]) - every) < 0.1  # 4 standard errors are 0.15
    assert sum(len(shape) == 3 and shape[0] for shape in sizes) == 1000


def test_information_of_minibatches_is_that_of_all_rows():
    mean, sd = torch.randn(3000, 2), torch.rand(3000, 2) + 0.1
    found = []
    for sizes in ([3000], [1024, 1024, 952]):
        parts = zip(mean.split(sizes), sd.split(sizes), strict=True)
        torch.manual_seed(0)
        found.append(information.from_densities([dist.Normal(*p).to_event(1) for p in parts]))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_no_network_of_the_information_gets_all_rows():
    torch.manual_seed(0)
    net, seen = nn.Linear(64, 4), []
    q = pv.posteriors.DiagonalNormal(net)
    vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Gaussian(nn.Linear(2, 64)))
    net.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    assert pv.mutual_information(vae, torch.randn(5000, 64)) > 0
    assert max(seen) <= rows_at_once((64,)) < 5000


def test_draws_of_many_rows_look_at_the_programs_on_few():
    seen = []
    graph = _Graph()
    graph.net.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    with torch.no_grad():
        z = programs.draws_given_latents(graph, (torch.zeros(500, 4),), "z", 20)
    assert z.shape[1:] == (500, D)
    assert max(seen) < 100
