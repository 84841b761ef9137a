"""Posteriors against closed forms, the autograd Jacobian, quadrature, and Pyro's own flow."""

import copy
import math

import cases
import linear_gaussian
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro.distributions.transforms import ConditionalAffineAutoregressive
from pyro.nn import ConditionalAutoRegressiveNN
from torch import nn
from torch.distributions import MultivariateNormal, constraints, kl_divergence
from torch.distributions.kl import _KL_REGISTRY

import pyrovae as pv
from pyrovae import objectives, posteriors, programs
from pyrovae.distributions import Conditional, UnitNormal
from pyrovae.training import Step

FLOWS = pytest.mark.parametrize(
    "settings",
    [{}, {"gated": False}, {"seed": 1}, {"gated": False, "seed": 1}],
    ids=["gated", "plain", "gated, permuted", "plain, permuted"],
)
D, H = 4, 3


def flow(d=D, spread=0.4, **settings):
    """An IAF in float64 whose parameters are what it is given, away from its start."""
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


# -------------------------------------------------------------------------------------------------------------- the flow
@FLOWS
@pytest.mark.parametrize("d", [1, D])
def test_density_is_that_of_the_autograd_jacobian(settings, d):
    q = flow(d, **settings)(given(d=d))
    eps = q.base_dist.sample()
    jacobian = torch.autograd.functional.jacobian(q.transforms[0], eps)
    expected = q.base_dist.log_prob(eps) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(q.log_prob(q.transforms[0](eps)), expected)
    assert (
        d == 1 or jacobian.triu(1).abs().max() > 1e-3
    )  # several orders: the whole is not triangular


@FLOWS
def test_a_step_is_triangular_in_its_order(settings):
    part = flow(steps=1, **settings)
    order = part.networks.orders[0]
    jacobian = torch.autograd.functional.jacobian(
        part(given()).transforms[0], torch.randn(D, dtype=torch.double)
    )
    lower = jacobian[order][:, order]
    assert torch.equal(lower, lower.tril())
    assert (lower.tril() != 0).sum() == D * (D + 1) / 2  # each sees all those before it


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
        settled = {"stable": part.gated, "sigmoid_bias": 0.0}
        steps.append(ConditionalAffineAutoregressive(net, **settled).condition(h))
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


def test_orders_are_saved_and_come_from_a_stream_of_their_own():
    orders = [
        part.networks.orders for part in (fresh(seed=1), fresh(seed=1), fresh(seed=2), fresh())
    ]
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
    scale = q.transforms[0].log_abs_det_jacobian(z := q.base_dist.sample(), q.transforms[0](z)) / (
        4 * D
    )
    assert scale.exp().mean().item() == pytest.approx(
        torch.sigmoid(torch.tensor(2.0)).item(), abs=0.05
    )


def test_copies_and_files_work_after_use_and_training(tmp_path):
    part = posteriors.IAF(pv.nets.MLP(6, (5,), 2 * 2 + 3), 2, context=3, hidden=(8,), seed=4)
    graph, x = (
        pv.VAE(
            pv.priors.StandardNormal(2), part, pv.likelihoods.Bernoulli(pv.nets.MLP(2, (5,), 6))
        ),
        torch.ones(20, 6),
    )
    pv.fit(graph, x, epochs=2, batch_size=5, progress=False)
    loaded = pv.load(pv.save(graph, tmp_path))
    for again in (copy.deepcopy(graph), loaded):
        assert type(again.posterior.activation) is type(part.activation)
        torch.testing.assert_close(
            pv.log_evidence(again, x, samples=3).log_p, pv.log_evidence(graph, x, samples=3).log_p
        )


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: posteriors.IAF(nn.Identity(), 0), "IAF: d is 0"),
        (lambda: posteriors.IAF(nn.Identity(), 2, steps=0), "steps 0"),
        (lambda: posteriors.IAF(nn.Identity(), 4, hidden=(8, 3)), r"hidden \(8, 3\).*at least as wide as d"),
        (lambda: posteriors.LowRankNormal(nn.Identity(), 2, rank=0), "rank 0"),
        (lambda: posteriors.Mixture(nn.Identity(), 2, components=0), "components 0"),
        (lambda: posteriors.StudentT(nn.Identity(), df=0.0), "df is 0.0"),
        (lambda: fresh()(torch.zeros(7)), "IAF: net puts out 7 numbers, expected 11: .*4 latents and 3 of context"),
        (lambda: posteriors.FullRankNormal(nn.Identity())(torch.zeros(7)), r"7 numbers, expected 5: D \(D \+ 3\) / 2 .* 9 for 3"),
        (lambda: posteriors.LowRankNormal(nn.Identity(), 2)(torch.zeros(7)), "LowRankNormal: net puts out 7 numbers, expected 6"),
        (lambda: posteriors.Mixture(nn.Identity(), 2, 2)(torch.zeros(7)), "Mixture: net puts out 7 numbers, expected 10"),
        *(
            (lambda family=family: family(nn.Identity())(torch.zeros(7)), f"{family.__name__}: net puts out 7 numbers, expected 6")
            for family in (posteriors.Laplace, posteriors.StudentT, posteriors.Logistic, posteriors.Cauchy, posteriors.LogNormal, posteriors.Gamma)
        ),
    ],
)  # fmt: skip
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make()


# -------------------------------------------------------------------------------------------------------------------- KL
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
        expected = kl_divergence(full, MultivariateNormal(m.expand(5, d), s.square().diag()))
        torch.testing.assert_close(kl_divergence(q, p), expected)
        torch.testing.assert_close(kl_divergence(q.expand((7, 5)), p), expected.expand(7, 5))
    z = q.sample((40_000,))
    sampled = q.log_prob(z) - p.log_prob(z)
    assert ((sampled.mean(0) - expected).abs() < 5 * sampled.std(0) / 200).all()


def test_kl_that_nobody_knows_is_still_refused():
    with pytest.raises(NotImplementedError, match="Laplace"):
        kl_divergence(full_rank(2), dist.Laplace(torch.zeros(2), 1.0).to_event(1))


def test_no_pair_of_torch_or_pyro_was_replaced():
    theirs = {
        function
        for module in (torch.distributions.kl, pyro.distributions.kl)
        for name, function in vars(module).items()
        if name.startswith("_kl_") and function.__module__ == module.__name__
    }
    gone = {function.__name__ for function in theirs - set(_KL_REGISTRY.values())}
    assert gone <= {"_kl_independent_independent", "_kl_expfamily_expfamily"}, (
        gone
    )  # the first: Pyro replaces torch's itself


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


# ------------------------------------------------------------------------------------------- gradients of an expectation
U, V = (torch.linspace(*ends, 6001, dtype=torch.double) for ends in ((-12, 12), (-50, 10)))
LINE, HALF = (
    (U.sinh(), U.cosh() * 0.004),
    (V.exp(), V.exp() * 0.01),
)  # z(u) and dz: grids that reach far
SIDE = torch.linspace(-15, 15, 501, dtype=torch.double)
PLANE = torch.cartesian_prod(SIDE, SIDE), torch.full((501**2,), 0.06**2, dtype=torch.double)
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
    "IAF": (flow(2, steps=2), 4 + H, PLANE),
    "IAF, plain": (flow(2, 0.2, steps=1, gated=False), 4 + H, PLANE),  # its tail ends on the grid
}


def f(z):
    """Bounded and smooth, and not alike in its arguments."""
    return torch.tanh(z[..., 0] - 0.3) + 1 / (1 + z.sum(-1).square())


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_of_an_expectation(name):
    """The mean of the reparameterized gradients is the gradient of the expectation, which is taken by quadrature."""
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


# --------------------------------------------------------------------------------------------------- the exact posterior
def correlated():
    """A linear VAE whose posterior is correlated, its data, and that posterior's linear mean and its covariance."""
    graph, x = linear_gaussian.vae(), linear_gaussian.data(100) - 1
    w, m = graph.likelihood.net.weight, graph.likelihood.net.bias
    with torch.no_grad():
        w.copy_(
            torch.tensor(
                [[1.0, 0.8], [0.6, 1.0], [1.0, 1.0], [0.0, 0.5], [0.7, 0.4], [0.3, 0.3]],
                dtype=torch.double,
            )
        )
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
        torch.testing.assert_close(
            -objective.differentiable_loss(graph.model, graph.guide, x), exact
        )


@pytest.mark.parametrize(
    "name", ["FullRankNormal", "LowRankNormal", "IAF", "IAF, plain", "DiagonalNormal"]
)
def test_training_reaches_the_evidence_where_the_family_holds_the_posterior(name):
    graph, x, _, covariance = correlated()
    graph.likelihood.requires_grad_(False)
    linear = {
        "context": 1,
        "hidden": (4,),
        "steps": 2,
        "activation": nn.Identity,
    }  # linear networks: correlated normals
    graph.posterior = {
        "FullRankNormal": lambda: posteriors.FullRankNormal(nn.Linear(6, 5)),
        "LowRankNormal": lambda: posteriors.LowRankNormal(nn.Linear(6, 6), 2, 1),
        "IAF": lambda: posteriors.IAF(nn.Linear(6, 5), 2, **linear),
        "IAF, plain": lambda: posteriors.IAF(nn.Linear(6, 5), 2, gated=False, **linear),
        "DiagonalNormal": lambda: posteriors.DiagonalNormal(nn.Linear(6, 4)),
    }[name]().double()
    nn.init.zeros_(graph.posterior.net.weight)
    exact = linear_gaussian.evidence(graph, x).mean()
    step = Step(graph, objectives.SGVB_A(samples=4), lambda p: torch.optim.Adam(p, lr=0.03), (x,))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(step.optim.torch, 800)
    for _ in range(800):
        step.step(x)
        decay.step()
    with programs.evaluation(graph):
        gap = exact.item() + objectives.SGVB_A(samples=300).loss(graph.model, graph.guide, x) / len(
            x
        )
    precision = torch.linalg.inv(covariance)
    of_diagonal = 0.5 * (precision.diagonal().log().sum() - precision.logdet()).item()
    assert gap == pytest.approx(of_diagonal if name == "DiagonalNormal" else 0, abs=0.02)


class Given(nn.Module):
    """A network that is a formula."""

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
    """z ~ Gamma(3, 2), x ~ Poisson(z): x is negative binomial, and the posterior is Gamma(3 + x, 3)."""
    x = torch.tensor([[0.0, 4.0], [2.0, 1.0], [7.0, 0.0]])
    graph = pv.VAE(GammaPrior(), posterior, pv.likelihoods.Poisson(Given(torch.log)))
    return graph, x, torch.as_tensor(scipy.stats.nbinom.logpmf(x, 3, 2 / 3)).sum(-1)


def test_gamma_is_the_exact_posterior_of_poisson_rates():
    three = torch.tensor(3.0)
    graph, x, exact = counts(
        posteriors.Gamma(Given(lambda x: torch.cat([(3 + x).log(), three.log().expand_as(x)], -1)))
    )
    evidence = pv.log_evidence(graph, x, samples=5)
    torch.testing.assert_close(evidence.log_p, exact, atol=1e-4, rtol=0)
    assert evidence.standard_error.max() < 1e-4


def test_mixture_is_the_exact_posterior_under_a_mixture():
    """z ~ sum_k w_k N(m_k, s_k^2), x ~ N(z, t^2): the posterior's weights are w_k N(x; m_k, s_k^2 + t^2), up to their sum."""
    log_w, m, s2, t2 = (
        torch.tensor([0.3, 0.7]).log(),
        torch.tensor([[-2.0, 1.0], [1.0, 0.0]]),
        torch.tensor([[1.0, 0.5], [0.3, 2.0]]),
        0.49,
    )

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

    graph = pv.VAE(
        Prior(),
        posteriors.Mixture(Given(posterior), 2, 2),
        pv.likelihoods.Gaussian(nn.Identity(), sigma=0.7),
    )
    x = torch.randn(6, 2)
    evidence = pv.log_evidence(graph, x, samples=5)
    torch.testing.assert_close(evidence.log_p, joint(x).logsumexp(-1).double(), atol=1e-4, rtol=0)
    assert evidence.standard_error.max() < 1e-4


# ------------------------------------------------------------------------------------------- evidence, latents and tasks
WIDE = {  # from the exact mean and a diagonal deviation a little wide, so that weights are bounded
    "Laplace": lambda mu, s: posteriors.Laplace(Given(lambda x: torch.cat([mu(x), s(x) + 0.2], -1))),
    "StudentT": lambda mu, s: posteriors.StudentT(Given(lambda x: torch.cat([mu(x), s(x) + 0.2], -1)), df=4.0),
    "Logistic": lambda mu, s: posteriors.Logistic(Given(lambda x: torch.cat([mu(x), s(x)], -1))),
    "Cauchy": lambda mu, s: posteriors.Cauchy(Given(lambda x: torch.cat([mu(x), s(x)], -1))),
    "FullRankNormal": lambda mu, s: posteriors.FullRankNormal(Given(lambda x: torch.cat([mu(x), s(x) + 0.3, s(x)[..., :1].exp() / 9], -1))),
    "LowRankNormal": lambda mu, s: posteriors.LowRankNormal(Given(lambda x: torch.cat([mu(x), s(x) + 0.2, s(x).exp() / 4], -1)), 2, 1),
    "Mixture": lambda mu, s: posteriors.Mixture(
        Given(lambda x: torch.cat([0 * mu(x), mu(x), mu(x), s(x) + 0.2, s(x) + 0.5], -1)), 2, 2
    ),
    "IAF": lambda mu, s: posteriors.IAF(Given(lambda x: torch.cat([mu(x), s(x) + 0.3, mu(x)], -1)), 2, context=2, hidden=(4,), steps=1),
}  # fmt: skip


@pytest.mark.parametrize("name", WIDE)
def test_evidence_from_every_family(name):
    graph, x = linear_gaussian.exact(), linear_gaussian.data(20)
    net = graph.posterior.net
    graph.posterior = WIDE[name](lambda x: net(x)[..., :2], lambda x: net(x)[..., 2:]).double()
    evidence = pv.log_evidence(graph, x, samples=4000)
    assert evidence.standard_error.max() < 0.2
    assert (
        (evidence.log_p - linear_gaussian.evidence(graph, x)) / evidence.standard_error
    ).abs().max() < 4.5


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
    graph, x = (
        pv.VAE(pv.priors.StandardNormal(2), case.make(), pv.likelihoods.Bernoulli(nn.Linear(2, 6))),
        torch.rand(30, 6).round(),
    )
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
    z = q.sample((4000,))
    error = (
        z.std(0) / math.sqrt(4000) + programs.mean(q).isfinite() * z.std(0) / 16
    )  # the mean itself may be of 256 draws
    assert ((programs.mean(q) - z.mean(0)).abs() < 5 * error).all()


def test_where_there_is_no_mean_the_middle_is_taken():
    q = posteriors.Cauchy(nn.Identity())(torch.tensor([[3.0, -40.0, 0.0, 0.0]]))
    assert (programs.mean(q) - torch.tensor([3.0, -40.0])).abs().max() < 0.5


def test_mutual_information_of_a_flow_is_taken_from_fewer_rows():
    graph, x = linear_gaussian.exact(), linear_gaussian.data(1000)
    net = graph.posterior.net
    normal, seen = pv.mutual_information(graph, x), []

    def parameters(x):
        seen.append(len(x))
        return torch.cat([net(x), 0 * x[..., :1]], -1)

    graph.posterior = posteriors.IAF(Given(parameters), 2, context=1, hidden=(4,)).double()
    with torch.no_grad():
        graph.posterior.networks.weights[-1].zero_()
        graph.posterior.networks.biases[-1].zero_().chunk(2, -1)[1].fill_(
            30.0
        )  # wide open: z_t = z_{t-1}
    assert pv.mutual_information(graph, x) == pytest.approx(normal, abs=0.25)
    assert seen[-1] == 256


# ----------------------------------------------------------------------------------------------------------------- cells
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
