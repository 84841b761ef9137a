"""Estimators beyond SGVB.

They equal closed forms, Pyro's where Pyro has them, and each other in expectation.
"""

import math
from functools import partial

import linear_gaussian
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO
from torch import nn

import pyrovae as pv
from pyrovae import posteriors
from pyrovae.objectives import (
    IWAE,
    SGVB_A,
    SGVB_B,
    DReG,
    FreeBits,
    LeaveOneOut,
    MonteCarloEM,
    Renyi,
    ReweightedWakeSleep,
    RunningMean,
    ScoreFunction,
    WakeSleep,
)
from pyrovae.programs import data_plate, register

OF_THE_ELBO = {
    "A": lambda: SGVB_A(samples=2),
    "B": lambda: SGVB_B(samples=2),
    "free bits": lambda: FreeBits(nats=0.0, samples=2),
    "score": lambda: ScoreFunction(samples=2),
    "score, running mean": lambda: ScoreFunction(samples=2, baseline=RunningMean()),
    "score, leave one out": lambda: ScoreFunction(samples=2, baseline=LeaveOneOut()),
    "Renyi 1": lambda: Renyi(alpha=1.0, samples=2),
    "IWAE 1": lambda: IWAE(samples=1),
    "DReG 1": lambda: DReG(samples=1),
}
OTHERS = {
    "IWAE": lambda: IWAE(samples=3),
    "DReG": lambda: DReG(samples=3),
    "Renyi": lambda: Renyi(alpha=0.5, samples=3),
    "RWS": lambda: ReweightedWakeSleep(samples=3),
    "RWS, sleep": lambda: ReweightedWakeSleep(samples=3, sleep=0.5),
    "wake-sleep": lambda: WakeSleep(),
    "EM": lambda: MonteCarloEM(samples=2),
}


class Two(nn.Module):
    """z1 -> z2 in the guide, z2 -> z1 -> x in the model: draws that depend on draws."""

    def __init__(self):
        super().__init__()
        self.down, self.out = nn.Linear(2, 2), nn.Linear(2, 4)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(2, 4)

    def model(self, x):
        register(self)
        with data_plate(x):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.down(z2).tanh(), 0.5).to_event(1))
            return pyro.sample("x", dist.Normal(self.out(z1), 1.0).to_event(1), obs=x)

    def guide(self, x):
        register(self)
        with data_plate(x):
            mu, log_sigma = self.first(x).chunk(2, -1)
            z1 = pyro.sample("z1", dist.Normal(mu, (0.3 * log_sigma).exp()).to_event(1))
            mu, log_sigma = self.second(z1).chunk(2, -1)
            return pyro.sample("z2", dist.Normal(mu, (0.3 * log_sigma).exp()).to_event(1))


def gradients(objective, graph, x, draws):
    """Gradients of the loss for so many draws, with shape (draws, parameters)."""
    parameters = list(graph.parameters())
    found = []
    for _ in range(draws):
        loss = objective.differentiable_loss(graph.model, graph.guide, x)
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
        found.append(
            torch.cat(
                [
                    torch.zeros_like(p).flatten() if g is None else g.flatten()
                    for p, g in zip(parameters, grads, strict=True)
                ]
            )
        )
    return torch.stack(found)


def exact_elbo_gradient(graph, x):
    """Gradient of the negative ELBO of a linear-Gaussian VAE, whose expectation is a polynomial."""
    mu, log_sigma = graph.posterior.net(x).chunk(2, -1)
    w, s = graph.likelihood.net.weight, graph.likelihood.sigma
    sigma2 = (2 * log_sigma).exp()
    off = (x - graph.likelihood.net(mu)).square().sum() + (sigma2 @ w.square().sum(0)).sum()
    rec = -off / (2 * s**2) - x.numel() * math.log(s * math.sqrt(2 * math.pi))
    kl = 0.5 * (mu.square() + sigma2 - 1 - 2 * log_sigma).sum()
    return -(rec - kl), torch.cat(
        [g.flatten() for g in torch.autograd.grad(kl - rec, list(graph.parameters()))]
    )


def poor_vae(noise=0.15):
    """A linear VAE whose guide is not its posterior: the more noise, the further from it."""
    graph = linear_gaussian.exact()
    stream = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter += noise * torch.randn(
                parameter.shape, generator=stream, dtype=parameter.dtype
            )
    return graph


def z_scores(samples, expected):
    error = samples.std(0) / math.sqrt(len(samples))
    return ((samples.mean(0) - expected) / error.clamp(min=1e-12)).abs()


# ---------------------------------------------------------------------------------- closed forms
@pytest.mark.parametrize("name", OF_THE_ELBO)
def test_gradient_of_the_elbo_is_unbiased(name):
    graph, x = poor_vae(), linear_gaussian.data(4)
    _, expected = exact_elbo_gradient(graph, x)
    copies = x.repeat(10, 1)  # each run gives the mean of ten estimates
    found = gradients(OF_THE_ELBO[name](), graph, copies, 150) / 10
    assert z_scores(found, expected).max() < 5  # standard errors, over 32 parameters


@pytest.mark.parametrize("name", OF_THE_ELBO)
def test_value_of_the_elbo_is_unbiased(name):
    graph, x = poor_vae(), linear_gaussian.data(4)
    expected, _ = exact_elbo_gradient(graph, x)
    copies = x.repeat(10, 1)  # each run gives the mean of ten estimates
    values = torch.tensor(
        [OF_THE_ELBO[name]().loss(graph.model, graph.guide, copies) / 10 for _ in range(100)]
    )
    assert z_scores(values[:, None], expected.detach()).max() < 5


@pytest.mark.parametrize("name", [*OF_THE_ELBO, "IWAE", "DReG", "Renyi"])
def test_exact_posterior_makes_every_bound_tight(name):
    graph, x = linear_gaussian.exact(), linear_gaussian.data(20)
    bound = {**OF_THE_ELBO, **OTHERS}[name]().bound(graph.model, graph.guide, x)
    rec, kl = bound.numbers()
    expected = linear_gaussian.evidence(graph, x).sum().item()
    if name in ("B", "free bits"):  # their KL is the mean, not the draw's
        assert (rec - kl) == pytest.approx(expected, abs=20)
    else:
        assert rec - kl == pytest.approx(expected, abs=1e-9)


def test_at_the_exact_posterior_dreg_has_no_noise_and_iwae_has():
    graph, x = linear_gaussian.exact(), linear_gaussian.data(5)
    guide = sum(p.numel() for p in graph.posterior.parameters())
    assert gradients(DReG(samples=5), graph, x, 20)[:, :guide].abs().max() < 1e-9
    assert gradients(IWAE(samples=5), graph, x, 20)[:, :guide].std(0).max() > 1e-2


def test_iwae_rises_with_samples_and_stays_below_the_evidence():
    graph, x = poor_vae(), linear_gaussian.data(10)
    bounds = [
        -sum(bound.loss(graph.model, graph.guide, x) for _ in range(400)) / 400
        for bound in (IWAE(samples=k) for k in (1, 5, 50))
    ]
    assert bounds == sorted(bounds)
    assert bounds[-1] < linear_gaussian.evidence(graph, x).sum() + 0.05
    assert bounds[-1] > linear_gaussian.evidence(graph, x).sum() - 0.5 * (bounds[-1] - bounds[0])


def test_weights_are_of_one_row_each():
    """A batch of copies has the sum of their bounds: joint weights would make it looser."""
    graph, x, bound = poor_vae(), linear_gaussian.data(1), IWAE(samples=3)
    one = torch.tensor([bound.loss(graph.model, graph.guide, x) for _ in range(2000)])
    many = torch.tensor(
        [bound.loss(graph.model, graph.guide, x.expand(40, -1)) / 40 for _ in range(200)]
    )
    error = math.hypot(one.std() / 2000**0.5, many.std() / 200**0.5)
    assert abs(one.mean() - many.mean()) < 5 * error


def test_renyi_falls_with_alpha_from_above_iwae_to_the_elbo():
    graph, x = poor_vae(), linear_gaussian.data(10)
    bounds = []
    for alpha in (-2.0, 0.0, 0.5, 1.0, 2.0):
        torch.manual_seed(0)
        bounds.append(-Renyi(alpha, samples=20).loss(graph.model, graph.guide, x))
    assert bounds == sorted(bounds, reverse=True)
    torch.manual_seed(0)
    assert bounds[1] == pytest.approx(
        -IWAE(samples=20).loss(graph.model, graph.guide, x), rel=1e-12
    )
    torch.manual_seed(0)
    assert bounds[3] == pytest.approx(
        -SGVB_A(samples=20).loss(graph.model, graph.guide, x), rel=1e-12
    )


# ----------------------------------------------------------------------------------------- peers
@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_renyi_equals_pyros_on_one_row(alpha):
    """Pyro's weighs a whole minibatch at once, so the two agree on one row."""
    graph, x = poor_vae(), linear_gaussian.data(1)
    losses, grads = [], []
    for objective in (
        Renyi(alpha, samples=4),
        RenyiELBO(alpha=alpha, num_particles=4, max_plate_nesting=1, vectorize_particles=True),
    ):
        torch.manual_seed(0)
        graph.zero_grad()
        losses.append(objective.loss_and_grads(graph.model, graph.guide, x))
        grads.append([p.grad.clone() for p in graph.parameters()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "weights", [{}, {"beta": 0.5}, {"beta": 0.0}, {"beta": 4.0, "annealed": {"z1"}}], ids=str
)
@pytest.mark.parametrize("make", [poor_vae, lambda: Two().double()], ids=["one site", "two sites"])
def test_dreg_and_iwae_have_one_gradient(make, weights):
    torch.manual_seed(3)
    graph = make()
    x = linear_gaussian.data(3)[:, : 6 if hasattr(graph, "posterior") else 4]
    if hasattr(graph, "posterior") and "annealed" in weights:
        weights = {**weights, "annealed": {"z"}}
    a, b = (gradients(objective(samples=4, **weights), graph, x, 400) for objective in (DReG, IWAE))
    error = (a.var(0) / 400 + b.var(0) / 400).sqrt().clamp(min=1e-12)
    assert ((a.mean(0) - b.mean(0)).abs() / error).max() < 5


def test_dreg_gains_on_iwae_with_more_samples():
    """Near the posterior. Far from it, where one weight dominates, DReG can have more variance."""
    graph, x = poor_vae(0.03), linear_gaussian.data(5)
    guide = sum(p.numel() for p in graph.posterior.parameters())

    def ratio(objective):
        g = gradients(objective, graph, x, 500)[:, :guide]
        return (g.mean(0).abs() / g.std(0)).mean()

    assert ratio(DReG(samples=32)) > 2 * ratio(IWAE(samples=32))


def test_baselines_lower_the_variance_of_the_score_function():
    graph, x = poor_vae(), linear_gaussian.data(5)
    guide = sum(p.numel() for p in graph.posterior.parameters())
    objectives = [
        ScoreFunction(4),
        ScoreFunction(4, RunningMean()),
        ScoreFunction(4, LeaveOneOut()),
        SGVB_A(4),
    ]
    none, running, others, reparameterized = [
        gradients(o, graph, x, 600)[10:, :guide].var(0).sum().item() for o in objectives
    ]
    assert reparameterized < min(running, others)
    assert max(running, others) < none


def test_score_function_of_a_discrete_latent_equals_enumeration():
    class Coins(pv.conditional.Conditional):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 2)

        def forward(self, x):
            return dist.Bernoulli(logits=self.net(x)).to_event(1)

    class Fair(pv.conditional.Conditional):
        def forward(self):
            return dist.Bernoulli(logits=torch.zeros(2, dtype=torch.double)).to_event(1)

    graph = pv.VAE(Fair(), Coins(), pv.likelihoods.Bernoulli(nn.Linear(2, 4))).double()
    x = torch.tensor([[1.0, 0, 1, 1], [0, 0, 1, 0]], dtype=torch.double)
    bound = 0.0
    for code in ([0, 0], [0, 1], [1, 0], [1, 1]):
        z = torch.tensor(code, dtype=torch.double).expand(2, 2)
        log_q = graph.posterior(x).log_prob(z)
        bound = (
            bound
            + (
                log_q.exp() * (graph.likelihood(z).log_prob(x) + graph.prior().log_prob(z) - log_q)
            ).sum()
        )
    expected = torch.cat(
        [g.flatten() for g in torch.autograd.grad(-bound, list(graph.parameters()))]
    )
    copies = x.repeat(10, 1)
    found = gradients(ScoreFunction(4, LeaveOneOut()), graph, copies, 200) / 10
    assert z_scores(found, expected).max() < 5
    with pytest.raises(ValueError, match="reparameterized"):
        pv.fit(graph, x, epochs=1, progress=False)
    pv.fit(graph, x, epochs=1, objective=ScoreFunction(), progress=False)


# -------------------------------------------------------------------------------- wake and sleep
def test_reweighted_wake_sleep_moves_the_model_as_iwae_does():
    graph, x = poor_vae(), linear_gaussian.data(5)
    model = slice(-sum(p.numel() for p in graph.likelihood.parameters()), None)
    found = []
    for objective in (
        IWAE(samples=4),
        ReweightedWakeSleep(samples=4),
        ReweightedWakeSleep(samples=4, sleep=1.0),
    ):
        torch.manual_seed(0)
        found.append(gradients(objective, graph, x, 1)[0, model])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[0], found[2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "objective",
    [ReweightedWakeSleep(samples=20), ReweightedWakeSleep(samples=2, sleep=1.0), WakeSleep()],
    ids=["wake", "sleep", "plain"],
)
def test_both_phases_lead_the_guide_to_the_posterior(objective):
    """With the model held fixed, the guide's optimum is the exact posterior."""
    graph, exact = poor_vae(), linear_gaussian.exact()
    graph.likelihood.load_state_dict(exact.likelihood.state_dict())
    graph.likelihood.requires_grad_(False)
    w, s = exact.likelihood.net.weight.detach(), 0.5
    z = torch.randn(2000, 2, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    x = (
        z @ w.T
        + 1
        + s * torch.randn(2000, 6, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    )  # what it dreams of

    def off():
        return sum(
            (p - e).abs().max().item()
            for p, e in zip(graph.posterior.parameters(), exact.posterior.parameters(), strict=True)
        )

    before = off()
    pv.fit(
        graph,
        x,
        epochs=15,
        batch_size=50,
        objective=objective,
        optimizer=partial(torch.optim.Adam, lr=1e-2),
        seed=0,
        progress=False,
    )
    pv.fit(
        graph,
        x,
        epochs=10,
        batch_size=50,
        objective=objective,
        optimizer=partial(torch.optim.Adam, lr=1e-3),
        seed=1,
        progress=False,
    )
    assert off() < 0.2 * before


def test_monte_carlo_em_reaches_the_evidence_that_eigenvalues_give():
    """With draws from the exact posterior, EM maximizes log p(x), and the guide learns it."""
    graph, x = linear_gaussian.vae(), linear_gaussian.data(300)
    settings = dict(objective=MonteCarloEM(steps=3), batch_size=100, progress=False)
    pv.fit(graph, x, epochs=60, optimizer=partial(torch.optim.Adam, lr=4e-2), seed=0, **settings)
    pv.fit(graph, x, epochs=30, optimizer=partial(torch.optim.Adam, lr=2e-3), seed=1, **settings)
    reached = linear_gaussian.evidence(graph, x).mean().item()
    assert reached == pytest.approx(linear_gaussian.maximum_evidence(x, 2, 0.5), abs=0.03)
    assert -SGVB_A(samples=50).loss(graph.model, graph.guide, x) / 300 > reached - 0.3


def test_the_step_size_follows_the_acceptance():
    graph, x = linear_gaussian.exact(), linear_gaussian.data(200)
    objective = MonteCarloEM(step_size=1.0)
    for _ in range(60):
        objective.bound(graph.model, graph.guide, x)
    sizes = []
    for _ in range(20):
        objective.bound(graph.model, graph.guide, x)
        sizes.append(objective.step_size)
    assert max(sizes) < 1.1 * min(sizes) < 0.9


# ---------------------------------------------------------------------------------------- others
def test_free_bits_equal_the_formula():
    graph, x = poor_vae(), linear_gaussian.data(7)
    mu, log_sigma = graph.posterior.net(x).chunk(2, -1)
    each = (0.5 * (mu.square() + (2 * log_sigma).exp() - 1) - log_sigma).mean(0)
    for nats in (0.0, each.min().item() * 1.1, 100.0):
        torch.manual_seed(0)
        bound = FreeBits(nats=nats).bound(graph.model, graph.guide, x)
        expected = -bound.reconstruction + 7 * each.clamp(min=nats).sum()
        assert bound.loss.item() == pytest.approx(expected.item(), rel=1e-9)
        assert bound.numbers()[1] == pytest.approx(7 * each.sum().item(), rel=1e-9)


@pytest.mark.parametrize("name", [name for name in OTHERS if name not in ("wake-sleep", "EM")])
def test_beta_weighs_the_kl_in_the_weights(name):
    """At beta = 0, log w is log p(x | z): priors and posteriors do not change the value."""
    graph, x = poor_vae(), linear_gaussian.data(4)
    objective = OTHERS[name]()
    objective.beta = 0.0
    objective.at(0.5)
    torch.manual_seed(0)
    reported = objective.bound(graph.model, graph.guide, x)
    torch.manual_seed(0)
    at_one = OTHERS[name]().bound(graph.model, graph.guide, x)
    assert reported.numbers() == pytest.approx(at_one.numbers(), rel=1e-9)
    assert abs(reported.loss.item() - at_one.loss.item()) > 1e-3


@pytest.mark.parametrize("name", [*OF_THE_ELBO, *OTHERS])
def test_pyros_svi_takes_it(name):
    graph, x = poor_vae(), linear_gaussian.data(6)
    before = [p.clone() for p in graph.parameters()]
    svi = SVI(
        graph.model, graph.guide, pyro.optim.Adam({"lr": 1e-2}), {**OF_THE_ELBO, **OTHERS}[name]()
    )
    assert all(math.isfinite(svi.step(x)) for _ in range(3))
    assert all(
        not torch.equal(old, new) for old, new in zip(before, graph.parameters(), strict=True)
    )


@pytest.mark.parametrize("name", [*OF_THE_ELBO, *OTHERS])
def test_fit_takes_it_and_judges_at_beta_one(name):
    graph, x = poor_vae(), linear_gaussian.data(40)
    before = SGVB_B(samples=200).loss(graph.model, graph.guide, x)
    history = pv.fit(
        graph,
        x,
        validation=x[:10],
        epochs=20,
        batch_size=10,
        objective={**OF_THE_ELBO, **OTHERS}[name](),
        seed=0,
        progress=False,
    )
    assert len(history.validation_elbo) == 20
    assert SGVB_B(samples=200).loss(graph.model, graph.guide, x) < before + 1


def test_a_site_shared_by_the_rows_is_refused():
    class Shared(pv.VAE):
        def model(self, x, *c):
            pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            return super().model(x, *c)

        def guide(self, x, *c):
            pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            return super().guide(x, *c)

    graph = poor_vae()
    graph = Shared(graph.prior, graph.posterior, graph.likelihood)
    with pytest.raises(ValueError, match='site "w" is not in a plate over the 4 rows'):
        pv.fit(graph, linear_gaussian.data(4), epochs=1, objective=IWAE(samples=2), progress=False)


@pytest.mark.parametrize(
    "make",
    [
        lambda: IWAE(samples=0),
        lambda: Renyi(alpha=math.inf),
        lambda: FreeBits(nats=-1.0),
        lambda: RunningMean(decay=1.0),
        lambda: ScoreFunction(samples=1, baseline=LeaveOneOut()),
        lambda: ReweightedWakeSleep(sleep=2.0),
        lambda: MonteCarloEM(acceptance=1.0),
        lambda: SGVB_B(annealed="z"),
    ],
)
def test_bad_settings_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()


# ---------------------------------------------------------------------------- graphs that differ
class Pixels(nn.Module):
    """A VAE whose pixels are one event, or a plate inside the plate over the rows."""

    def __init__(self, plate):
        super().__init__()
        self.plate, self.decoder, self.encoder = plate, nn.Linear(2, 6), nn.Linear(6, 4)

    def model(self, x):
        register(self)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            mean = pyro.deterministic("mean", self.decoder(z), event_dim=1)
            if not self.plate:
                return pyro.sample("x", dist.Normal(mean, 0.7).to_event(1), obs=x)
            mean = mean.movedim(
                -1, -2
            )  # (6, B), or (K, 1, 6, B): particles lie left of both plates
            with pyro.plate("pixels", 6, dim=-2):
                return pyro.sample(
                    "x", dist.Normal(mean.squeeze(1) if mean.dim() == 4 else mean, 0.7), obs=x.T
                )

    def guide(self, x):
        register(self)
        with data_plate(x):
            mu, log_sigma = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(mu, (0.3 * log_sigma).exp()).to_event(1))


BY_WEIGHTS = {
    "IWAE": IWAE,
    "DReG": DReG,
    "A": SGVB_A,
    "score": ScoreFunction,
    "RWS": ReweightedWakeSleep,
    "Renyi": lambda samples: Renyi(0.5, samples),
    "EM": lambda samples: MonteCarloEM(samples=samples),
}


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("name", BY_WEIGHTS)
def test_a_plate_inside_a_row_is_part_of_its_weight(name, samples):
    torch.manual_seed(0)
    one, many = Pixels(False), Pixels(True)
    many.load_state_dict(one.state_dict())
    x, found = (
        torch.randn(6, 6),
        [],
    )  # as many rows as pixels: only their order tells the plates apart
    for graph in (one, many):
        torch.manual_seed(1)
        loss = BY_WEIGHTS[name](samples=samples).differentiable_loss(graph.model, graph.guide, x)
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in graph.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_deterministic_sites_are_neither_data_nor_latents():
    graph, x = Pixels(False), torch.randn(5, 6)
    for objective in (WakeSleep(), ReweightedWakeSleep(samples=3, sleep=0.5), SGVB_B()):
        assert math.isfinite(objective.loss_and_grads(graph.model, graph.guide, x))
    assert math.isfinite(pv.bidirectional_bounds(graph, rows=4, samples=5, temperatures=5).gap)


@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")  # few draws, on purpose
def test_a_plate_inside_a_row_gives_the_evidence_of_one_event():
    torch.manual_seed(0)
    x = torch.randn(5, 6)
    plate, event = Pixels(True), Pixels(False)
    event.load_state_dict(plate.state_dict())
    evidence = [pv.log_evidence(graph, x, samples=10).log_p for graph in (plate, event)]
    torch.testing.assert_close(*evidence)


@pytest.mark.parametrize("samples", [1, 3])
def test_free_bits_of_none_are_sgvb_b_where_sites_are_scaled_or_shared(samples):
    torch.manual_seed(0)
    parts = poor_vae().float()
    bayesian = pv.BayesianVAE(parts.prior, parts.posterior, parts.likelihood, data_size=1000)

    class Scaled(pv.VAE):
        def model(self, x, *c):
            with poutine.scale(scale=0.1):
                return super().model(x, *c)

        def guide(self, x, *c):
            with poutine.scale(scale=0.1):
                return super().guide(x, *c)

    x = linear_gaussian.data(50).float()
    for graph in (bayesian, Scaled(parts.prior, parts.posterior, parts.likelihood)):
        losses = []
        for objective in (
            SGVB_B(samples=samples),
            FreeBits(nats=0.0, samples=samples),
            FreeBits(nats=1e4, samples=samples),
        ):
            torch.manual_seed(1)
            bound = objective.bound(graph.model, graph.guide, x)
            losses.append(objective.loss_of(bound, 50).item())
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
        latents = 2 * 50 * (0.1 if graph is not bayesian else 1)
        weights = (
            sum(p.numel() for p in parts.likelihood.parameters()) * 50 / 1000
            if graph is bayesian
            else 0
        )
        assert losses[2] == pytest.approx(
            1e4 * (latents + weights) - bound.reconstruction.item(), rel=1e-5
        )  # the floors alone


class Guesses(pv.conditional.Conditional):
    """A posterior without reparameterized draws."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return dist.Bernoulli(logits=self.net(x)).to_event(1)


def test_under_pyros_svi_too_programs_that_do_not_fit_are_refused():
    graph, x = poor_vae().float(), linear_gaussian.data(4).float()
    discrete = pv.VAE(graph.prior, Guesses(nn.Linear(6, 2)), graph.likelihood)
    for objective in (SGVB_A(), IWAE(samples=2), DReG(samples=2)):
        with pytest.raises(ValueError, match="no reparameterized draw"):
            objective.loss_and_grads(discrete.model, discrete.guide, x)
    assert math.isfinite(
        SGVB_A().loss(discrete.model, discrete.guide, x)
    )  # a value needs no gradient
    with pytest.raises(ValueError, match="absent from the guide"):
        SGVB_A().loss(
            graph.model,
            lambda x: pyro.sample("zz", dist.Normal(torch.zeros(4, 2), 1.0).to_event(2)),
            x,
        )
    with pytest.raises(
        ValueError, match=r"annealed names \['Z'\], but the guide's latents are \['z'\]"
    ):
        SGVB_B(beta=100.0, annealed={"Z"}).loss(graph.model, graph.guide, x)
    with pytest.raises(ValueError, match=r"annealed names \['Z'\]"):
        pv.fit(graph, x, epochs=1, objective=SGVB_B(annealed={"Z"}), progress=False)


@pytest.mark.parametrize(
    ("posterior", "words"),
    [
        (posteriors.Gamma(nn.Linear(6, 4)), "the guide Independent"),
        (posteriors.Point(nn.Linear(6, 2)), "Delta or flat"),
    ],
    ids=["half-line", "point"],
)
def test_chains_need_a_posterior_over_the_priors_support(posterior, words):
    graph = poor_vae().float()
    graph = pv.VAE(graph.prior, posterior, graph.likelihood)
    with pytest.raises(ValueError, match=words):
        MonteCarloEM().loss(graph.model, graph.guide, linear_gaussian.data(4).float())


def test_a_fit_leaves_the_callers_objective_as_it_was_and_checks_its_data_size():
    graph, x = poor_vae(), linear_gaussian.data(20)
    objective = ScoreFunction(baseline=RunningMean())
    pv.fit(graph, x, epochs=1, objective=objective, progress=False)
    assert objective.baseline.value is None
    with pytest.raises(ValueError, match="data_size is 5, but there are 20 training rows"):
        pv.fit(graph, x, epochs=1, objective=SGVB_B(data_size=5), progress=False)
