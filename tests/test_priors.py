"""Priors against scipy, scikit-learn, torch and sums written by hand.

They are trained, copied and saved with the graph that they are part of.
"""

import copy
import math

import cases
import numpy as np
import pytest
import torch
from safetensors import safe_open
from scipy import stats
from sklearn.mixture import GaussianMixture
from torch import nn
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

import pyrovae as pv
from pyrovae import distributions, priors
from pyrovae.distributions import WrappedNormal as WrappedNormalDistribution
from pyrovae.nets import MLP, Blocks, WithoutContext
from pyrovae.posteriors import DiagonalNormal, WrappedNormal

DOUBLE = torch.float64


def mixture(full=False, d=2, components=3):
    part = priors.Mixture(d, components, full=full).double()
    with torch.no_grad():
        for parameter in part.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    return part


# ----------------------------------------------------------------------------------------- mixtures
@pytest.mark.parametrize("full", [False, True])
def test_mixture_equals_scipy_and_scikit_learn(full):
    part, z = mixture(full), 2 * torch.randn(50, 2, dtype=DOUBLE)
    p = part()
    diagonal = torch.diag_embed(part.log_sigma.mul(2).exp())
    covariances = p.components.covariance_matrix if full else diagonal
    moments = part.logits.softmax(-1), part.mu, covariances
    weights, means, covariances = (t.detach().numpy() for t in moments)
    components = zip(weights, means, covariances, strict=True)
    density = sum(w * stats.multivariate_normal(m, s).pdf(z.numpy()) for w, m, s in components)
    np.testing.assert_allclose(p.log_prob(z).detach().numpy(), np.log(density), rtol=1e-10)

    theirs = GaussianMixture(3, covariance_type="full")
    theirs.weights_, theirs.means_, theirs.covariances_ = weights, means, covariances
    theirs.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(covariances))
    np.testing.assert_allclose(
        part.responsibilities(z).detach().numpy(), theirs.predict_proba(z.numpy()), atol=1e-10
    )
    np.testing.assert_allclose(p.mean.detach().numpy(), weights @ means, rtol=1e-10)


@pytest.mark.parametrize("lead", [(), (5,), (3, 5)], ids=str)
def test_the_one_matrix_product_equals_torch_and_its_gradients_too(lead):
    shapes = (*lead, 4), (6, 4), (6, 4), (6,)
    z, mu, log_sigma, logits = (
        torch.randn(*shape, dtype=DOUBLE, requires_grad=True) for shape in shapes
    )

    def normals():
        return Independent(Normal(mu, log_sigma.exp()), 1)

    ours = distributions.SameFamilyMixture(logits, normals()).log_prob(z)
    theirs = MixtureSameFamily(Categorical(logits=logits), normals()).log_prob(z)
    torch.testing.assert_close(ours, theirs)
    wanted = torch.autograd.grad(theirs.sum(), (z, mu, log_sigma, logits))
    torch.testing.assert_close(torch.autograd.grad(ours.sum(), (z, mu, log_sigma, logits)), wanted)


def diagonal(mu, sigma):
    return Independent(Normal(mu, sigma), 1)


def ours_and_exact(z, components):
    """Return our log density in float32 and torch's in float64, for components of equal weight."""
    ours, theirs = components(torch.Tensor.float), components(torch.Tensor.double)
    logits = torch.zeros(ours.batch_shape)
    found = distributions.SameFamilyMixture(logits, ours).log_prob(z)
    exact = MixtureSameFamily(Categorical(logits=logits.double()), theirs).log_prob(z.double())
    return found.double(), exact


@pytest.mark.parametrize("far", [0.0, 100.0, 1e4])
def test_the_one_matrix_product_in_float32_far_from_the_origin(far):
    mu, z = far + torch.randn(20, 40), far + torch.randn(30, 40)
    sigma = 0.2 * torch.randn(20, 40).exp()
    found, wanted = ours_and_exact(z, lambda as_type: diagonal(as_type(mu), as_type(sigma)))
    torch.testing.assert_close(found, wanted, rtol=3e-6, atol=1e-3)


@pytest.mark.parametrize("sigma", [0.03, 0.003])
def test_narrow_components_in_float32(sigma):
    mu = torch.randn(50, 40)
    z = mu + sigma * torch.randn(50, 40)
    found, wanted = ours_and_exact(
        z, lambda as_type: diagonal(as_type(mu), sigma * torch.ones_like(as_type(mu)))
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("far", "scale"), [(0.0, 1.0), (300.0, 1.0), (0.0, 0.01)])
def test_the_products_of_full_covariances_in_float32(far, scale):
    mu = far + torch.randn(20, 10)
    tril = scale * (torch.eye(10) + 0.3 * torch.randn(20, 10, 10).tril(-1))
    z = (mu + (tril @ torch.randn(20, 10, 1)).squeeze(-1)).expand(3, 20, 10)
    found, wanted = ours_and_exact(
        z, lambda as_type: MultivariateNormal(as_type(mu), scale_tril=as_type(tril))
    )
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=2e-3)


def test_mixture_starts_with_the_moments_of_a_standard_normal_and_means_apart():
    for d in (1, 2, 40):
        starts = [priors.Mixture(d, 50, seed=seed) for seed in range(40)]
        means = torch.stack([part.mu for part in starts])
        variance = starts[0].log_sigma.mul(2).exp()
        assert means.square().mean().item() + variance.mean().item() == pytest.approx(1, abs=0.08)
        square_distance = (means[:, :25] - means[:, 25:]).square().sum(-1).mean()
        distance = (square_distance / variance[0, 0]).sqrt()
        assert distance.item() == pytest.approx(4, rel=0.08)


def test_mixture_draws_its_start_from_a_random_stream_of_its_own():
    before = torch.get_rng_state()
    first = priors.Mixture(2, 3, seed=1).mu
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert torch.equal(priors.Mixture(2, 3, seed=1).mu, first)
    assert not torch.equal(priors.Mixture(2, 3, seed=2).mu, first)


def test_fixed_weights_are_equal_and_no_parameters():
    fixed, learned = priors.Mixture(2, 4, learned_weights=False), priors.Mixture(2, 4)
    assert "logits" not in dict(fixed.named_parameters())
    assert "logits" in dict(learned.named_parameters())
    torch.testing.assert_close(fixed().logits.exp(), torch.full((4,), 0.25))


# --------------------------------------------------------------------------------------------- Vamp
WITH_DENSITY = [case for case in cases.POSTERIORS if case.proper]


@pytest.mark.parametrize("case", WITH_DENSITY, ids=str)
def test_vamp_is_the_log_mean_exp_of_the_posteriors(case, monkeypatch):
    # Many blocks, where no gradient is taken.
    monkeypatch.setattr(distributions.mixture, "_BLOCK", 20)
    q, u = case.make(), torch.rand(4, *case.given[0])
    prior = priors.Vamp(q, u)
    for lead in ((), (5,), (3, 5)):
        c = [torch.randn(*lead, *shape) for shape in case.given[1:]]
        p = prior(*c)
        z = p.sample(() if c else lead)
        log_q = torch.stack([q(u_k.expand(*lead, *u_k.shape), *c).log_prob(z) for u_k in u])
        wanted = log_q.logsumexp(0) - math.log(4)
        torch.testing.assert_close(p.log_prob(z), wanted, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(p.log_prob(z), wanted, rtol=1e-5, atol=1e-5)


def test_vamp_of_a_posterior_that_ignores_the_context_encodes_each_pseudo_input_once():
    seen = []
    net = MLP(6, [], 4)
    net.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    p = priors.Vamp(DiagonalNormal(WithoutContext(net)), torch.rand(3, 6))(torch.randn(5, 2))
    assert seen == [(3, 6)]
    assert p.batch_shape == ()


def test_vamp_is_a_density_without_dropout_and_leaves_statistics_and_modes_alone():
    q = DiagonalNormal(Blocks(6, [5], 4, dropout=0.5)).train()
    prior, z = priors.Vamp(q, torch.rand(3, 6)), torch.randn(7, 2)
    q(torch.randn(20, 6))  # moves the statistics away from their initial values
    before = copy.deepcopy(q.state_dict())
    modes = [module.training for module in q.modules()]
    assert torch.equal(prior().log_prob(z), prior().log_prob(z))
    assert [module.training for module in q.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in q.state_dict().items())
    q.eval()
    log_q = torch.stack([q(u).log_prob(z) for u in prior.pseudo_inputs]).logsumexp(0) - math.log(3)
    torch.testing.assert_close(prior().log_prob(z), log_q)


def test_vamp_never_changes_the_mode_of_the_posterior_and_shares_its_tensors():
    """Not for a moment either: another thread may run the posterior at the same time."""
    net = Blocks(6, [5], 4, dropout=0.5)
    q, seen = DiagonalNormal(net).train(), []

    def look(view, *_):
        tensors = ([*module.parameters(), *module.buffers()] for module in (view, net))
        same = all(a is b for a, b in zip(*tensors, strict=True))
        seen.append((view.training, all(module.training for module in q.modules()), same))

    net.register_forward_hook(look)
    priors.Vamp(q, torch.rand(3, 6))().log_prob(torch.randn(7, 2)).sum().backward()
    assert seen == [(False, True, True)]
    assert all(parameter.grad.any() for parameter in q.parameters() if parameter.dim() > 1)


@pytest.mark.parametrize("where", ["around", "inside"])
def test_vamp_of_a_compiled_posterior_is_in_eval_mode_too(where):
    net = Blocks(6, [5], 4, dropout=0.5)
    wanted = copy.deepcopy(net).eval()(torch.ones(3, 6))
    if where == "around":
        net = torch.compile(net, backend="eager")
    else:
        net.compile(backend="eager")
    before = copy.deepcopy(net.state_dict())
    p = priors.Vamp(DiagonalNormal(net.train()), torch.ones(3, 6))()
    torch.testing.assert_close(p.components.base_dist.loc, wanted[:, :2])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_vamp_counts_and_saves_the_posterior_once(tmp_path):
    graph = vae("Vamp")
    own = sum(p.numel() for part in (graph.posterior, graph.likelihood) for p in part.parameters())
    assert sum(p.numel() for p in graph.parameters()) == own + graph.prior.pseudo_inputs.numel()
    pv.save(graph, tmp_path)
    with safe_open(next(tmp_path.glob("*.safetensors")), framework="pt") as file:
        shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118
    assert sum(math.prod(shape) for shape in shapes) == own + graph.prior.pseudo_inputs.numel()
    loaded = pv.load(tmp_path)
    assert loaded.prior.posterior is loaded.posterior
    copied = copy.deepcopy(graph)
    assert copied.prior.posterior is copied.posterior is not graph.posterior


def test_vamp_keeps_pseudo_inputs_within_bounds_and_learns_them_from_there():
    start = torch.tensor([[-3.0, 0.0, 0.5, 1.0, 7.0, 0.2]])
    prior = priors.Vamp(DiagonalNormal(nn.Linear(6, 4)), start, low=0.0, high=1.0)
    assert prior.pseudo_inputs.tolist() == start.clamp(0, 1).tolist()
    prior().log_prob(torch.randn(9, 2)).sum().backward()
    assert (prior.pseudo_inputs.grad != 0).all()  # at 0 and at 1 too
    with torch.no_grad():
        prior.pseudo_inputs -= 5
    q = prior.posterior(torch.zeros(1, 6))
    z = torch.randn(9, 2)
    torch.testing.assert_close(prior().log_prob(z), q.log_prob(z))


# -------------------------------------------------------------------------------------------- flows
def bent(coupling, d=2, **settings):
    """A flow away from its start, whose tails end."""
    part = priors.Flow(d, steps=3, hidden=(16,), coupling=coupling, **settings)
    cases.bend(part, 0.1)
    return part


@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("coupling", [False, True])
def test_flow_equals_the_jacobian(coupling, seed):
    p = bent(coupling, d=5, seed=seed).double()()
    z = torch.randn(5, dtype=DOUBLE)

    def to_noise(z):
        for step in reversed(p.transforms):
            z = step.inv(z)
        return z

    log_det = torch.autograd.functional.jacobian(to_noise, z).slogdet().logabsdet
    wanted = stats.norm.logpdf(to_noise(z).detach().numpy()).sum() + log_det.item()
    assert p.log_prob(z).item() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("coupling", [False, True])
def test_flow_integrates_to_one(coupling):
    side = torch.linspace(-20, 20, 801, dtype=DOUBLE)
    with torch.no_grad():
        log_p = bent(coupling).double()().log_prob(torch.cartesian_prod(side, side))
    density = log_p.exp().reshape(801, 801)
    assert density.max() > 0.02
    assert torch.trapezoid(torch.trapezoid(density, side), side).item() == pytest.approx(
        1, abs=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("coupling", [False, True])
def test_flow_draws_what_it_has_a_density_for(coupling, dtype):
    p = bent(coupling, d=4, seed=2).to(dtype)()
    noise = torch.randn(50, 4, dtype=dtype)
    z = noise
    for step in p.transforms:
        z = step(z)
    again = z.detach().clone()  # not the tensor that the transforms have cached
    for step in reversed(p.transforms):
        again = step.inv(again)
    torch.testing.assert_close(again, noise, rtol=1e-4, atol=1e-4)
    assert p.sample((3,)).dtype == dtype


@pytest.mark.parametrize("coupling", [False, True])
def test_flow_starts_near_a_standard_normal(coupling):
    z = torch.randn(500, 6)
    flow, normal = priors.Flow(6, coupling=coupling)(), priors.StandardNormal(6)()
    assert (flow.log_prob(z) - normal.log_prob(z)).abs().max() < 0.2


@pytest.mark.parametrize("coupling", [False, True])
def test_flow_saves_its_orders(coupling):
    first, second = bent(coupling, d=5, seed=1), bent(coupling, d=5, seed=2)
    z = torch.randn(7, 5)
    wanted = first().log_prob(z)
    assert not torch.allclose(second().log_prob(z), wanted)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second().log_prob(z), wanted)


# ------------------------------------------------------------------------------------------- angles
@pytest.mark.parametrize("concentration", [0.01, 1, 3.0, 50.0, 1e3])
def test_von_mises_equals_scipy(concentration):
    theta = torch.linspace(-3.1, 3.1, 50)[:, None]
    found = priors.VonMises(1, concentration, loc=0.4)().log_prob(theta)
    wanted = stats.vonmises(concentration, 0.4).logpdf(theta[:, 0].double().numpy())
    np.testing.assert_allclose(found.numpy(), wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    "part",
    [priors.VonMises(2, 1.5, loc=3.0), priors.UniformAngle(2)],
    ids=lambda part: type(part).__name__,
)
def test_angles_lie_in_one_turn_over_which_the_density_integrates_to_one(part):
    p = part()
    draws = p.sample((20_000,)).double()
    assert draws.min() >= -math.pi - 1e-6
    assert draws.max() < math.pi + 1e-6
    side = torch.linspace(-math.pi, math.pi, 401)
    density = p.log_prob(torch.cartesian_prod(side, side)).exp().reshape(401, 401)
    assert torch.trapezoid(torch.trapezoid(density, side), side).item() == pytest.approx(
        1, abs=1e-4
    )


@pytest.mark.parametrize(
    "sigma", [0.02, 0.7, 3.0, math.pi * (1 - 1e-6), math.pi * (1 + 1e-6), 4.0, 50.0]
)
def test_wrapped_normal_equals_the_wrapped_sum_of_many_terms(sigma):
    theta = np.linspace(-math.pi, math.pi, 101)
    terms = stats.norm(2.9, sigma).logpdf(theta[:, None] + 2 * math.pi * np.arange(-200, 201))
    wanted = np.logaddexp.reduce(terms, 1)
    for dtype, tolerance in ((DOUBLE, 1e-7), (torch.float32, 2e-4)):
        q = WrappedNormalDistribution(*torch.tensor([2.9, sigma], dtype=dtype))
        found = q.log_prob(torch.from_numpy(theta).to(dtype))
        assert found.dtype == dtype
        np.testing.assert_allclose(found.numpy(), wanted, rtol=tolerance, atol=tolerance)
        assert q.rsample((1000,)).abs().max() <= math.pi
    values = [torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (1.0, 2.9, sigma)]
    assert torch.autograd.gradcheck(
        lambda x, mu, s: WrappedNormalDistribution(mu, s).log_prob(x), values
    )


def test_wrapped_normal_has_the_gradient_of_its_mean_directions():
    """E cos(theta) = exp(-sigma^2 / 2) cos(mu), the characteristic function.

    Mardia & Jupp 2000, eq. 3.5.62.
    """
    torch.manual_seed(0)
    mu, sigma = (torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (2.8, 1.3))
    theta = WrappedNormalDistribution(mu, sigma).rsample((400_000,))
    found = torch.autograd.grad(theta.cos().mean(), (mu, sigma))
    exact = torch.autograd.grad((-(sigma**2) / 2).exp() * mu.cos(), (mu, sigma))
    for a, b in zip(found, exact, strict=True):
        assert a.item() == pytest.approx(b.item(), abs=0.006)  # four standard errors


def test_a_prior_over_angles_needs_a_posterior_over_angles():
    """Over the real line a periodic density has infinite mass, and the ELBO would be no bound."""
    net = MLP(8, [16], 4)
    for prior in (
        priors.UniformAngle(2),
        priors.VonMises(2),
        priors.Vamp(WrappedNormal(net), data(5)[0]),
    ):
        graph = pv.VAE(prior, DiagonalNormal(net), pv.likelihoods.Bernoulli(Turned()))
        for look in (
            lambda g: pv.fit(g, data()[0], epochs=1, progress=False),
            lambda g: pv.log_evidence(g, data()[0], samples=5),
        ):
            words = r'site "z": the prior is on the circle.*Use posteriors\.WrappedNormal'
            with pytest.raises(ValueError, match=words):
                look(graph)
    graph = pv.VAE(
        priors.UniformAngle(2),
        WrappedNormal(nn.Linear(8, 4)),
        pv.likelihoods.Bernoulli(nn.Linear(2, 8)),
    )
    with torch.no_grad():
        graph.posterior.net.bias[2:] = 0.7  # wide, so that it wraps around the circle
        graph.likelihood.net.weight.zero_()  # it ignores the angles, so log p(x) is known
    exact = graph.likelihood(torch.zeros(1, 2)).log_prob(data()[0])
    found = pv.log_evidence(graph, data()[0], samples=4000)
    assert found.effective_sample_size.min() > 200
    assert ((found.log_p - exact).abs() < 5 * found.standard_error).all()


# ----------------------------------------------------------------------------- as a part of a graph
def data(n=240):
    """Return binary observations of four kinds, and the kind as a one-hot code."""
    g = torch.Generator().manual_seed(0)
    patterns = (torch.rand(4, 8, generator=g) < 0.5).float()
    k = torch.arange(n) % 4
    flips = (torch.rand(n, 8, generator=g) < 0.05).float()
    return (patterns[k] - flips).abs(), nn.functional.one_hot(k, 4).float()


class Turned(nn.Module):
    """A decoder of angles: a network of their cosines and sines."""

    def __init__(self):
        super().__init__()
        self.net = MLP(4, [16], 8)

    def forward(self, theta):
        return self.net(torch.cat([theta.cos(), theta.sin()], -1))


MAKE = {
    "ConditionalNormal": lambda q: priors.ConditionalNormal(MLP(4, [], 4)),
    "Mixture": lambda q: priors.Mixture(2, 4),
    "Mixture, full": lambda q: priors.Mixture(2, 4, full=True),
    "Vamp": lambda q: priors.Vamp(q, data(20)[0], low=0.0, high=1.0),
    "Vamp, c": lambda q: priors.Vamp(q, data(5)[0], learned_weights=True),
    "Vamp, fixed": lambda q: priors.Vamp(q, data(20)[0], learned=False),
    "Flow": lambda q: priors.Flow(2, steps=2, hidden=(16,)),
    "Flow, coupling": lambda q: priors.Flow(2, steps=2, hidden=(16,), coupling=True, seed=3),
    "VonMises": lambda q: priors.VonMises(2, 2.0),
    "UniformAngle": lambda q: priors.UniformAngle(2),
}


def vae(name):
    context = 4 if name in ("ConditionalNormal", "Vamp, c") else 0
    turned = name in ("VonMises", "UniformAngle")
    q = (WrappedNormal if turned else DiagonalNormal)(MLP(8, [16], 4, context=context))
    net = Turned() if turned else MLP(2, [16], 8, context=context)
    return pv.VAE(MAKE[name](q), q, pv.likelihoods.Bernoulli(net))


def batch_for(name):
    return data() if name in ("ConditionalNormal", "Vamp, c") else data()[:1]


@pytest.mark.parametrize("name", MAKE)
def test_training_improves_the_bound_and_copies_and_files_agree_after_it(name, tmp_path):
    graph, batch = vae(name), batch_for(name)
    before = copy.deepcopy(dict(graph.prior.named_parameters()))
    first = pv.elbo(graph, *batch, samples=30).elbo.mean()
    pv.fit(
        graph,
        batch,
        epochs=15,
        batch_size=40,
        optimizer=lambda p: torch.optim.Adam(p, 1e-2),
        progress=False,
    )
    assert pv.elbo(graph, *batch, samples=30).elbo.mean() > first + 1.0
    assert all(not torch.equal(value, before[key]) for key, value in graph.prior.named_parameters())
    few = [part[:6] for part in batch]
    wanted = pv.log_evidence(graph, *few, samples=20)
    assert wanted.log_p.isfinite().all()
    foreign = isinstance(graph.likelihood.net, Turned)
    loaded = pv.load(pv.save(graph, tmp_path / "model"), into=vae(name) if foreign else None)
    for other in (copy.deepcopy(graph), loaded):
        torch.testing.assert_close(pv.log_evidence(other, *few, samples=20).log_p, wanted.log_p)
    assert pv.generate(graph, 6, *few[1:]).shape == (6, 8)


# -------------------------------------------------------------------------------------------- cells
def cells_posterior(genes, context):
    net = Blocks(genes, [16], 2 * 3)
    return DiagonalNormal(WithoutContext(net) if context else net, 1e-4)


CELL_PRIORS = {
    "Mixture": lambda q, x: priors.Mixture(3, 4),
    "Vamp": lambda q, x: priors.Vamp(q, x[:10].log1p(), low=0.0),
    "Flow": lambda q, x: priors.Flow(3, steps=2, hidden=(8,)),
}


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("name", CELL_PRIORS)
def test_the_count_model_trains_with_another_prior(name, batches):
    x = torch.poisson(torch.rand(2, 30).mul(4)[torch.arange(200) % 2] * (0.5 + torch.rand(200, 1)))
    c = [nn.functional.one_hot(torch.arange(200) % 2, 2).float()] if batches == 2 else []
    q = cells_posterior(30, batches == 2)
    library = ([4.0] * batches, [0.5] * batches)
    prior = CELL_PRIORS[name](q, x)
    graph = pv.graphs.count_vae(
        30,
        batches=batches,
        hidden=16,
        latents=3,
        dropout=0.0,
        library=library,
        prior=prior,
        posterior=q,
    )
    before = copy.deepcopy(dict(prior.named_parameters()))
    first = pv.elbo(graph, x, *c, samples=5).elbo.mean()
    pv.fit(
        graph,
        (x, *c),
        epochs=12,
        batch_size=50,
        optimizer=lambda p: torch.optim.Adam(p, 1e-2),
        progress=False,
    )
    assert pv.elbo(graph, x, *c, samples=5).elbo.mean() > first + 1.0
    assert all(not torch.equal(value, before[key]) for key, value in prior.named_parameters())


@pytest.mark.parametrize("name", CELL_PRIORS)
def test_single_cells_take_another_prior(name, tmp_path):
    anndata = pytest.importorskip("anndata")
    from pyrovae.singlecell import SingleCellVAE

    x = torch.poisson(torch.rand(2, 30).mul(4)[torch.arange(80) % 2])
    cells = anndata.AnnData(x.numpy())
    SingleCellVAE.setup_anndata(cells)
    q = cells_posterior(30, context=False)
    prior = CELL_PRIORS[name](q, x)
    model = SingleCellVAE(cells, n_hidden=16, n_latent=3, prior=prior, posterior=q)
    model.train(2, progress=False)
    z = model.get_latent_representation()
    assert z.shape == (80, 3)
    model.save(tmp_path)
    again = SingleCellVAE.load(tmp_path, cells).get_latent_representation()
    np.testing.assert_allclose(again, z, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: priors.Mixture(0, 3), "Mixture: d is 0"),
        (lambda: priors.Mixture(2, 0), "components 0"),
        (lambda: priors.Flow(1), "at least 2 latents.*Mixture"),
        (lambda: priors.Flow(40, hidden=(20,)), "as wide as d"),
        (lambda: priors.Vamp(nn.Identity(), torch.zeros(0, 3)), r"shape \(0, 3\)"),
        (lambda: priors.Vamp(nn.Identity(), torch.zeros(3)), r"\(K, \*event\)"),
        (lambda: priors.Vamp(nn.Identity(), torch.zeros(2, 3), low=1.0, high=0.0), "low < high"),
        (
            lambda: priors.Vamp(pv.posteriors.Point(nn.Identity()), torch.zeros(2, 3))(),
            "point posterior of an autoencoder has none.*Flat",
        ),
        (lambda: priors.ConditionalNormal(nn.Identity())(), "no context.*StandardNormal"),
        (
            lambda: priors.ConditionalNormal(nn.Linear(3, 5))(torch.zeros(2, 3)),
            "ConditionalNormal: net outputs 5 numbers, expected 4",
        ),
        (
            lambda: DiagonalNormal(nn.Linear(3, 3))(torch.zeros(2, 3)),
            "DiagonalNormal: net outputs 3 numbers, expected 2",
        ),
        (lambda: priors.VonMises(1, 0.0), "UniformAngle"),
        (lambda: priors.UniformAngle(0), "d is 0"),
    ],
)
def test_errors_say_what_to_do(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_tensor_outside_the_weights_is_refused_by_save(tmp_path):
    graph = vae("Vamp, fixed")
    u = graph.prior.pseudo_inputs
    del graph.prior.pseudo_inputs
    graph.prior.pseudo_inputs = u
    words = r"graph\.prior\.pseudo_inputs is a tensor outside the weights"
    with pytest.raises(TypeError, match=words):
        pv.save(graph, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_vamp_names_the_order_of_its_arguments():
    q = pv.posteriors.DiagonalNormal(nn.Linear(6, 4))
    for arguments in ((torch.rand(5, 6), q), (q, 50)):
        with pytest.raises(TypeError, match=r"Vamp: got .* and .*, expected .*Vamp\(q, x\[:50"):
            pv.priors.Vamp(*arguments)
