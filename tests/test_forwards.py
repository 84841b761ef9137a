"""Models that run forwards: what is drawn, what is kept, and where that is no joint draw."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae.objectives import IWAE, DReG, ReweightedWakeSleep, WakeSleep


class Below(nn.Module):
    """p(z) = N(0, 1), p(x | z) = N(z, 1), and what weighs z: y = z + 0.3 e, observed, or a factor.

    y, a number of each row, is the context.
    """

    def __init__(self, factor=False):
        super().__init__()
        self.net, self.factor = nn.Linear(2, 1), factor

    def model(self, x, y):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            if self.factor:
                pyro.factor("y", dist.Normal(z, 0.3).log_prob(y))
            else:
                pyro.sample("y", dist.Normal(z, 0.3), obs=y)
            return pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(self, x, y):
        with pyro.plate("data", len(x)):
            return pyro.sample("z", dist.Normal(self.net(torch.stack([x, y], -1)).squeeze(-1), 0.5))


@pytest.mark.parametrize("factor", [False, True])
@pytest.mark.parametrize(
    "run",
    [
        lambda g, x, y: pv.fit(g, (x, y), epochs=1, objective=WakeSleep(), progress=False),
        lambda g, x, y: pv.fit(
            g, (x, y), epochs=1, objective=ReweightedWakeSleep(sleep=0.5), progress=False
        ),
        lambda g, x, y: pv.bidirectional_bounds(g, y, rows=len(y), samples=2, temperatures=2),
    ],
    ids=["WakeSleep", "sleep", "bidirectional_bounds"],
)
def test_a_density_of_drawn_latents_that_a_run_forwards_would_ignore_is_refused(run, factor):
    torch.manual_seed(0)
    x, y = torch.randn(2, 20)
    with pytest.raises(ValueError, match='site "y" is a factor, or observes the context'):
        run(Below(factor), x, y.clone())


def test_draws_given_an_observed_context_below_the_latents_are_refused():
    """But not beside a factor, such as the density of an auxiliary variable."""
    y = torch.randn(20)
    with pytest.raises(ValueError, match='site "y" is a factor, or observes the context'):
        pv.generate(Below(), 20, y)
    assert pv.generate(Below(factor=True), 20, y).shape == (20,)


def test_it_is_taken_where_the_latents_are_given_and_where_it_is_weighed():
    x, y = torch.randn(20), torch.randn(20)
    graph = Below()
    assert pv.decode(graph, torch.ones(20), y).allclose(torch.ones(20))
    assert pv.generate(graph, 20, y, like=x, from_guide=["z"]).shape == (20,)
    assert pv.reconstruct(graph, x, y).shape == (20,)
    pv.fit(graph, (x, y), epochs=1, objective=ReweightedWakeSleep(), progress=False)


@pytest.mark.parametrize(
    ("x", "c", "drawn"),
    [
        (lambda t: t[:, :4], lambda t: t[:, 4:], True),  # columns of one table
        (lambda t: t[:, 4:], lambda t: t[:, :2], True),
        (lambda t: t[:3, :4], lambda t: t[3:6, 4:], True),
        (lambda t: t[:, :4], lambda t: t[:, :2], True),  # the context is a part of x
        (lambda t: t[:, :4], lambda t: t, True),  # x is a part of the context
    ],
)
def test_x_and_a_context_may_be_views_of_one_table(x, c, drawn):
    table = torch.randn(6, 6)
    x, c = x(table)[:3], c(table)[:3]
    net = pv.nets.MLP
    graph = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(net(x.shape[1], [4], 4, context=c.shape[1])),
        pv.likelihoods.Gaussian(net(2, [4], x.shape[1], context=c.shape[1])),
    )
    expected = pv.reconstruct(graph, x.clone(), c.clone())
    assert drawn == torch.equal(pv.reconstruct(graph, x, c), expected)


@pytest.mark.parametrize("objective", [IWAE(3), DReG(3), ReweightedWakeSleep(3)])
def test_weights_of_some_pixels_are_refused(objective):
    shape = (1, 6, 6)
    graph = pv.PoseVAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(nn.Linear(12, 4)),
        pv.likelihoods.Bernoulli(pv.nets.CoordinateDecoder(2, shape)),
        shape=shape,
        encoder=pv.nets.MLP(shape, [8], 12),
        rotation_prior=pv.priors.CentredNormal(1, 0.8),
        rotation_posterior=pv.posteriors.DiagonalNormal(nn.Linear(12, 2)),
        pixels=9,
    )
    x = torch.rand(8, *shape).round()
    with pytest.raises(ValueError, match="part of each row is drawn at random"):
        pv.fit(graph, x, epochs=1, objective=objective, progress=False)
    pv.fit(graph, x, epochs=1, progress=False)
