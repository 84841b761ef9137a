"""Densities of counts against SciPy and Pyro; `CountVAE`: training, files, recovery, parts."""

import functools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import mlp
from pyro.infer import SVI, TraceMeanField_ELBO
from scipy import stats
from torch import nn

import pyrovae as pv
from pyrovae import distributions, objectives, posteriors, priors
from pyrovae.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from pyrovae.likelihoods import expression

DOUBLE = torch.float64
MU = torch.tensor([1e-3, 0.1, 1.0, 10.0, 1e3, 1e4])
ANNEALED = {"beta": objectives.warm_up(0.25), "annealed": {"z"}}


def zinb_parameters(*shape):
    a, t, g = (torch.randn(*shape, dtype=DOUBLE) for _ in range(3))
    return a, t, g, torch.poisson(torch.rand(*shape, dtype=DOUBLE) * 3)


# ---------------------------------------------------------------------------------------- densities
@pytest.mark.parametrize("theta", [1e-3, 0.1, 1.0, 100.0, 1e5, 1e7])
@pytest.mark.parametrize("x", [0, 1, 7, 1000, 20_000])
def test_negative_binomial_in_float32_equals_scipy(theta, x):
    theta = torch.tensor(theta)
    ours = NegativeBinomial(MU, theta).log_prob(torch.tensor(float(x)))
    n, mu = theta.double().numpy(), MU.double().numpy()
    np.testing.assert_allclose(
        ours.numpy(), stats.nbinom.logpmf(x, n, n / (n + mu)), rtol=3e-7, atol=3e-7
    )


def test_zero_inflated_equals_pyro():
    a, t, g, x = zinb_parameters(40, 7)
    theirs = dist.ZeroInflatedNegativeBinomial(
        total_count=t.exp(), logits=a - t, gate_logits=g
    ).log_prob(x)
    torch.testing.assert_close(
        ZeroInflatedNegativeBinomial(a.exp(), t.exp(), g).log_prob(x), theirs, rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(
        ZeroInflatedNegativeBinomial.from_logs(a, t, g).log_prob(x), theirs, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("theta_shape", [(5, 7), (7,), (1,), ()], ids=str)
def test_gradients_by_finite_differences(theta_shape):
    a, _, g, x = zinb_parameters(5, 7)
    t = torch.randn(theta_shape, dtype=DOUBLE)
    for v in (a, t, g):
        v.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, t, g: ZeroInflatedNegativeBinomial.from_logs(a, t, g).log_prob(x), (a, t, g)
    )
    assert torch.autograd.gradcheck(
        lambda a, t: NegativeBinomial.from_logs(a, t).log_prob(x), (a, t)
    )


@pytest.mark.parametrize("log_theta", [-3.0, 0.0, 5.0, 11.5, 16.0])
def test_value_and_gradients_in_float32_equal_those_in_float64(log_theta):
    a, _, g, x = zinb_parameters(50, 7)
    found = []
    for dtype in (torch.float32, DOUBLE):
        inputs = [v.to(dtype).requires_grad_() for v in (a, torch.full((7,), log_theta), g)]
        log_p = ZeroInflatedNegativeBinomial.from_logs(*inputs).log_prob(x.to(dtype))
        found.append([log_p, *torch.autograd.grad(log_p.sum(), inputs)])
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=2e-4, atol=2e-5)


def test_large_theta_is_poisson_and_has_a_gradient():
    t = torch.tensor(math.log(1e5), requires_grad=True)
    x, mu = torch.tensor(30.0), torch.tensor(20.0)
    log_p = NegativeBinomial.from_logs(mu.log(), t).log_prob(x)
    (slope,) = torch.autograd.grad(log_p, t)
    expected = -((x - mu) ** 2 - x) / (
        2 * 1e5
    )  # of the first correction to the Poisson, ((x - mu)^2 - x) / (2 theta)
    assert slope.item() == pytest.approx(expected.item(), rel=1e-2)
    assert log_p.item() == pytest.approx(stats.poisson.logpmf(30, 20), abs=1e-3)


@pytest.mark.parametrize(
    "make",
    [
        lambda m: NegativeBinomial(m, torch.ones(())),
        lambda m: ZeroInflatedNegativeBinomial(m, torch.ones(()), m),
    ],
)
@pytest.mark.parametrize("mean", [0.0, 1e-30, 1e30])
def test_finite_at_extreme_means(make, mean):
    m = torch.full((3,), mean, requires_grad=True)
    log_p = make(m).log_prob(torch.tensor([0.0, 1.0, 1e7]))
    log_p.sum().backward()
    assert log_p.isfinite().all()
    assert m.grad.isfinite().all()


def test_draws_have_mean_and_variance():
    p = ZeroInflatedNegativeBinomial(torch.tensor(4.0), torch.tensor(3.0), torch.tensor(-1.0))
    x = p.sample((200_000,))
    assert x.mean().item() == pytest.approx(p.mean.item(), rel=0.02)
    assert x.var().item() == pytest.approx(p.variance.item(), rel=0.04)
    assert (x == 0).float().mean().item() == pytest.approx(
        p.log_prob(torch.zeros(())).exp().item(), rel=0.02
    )


# ---------------------------------------------------------------------------------------- the graph
def simulated(cells=400, genes=30, seed=0, log_library=5.5, theta=2.0):
    """Counts of two types with known proportions, library sizes and dispersion."""
    generator = torch.Generator().manual_seed(seed)
    rho = torch.softmax(torch.randn(2, genes, generator=generator), -1)
    types = torch.randint(2, (cells,), generator=generator)
    l = log_library + 0.4 * torch.randn(cells, 1, generator=generator)  # noqa: E741
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        x = NegativeBinomial(l.exp() * rho[types], torch.tensor(theta)).sample()
    return x, types, rho, l


def graph_for(x, **options):
    log_total = x.sum(1).clamp(min=1).log()
    library = ([log_total.mean().item()], [max(log_total.std().item(), 0.05)])
    return pv.graphs.count_vae(
        x.shape[1], **{"library": library, "hidden": 16, "latents": 2, **options}
    )


def train(graph, data, epochs=1, **settings):
    return pv.fit(
        graph,
        data,
        epochs=epochs,
        objective=objectives.SGVB_B(**ANNEALED),
        progress=False,
        seed=0,
        **settings,
    )


def test_fit_and_bare_svi_both_train_two_in_one_process():
    x, *_ = simulated()
    graphs = [graph_for(x) for _ in range(2)]
    before = [pv.elbo(graph, x).elbo.mean() for graph in graphs]
    train(graphs[0], x, epochs=20)
    svi = SVI(
        graphs[1].model, graphs[1].guide, pyro.optim.Adam({"lr": 1e-3}), TraceMeanField_ELBO()
    )
    for _ in range(80):
        svi.step(x)
    for graph, then in zip(graphs, before, strict=True):
        assert pv.elbo(graph, x).elbo.mean() > then + 10


def test_only_the_kl_of_z_is_annealed():
    x, *_ = simulated(20)
    graph = graph_for(x).eval()
    objective = objectives.SGVB_B(annealed={"z"})
    objective.current_beta = 0.0
    bound = objective.bound(graph.model, graph.guide, x)
    assert objective.loss_of(bound, 20).item() == pytest.approx(
        (bound.kl["l"] - bound.reconstruction).item(), rel=1e-6
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"library": None},
        {"likelihood": expression.Poisson},
        {"likelihood": expression.NegativeBinomial},
    ],
)
@pytest.mark.parametrize("dispersion", list(expression.Dispersion))
def test_files_round_trip(tmp_path, options, dispersion):
    x, types, *_ = simulated(20)
    y = torch.nn.functional.one_hot(types).float()
    c = torch.cat([y, torch.randn(20, 1), *([y] if dispersion is expression.PER_LABEL else [])], 1)
    graph = graph_for(
        x,
        batches=2,
        covariates=1,
        labels=2,
        dispersion=dispersion,
        encode_covariates=True,
        **two_batches(options),
    )
    train(graph, (x, c))
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    terms = pv.elbo(graph, x, c)
    assert all(torch.equal(value, graph.state_dict()[name]) for name, value in before.items())
    pv.save(graph, tmp_path)
    torch.testing.assert_close(pv.elbo(pv.load(tmp_path), x, c).elbo, terms.elbo)


def two_batches(options):
    return {"library": ([5.0, 5.5], [0.4, 0.5]), **options}


def test_decoder_and_library_prior_depend_on_the_batch():
    x, types, *_ = simulated(50)
    c = torch.nn.functional.one_hot(types).float()
    graph = graph_for(x, batches=2, library=([2.0, 8.0], [0.1, 0.1])).eval()
    z = torch.zeros(50, 2)
    assert not torch.allclose(
        graph.likelihood.proportions(z, c), graph.likelihood.proportions(z, c.flip(1))
    )
    torch.testing.assert_close(graph.library_prior(c).mean, torch.where(c[:, :1] == 1, 2.0, 8.0))


SWAPS = {
    "module": dict(posterior=posteriors.DiagonalNormal(mlp(30, 4))),
    "floor": dict(posterior=posteriors.DiagonalNormal(nn.Linear(30, 4), floor=0.01)),
    "mixture": dict(prior=priors.Mixture(2, components=5)),
    "Vamp": dict(prior=lambda q: priors.Vamp(q, torch.rand(7, 30), low=0.0)),
    "flow": dict(prior=priors.Flow(2, hidden=(8,))),
    "IAF": dict(
        posterior=lambda encoder: posteriors.IAF(encoder(2 * 2 + 3), 2, context=3, hidden=(8,))
    ),
    "full rank": dict(posterior=lambda encoder: posteriors.FullRankNormal(encoder(5))),
    "both": dict(
        posterior=lambda encoder: posteriors.FullRankNormal(encoder(5)),
        prior=lambda q: priors.Vamp(q, torch.rand(7, 30), low=0.0),
    ),
}


@pytest.mark.parametrize("swap", SWAPS.values(), ids=SWAPS)
def test_one_argument_swaps_prior_or_posterior(swap):
    x, *_ = simulated(60)
    graph = graph_for(x, **swap)
    assert math.isfinite(train(graph, x).loss[0])
    posterior, prior = swap.get("posterior"), swap.get("prior")
    assert not isinstance(posterior, nn.Module) or graph.posterior is posterior
    assert not isinstance(prior, nn.Module) or graph.prior is prior
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in graph.parameters())


def test_refuses_values_that_are_not_counts():
    x, *_ = simulated(20)
    with pytest.raises(ValueError, match=r"whole numbers.*0\.69"):
        pv.fit(graph_for(x), x.log1p().clamp(0.6931, 0.6932), epochs=1)
    with pytest.raises(ValueError, match="library_prior and library_posterior go together"):
        pv.CountVAE(nn.Identity(), nn.Identity(), nn.Identity(), library_prior=nn.Identity())
    with pytest.raises(ValueError, match="deviation"):
        priors.LibraryNormal([1.0], [0.0])


def test_recovers_library_proportions_and_dispersion():
    """Recovery of the log library size, of proportions above 0.01 and of theta, within bounds."""
    x, types, rho, l = simulated(1500, genes=100, log_library=7.0, theta=5.0)  # noqa: E741
    graph = graph_for(x, likelihood=expression.NegativeBinomial, dropout=0.0)
    train(graph, x, epochs=300, optimizer=functools.partial(torch.optim.Adam, lr=4e-3))
    inferred = pv.embed(graph, x, site="l")
    assert torch.corrcoef(torch.cat([inferred, l], 1).T)[0, 1] > 0.8
    found = graph.likelihood.eval().proportions(pv.embed(graph, x)).detach()
    means = torch.stack([found[types == k].mean(0) for k in range(2)])
    assert ((means - rho).abs() / rho)[rho > 0.01].median() < 0.15
    assert 1 / 1.5 < graph.likelihood.log_theta.exp().median().item() / 5 < 1.5


def test_two_hundred_runs_without_a_nan():
    """No NaN in a loss or weight: over seeds, sizes, empty cells, huge counts, small batches."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        cells, genes = int(rng.integers(3, 40)), int(rng.integers(1, 25))
        x = torch.as_tensor(
            rng.poisson(rng.gamma(0.3, rng.choice([1, 100, 1e5]), (cells, genes)))
        ).float()
        x[rng.random(cells) < 0.2] = 0
        graph = graph_for(
            x,
            hidden=8,
            likelihood=[expression.ZeroInflated, expression.NegativeBinomial, expression.Poisson][
                seed % 3
            ],
        )
        history = train(graph, x, epochs=3, batch_size=int(rng.integers(2, 12)))
        assert all(math.isfinite(loss) for loss in history.loss), seed
        assert all(parameter.isfinite().all() for parameter in graph.parameters()), seed


def test_bfloat16_products_are_of_training_alone():
    layer = pv.blocks.WideLinear(2000, 50)
    x = torch.randn(3, 2000)
    plain = nn.functional.linear(x, layer.weight, layer.bias)
    assert torch.equal(layer.eval()(x), plain)
    torch.testing.assert_close(layer.train()(x), plain, rtol=0.02, atol=0.02)
    assert layer(x).dtype == torch.float32
    assert distributions.NegativeBinomial is NegativeBinomial


def test_a_dispersion_that_runs_away_keeps_its_density():
    x, *_ = simulated(cells=20)
    graph = graph_for(x, dispersion=pv.expression.PER_CELL).eval()
    with torch.no_grad():
        graph.likelihood.theta_head.bias -= 1000
    assert torch.isfinite(pv.elbo(graph, x).elbo).all()


def test_a_second_derivative_is_refused_and_not_wrong():
    a = torch.zeros(3, requires_grad=True)
    log_p = NegativeBinomial.from_logs(a, torch.zeros(3)).log_prob(torch.tensor([0.0, 1.0, 40.0]))
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(log_p.sum() + a.square().sum(), a, create_graph=True)
