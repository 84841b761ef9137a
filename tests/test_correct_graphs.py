"""Graphs that the checks before training must let pass, and without a warning."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import user_graphs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyrovae as pv


class OnlyInTraining(torch.autograd.Function):
    """Has a gradient in train() mode alone, as the recurrent networks of cuDNN."""

    @staticmethod
    def forward(ctx, x, training):
        ctx.training = training
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if not ctx.training:
            raise RuntimeError("cudnn RNN backward can only be called in training mode")
        return gradient, None


class Recurrent(nn.Linear):
    def forward(self, x):
        return OnlyInTraining.apply(super().forward(x), self.training)


def test_a_network_without_gradients_in_eval_mode_is_trained():
    q = pv.posteriors.DiagonalNormal(nn.Sequential(Recurrent(6, 40), nn.Linear(40, 4)))
    vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Gaussian(nn.Linear(2, 6)))
    before = q.net[0].weight.detach().clone()
    pv.fit(vae, torch.randn(64, 6), batch_size=16, epochs=1, progress=False)
    assert not torch.equal(before, q.net[0].weight)


class Series(nn.Module):
    """Each minibatch is one series, whose rows are its times, each with a mean of its own."""

    def __init__(self):
        super().__init__()
        self.mean, self.encoder = nn.Parameter(torch.zeros(20, 6)), nn.Linear(6, 4)

    def model(self, x):
        with pyro.plate("times", len(x)):
            z = pyro.sample("z", user_graphs.unit_normal(len(x), 2))
            mean = self.mean[: len(x)] + z.sum(-1, keepdim=True)
            pyro.sample("x", dist.Normal(mean, 0.5).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("times", len(x)):
            pyro.sample("z", user_graphs.normal(self.encoder(x)))


def test_a_place_that_is_a_time_has_parameters_of_its_own():
    graph, series = Series(), TensorDataset(torch.randn(8, 20, 6))
    pv.fit(graph, DataLoader(series, batch_size=None, shuffle=True), epochs=1, progress=False)
    assert bool((graph.mean != 0).all())
    rows = DataLoader(TensorDataset(series.tensors[0].flatten(0, 1)), batch_size=20, shuffle=True)
    with pytest.raises(ValueError, match='"mean" belongs to rows by their place'):
        pv.fit(Series(), rows, epochs=1, progress=False)


class Embedded(Series):
    """Rows look their posteriors up in a table with sparse gradients."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Embedding(500, 4, sparse=True)
        self.mean.requires_grad_(False)

    def model(self, x, row):
        super().model(x)

    def guide(self, x, row):
        super().guide(row)


def test_an_embedding_with_sparse_gradients_is_trained():
    graph, x = Embedded(), torch.randn(60, 6)
    before = graph.encoder.weight.detach().clone()
    sgd = lambda parameters: torch.optim.SGD(parameters, lr=0.1)  # noqa: E731
    data = (x, torch.arange(60))
    pv.fit(graph, data, optimizer=sgd, batch_size=20, epochs=1, progress=False)
    changed = (graph.encoder.weight != before).any(1)
    assert torch.equal(changed, torch.arange(500) < 60)


class Distilled(Series):
    """Its guide reads features of a network that is no part of the graph."""

    def __init__(self, features):
        super().__init__()
        self.mean.requires_grad_(False)
        self.features = features

    def guide(self, x):
        super().guide(self.features(x))


def features_outside(how):
    teacher = nn.Linear(6, 6)  # whose parameters say that they need a gradient
    other = {"weight": torch.eye(6), "bias": torch.zeros(6)}
    return {
        "no gradient": lambda x: no_grad(teacher, x),
        "detached": lambda x: teacher(x).detach(),
        "other weights": lambda x: torch.func.functional_call(teacher, other, (x,)),
    }[how]


def no_grad(network, x):
    with torch.no_grad():
        return network(x)


@pytest.mark.parametrize("how", ["no gradient", "detached", "other weights"])
def test_a_network_that_gets_no_gradient_is_meant_to_be_constant(how):
    graph = Distilled(features_outside(how))
    pv.fit(graph, torch.randn(20, 6), batch_size=20, epochs=1, progress=False)


def test_a_network_that_gets_a_gradient_is_warned_of_beside_a_constant_one():
    constant, learned = nn.Linear(6, 6), nn.Bilinear(6, 6, 6)
    graph = Distilled(lambda x: learned(x, constant(x).detach()))
    with pytest.warns(UserWarning, match="call a Bilinear whose parameters are not trained"):
        pv.fit(graph, torch.randn(20, 6), batch_size=20, epochs=1, progress=False)
