"""Programs, data feeds and number types of a user's own, against exact values and in words."""

import copy
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pyro
import pyro.distributions as dist
import pytest
import torch
import user_graphs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyrovae as pv
from pyrovae import objectives
from pyrovae.programs import evaluation

HALF = [torch.bfloat16, torch.float16]


class Own(nn.Module):
    """A graph with any likelihood of single values, over rows of an event."""

    def __init__(self, likelihood, encoder=None, event=(6,)):
        super().__init__()
        size = torch.Size(event).numel()
        self.likelihood, self.event = likelihood, event
        self.encoder, self.decoder = encoder or nn.Linear(size, 4), nn.Linear(2, size)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", user_graphs.unit_normal(len(x), 2))
            p = self.likelihood(self.decoder(z).reshape(-1, *self.event))
            pyro.sample("x", p.to_event(len(self.event)), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", user_graphs.normal(self.encoder(x)))


def bernoulli(logits):
    return dist.Bernoulli(logits=logits)


def relaxed(logits):
    return dist.RelaxedBernoulli(torch.tensor(0.5), logits=logits)


# ---------------------------------------------------------------------------- half precision
def flat(dtype, features=784):
    """Return a VAE whose likelihood is the same at every z, and so log p(x | z) is one number."""
    q = pv.posteriors.DiagonalNormal(nn.Linear(features, 4))
    vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(nn.Linear(2, features)))
    nn.init.zeros_(vae.likelihood.net.weight)
    nn.init.normal_(vae.likelihood.net.bias)
    return vae.to(dtype)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("samples", [1, 300])
def test_sums_of_half_precision_terms_are_not_rounded_to_it(dtype, samples):
    vae, x = flat(dtype), torch.rand(3, 784).round()
    terms = dist.Bernoulli(logits=vae.likelihood.net.bias.detach()).log_prob(x.to(dtype))
    exact = terms.double().sum(-1)
    found = pv.elbo(vae, x, samples=samples)
    torch.testing.assert_close(found.reconstruction.double(), exact, atol=1e-2, rtol=0)
    q = vae.posterior(x.to(dtype))
    kl = dist.Normal(q.base_dist.loc.double(), q.base_dist.scale.double())
    kl = torch.distributions.kl_divergence(kl, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(found.kl.double(), kl, atol=0.02, rtol=0)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize(
    "objective",
    [
        objectives.SGVB_A(),
        objectives.SGVB_B(samples=2),
        objectives.IWAE(3),
        objectives.FreeBits(0.1),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_loss_in_half_precision_sums_rows_beyond_its_range(dtype, objective):
    """256 rows of -540 nats overflow float16, and bfloat16 has steps of 1024 there."""
    vae, x = flat(dtype), torch.rand(256, 784).round()
    terms = dist.Bernoulli(logits=vae.likelihood.net.bias.detach()).log_prob(x.to(dtype))
    exact = terms.double().sum(-1).mean().item()
    batch = x.to(dtype)
    loss = objective.differentiable_loss(vae.model, vae.guide, batch)
    kl = objectives.SGVB_B(samples=50).bound(vae.model, vae.guide, batch).kl["z"].item()
    assert loss.dtype == torch.float32
    assert loss.item() / 256 == pytest.approx(-exact + kl / 256, abs=0.5)
    loss.backward()
    assert vae.likelihood.net.bias.grad.dtype == dtype


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_chains_and_restorations_of_a_graph_in_half_precision_agree_with_single(dtype):
    graph, x = linear_vae(), torch.rand(6, 6).round()
    half, hidden = copy.deepcopy(graph).to(dtype), torch.arange(6) > 3
    exact = pv.annealed_log_evidence(graph, x, temperatures=100)
    found = pv.annealed_log_evidence(half, x, temperatures=100)
    torch.testing.assert_close(found.log_p, exact.log_p, atol=0.3, rtol=0)
    exact = pv.impute(graph, x, hidden=hidden, steps=20, seed=0)
    found = pv.impute(half, x, hidden=hidden, steps=20, seed=0)
    assert found.mean.dtype == dtype
    torch.testing.assert_close(found.mean.float(), exact.mean, atol=0.1, rtol=0)


# ------------------------------------------------------- likelihoods that lack a mean or a draw
class WithoutDraws(dist.Normal):
    """A density alone."""

    def sample(self, sample_shape=()):
        raise NotImplementedError("this is a density alone")

    rsample = sample


@pytest.mark.parametrize("method", ["refine", "encoder"])
def test_a_likelihood_without_a_mean_is_imputed_by_the_mean_of_its_draws(method):
    x, hidden = torch.full((3, 6), 0.25), torch.arange(6) > 2
    graph = Own(relaxed)
    nn.init.zeros_(graph.decoder.weight)
    bias = graph.decoder.bias.detach()
    found = pv.impute(graph, x, hidden=hidden, method=method, samples=64, steps=3, seed=0)
    mean = relaxed(bias).sample((100_000,)).mean(0)
    torch.testing.assert_close(found.mean[:, hidden], mean[hidden].expand(3, 3), atol=0.05, rtol=0)
    exact = relaxed(bias).log_prob(x)[:, hidden].sum(-1)
    log_p = pv.hidden_log_prob(graph, x, hidden=hidden, method=method, samples=16, steps=3).log_p
    torch.testing.assert_close(log_p.float(), exact)


def test_a_likelihood_without_draws_is_named_where_they_are_needed():
    graph, hidden = Own(lambda mean: WithoutDraws(mean, 1.0)), torch.arange(6) > 2
    with pytest.raises(NotImplementedError, match=r'site "x": WithoutDraws has no sample \(this'):
        pv.impute(graph, torch.randn(3, 6), hidden=hidden, samples=16, steps=3)
    noise = pv.graphs.GaussianNoise(0.1)
    with pytest.raises(ValueError, match="RelaxedBernoulli has no known variance"):
        pv.denoise(Own(relaxed), torch.rand(3, 6), noise=noise, samples=16, steps=3)


# ------------------------------------------------------------------------- what a row of x is
class Reshaped(nn.Module):
    """A network that takes what it gets for rows of 36 values."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(36, 4)

    def forward(self, x):
        return self.linear(x.reshape(-1, 36))


TASKS = {
    "embed": pv.embed,
    "draws": lambda graph, x: pv.embed(graph, x, draws=2),
    "reconstruct": pv.reconstruct,
    "kl_per_dimension": pv.kl_per_dimension,
    "active_units": pv.active_units,
    "impute": lambda graph, x: pv.impute(graph, x, hidden=torch.eye(6) > 0, samples=16, steps=2),
}


@pytest.mark.parametrize("task", TASKS)
def test_one_image_without_the_axis_of_rows_is_refused(task):
    """A guide that reshapes broadcast its one result to six supposed rows."""
    graph = Own(bernoulli, Reshaped(), event=(6, 6))
    one = torch.rand(6, 6).round()
    with pytest.raises(ValueError, match=r"x has shape \(6, 6\).* one row as x\[None\]"):
        TASKS[task](graph, one)
    TASKS[task](graph, one[None].repeat(9, 1, 1))


def test_a_view_of_x_with_one_row_in_a_plate_of_many_is_refused():
    with pytest.raises(ValueError, match="Give x the shape"):
        pv.embed(Flattening(), torch.rand(6, 6).round())
    assert pv.embed(Flattening(), torch.rand(2, 6, 6).round()).shape == (2, 2)


class Flattening(Own):
    """Both programs flatten the images, and count rows before they do."""

    def __init__(self):
        super().__init__(bernoulli, Reshaped(), event=(36,))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", user_graphs.unit_normal(len(x), 2))
            p = self.likelihood(self.decoder(z)).to_event(1)
            pyro.sample("x", p, obs=x.reshape(-1, 36))


def test_images_of_another_shape_than_a_convolution_takes_are_told_how_to_become_one():
    encoder = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 4))
    graph, x = Own(bernoulli, encoder, event=(3, 6, 6)), torch.rand(5, 3, 6, 6).round()
    loader = DataLoader(TensorDataset(x.movedim(1, -1)), batch_size=5)
    first = r"in the first minibatch, whose x has shape \(5, 6, 6, 3\): a convolution .*movedim"
    with pytest.raises(ValueError, match=first):
        pv.fit(graph, loader, epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"one image as x\[None\]"):
        pv.embed(graph, x[0, 0])
    labelled = DataLoader(TensorDataset(x, torch.arange(5)), batch_size=5)
    with pytest.raises(TypeError, match=r"first minibatch, .* its context \(5,\): Own.model does"):
        pv.fit(graph, labelled, epochs=1, progress=False)


def test_channels_that_come_last_are_moved_and_not_reshaped():
    net = nn.Sequential(nn.Linear(2, 108), nn.Unflatten(-1, (3, 6, 6)))
    part = pv.likelihoods.Bernoulli(pv.nets.MLP(2, [5], (3, 6, 6)))
    with pytest.raises(ValueError, match=r"channels that come last as x.movedim\(-1, 1\)"):
        part.check(torch.rand(4, 6, 6, 3).round())
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(108, 4))
    q = pv.posteriors.DiagonalNormal(encoder)
    vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(net, event_dim=3))
    with pytest.raises(ValueError, match=r"channels last as x.movedim\(-1, 1\)"):
        pv.fit(vae, torch.rand(4, 6, 6, 3).round(), epochs=1, progress=False)


class Subsampled(Own):
    """Plates that draw five rows by themselves."""

    def __init__(self):
        super().__init__(bernoulli)

    def model(self, x):
        with pyro.plate("pixels", len(x), subsample_size=5) as rows:
            z = pyro.sample("z", user_graphs.unit_normal(5, 2))
            pyro.sample("x", self.likelihood(self.decoder(z)).to_event(1), obs=x[rows])

    def guide(self, x):
        with pyro.plate("pixels", len(x), subsample_size=5) as rows:
            pyro.sample("z", user_graphs.normal(self.encoder(x[rows])))


@pytest.mark.parametrize(
    "task",
    [
        pv.reconstruct,
        lambda graph, x: pv.generate(graph, 7),
        lambda graph, x: pv.decode(graph, torch.zeros(7, 2)),
        lambda graph, x: pv.interpolate(graph, x[0], x[1]),
    ],
    ids=["reconstruct", "generate", "decode", "interpolate"],
)
def test_a_plate_that_draws_rows_by_itself_is_named(task):
    """Of seven rows asked for, `generate` gave five."""
    with pytest.raises(ValueError, match='plate "pixels" draws 5 rows by itself'):
        task(Subsampled(), torch.rand(20, 6).round())


# --------------------------------------------------------------------------- threads and devices
def linear_vae():
    q = pv.posteriors.DiagonalNormal(nn.Linear(6, 4))
    return pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(nn.Linear(2, 6)))


def in_thread(task):
    """Return what a task returns or raises in another thread."""
    found = []

    def run():
        try:
            found.append(task())
        except RuntimeError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=60)
    return found[0]


@pytest.mark.parametrize("task", ["fit", "embed"])
def test_programs_of_another_thread_are_refused_during_a_fit(task):
    """They shared Pyro's handlers: the weights of both fits were others than alone."""
    graph, other, x = linear_vae(), linear_vae(), torch.rand(40, 6).round()
    alone, found = copy.deepcopy(graph), []
    tasks = {
        "fit": lambda: pv.fit(other, x, epochs=1, progress=False),
        "embed": lambda: pv.embed(other, x),
    }
    pv.fit(alone, x, epochs=2, progress=False, seed=0)

    def callback(_):
        found.append(in_thread(tasks[task]))

    pv.fit(graph, x, epochs=2, progress=False, seed=0, callback=callback)
    assert all("a fit runs in another thread" in str(error) for error in found)
    torch.testing.assert_close(graph.state_dict(), alone.state_dict(), rtol=0, atol=0)
    assert in_thread(tasks["embed"]).shape == (40, 2)


def test_evaluations_in_threads_are_those_of_one_thread():
    graphs, x = [linear_vae() for _ in range(3)], torch.rand(60, 6).round()
    expected = [pv.elbo(graph, x, samples=200).elbo for graph in graphs]
    with ThreadPoolExecutor(3) as pool:
        found = pool.map(lambda graph: pv.elbo(graph, x, samples=200).elbo, graphs)
        for log_p, exact in zip(found, expected, strict=True):
            assert torch.equal(log_p, exact)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of Python 3.12, at a fork
def test_a_child_does_not_wait_for_a_thread_that_it_has_not():
    graph, x, begun, done = linear_vae(), torch.rand(8, 6), threading.Event(), threading.Event()

    def evaluating():
        with evaluation(graph):
            begun.set()
            done.wait(60)

    thread = threading.Thread(target=evaluating)
    thread.start()
    begun.wait(60)
    child = multiprocessing.get_context("fork").Process(target=pv.embed, args=(graph, x))
    child.start()
    child.join(60)
    code = child.exitcode
    child.kill()
    done.set()
    thread.join()
    assert code == 0


def test_a_graph_that_cannot_be_trained_says_why():
    frozen = linear_vae().requires_grad_(False)
    with pytest.raises(ValueError, match="all have requires_grad=False"):
        pv.fit(frozen, torch.rand(8, 6).round(), epochs=1, progress=False)
    with pytest.raises(ValueError, match="on the device meta, where parameters have no values"):
        pv.embed(linear_vae().to("meta"), torch.rand(8, 6).round())
    with pytest.raises(TypeError, match=r"SGVB_B: beta is None at t = 1, expected a number"):
        objectives.SGVB_B(beta=lambda t: None)


class Censored(nn.Module):
    """Exponential times with a random effect, of which some are known to be longer only."""

    def __init__(self):
        super().__init__()
        self.encoder, self.slope = nn.Linear(2, 2), nn.Parameter(torch.tensor(0.5))

    def model(self, x, event):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", user_graphs.unit_normal(len(x), 1))
            rate = (self.slope * z)[..., 0].exp()
            pyro.factor("x", event[:, 0] * rate.log() - rate * x[:, 0])

    def guide(self, x, event):
        with pyro.plate("data", len(x)):
            pyro.sample("z", user_graphs.normal(self.encoder(torch.cat([x, event], -1))))


def test_a_censored_likelihood_by_factor_has_the_evidence_of_quadrature():
    graph, x, event = Censored(), 2 * torch.rand(40, 1), (torch.rand(40, 1) > 0.3).float()
    for layer in graph.encoder.parameters():
        nn.init.zeros_(layer)  # q is the prior, whose weights have light tails
    z = torch.linspace(-8, 8, 4001)[:, None]
    log_rate = graph.slope.detach() * z
    log_p = event[:, 0] * log_rate - log_rate.exp() * x[:, 0] + dist.Normal(0.0, 1.0).log_prob(z)
    exact = log_p.double().logsumexp(0) + torch.log(torch.tensor(16 / 4000))
    found = pv.log_evidence(graph, x, event, samples=4000)
    assert ((found.log_p - exact).abs() < 5 * found.standard_error).all()
    with pytest.raises(ValueError, match="the model observes no value that a distribution gives"):
        pv.reconstruct(graph, x, event)
