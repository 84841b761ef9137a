"""Full variational Bayes over the weights w.

Against conjugate regression; the scale M / N of w; several draws at once; SVI, fit and files.
"""

import math
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    SubsetRandomSampler,
)

import pyrovae as pv
from pyrovae import objectives, programs
from pyrovae.data import Share, as_minibatches, datasets
from pyrovae.distributions import Conditional
from pyrovae.training.checking import check_data_size

NOISE, SCALE = 0.5, 2.0


class Uninformative(Conditional):
    """q(z | x) = p(z) = N(0, I): z carries no information, the decoder is a regression on c."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x, *c):
        return dist.Normal(torch.zeros(*x.shape[:-1], 2).to(x), 1.0).to_event(1)


class OnContext(nn.Module):
    """f(z, c) = c w^T, with the batch dimensions of z."""

    def __init__(self, features, out):
        super().__init__()
        self.linear = nn.Linear(features, out, bias=False)

    def forward(self, z, c):
        return self.linear(c).expand(*z.shape[:-1], -1)


def regression(n=24, features=3, out=2):
    """Return graph, x, c with orthogonal regressors: the weights' exact posterior is diagonal."""
    torch.manual_seed(1)
    c = (
        torch.linalg.qr(torch.randn(n, features, dtype=torch.double)).Q
        * torch.tensor([5.0, 2.0, 0.5]).double()
    )
    x = c @ torch.randn(features, out, dtype=torch.double) + NOISE * torch.randn(
        n, out, dtype=torch.double
    )
    likelihood = pv.likelihoods.Gaussian(OnContext(features, out), sigma=NOISE)
    graph = pv.BayesianVAE(
        pv.priors.StandardNormal(2), Uninformative(), likelihood, data_size=n, scale=SCALE
    )
    return graph.double(), x, c


def posterior(x, c):
    """Mean (out, features) and variance (features,) of w given X (conjugate normal)."""
    variance = 1 / (1 / SCALE**2 + c.square().sum(0) / NOISE**2)
    return (x.T @ c) / NOISE**2 * variance, variance


def evidence(x, c):
    """log p(X) = sum over outputs of log N(x_o; 0, s^2 C C^T + noise^2 I)."""
    covariance = SCALE**2 * c @ c.T + NOISE**2 * torch.eye(len(c), dtype=torch.double)
    return (
        dist.MultivariateNormal(torch.zeros(len(c), dtype=torch.double), covariance)
        .log_prob(x.T)
        .sum()
        .item()
    )


def put_exact(graph, x, c):
    mean, variance = posterior(x, c)
    with torch.no_grad():
        graph.likelihood.net.linear.weight.copy_(mean)
        graph.log_sigma.copy_(variance.log().expand_as(mean).flatten() / 2)


def vae(data_size=60, likelihood=None, **options):
    likelihood = likelihood or pv.likelihoods.Bernoulli(pv.nets.MLP(2, [5], 6))
    return pv.BayesianVAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(pv.nets.MLP(6, [], 4)),
        likelihood,
        data_size=data_size,
        **options,
    )


# -------------------------------------------------------------------------------- against the exact
@pytest.mark.parametrize("elbo", [Trace_ELBO(), objectives.SGVB_A()])
def test_at_the_exact_posterior_every_draw_gives_the_evidence(elbo):
    graph, x, c = regression()
    put_exact(graph, x, c)
    for _ in range(3):
        assert -elbo.loss(graph.model, graph.guide, x, c) == pytest.approx(evidence(x, c), abs=1e-8)


def test_training_on_minibatches_finds_the_exact_posterior():
    graph, x, c = regression()
    history = pv.fit(
        graph,
        (x, c),
        epochs=250,
        batch_size=8,
        seed=0,
        objective=objectives.SGVB_B(samples=4),
        progress=False,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.02),
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 250),
    )
    mean, variance = posterior(x, c)
    assert ((graph.likelihood.net.linear.weight - mean) / variance.sqrt()).abs().max() < 0.5
    assert (graph.log_sigma.exp().reshape(2, 3) / variance.sqrt() - 1).abs().max() < 0.15
    exact = evidence(x, c) / len(x)
    last = sum(history.elbo[-20:]) / 20
    # The mean loss that `fit` reports is the bound per observation.
    assert exact - 0.1 < last < exact + 0.05


# -------------------------------------------------------------------------------------------- N / M
def seeded(objective, graph, *batch):
    """The loss at one fixed w, which is drawn first."""
    torch.manual_seed(5)
    return objective.differentiable_loss(graph.model, graph.guide, *batch)


@pytest.mark.parametrize("sizes", [[8, 8, 8], [5, 12, 7], [1] * 24])
def test_minibatches_add_up_to_the_whole_bound(sizes):
    graph, x, c = regression()
    objective = objectives.SGVB_B()
    whole = seeded(objective, graph, x, c)
    parts = [
        seeded(objective, graph, *batch)
        for batch in zip(x.split(sizes), c.split(sizes), strict=True)
    ]
    torch.testing.assert_close(sum(parts), whole)
    kl = torch.distributions.kl_divergence(
        graph.q_w(), dist.Normal(torch.zeros(6).double(), SCALE).to_event(1)
    )
    torch.testing.assert_close(
        objective.bound(graph.model, graph.guide, x[:5], c[:5]).kl["w"], kl * 5 / 24
    )
    scaled = [
        seeded(objectives.SGVB_B(data_size=24), graph, x[rows], c[rows])
        for rows in torch.arange(24).split(sizes)
    ]
    mean = sum(loss * size / 24 for loss, size in zip(scaled, sizes, strict=True))
    torch.testing.assert_close(mean, whole)  # eq. 8: scaled by N / M, each estimates the whole


def test_the_kl_of_the_weights_per_row_falls_with_the_number_of_rows():
    x, costs = torch.rand(10, 6).round(), []
    for n in (10, 100, 1000):
        torch.manual_seed(0)
        graph = vae(data_size=n)
        costs.append(objectives.SGVB_B().bound(graph.model, graph.guide, x).kl["w"].item() / 10)
    assert costs[0] == pytest.approx(10 * costs[1]) == pytest.approx(100 * costs[2])
    assert costs[0] > 1


# ----------------------------------------------------------------------------- vectorized particles
class Free(nn.Module):
    """Every kind of parameter outside a network: a likelihood of the user's."""

    def __init__(self):
        super().__init__()
        self.net, self.log_scale = nn.Linear(2, 6), nn.Parameter(torch.zeros(6))

    def forward(self, z, *c):
        return dist.Laplace(self.net(z), self.log_scale.exp()).to_event(1)


LIKELIHOODS = {
    "Bernoulli": lambda: pv.likelihoods.Bernoulli(pv.nets.MLP(2, [5], 6)),
    "Gaussian, learned": lambda: pv.likelihoods.Gaussian(nn.Linear(2, 6), learned=True),
    "images": lambda: pv.likelihoods.ContinuousBernoulli(pv.nets.ConvDecoder(2, (1, 5, 3), (3, 2))),
    "a user's": Free,
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_several_draws_at_once_equal_single_draws(name):
    graph = vae(likelihood=LIKELIHOODS[name](), sigma=0.5)
    event = (1, 5, 3) if name == "images" else (6,)
    graph.posterior = pv.posteriors.DiagonalNormal(pv.nets.MLP(event, [], 4))
    x = torch.rand(4, *event).round()
    with pyro.plate("samples", 3, dim=-2):
        p, q = programs.run(graph.model, graph.guide, x)
    assert q["w"]["value"].shape == (3, 1, len(graph.log_sigma))
    assert q["z"]["value"].shape == (3, 4, 2)
    together = programs.log_prob(p["x"])
    assert together.shape == (3, 4)
    for k in range(3):
        values = {"w": {"value": q["w"]["value"][k, 0]}, "z": {"value": q["z"]["value"][k]}}
        one = programs.record(graph.model, x, given=programs.Trace(values))
        torch.testing.assert_close(programs.log_prob(one["x"]), together[k])
    assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("make", [
    lambda: objectives.SGVB_A(samples=3),
    lambda: objectives.SGVB_B(samples=3),
    lambda: Trace_ELBO(num_particles=3, vectorize_particles=True),
    lambda: TraceMeanField_ELBO(num_particles=3, vectorize_particles=True),
])  # fmt: skip
def test_several_draws_estimate_the_same_bound(make):
    graph, x, c = regression()
    put_exact(graph, x, c)
    with torch.no_grad():
        graph.log_sigma += 0.1
        bound = make()
        losses = torch.tensor([bound.loss(graph.model, graph.guide, x, c) for _ in range(100)])
        single = torch.tensor(
            [Trace_ELBO().loss(graph.model, graph.guide, x, c) for _ in range(300)]
        )
    error = (losses.var() / 100 + single.var() / 300).sqrt()
    assert (losses.mean() - single.mean()).abs() < 4 * error


def test_stacked_distributions():
    parts = [
        dist.Normal(torch.zeros(4, 3), 1.0).to_event(1),
        dist.Laplace(torch.ones(4, 3), 2.0).to_event(1),
    ]
    p = pv.distributions.Stacked(parts)
    assert (p.batch_shape, p.event_shape) == ((2, 4), (3,))
    assert p.sample((5,)).shape == p.rsample((5,)).shape == (5, 2, 4, 3)
    assert p.has_rsample
    assert p.mean.shape == (2, 4, 3)
    x = torch.randn(5, 2, 4, 3)
    expected = torch.stack([parts[0].log_prob(x[:, 0]), parts[1].log_prob(x[:, 1])], 1)
    torch.testing.assert_close(p.log_prob(x), expected)
    torch.testing.assert_close(
        p.log_prob(x[0, 0]), torch.stack([part.log_prob(x[0, 0]) for part in parts])
    )


# ---------------------------------------------------------------------------------- training, files
def moved(graph, train):
    before = {name: tensor.clone() for name, tensor in graph.state_dict().items()}
    train(graph)
    return all(not torch.equal(tensor, before[name]) for name, tensor in graph.named_parameters())


def by_svi(graph):
    svi = SVI(graph.model, graph.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(3):
        svi.step(torch.rand(20, 6).round())


def by_fit(graph):
    pv.fit(
        graph,
        torch.rand(graph.data_size, 6).round(),
        validation=torch.rand(30, 6).round(),
        epochs=2,
        progress=False,
    )


@pytest.mark.parametrize("train", [by_svi, by_fit])
def test_two_in_one_process_train(train):
    assert moved(vae(), train)
    assert moved(vae(), train)


def test_gradients_are_those_of_bare_pyro():
    graph, x = vae(), torch.rand(20, 6).round()
    gradients = []
    for objective in (Trace_ELBO(), objectives.SGVB_A()):
        torch.manual_seed(0)
        objective.loss_and_grads(graph.model, graph.guide, x)
        gradients.append([parameter.grad.clone() for parameter in graph.parameters()])
        graph.zero_grad()
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)
        assert first.abs().max() > 0


def test_the_file_keeps_it(tmp_path):
    graph, x = vae(data_size=77, scale=0.3, sigma=0.05), torch.rand(9, 6).round()
    by_fit(graph)
    loaded = pv.load(pv.save(graph, tmp_path))
    assert type(loaded) is pv.BayesianVAE
    assert (loaded.data_size, loaded.scale, loaded.sigma) == (77, 0.3, 0.05)
    for (name, tensor), other in zip(
        graph.state_dict().items(), loaded.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, other), name
    assert pv.save(graph.draw(), tmp_path / "drawn")
    assert seeded(objectives.SGVB_A(), graph, x) == seeded(objectives.SGVB_A(), loaded, x)


def test_with_few_rows_the_point_estimate_overfits_and_full_vb_does_not():
    """Kingma & Welling 2014, appendix F: 60 images, more parameters than pixels.

    With early stopping the point estimate does as well: tutorial 12.
    """
    x = (torch.as_tensor(datasets.digits().x).flatten(1) >= 8).float()
    train, test, ends = x[:60], x[60:260], {}
    for name in ("point", "full"):
        torch.manual_seed(0)
        parts = (
            pv.priors.StandardNormal(5),
            pv.posteriors.DiagonalNormal(pv.nets.MLP(64, [64], 10)),
            pv.likelihoods.Bernoulli(pv.nets.MLP(5, [64], 64)),
        )
        graph = (
            pv.VAE(*parts) if name == "point" else pv.BayesianVAE(*parts, data_size=60, sigma=0.05)
        )
        pv.fit(
            graph,
            train,
            epochs=600,
            batch_size=60,
            seed=0,
            progress=False,
            optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
        )
        draws = [graph if name == "point" else graph.draw() for _ in range(5)]
        ends[name] = [
            sum(pv.elbo(g, rows, samples=5).elbo.mean().item() for g in draws) / 5
            for rows in (train, test)
        ]
    assert ends["point"][0] - ends["point"][1] > 15  # measured: 33
    assert ends["full"][0] - ends["full"][1] < 6  # 2.9
    assert ends["full"][1] > ends["point"][1] + 10  # -27.5, -45.9


def test_a_draw_is_a_vae_at_weights_of_the_posterior():
    graph, x, c = regression()
    put_exact(graph, x, c)
    draws = torch.stack([graph.draw().likelihood.net.linear.weight for _ in range(2000)]).detach()
    mean, variance = posterior(x, c)
    assert ((draws.mean(0) - mean) / variance.sqrt()).abs().max() < 5 / math.sqrt(2000)
    assert (draws.var(0) / variance - 1).abs().max() < 5 * math.sqrt(2 / 2000)
    z = torch.zeros(24, 2).double()
    assert graph.predictive(z, c, draws=3).shape == (3, 24, 2)
    spread = graph.predictive(z, c, draws=500).var(0)
    exact = (c.square() * variance).sum(-1, keepdim=True)
    assert (spread / exact - 1).abs().max() < 0.4
    torch.testing.assert_close(graph.likelihood.net.linear.weight, mean)  # drawing changed nothing


def test_generating_at_weights_of_the_posterior():
    """q(w) is a thousandth wide: every draw is the network at the mean, unlike the prior's."""
    graph, x, c = regression()
    with torch.no_grad():
        graph.log_sigma.fill_(-7)
    wanted = graph.likelihood(torch.zeros(len(c), 2).double(), c).mean.detach()
    at = pv.generate(graph, len(c), c, from_guide=["w"], like=x)
    torch.testing.assert_close(at, wanted, atol=0.05, rtol=0)
    torch.testing.assert_close(pv.reconstruct(graph, x, c), wanted)
    assert (pv.generate(graph, len(c), c) - wanted).abs().max() > 0.5


def test_quantities_per_observation_need_fixed_weights():
    graph, x = vae(), torch.rand(5, 6).round()
    with pytest.raises(ValueError, match='site "w" is not in a plate over the 5 rows'):
        pv.log_evidence(graph, x)
    assert torch.isfinite(pv.log_evidence(graph.draw(), x, samples=5).log_p).all()
    assert pv.reconstruct(graph.draw(), x).shape == x.shape


def test_decoding_needs_fixed_weights_or_their_value():
    """A draw of w from its prior is an untrained network; at the mean of q(w) it is the trained."""
    graph, x = vae(), torch.rand(5, 6).round()
    z = pv.embed(graph, x)
    tasks = {
        "decode": lambda **how: pv.decode(graph, z, **how),
        "interpolate": lambda **how: pv.interpolate(graph, x[0], x[1], steps=2, **how),
        "manifold": lambda **how: pv.manifold(graph, steps=2, **how),
        "reconstruct": lambda **how: pv.reconstruct(graph, x, site="z", **how),
    }
    at_mean = {"w": graph.q_w().mean.detach()}
    for name, task in tasks.items():
        text = rf'{name}: all rows share the latent "w".*fixed=.*graph\.draw\(\) of a BayesianVAE'
        with pytest.raises(ValueError, match=text):
            task()
        assert task(fixed=at_mean).shape[-1] == 6
    wanted = graph.likelihood(z).mean.detach()
    torch.testing.assert_close(tasks["decode"](fixed=at_mean), wanted)
    torch.testing.assert_close(tasks["interpolate"](fixed=at_mean), wanted[:2])
    torch.testing.assert_close(tasks["reconstruct"](fixed=at_mean), wanted)
    torch.testing.assert_close(pv.decode(graph, z[None], fixed=at_mean)[0], wanted)
    assert pv.decode(graph.draw(), z).shape == (5, 6)
    assert pv.generate(graph, 5).shape == (5, 6)  # as documented, from the prior of w
    with pytest.raises(ValueError, match=r"decode: fixed names \['z'\], whose values are given"):
        pv.decode(graph, z, fixed={"z": z, **at_mean})


# ---------------------------------------------------------------------- the number of training rows
class Stream(IterableDataset):
    """Rows without a length."""

    def __iter__(self):
        return iter(torch.ones(8, 6))


X = torch.ones(8, 6)
OF_8 = {
    "array": lambda: X,
    "data set": lambda: Rows(X),
    "loader": lambda: DataLoader(X, batch_size=4),
    "some of a loader's": lambda: DataLoader(X, 4, sampler=SubsetRandomSampler(range(8))),
}


class Rows(Dataset):
    """A map-style data set."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i]


def train(graph, data, **how):
    pv.fit(graph, data, epochs=1, batch_size=4, progress=False, **how)


@pytest.mark.parametrize("kind", OF_8)
@pytest.mark.parametrize("wrap", [lambda graph: graph, lambda g: pv.Denoising(g, nn.Dropout(0.1))])
def test_another_number_of_training_rows_is_refused(kind, wrap):
    train(wrap(vae(data_size=8)), OF_8[kind]())
    for size, often in ((7, "more"), (9, "less")):
        text = f"data_size is {size}, but there are 8 training rows.*counted {often} than once"
        with pytest.raises(ValueError, match=text):
            train(wrap(vae(data_size=size)), OF_8[kind]())


def test_other_data_than_those_of_training_may_have_any_number_of_rows():
    graph, more = vae(data_size=8), torch.ones(20, 6)
    for held_out in (more, DataLoader(more, 20)):
        train(graph, X, validation=held_out)
    graph.check(more)
    assert pv.elbo(graph.draw(), more).elbo.shape == (20,)
    assert pv.reconstruct(graph, more).shape == (20, 6)


def test_where_the_number_of_rows_is_not_known_it_is_not_compared():
    train(vae(data_size=100), Stream(), steps_per_epoch=2)
    train(vae(data_size=100), iter(X.split(4)), steps_per_epoch=2)
    half = SubsetRandomSampler(range(8))  # of 16 rows: all of them, or those that are read
    for size in (8, 16):
        train(vae(data_size=size), DataLoader(torch.ones(16, 6), 4, sampler=half))
    with pytest.raises(ValueError, match="there are 8 training rows"):
        train(vae(data_size=12), DataLoader(torch.ones(16, 6), 4, sampler=half))
    minibatches = list(torch.ones(16, 6).split(4))
    train(vae(data_size=16), DataLoader(minibatches, batch_size=None))  # of 4 rows each
    train(vae(data_size=4), DataLoader(torch.ones(16, 6), batch_sampler=[[0, 1], [2, 3]]))
    graph = vae(data_size=100)
    graph.check = lambda *data: None  # who replaces the graph's own check wants none
    train(graph, X)


class OfTwo(NamedTuple):
    """What two processes tell each other."""

    rows: list
    size: int = 2

    def gathered(self, value):
        assert value in self.rows
        return self.rows


def test_all_processes_of_a_job_count():
    """A distributed sampler gives 4 rows, one of 7 twice, to each of two processes."""
    sampler = DistributedSampler(X[:7], num_replicas=2, rank=0)
    shares = as_minibatches(DataLoader(X[:7], 2, sampler=sampler), None, batch_size=2)
    whole = as_minibatches(X[:7], None, batch_size=2, share=Share(0, 2))
    for data, sizes in ((shares, (7, 8)), (whole, (7,))):
        for size in sizes:
            check_data_size(vae(data_size=size), objectives.SGVB_A(), data, OfTwo([4, 4]))
        with pytest.raises(ValueError, match="data_size is 4, but there are 7 training rows"):
            check_data_size(vae(data_size=4), objectives.SGVB_A(), data, OfTwo([4, 4]))
    check_data_size(vae(data_size=4), objectives.SGVB_A(), shares, OfTwo([4, None]))


def test_errors():
    for options in ({"data_size": 0}, {"scale": 0.0}, {"sigma": -1.0}):
        with pytest.raises(ValueError, match="BayesianVAE: data_size is"):
            vae(**options)
    with pytest.raises(ValueError, match="has no parameters"):
        vae(likelihood=pv.likelihoods.Bernoulli(nn.Identity()))
    with pytest.raises(TypeError):
        pv.BayesianVAE(pv.priors.StandardNormal(2), Uninformative(), Free())
