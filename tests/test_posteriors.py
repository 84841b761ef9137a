"""Posteriors against closed forms, the autograd Jacobian, quadrature, and Pyro's flow."""

import copy
import math

import cases
import linear_gaussian
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro.distributions.transforms import ConditionalAffineAutoregressive
from pyro.nn import ConditionalAutoRegressiveNN
from torch import nn
from torch.distributions import MultivariateNormal, constraints

import pyrovae as pv
from pyrovae import objectives, posteriors, programs
from pyrovae.distributions import (
    AutoregressiveNetworks,
    Conditional,
    UnitNormal,
    kl_divergence,
    step_orders,
)
from pyrovae.training import FusedSVI, Optimization

FLOWS = pytest.mark.parametrize(
    "settings",
    [{}, {"gated": False}, {"seed": 1}, {"gated": False, "seed": 1}],
    ids=["gated", "plain", "gated, permuted", "plain, permuted"],
)
D, H = 4, 3


def flow(d=D, spread=0.4, **settings):
    """Return an IAF in float64 away from its start, whose parameters are its input."""
    part = posteriors.IAF(
        nn.Identity(),
        d,
        **{"steps": 3, "hidden": (9, 7), "context": H, "activation": nn.Tanh, **settings},
    ).double()
    for parameter in part.parameters():
        nn.init.normal_(parameter, std=spread)
    return part


def given(*lead, d=D):
    return torch.randn(*lead, 2 * d + H, dtype=torch.double)


# ----------------------------------------------------------------------------------------- the flow
@FLOWS
@pytest.mark.parametrize("d", [1, D])
def test_density_is_that_of_the_autograd_jacobian(settings, d):
    q = flow(d, **settings)(given(d=d))
    eps = q.base_dist.sample()
    jacobian = torch.autograd.functional.jacobian(q.transforms[0], eps)
    expected = q.base_dist.log_prob(eps) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(q.log_prob(q.transforms[0](eps)), expected)
    # The steps have different orders: all together are not triangular.
    assert d == 1 or jacobian.triu(1).abs().max() > 1e-3


@FLOWS
def test_a_step_is_triangular_in_its_order(settings):
    part = flow(steps=1, **settings)
    order = part.networks.orders[0]
    z = torch.randn(D, dtype=torch.double)
    jacobian = torch.autograd.functional.jacobian(part(given()).transforms[0], z)
    lower = jacobian[order][:, order]
    assert torch.equal(lower, lower.tril())
    assert (lower.tril() != 0).sum() == D * (D + 1) / 2  # each depends on all before it


@FLOWS
def test_equals_pyros_flow_at_the_same_weights(settings):
    part, x, z = flow(**settings), given(5), torch.randn(5, D, dtype=torch.double)
    mu, log_sigma, h = x.split([D, D, H], -1)
    steps = []
    for t, order in enumerate(part.networks.orders):
        net = ConditionalAutoRegressiveNN(
            D, H, [9, 7], permutation=order, nonlinearity=nn.Tanh()
        ).double()
        widths = slice(9 * t, 9 * (t + 1))
        with torch.no_grad():
            first = part.networks.context.weight[widths], part.networks.weights[0][t].T
            net.layers[0].weight.copy_(torch.cat(first, -1))
            net.layers[0].bias.copy_(part.networks.context.bias[widths])
            for i in (1, 2):
                net.layers[i].weight.copy_(part.networks.weights[i][t].T)
                net.layers[i].bias.copy_(part.networks.biases[i - 1][t])
        step = ConditionalAffineAutoregressive(net, stable=part.gated, sigmoid_bias=0.0)
        steps.append(step.condition(h))
    pyros = dist.TransformedDistribution(dist.Normal(mu, log_sigma.exp()).to_event(1), steps)
    torch.testing.assert_close(part(x).log_prob(z), pyros.log_prob(z))
    draw = pyros.rsample()
    torch.testing.assert_close(part(x).log_prob(draw), pyros.log_prob(draw))


@FLOWS
def test_a_draw_has_the_density_that_any_value_has(settings):
    q = flow(**settings)(given(5))
    z = q.rsample((7,))
    at_once = q.log_prob(z)
    assert at_once.shape == (7, 5)
    torch.testing.assert_close(q.log_prob(z.clone()), at_once)


def test_a_value_drawn_without_gradient_still_has_the_density_s_gradient():
    part, x = flow(), given(5)
    q = part(x)
    z = q.sample()
    found = [
        torch.autograd.grad(q.log_prob(value).sum(), list(part.parameters()), retain_graph=True)
        for value in (z, z.clone())
    ]
    assert all(g.any() for g in found[0])
    torch.testing.assert_close(*found)


def test_orders_are_saved_and_come_from_a_random_stream_of_their_own():
    orders = [fresh(seed=seed).networks.orders for seed in (1, 1, 2, None)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    assert torch.equal(orders[3][0], orders[3][1].flip(0))
    first, second, z = flow(seed=1), flow(seed=2), torch.randn(5, D, dtype=torch.double)
    second.load_state_dict(first.state_dict())  # the masks too
    x = given(5)
    assert torch.equal(second(x).log_prob(z), first(x).log_prob(z))


def fresh(**settings):
    return posteriors.IAF(nn.Identity(), D, context=H, hidden=(9,), **settings)


def test_gates_start_open():
    q = fresh()(torch.randn(100, 2 * D + H))
    z, flow = q.base_dist.sample(), q.transforms[0]
    log_gate = flow.log_abs_det_jacobian(z, flow(z)) / (4 * D)
    assert log_gate.exp().mean().item() == pytest.approx(1 / (1 + math.exp(-2)), abs=0.05)


def test_copies_and_files_work_after_use_and_training(tmp_path):
    part = posteriors.IAF(pv.nets.MLP(6, (5,), 2 * 2 + 3), 2, context=3, hidden=(8,), seed=4)
    likelihood = pv.likelihoods.Bernoulli(pv.nets.MLP(2, (5,), 6))
    graph, x = pv.VAE(pv.priors.StandardNormal(2), part, likelihood), torch.ones(20, 6)
    pv.fit(graph, x, epochs=2, batch_size=5, progress=False)
    loaded = pv.load(pv.save(graph, tmp_path))
    for again in (copy.deepcopy(graph), loaded):
        assert type(again.posterior.activation) is type(part.activation)
        found, wanted = (pv.log_evidence(g, x, samples=3).log_p for g in (again, graph))
        torch.testing.assert_close(found, wanted)


SEVEN = torch.zeros(7)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: posteriors.IAF(nn.Identity(), 0), "IAF: d is 0"),
        (lambda: posteriors.IAF(nn.Identity(), 2, steps=0), "steps 0"),
        (
            lambda: posteriors.IAF(nn.Identity(), 4, hidden=(8, 3)),
            r"hidden \(8, 3\).*at least as wide as d",
        ),
        (lambda: posteriors.LowRankNormal(nn.Identity(), 2, rank=0), "rank 0"),
        (lambda: posteriors.Mixture(nn.Identity(), 2, components=0), "components 0"),
        (lambda: posteriors.StudentT(nn.Identity(), df=0.0), "df is 0.0"),
        (
            lambda: fresh()(SEVEN),
            "IAF: net outputs 7 numbers, expected 11: .*4 latents and 3 of context",
        ),
        (
            lambda: posteriors.FullRankNormal(nn.Identity())(SEVEN),
            r"7 numbers, expected 5: D \(D \+ 3\) / 2 .* 5 for 2 or 9 for 3",
        ),
        (
            lambda: posteriors.LowRankNormal(nn.Identity(), 2)(SEVEN),
            "LowRankNormal: net outputs 7 numbers, expected 6",
        ),
        (
            lambda: posteriors.Mixture(nn.Identity(), 2, 2)(SEVEN),
            "Mixture: net outputs 7 numbers, expected 10",
        ),
    ],
)
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize(
    "family",
    [
        posteriors.Laplace,
        posteriors.StudentT,
        posteriors.Logistic,
        posteriors.Cauchy,
        posteriors.LogNormal,
        posteriors.Gamma,
        posteriors.WrappedNormal,
        posteriors.DiagonalNormal,
    ],
)
def test_factorized_posteriors_name_themselves_and_their_outputs(family):
    with pytest.raises(ValueError, match=f"{family.__name__}: net outputs 7.*expected 6") as error:
        family(nn.Identity())(SEVEN)
    assert f"{' and '.join(family.outputs)} of each latent" in str(error.value)


def test_a_factorized_posterior_is_abstract():
    with pytest.raises(TypeError, match="distribution"):
        posteriors.Factorized(nn.Identity())


def test_networks_with_and_without_a_context():
    with_context = AutoregressiveNetworks(step_orders(D, 2), (9,), context=H)
    without = AutoregressiveNetworks(step_orders(D, 2), (9,))
    with pytest.raises(ValueError, match="take a context h"):
        with_context.at()
    with pytest.raises(ValueError, match="take no context"):
        without.at(torch.zeros(H))


# ----------------------------------------------------------------------------------------------- KL
def full_rank(d):
    return posteriors.FullRankNormal(nn.Identity())(
        torch.randn(5, d * (d + 3) // 2, dtype=torch.double)
    )


def low_rank(d):
    return posteriors.LowRankNormal(nn.Identity(), d, 2)(torch.randn(5, 4 * d, dtype=torch.double))


@pytest.mark.parametrize("make", [full_rank, low_rank])
@pytest.mark.parametrize("d", [1, 3])
def test_kl_of_correlated_normals(make, d):
    q = make(d)
    loc, scale = torch.randn(d, dtype=torch.double), torch.rand(d, dtype=torch.double) + 0.5
    full = MultivariateNormal(q.loc, q.covariance_matrix)
    for p, m, s in (
        (dist.Normal(loc, scale).to_event(1), loc, scale),
        (UnitNormal(0 * loc, scale / scale).to_event(1), 0 * loc, scale / scale),
    ):
        theirs = MultivariateNormal(m.expand(5, d), s.square().diag())
        expected = torch.distributions.kl_divergence(full, theirs)
        torch.testing.assert_close(kl_divergence(q, p), expected)
        torch.testing.assert_close(kl_divergence(q.expand((7, 5)), p), expected.expand(7, 5))
        inside = kl_divergence(q.expand((7, 5)).to_event(1), p.expand((7, 5)).to_event(1))
        torch.testing.assert_close(inside, expected.sum().expand(7))
    z = q.sample((40_000,))
    sampled = q.log_prob(z) - p.log_prob(z)
    assert ((sampled.mean(0) - expected).abs() < 5 * sampled.std(0) / 200).all()


def test_kl_without_a_closed_form_is_not_implemented():
    with pytest.raises(
        NotImplementedError, match=r"KL\(MultivariateNormal \|\| Independent\(Laplace\)\)"
    ):
        kl_divergence(full_rank(2), dist.Laplace(torch.zeros(2), 1.0).to_event(1))


@pytest.mark.parametrize(
    "case", [c for c in cases.POSTERIORS if c.proper and c.where is constraints.real], ids=str
)
def test_the_kl_that_sgvb_b_uses_is_the_mean_of_the_one_by_draws(case):
    part, prior = case.make().double(), pv.priors.StandardNormal(*case.event).double()
    q = part(*case.inputs(dtype=torch.double))
    z = q.sample((20_000,))
    try:
        exact = kl_divergence(q, prior())
    except NotImplementedError:
        return  # by the draw itself
    sampled = q.log_prob(z) - prior().log_prob(z)
    assert (sampled.mean() - exact).abs() < 5 * sampled.std() / math.sqrt(len(z))


# ---------------------------------------------------------------------- gradients of an expectation
U, V = (torch.linspace(*ends, 6001, dtype=torch.double) for ends in ((-12, 12), (-50, 10)))
# z(u) and dz: grids that extend far.
LINE, HALF = (U.sinh(), U.cosh() * 0.004), (V.exp(), V.exp() * 0.01)


def plane(n):
    """A grid of n x n points over the plane, and the area of each."""
    side = torch.linspace(-15, 15, n, dtype=torch.double)
    area = (side[1] - side[0]).square()
    return torch.cartesian_prod(side, side), area.expand(n**2)


PLANE, FINE = plane(501), plane(1001)  # of a hundred flows one is too narrow for the coarser grid
FAMILIES = {
    "DiagonalNormal": (posteriors.DiagonalNormal(nn.Identity()), 2, LINE),
    "Laplace": (posteriors.Laplace(nn.Identity()), 2, LINE),
    "StudentT": (posteriors.StudentT(nn.Identity(), df=3.0), 2, LINE),
    "Logistic": (posteriors.Logistic(nn.Identity()), 2, LINE),
    "Cauchy": (posteriors.Cauchy(nn.Identity()), 2, LINE),
    "Exponential": (posteriors.Exponential(nn.Identity()), 1, HALF),
    "LogNormal": (posteriors.LogNormal(nn.Identity()), 2, HALF),
    "Gamma": (posteriors.Gamma(nn.Identity()), 2, HALF),
    "FullRankNormal": (posteriors.FullRankNormal(nn.Identity()), 5, PLANE),
    "LowRankNormal": (posteriors.LowRankNormal(nn.Identity(), 2, 1), 6, PLANE),
    "Mixture": (posteriors.Mixture(nn.Identity(), 2, 3), 15, PLANE),
    "Mixture of one latent": (posteriors.Mixture(nn.Identity(), 1, 3), 9, LINE),
    "IAF": (flow(2, steps=2), 4 + H, FINE),
    "IAF, plain": (flow(2, 0.2, steps=1, gated=False), 4 + H, FINE),  # its tail ends on the grid
}


def f(z):
    """A bounded and smooth function, not symmetric in its arguments."""
    return torch.tanh(z[..., 0] - 0.3) + 1 / (1 + z.sum(-1).square())


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_of_an_expectation(name):
    """The mean of the reparameterized gradients is that of the expectation, by quadrature."""
    part, size, (z, weight) = FAMILIES[name]
    z = z[:, None] if z.dim() == 1 else z
    for _ in range(2):
        x = 0.3 * torch.randn(size, dtype=torch.double)
        x.requires_grad_()
        q = part(x).log_prob(z).exp()
        assert (weight * q).sum().item() == pytest.approx(1, abs=1e-4)
        expectation = (weight * q * f(z)).sum()
        (exact,) = torch.autograd.grad(expectation, x)
        many = x.detach().expand(40_000, size).clone().requires_grad_()
        (each,) = torch.autograd.grad(f(part(many).rsample()).sum(), many)
        error = each.std(0) / math.sqrt(len(many))
        assert ((each.mean(0) - exact).abs() < 4.5 * error + 1e-6).all()
        assert (error < 0.02).all()


# ------------------------------------------------------------------------------ the exact posterior
def correlated():
    """Return a linear VAE with a correlated posterior, its data, and that posterior's moments.

    They are the matrix that maps x to the mean, and the covariance.
    """
    graph, x = linear_gaussian.vae(), linear_gaussian.data(100) - 1
    w, m = graph.likelihood.net.weight, graph.likelihood.net.bias
    loadings = [[1.0, 0.8], [0.6, 1.0], [1.0, 1.0], [0.0, 0.5], [0.7, 0.4], [0.3, 0.3]]
    with torch.no_grad():
        w.copy_(torch.tensor(loadings, dtype=torch.double))
        m.zero_()
        covariance = 0.25 * torch.linalg.inv(w.T @ w + 0.25 * torch.eye(2, dtype=torch.double))
        to_mean = 4 * covariance @ w.T
    return graph, x, to_mean, covariance


def test_full_rank_at_the_exact_posterior_gives_the_evidence_at_every_draw():
    graph, x, to_mean, covariance = correlated()
    tril = torch.linalg.cholesky(covariance)
    graph.posterior = posteriors.FullRankNormal(nn.Linear(6, 5)).double()
    with torch.no_grad():
        graph.posterior.net.weight.copy_(torch.cat([to_mean, torch.zeros(3, 6)]))
        n = 2 * tril[1:, 0] / tril[1, 1]
        graph.posterior.net.bias.copy_(torch.cat([torch.zeros(2), tril.diagonal().log(), n]))
    exact = linear_gaussian.evidence(graph, x).sum()
    for objective in (objectives.SGVB_A(), objectives.IWAE(samples=3)):
        loss = objective.differentiable_loss(graph.model, graph.guide, x)
        torch.testing.assert_close(-loss, exact)


@pytest.mark.parametrize(
    "name", ["FullRankNormal", "LowRankNormal", "IAF", "IAF, plain", "DiagonalNormal"]
)
def test_training_reaches_the_evidence_where_the_family_holds_the_posterior(name):
    graph, x, _, covariance = correlated()
    graph.likelihood.requires_grad_(False)
    # A flow with linear networks is a correlated normal.
    linear = {"context": 1, "hidden": (4,), "steps": 2, "activation": nn.Identity}
    graph.posterior = {
        "FullRankNormal": lambda: posteriors.FullRankNormal(nn.Linear(6, 5)),
        "LowRankNormal": lambda: posteriors.LowRankNormal(nn.Linear(6, 6), 2, 1),
        "IAF": lambda: posteriors.IAF(nn.Linear(6, 5), 2, **linear),
        "IAF, plain": lambda: posteriors.IAF(nn.Linear(6, 5), 2, gated=False, **linear),
        "DiagonalNormal": lambda: posteriors.DiagonalNormal(nn.Linear(6, 4)),
    }[name]().double()
    nn.init.zeros_(graph.posterior.net.weight)
    exact = linear_gaussian.evidence(graph, x).mean()
    how = Optimization(lambda p: torch.optim.Adam(p, lr=0.03))
    step = FusedSVI(graph, objectives.SGVB_A(samples=4), how, (x,))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(step.optimizer, 800)
    for _ in range(800):
        step.step((x,))
        decay.step()
    with programs.evaluation(graph):
        loss = objectives.SGVB_A(samples=300).loss(graph.model, graph.guide, x)
    gap = exact.item() + loss / len(x)
    precision = torch.linalg.inv(covariance)
    of_diagonal = 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()
    assert gap == pytest.approx(of_diagonal if name == "DiagonalNormal" else 0, abs=0.02)


class Given(nn.Module):
    """A formula in place of a network."""

    def __init__(self, formula):
        super().__init__()
        self.formula = formula

    def forward(self, x):
        return self.formula(x)


class GammaPrior(Conditional):
    """p(z) = Gamma(3, 2)."""

    def forward(self, *c):
        return dist.Gamma(torch.full((2,), 3.0), 2.0).to_event(1)


def counts(posterior):
    """Return a graph with z ~ Gamma(3, 2), x ~ Poisson(z), data, and their exact log p(x).

    x is negative binomial, and the posterior is Gamma(3 + x, 3).
    """
    x = torch.tensor([[0.0, 4.0], [2.0, 1.0], [7.0, 0.0]])
    graph = pv.VAE(GammaPrior(), posterior, pv.likelihoods.Poisson(Given(torch.log)))
    return graph, x, torch.as_tensor(scipy.stats.nbinom.logpmf(x, 3, 2 / 3)).sum(-1)


def test_gamma_is_the_exact_posterior_of_poisson_rates():
    three = torch.tensor(3.0)
    net = Given(lambda x: torch.cat([(3 + x).log(), three.log().expand_as(x)], -1))
    graph, x, exact = counts(posteriors.Gamma(net))
    evidence = pv.log_evidence(graph, x, samples=5)
    torch.testing.assert_close(evidence.log_p, exact, atol=1e-4, rtol=0)
    assert evidence.standard_error.max() < 1e-4


def test_mixture_is_the_exact_posterior_under_a_mixture():
    """z ~ sum_k w_k N(m_k, s_k^2), x ~ N(z, t^2).

    The posterior's weights are proportional to w_k N(x; m_k, s_k^2 + t^2).
    """
    log_w, t2 = torch.tensor([0.3, 0.7]).log(), 0.49
    m, s2 = torch.tensor([[-2.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0, 0.5], [0.3, 2.0]])

    def joint(x):
        return log_w + dist.Normal(m, (s2 + t2).sqrt()).to_event(1).log_prob(x[..., None, :])

    def posterior(x):
        variance = 1 / (1 / s2 + 1 / t2)
        mean = variance * (m / s2 + x[..., None, :] / t2)
        log_sigma = (variance.log() / 2).expand_as(mean)
        return torch.cat([joint(x), mean.flatten(-2), log_sigma.flatten(-2)], -1)

    class Prior(Conditional):
        def forward(self, *c):
            return dist.MixtureOfDiagNormals(m, s2.sqrt(), log_w)

    q = posteriors.Mixture(Given(posterior), 2, 2)
    graph = pv.VAE(Prior(), q, pv.likelihoods.Gaussian(nn.Identity(), sigma=0.7))
    x = torch.randn(6, 2)
    evidence = pv.log_evidence(graph, x, samples=5)
    torch.testing.assert_close(evidence.log_p, joint(x).logsumexp(-1).double(), atol=1e-4, rtol=0)
    assert evidence.standard_error.max() < 1e-4


# ---------------------------------------------------------------------- evidence, latents and tasks
def joined(*formulas):
    """Return a network whose output is that of these formulas, one after the other."""
    return Given(lambda x: torch.cat([formula(x) for formula in formulas], -1))


def wider(log_s, by):
    return lambda x: log_s(x) + by


# From the exact mean and standard deviations a little too large, so that weights are bounded.
WIDE = {
    "Laplace": lambda mu, s: posteriors.Laplace(joined(mu, wider(s, 0.2))),
    "StudentT": lambda mu, s: posteriors.StudentT(joined(mu, wider(s, 0.2)), df=4.0),
    "Logistic": lambda mu, s: posteriors.Logistic(joined(mu, s)),
    "Cauchy": lambda mu, s: posteriors.Cauchy(joined(mu, s)),
    "FullRankNormal": lambda mu, s: posteriors.FullRankNormal(
        joined(mu, wider(s, 0.3), lambda x: s(x)[..., :1].exp() / 9)
    ),
    "LowRankNormal": lambda mu, s: posteriors.LowRankNormal(
        joined(mu, wider(s, 0.2), lambda x: s(x).exp() / 4), 2, 1
    ),
    "Mixture": lambda mu, s: posteriors.Mixture(
        joined(lambda x: 0 * mu(x), mu, mu, wider(s, 0.2), wider(s, 0.5)), 2, 2
    ),
    "IAF": lambda mu, s: posteriors.IAF(
        joined(mu, wider(s, 0.3), mu), 2, context=2, hidden=(4,), steps=1
    ),
}


@pytest.mark.parametrize("name", WIDE)
def test_evidence_from_every_family(name):
    graph, x = linear_gaussian.exact(), linear_gaussian.data(20)
    net = graph.posterior.net
    graph.posterior = WIDE[name](lambda x: net(x)[..., :2], lambda x: net(x)[..., 2:]).double()
    evidence = pv.log_evidence(graph, x, samples=4000)
    assert evidence.standard_error.max() < 0.2
    error = evidence.log_p - linear_gaussian.evidence(graph, x)
    assert (error / evidence.standard_error).abs().max() < 4.5


@pytest.mark.parametrize("name", ["Exponential", "LogNormal"])
def test_evidence_from_positive_families(name):
    part = {
        "Exponential": lambda: posteriors.Exponential(Given(lambda x: (2.0 / (3 + x)).log())),
        "LogNormal": lambda: posteriors.LogNormal(
            Given(lambda x: torch.cat([(3 + x).log() - 1.2, -0.3 + 0 * x], -1))
        ),
    }[name]()
    graph, x, exact = counts(part)
    evidence = pv.log_evidence(graph, x, samples=4000)
    assert evidence.standard_error.max() < 0.2
    assert ((evidence.log_p - exact) / evidence.standard_error).abs().max() < 4.5


@pytest.mark.parametrize(
    "case", [c for c in cases.POSTERIORS if c.given == ((6,),) and c.event == (2,)], ids=str
)
def test_latents_and_tasks_serve_every_posterior(case):
    likelihood = pv.likelihoods.Bernoulli(nn.Linear(2, 6))
    graph = pv.VAE(pv.priors.StandardNormal(2), case.make(), likelihood)
    x = torch.rand(30, 6).round()
    z = pv.tasks.embed(graph, x)
    assert z.shape == (30, 2)
    assert torch.isfinite(z).all()
    assert torch.equal(z, pv.tasks.embed(graph, x))
    assert torch.isfinite(pv.tasks.reconstruct(graph, x)).all()
    assert pv.tasks.interpolate(graph, x[0], x[1], steps=3).shape == (3, 6)
    if case.proper:
        summary = pv.latent_summary(graph, x)
        assert summary.active.shape == (2,)
        assert -0.5 < summary.mutual_information <= math.log(30) + 1e-5


@pytest.mark.parametrize(
    "case", [c for c in cases.POSTERIORS if c.proper and c.name != "Cauchy"], ids=str
)
def test_means_by_draws_are_the_means(case):
    q = case.make()(*case.inputs(4))
    z, mean = q.sample((4000,)), programs.mean(q)
    # The mean itself may be that of 256 draws.
    error = z.std(0) / math.sqrt(4000) + mean.isfinite() * z.std(0) / 16
    assert ((mean - z.mean(0)).abs() < 5 * error).all()


def test_where_there_is_no_mean_the_location_is_taken():
    q = posteriors.Cauchy(nn.Identity())(torch.tensor([[3.0, -40.0, 0.0, 0.0]]))
    assert (programs.mean(q) - torch.tensor([3.0, -40.0])).abs().max() < 0.5


def test_mutual_information_of_a_flow_is_estimated_from_fewer_observations():
    graph, x = linear_gaussian.exact(), linear_gaussian.data(1000)
    net = graph.posterior.net
    normal, seen = pv.mutual_information(graph, x), []

    def parameters(x):
        seen.append(len(x))
        return torch.cat([net(x), 0 * x[..., :1]], -1)

    graph.posterior = posteriors.IAF(Given(parameters), 2, context=1, hidden=(4,)).double()
    with torch.no_grad():
        graph.posterior.networks.weights[-1].zero_()
        gates = graph.posterior.networks.biases[-1].zero_().chunk(2, -1)[1]
        gates.fill_(30.0)  # open: z_t = z_{t-1}
    assert pv.mutual_information(graph, x) == pytest.approx(normal, abs=0.25)
    assert seen[-1] == 256


# -------------------------------------------------------------------------------------------- cells
@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")  # few or poor draws, on purpose
def test_a_flow_in_the_count_model_is_one_argument():
    genes, d = 30, 4
    net = pv.nets.WithoutContext(pv.blocks.Blocks(genes, [16], 2 * d + 5))
    graph = pv.graphs.count_vae(
        genes, batches=2, hidden=16, latents=d, library=([4.0, 4.0], [0.5, 0.5]),
        posterior=posteriors.IAF(net, d, context=5, hidden=(8,), steps=2),
    )  # fmt: skip
    x, c = torch.poisson(torch.rand(64, genes) * 4), torch.eye(2)[torch.arange(64) % 2]
    history = pv.fit(
        graph,
        (x, c),
        epochs=15,
        batch_size=16,
        progress=False,
        objective=objectives.SGVB_B(annealed={"z"}),
    )
    assert history.elbo[-1] > history.elbo[0] + 1
    assert all(parameter.isfinite().all() for parameter in graph.parameters())
    assert pv.log_evidence(graph, x, c, samples=20).log_p.isfinite().all()


@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")  # few or poor draws, on purpose
def test_a_flow_in_the_single_cell_model_is_one_argument():
    pytest.importorskip("anndata")
    from pyrovae.singlecell import SingleCellVAE, simulate

    adata = simulate(cells=60, genes=20, types=2, batches=1, seed=0).to_anndata()
    SingleCellVAE.setup_anndata(adata)
    net = pv.nets.WithoutContext(pv.blocks.Blocks(20, [8], 2 * 3 + 4))
    model = SingleCellVAE(
        adata,
        n_hidden=8,
        n_latent=3,
        posterior=posteriors.IAF(net, 3, context=4, hidden=(8,), steps=2),
    )
    model.train(max_epochs=3, progress=False)
    z = model.get_latent_representation()
    assert z.shape == (60, 3)
    assert torch.as_tensor(z).isfinite().all()
    assert model.get_elbo() < model.get_marginal_ll(n_mc_samples=50)
