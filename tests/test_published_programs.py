"""Programs as papers and Pyro's examples write them, against loops without the library."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import pyrovae as pv
from pyrovae.objectives import SGVB_A, SGVB_B


def normal(parameters):
    """Return a diagonal normal from (mu, log sigma), stacked along the last dimension."""
    mu, log_sigma = parameters.chunk(2, -1)
    return dist.Normal(mu, log_sigma.exp()).to_event(1)


def unit_normal(d):
    """Return N(0, I)."""
    return dist.Normal(torch.zeros(d), 1.0).to_event(1)


# ------------------------------------------------------------- one of the programs masks or scales
class OneSided(nn.Module):
    """A latent that handlers count in the model, in the guide, in both or in neither."""

    def __init__(self, of_model, of_guide):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, 4), nn.Linear(2, 3)
        self.of_model, self.of_guide = of_model, of_guide

    def model(self, x, in_model, in_guide):
        with pyro.plate("data", len(x)):
            with self.of_model(in_model):
                z = pyro.sample("z", unit_normal(2))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x, in_model, in_guide):
        with pyro.plate("data", len(x)), self.of_guide(in_guide):
            pyro.sample("z", normal(self.encoder(x)))


def masked(count):
    """Return a handler that counts the rows of a mask."""
    return poutine.mask(mask=count > 0)


def scaled(count):
    """Return a handler that scales each row."""
    return poutine.scale(scale=1.0 + count)


def one_sided(handler):
    """Return a graph and eight rows, two for each way of counting the latent."""
    torch.manual_seed(0)
    in_model, in_guide = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0]]).repeat_interleave(2, 1)
    return OneSided(handler, handler), (torch.randn(8, 3), in_model, in_guide)


def test_a_latent_that_one_program_masks_otherwise_has_no_kl_in_closed_form():
    """A latent that the guide alone masks made the ELBO exceed the evidence."""
    graph, batch = one_sided(masked)
    x, in_model, in_guide = batch
    q, p = normal(graph.encoder(x)), unit_normal(2)
    z = q.rsample(torch.Size([20_000]))
    expected = (in_guide * q.log_prob(z) - in_model * p.log_prob(z)).mean(0)
    found = pv.elbo(graph, *batch, samples=5000)
    assert torch.allclose(found.kl, expected, atol=0.15)
    in_both = torch.distributions.kl_divergence(q.base_dist, p.base_dist).sum(-1)[:2]
    assert torch.allclose(found.kl[:2], in_both, atol=1e-5)


@pytest.mark.parametrize("handler", [masked, scaled])
def test_estimator_b_is_a_where_the_latent_counts_otherwise(handler):
    graph, batch = one_sided(handler)
    only_one = tuple(part[2:6] for part in batch)
    losses = []
    for objective in (SGVB_A(), SGVB_B()):
        torch.manual_seed(1)
        losses.append(objective.loss(graph.model, graph.guide, *only_one))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


class Loss(nn.Module):
    """The loss of a graph as a module, so that its parameters can be arguments."""

    def __init__(self, graph):
        super().__init__()
        self.graph = graph

    def forward(self, *batch):
        with torch.no_grad(), pyro.validation_enabled(False):
            return SGVB_B().differentiable_loss(self.graph.model, self.graph.guide, *batch)


def test_a_traced_loss_counts_each_row_as_the_programs_do():
    graph, batch = one_sided(masked)
    loss, parameters = Loss(graph), dict(Loss(graph).named_parameters())

    def function(parameters, *batch):
        return torch.func.functional_call(loss, parameters, batch)

    traced = make_fx(function, tracing_mode="fake")(parameters, *batch)
    other = batch[0], batch[2], batch[1]
    for rows in (batch, other):
        torch.manual_seed(2)
        expected = loss(*rows)
        torch.manual_seed(2)
        assert torch.allclose(traced(parameters, *rows), expected)
