"""Estimators against integrals and sums: quadrature over one latent, enumeration of classes.

The references here are written without the library: densities by hand, gradients by autograd
through the exact expectation.
"""

import itertools
import math
from contextlib import nullcontext

import linear_gaussian
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.testing.gof import unif01_goodness_of_fit
from test_estimators import gradients, z_scores
from torch import nn

import pyrovae as pv
from pyrovae import conditional, posteriors
from pyrovae.objectives import (
    IWAE,
    SGVB_A,
    SGVB_B,
    DReG,
    LeaveOneOut,
    MonteCarloEM,
    Renyi,
    ReweightedWakeSleep,
    RunningMean,
    ScoreFunction,
    WakeSleep,
)

SIGMA = 0.6
COPIES, DRAWS = 50, 60


def replicates(objective, graph, x):
    """Return 60 gradients of the loss, each the mean over 50 copies of the rows."""
    return gradients(objective, graph, x.repeat(COPIES, 1), DRAWS) / COPIES


def values(objective, graph, x):
    """Return 60 losses, each the mean over 50 copies of the rows."""
    rows = x.repeat(COPIES, 1)
    losses = [objective.loss(graph.model, graph.guide, rows) / COPIES for _ in range(DRAWS)]
    return torch.tensor(losses, dtype=torch.double)[:, None]


# ----------------------------------------------------------------------- one latent, by quadrature
class Tanh(nn.Module):
    """x = V tanh(w z + b): a posterior that is no normal."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(1, 4), nn.Linear(4, 3)

    def forward(self, z):
        return self.second(torch.tanh(self.first(z)))


def curve():
    """Return a VAE with one latent, and rows."""
    torch.manual_seed(0)
    graph = pv.VAE(
        pv.priors.StandardNormal(1),
        posteriors.DiagonalNormal(nn.Linear(3, 2)),
        pv.likelihoods.Gaussian(Tanh(), sigma=SIGMA),
    ).double()
    return graph, torch.randn(2, 3, dtype=torch.double)


def normal(x, mean, sigma):
    """Return log N(x; mean, sigma^2)."""
    return -0.5 * ((x - mean) / sigma) ** 2 - torch.log(sigma * math.sqrt(2 * math.pi))


def log_weights(graph, x, beta, nodes=40):
    """Return log w at the nodes of Gauss-Hermite quadrature, (nodes, B), and their weights."""
    points, weights = (torch.as_tensor(v) for v in np.polynomial.hermite_e.hermegauss(nodes))
    mean, log_sigma = graph.posterior.net(x).unbind(-1)
    z = mean + log_sigma.exp() * points[:, None]
    sigma, one = torch.tensor(SIGMA, dtype=torch.double), torch.ones((), dtype=torch.double)
    log_x = normal(x, graph.likelihood.net(z[..., None]), sigma).sum(-1)
    kl = normal(z, mean, log_sigma.exp()) - normal(z, 0.0, one)
    return log_x - beta * kl, weights / weights.sum()


def exact_bound(graph, x, beta, alpha, samples):
    """Return E 1 / (1 - alpha) log (1 / K) sum_k w_k^(1 - alpha), K of 1 or 2, over the rows."""
    log_w, p = log_weights(graph, x, beta)
    if samples == 1:
        return (p[:, None] * log_w).sum()
    power = 1 - alpha
    both = torch.logaddexp(power * log_w[:, None], power * log_w) - math.log(2)  # pairs of nodes
    return (p[:, None, None] * p[None, :, None] * both / power).sum()


CONTINUOUS = {
    "SGVB A": (lambda beta: SGVB_A(3, beta), 0.0, 1),
    "SGVB B": (lambda beta: SGVB_B(3, beta), 0.0, 1),
    "score": (lambda beta: ScoreFunction(2, LeaveOneOut(), beta=beta), 0.0, 1),
    "IWAE": (lambda beta: IWAE(2, beta), 0.0, 2),
    "DReG": (lambda beta: DReG(2, beta), 0.0, 2),
    "Renyi": (lambda beta: Renyi(0.5, 2, beta), 0.5, 2),
}


@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_gradient_is_that_of_the_exact_bound(name, beta):
    make, alpha, samples = CONTINUOUS[name]
    graph, x = curve()
    exact = -exact_bound(graph, x, beta, alpha, samples)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(exact, [*graph.parameters()])])
    found = replicates(make(beta), graph, x)
    assert z_scores(found, expected).max() < 4.5  # of 31 parameters


class Handled(nn.Module):
    """The programs of a VAE inside Pyro's handlers: of the rows, or of the latent alone."""

    def __init__(self, vae, kind, latents=1):
        super().__init__()
        self.vae, self.kind, self.latents = vae, kind, latents

    def around(self, x):
        """Return the plate over the rows, and the context of the latent."""
        size = FACTOR * len(x) if self.kind == "subsampled" else len(x)
        latent = {
            "scaled": poutine.scale(scale=0.3),
            "masked": poutine.mask(mask=torch.zeros(len(x), dtype=torch.bool)),
        }
        plate = pyro.plate("data", size, subsample=torch.arange(len(x)))
        return plate, latent.get(self.kind, nullcontext())

    def whole(self):
        return poutine.scale(scale=float(FACTOR)) if self.kind == "around" else nullcontext()

    def model(self, x):
        rows, latent = self.around(x)
        with self.whole(), rows:
            with latent:
                z = pyro.sample(
                    "z", dist.Normal(x.new_zeros(len(x), self.latents), 1.0).to_event(1)
                )
            pyro.sample("x", self.vae.likelihood(z), obs=x)

    def guide(self, x):
        rows, latent = self.around(x)
        with self.whole(), rows, latent:
            pyro.sample("z", self.vae.posterior(x))


FACTOR = 4
# how the handlers weigh the KL, and the whole bound
HANDLERS = {
    "subsampled": (1.0, FACTOR),
    "around": (1.0, FACTOR),
    "scaled": (0.3, 1),
    "masked": (0, 1),
}


@pytest.mark.parametrize("kind", HANDLERS)
@pytest.mark.parametrize("name", [name for name in CONTINUOUS if name != "SGVB B"])
def test_scales_and_masks_of_handlers(name, kind):
    """The factor of a minibatch multiplies a bound of weights, which are not raised to it."""
    make, alpha, samples = CONTINUOUS[name]
    graph, x = curve()
    beta, factor = HANDLERS[kind]
    exact = -factor * exact_bound(graph, x, beta, alpha, samples)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(exact, [*graph.parameters()])])
    handled = Handled(graph, kind)
    found = replicates(make(1.0), handled, x)
    assert z_scores(found, expected).max() < 4.5
    assert z_scores(values(make(1.0), handled, x), exact.detach()).max() < 4.5


@pytest.mark.parametrize("kind", ["subsampled", "around"])
def test_chains_of_subsampled_rows_have_the_posterior_of_a_row(kind):
    graph, x = linear_gaussian.exact(), linear_gaussian.data(4).repeat(500, 1)
    handled = Handled(graph, kind, latents=2)
    torch.manual_seed(0)
    q, _ = MonteCarloEM(steps=20, step_size=0.3).draw(handled.model, handled.guide, x)
    for part in graph.posterior(x).base_dist.cdf(q["z"]["value"]).unbind(-1):
        assert unif01_goodness_of_fit(part.detach()) > 1e-4


@pytest.mark.parametrize("kind", ["subsampled", "around"])
@pytest.mark.parametrize("objective", [ReweightedWakeSleep(2, sleep=0.5), WakeSleep()])
def test_two_losses_are_multiplied_by_the_factor_of_a_minibatch(objective, kind):
    graph, x = curve()
    plain, handled = (
        gradients(objective, Handled(graph, k), x.repeat(COPIES, 1), DRAWS) for k in ("", kind)
    )
    difference, noise = FACTOR * plain.mean(0) - handled.mean(0), FACTOR * plain.std(0)
    assert (difference.abs() / noise * math.sqrt(DRAWS / 2)).max() < 4.5


class Flow(nn.Module):
    """A guide whose density is held by a Delta at a transformed draw: z = a x + s u."""

    def __init__(self):
        super().__init__()
        self.a, self.log_s = nn.Parameter(torch.tensor(0.3)), nn.Parameter(torch.tensor(-0.1))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(x.new_zeros(len(x)), 1.0)
            u = pyro.sample("u", base, infer={"is_auxiliary": True})
            z = self.a * x + self.log_s.exp() * u
            pyro.sample("z", dist.Delta(z, log_density=-self.log_s.expand(len(x))))


SCORES = [ScoreFunction(2, LeaveOneOut()), ReweightedWakeSleep(3), WakeSleep()]


@pytest.mark.parametrize("objective", SCORES)
def test_deltas_with_parameters_are_refused_where_no_gradient_passes_draws(objective):
    """Their values would not be trained, or their densities alone."""
    graph, x = Flow(), torch.randn(20)
    with pytest.raises(ValueError, match='site "z": the value of a Delta depends on parameters'):
        objective.differentiable_loss(graph.model, graph.guide, x)
    point = pv.VAE(
        pv.priors.StandardNormal(2),
        posteriors.Point(nn.Linear(3, 2)),
        pv.likelihoods.Gaussian(nn.Linear(2, 3)),
    )
    with pytest.raises(ValueError, match='site "z": the value of a Delta depends on parameters'):
        pv.fit(point, torch.randn(20, 3), objective=objective, epochs=1, progress=False)


def test_a_gradient_that_follows_draws_trains_deltas_but_not_their_densities():
    point = pv.VAE(
        pv.priors.StandardNormal(2),
        posteriors.Point(nn.Linear(3, 2)),
        pv.likelihoods.Gaussian(nn.Linear(2, 3)),
    )
    x, found = torch.randn(20, 3), []
    for objective in (DReG(3), IWAE(3)):
        loss = objective.differentiable_loss(point.model, point.guide, x)
        found.append(torch.autograd.grad(loss, [*point.parameters()]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    graph = Flow()
    with pytest.raises(ValueError, match='site "z": the log density of a Delta depends on'):
        DReG(3).differentiable_loss(graph.model, graph.guide, x[:, 0])


@pytest.mark.parametrize("objective", [*SCORES, DReG(3)])
def test_factors_of_the_guide_with_parameters_are_refused_where_they_would_be_scores(objective):
    class Factored(Flow):
        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.a * x, 1.0))
                pyro.factor("f", self.log_s.expand(len(x)), has_rsample=True)

    graph = Factored()
    with pytest.raises(ValueError, match='site "f": a factor of the guide depends on parameters'):
        objective.differentiable_loss(graph.model, graph.guide, torch.randn(8))


class Halved(nn.Module):
    """x | y ~ N(4 y - 2, 1), y of two classes; a known label y >= 0 masks the latent."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1)

    def model(self, x, y):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=y < 0):
                d = pyro.sample("d", dist.Bernoulli(torch.full((len(x),), 0.5)))
            label = torch.where(y < 0, d, y)
            pyro.sample("x", dist.Normal(4 * label - 2, 1.0), obs=x)

    def guide(self, x, y):
        with pyro.plate("data", len(x)), poutine.mask(mask=y < 0):
            pyro.sample("d", dist.Bernoulli(logits=self.net(x[:, None])[:, 0]))


@pytest.mark.parametrize("objective", [WakeSleep(), ReweightedWakeSleep(4, sleep=1.0)])
def test_what_a_mask_hides_is_no_data_of_the_guide(objective):
    """In rows of a known label the latent is drawn, and has nothing to do with x."""
    torch.manual_seed(0)
    truth = torch.rand(4000).round()
    x, graph = 4 * truth - 2 + torch.randn(4000), Halved()
    y = torch.where(torch.rand(4000) < 0.8, truth, -1.0)
    settings = dict(epochs=20, batch_size=100, learning_rate=0.05, seed=0, progress=False)
    pv.fit(graph, (x, y), objective=objective, **settings)
    assert graph.net.weight.item() == pytest.approx(4, abs=0.8)  # the exact log odds are 4 x


PADDED = torch.tensor([True, False])


def test_chains_of_masked_latents_are_no_data_of_the_guide():
    """The second of two steps is padding, whose chain walks at random."""

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.log_s = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

        def model(self, x):
            rows, steps = self.plates(x)
            with rows, steps, poutine.mask(mask=PADDED):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        def guide(self, x):
            rows, steps = self.plates(x)
            with rows, steps, poutine.mask(mask=PADDED):
                pyro.sample("z", dist.Normal(self.a * x, self.log_s.exp()))

        def plates(self, x):
            return pyro.plate("data", len(x), dim=-2), pyro.plate("t", 2, dim=-1)

    torch.manual_seed(0)
    graph, x = Padded(), math.sqrt(2) * torch.randn(500, 2)
    objective = MonteCarloEM(steps=2, leapfrog=5, step_size=0.5)
    settings = dict(epochs=40, batch_size=100, learning_rate=0.03, seed=0, progress=False)
    pv.fit(graph, x, objective=objective, **settings)
    assert graph.log_s.exp().item() == pytest.approx(math.sqrt(0.5), abs=0.1)
    assert graph.a.item() == pytest.approx(0.5, abs=0.1)


def test_deltas_that_hold_a_density_have_evidence():
    graph, x = Flow(), torch.randn(20)
    exact = torch.distributions.Normal(0.0, math.sqrt(1.25)).log_prob(x).double()
    found = pv.log_evidence(graph, x, samples=3000)
    assert ((found.log_p - exact).abs() < 4 * found.standard_error).all()
    assert found.standard_error.max() < 0.1
    terms = pv.elbo(graph, x, samples=3000)
    assert (terms.elbo < exact).all()


def test_deltas_of_draws_alone_are_trained_by_their_score():
    """z = 2 u has no parameters of its own: those of u are trained."""

    class Doubled(Flow):
        def guide(self, x):
            with pyro.plate("data", len(x)):
                base = dist.Normal(self.a * x, self.log_s.exp())
                u = pyro.sample("u", base, infer={"is_auxiliary": True})
                pyro.sample("z", dist.Delta(2 * u, log_density=-x.new_full((len(x),), math.log(2))))

    graph, x = Doubled(), torch.randn(5).repeat(400)
    score = gradients(ScoreFunction(2, LeaveOneOut()), graph, x, DRAWS)
    path = gradients(SGVB_A(2), graph, x, DRAWS)
    assert z_scores(score, path.mean(0)).max() < 4.5
    assert (
        z_scores(
            gradients(DReG(3), graph, x, DRAWS), gradients(IWAE(3), graph, x, DRAWS).mean(0)
        ).max()
        < 4.5
    )


@pytest.mark.parametrize("name", ["SGVB A", "IWAE", "DReG", "Renyi"])
def test_value_is_that_of_the_exact_bound(name):
    make, alpha, samples = CONTINUOUS[name]
    graph, x = curve()
    exact = -exact_bound(graph, x, 1.0, alpha, samples).detach()
    assert z_scores(values(make(1.0), graph, x), exact).max() < 4.5


def test_the_evidence_is_the_integral():
    """log p(x) and the ELBO of each row by Riemann sums over 40,001 points."""
    graph, x = curve()
    grid = torch.linspace(-9, 9, 40_001, dtype=torch.double)
    sigma, one = torch.tensor(SIGMA, dtype=torch.double), torch.ones((), dtype=torch.double)
    with torch.no_grad():
        log_x = normal(x[:, None], graph.likelihood.net(grid[:, None]), sigma).sum(-1)
        log_p = (log_x + normal(grid, 0.0, one)).logsumexp(1) + math.log(18 / 40_000)
        mean, log_sigma = graph.posterior.net(x).unbind(-1)
        q = normal(grid, mean[:, None], log_sigma.exp()[:, None]).exp() * 18 / 40_000
        bound = (q * log_x).sum(1) - 0.5 * (mean**2 + (2 * log_sigma).exp() - 1) + log_sigma
    for evidence in (
        pv.log_evidence(graph, x, samples=5000),
        pv.naive_log_evidence(graph, x, samples=5000),
        pv.reciprocal_log_evidence(graph, x, samples=200, moves=40, leapfrog=4),
    ):
        assert ((evidence.log_p - log_p).abs() < 4.5 * evidence.standard_error).all()
        assert evidence.standard_error.max() < 0.1
    off = pv.elbo(graph, x, samples=4000).elbo - bound
    spread = (q * (log_x - (q * log_x).sum(1, keepdim=True)) ** 2).sum(1).sqrt()
    assert (off.abs() < 4.5 * spread / math.sqrt(4000)).all()


# ------------------------------------------------------------------------- classes, by enumeration
class ClassPrior(conditional.Conditional):
    """p(z), one of three classes, one-hot."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))

    def forward(self):
        return dist.OneHotCategorical(logits=self.logits)


class ClassPosterior(conditional.Conditional):
    """q(z | x)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 3)

    def forward(self, x):
        return dist.OneHotCategorical(logits=self.net(x))


def classes():
    torch.manual_seed(1)
    p = pv.likelihoods.Bernoulli(nn.Linear(3, 3))
    graph = pv.VAE(ClassPrior(), ClassPosterior(), p).double()
    return graph, torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], dtype=torch.double)


def tables(graph, x):
    """Return log p(x | z), log p(z), log q(z | x) for each class, with shape (3, B)."""
    logits = graph.likelihood.net(torch.eye(3, dtype=torch.double))[:, None]
    log_x = (x * logits - nn.functional.softplus(logits)).sum(-1)
    log_z = graph.prior.logits.log_softmax(0)[:, None].expand(3, len(x))
    return log_x, log_z, graph.posterior.net(x).log_softmax(-1).T


def gradient_of(loss, graph):
    found = torch.autograd.grad(loss, [*graph.parameters()], allow_unused=True)
    zeros = (torch.zeros_like(p) for p in graph.parameters())
    return torch.cat([(z if g is None else g).flatten() for g, z in zip(found, zeros, strict=True)])


@pytest.mark.parametrize(
    "objective",
    [
        ScoreFunction(2, beta=0.7),
        ScoreFunction(2, LeaveOneOut(), beta=0.7),
        ScoreFunction(1, RunningMean(), beta=0.7),
    ],
    ids=["plain", "leave one out", "running mean"],
)
def test_score_function_is_the_gradient_of_the_sum(objective):
    graph, x = classes()
    log_x, log_z, log_q = tables(graph, x)
    elbo = (log_q.exp() * (log_x - 0.7 * (log_q - log_z))).sum()
    expected = gradient_of(-elbo, graph)
    assert z_scores(replicates(objective, graph, x), expected).max() < 4.5


def pair_sums(graph, x):
    """Yield q(a) q(b), log w of both and both classes, for the nine pairs (a, b)."""
    log_x, log_z, log_q = tables(graph, x)
    log_w = log_x + log_z - log_q
    for a, b in itertools.product(range(3), repeat=2):
        yield (log_q[a] + log_q[b]).exp(), torch.stack([log_w[a], log_w[b]]), (a, b)


def test_iwae_is_the_sum_over_pairs():
    graph, x = classes()
    exact = sum((q * (w.logsumexp(0) - math.log(2))).sum() for q, w, _ in pair_sums(graph, x))
    assert z_scores(values(IWAE(2), graph, x), -exact.detach()).max() < 4.5


def wake(graph, x, guide):
    """Return a loss with the expected gradient of the wake phase; `guide` weighs log q."""
    log_x, log_z, log_q = tables(graph, x)
    loss = 0.0
    for q, log_w, pair in pair_sums(graph, x):
        v = (q * log_w.softmax(0)).detach()
        for weight, z in zip(v, pair, strict=True):
            loss = loss - (weight * (log_x[z] + log_z[z] + guide * log_q[z])).sum()
    return loss


def sleep(graph, rows):
    """Return -E log q(z | x) over dreams of the model, for so many rows."""
    dreams = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.double)
    log_x, log_z, log_q = tables(graph, dreams)
    return -rows * ((log_x + log_z).exp().detach() * log_q).sum()


@pytest.mark.parametrize("part", [0.0, 0.6])
def test_reweighted_wake_sleep_is_the_sum_over_pairs_and_dreams(part):
    graph, x = classes()
    expected = gradient_of(wake(graph, x, 1 - part) + part * sleep(graph, 2), graph)
    objective = ReweightedWakeSleep(2, sleep=part)
    assert z_scores(replicates(objective, graph, x), expected).max() < 4.5


def test_wake_sleep_is_the_sum_over_classes_and_dreams():
    graph, x = classes()
    log_x, log_z, log_q = tables(graph, x)
    loss = -(log_q.exp().detach() * (log_x + log_z)).sum() + sleep(graph, 2)
    found = replicates(WakeSleep(), graph, x)
    assert z_scores(found, gradient_of(loss, graph)).max() < 4.5


# ----------------------------------------------------------------------------- Monte Carlo EM
def test_monte_carlo_em_follows_the_gradient_of_the_evidence():
    """Chains that start in the posterior stay there; E grad log p(x, z) = grad log p(x)."""
    graph, x = linear_gaussian.exact(), linear_gaussian.data(4)
    net, eye = graph.likelihood.net, torch.eye(6, dtype=torch.double)
    covariance = net.weight @ net.weight.T + 0.25 * eye
    log_p = dist.MultivariateNormal(net.bias, covariance).log_prob(x).sum()
    expected = gradient_of(-log_p, graph)
    found = replicates(MonteCarloEM(steps=2, leapfrog=3), graph, x)
    model = slice(-sum(p.numel() for p in graph.likelihood.parameters()), None)
    assert z_scores(found[:, model], expected[model]).max() < 4.5


# ------------------------------------------------------------------------------ data and schedules
@pytest.mark.parametrize("objective", [SGVB_B, IWAE])
def test_a_minibatch_stands_for_all_data(objective):
    graph, x = curve()
    losses = []
    for options in ({}, {"data_size": 100}):
        torch.manual_seed(0)
        losses.append(objective(2, **options).loss(graph.model, graph.guide, x))
    assert losses[1] == pytest.approx(50 * losses[0], rel=1e-12)


def test_a_schedule_runs_from_the_first_step_to_the_last():
    graph, x = curve()
    seen = []

    def beta(t):
        seen.append(t)
        return min(1.0, 2 * t)

    pv.fit(graph, x.repeat(10, 1), epochs=2, batch_size=10, objective=SGVB_B(beta=beta), seed=0,
           progress=False)  # fmt: skip
    assert sorted(set(seen)) == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])


# ---------------------------------------------------------------- DReG where parts share parameters
class SharedPrior(conditional.Conditional):
    """A prior whose scale is computed by the guide's network at a fixed point."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self):
        mean, log_sigma = self.net(self.net.weight.new_ones(6)).chunk(2)
        return dist.Normal(mean, log_sigma.exp()).to_event(1)


def graphs_that_share(name):
    p = pv.likelihoods.Gaussian(nn.Linear(2, 6), sigma=1.0)
    if name == "full rank":
        return pv.VAE(pv.priors.StandardNormal(2), posteriors.FullRankNormal(nn.Linear(6, 5)), p)
    q = posteriors.DiagonalNormal(nn.Linear(6, 4))
    if name == "Vamp":
        return pv.VAE(pv.priors.Vamp(q, torch.randn(3, 6)), q, p)
    return pv.VAE(SharedPrior(q.net), q, p)


@pytest.mark.parametrize("beta", [1.0, 0.5])
@pytest.mark.parametrize("name", ["full rank", "Vamp", "net"])
def test_dreg_is_iwae_where_parts_share_parameters(name, beta):
    torch.manual_seed(0)
    graph, x = graphs_that_share(name).double(), torch.randn(3, 6, dtype=torch.double)
    a, b = (replicates(objective(3, beta), graph, x) for objective in (DReG, IWAE))
    error = (a.var(0) / DRAWS + b.var(0) / DRAWS).sqrt().clamp(min=1e-12)
    assert ((a.mean(0) - b.mean(0)).abs() / error).max() < 4.5
