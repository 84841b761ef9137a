"""Evidence, ELBO and latent figures against closed forms (probabilistic PCA)."""

import math
from types import SimpleNamespace

import linear_gaussian
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

import pyrovae as pv
from pyrovae import programs
from pyrovae.evaluation import chunking


def test_exact_posterior_gives_the_exact_evidence_with_one_draw():
    graph, x = linear_gaussian.exact(), linear_gaussian.data(40)
    result = pv.log_evidence(graph, x, samples=3)
    torch.testing.assert_close(result.log_p, linear_gaussian.evidence(graph, x), rtol=0, atol=1e-9)
    assert result.standard_error.max() < 1e-6
    torch.testing.assert_close(
        result.effective_sample_size, torch.full((40,), 3.0, dtype=torch.double)
    )


def test_evidence_of_an_inexact_posterior_is_within_its_standard_error():
    graph, x = linear_gaussian.exact(), linear_gaussian.data(60)
    with torch.no_grad():
        graph.posterior.net.bias += torch.tensor([0.1, -0.2, 0.1, 0.3], dtype=torch.double)
    exact = linear_gaussian.evidence(graph, x)
    result = pv.log_evidence(graph, x, samples=2000)
    deviates = (result.log_p - exact) / result.standard_error
    assert deviates.abs().mean() == pytest.approx(
        math.sqrt(2 / math.pi), abs=0.3
    )  # of a standard normal
    assert deviates.abs().max() < 5
    gap = exact - pv.elbo(graph, x, samples=5000).elbo
    assert (
        gap.mean() > 0.1
    )  # KL(q || p(z | x)), positive in each row; a row's Monte Carlo error is near 0.03
    assert gap.min() > -0.15


def test_the_bound_rises_with_the_number_of_samples_and_stays_below():
    """Burda et al. 2016, theorem 1, in expectation over many runs."""
    graph, x = linear_gaussian.exact(), linear_gaussian.data(100)
    with torch.no_grad():
        graph.posterior.net.bias[2:] += 0.5
    means = [
        torch.stack(
            [pv.log_evidence(graph, x, samples=k, seed=s).log_p.mean() for s in range(20)]
        ).mean()
        for k in (1, 5, 50)
    ]
    exact = linear_gaussian.evidence(graph, x).mean()
    assert means[0] < means[1] < means[2] < exact + 0.01


def test_one_sample_is_the_sampled_elbo_in_expectation():
    graph, x = linear_gaussian.exact(), linear_gaussian.data(200)
    with torch.no_grad():
        graph.posterior.net.bias[2:] += 0.5
    one = torch.stack(
        [pv.log_evidence(graph, x, samples=1, seed=s).log_p for s in range(30)]
    ).mean()
    assert one == pytest.approx(pv.elbo(graph, x, samples=100).elbo.mean().item(), abs=0.02)


@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")  # few or poor draws, on purpose
def test_the_naive_average_needs_more():
    graph, x = linear_gaussian.exact(sigma=0.5), linear_gaussian.data(50)
    naive, good = (f(graph, x, samples=500) for f in (pv.naive_log_evidence, pv.log_evidence))
    exact = linear_gaussian.evidence(graph, x)
    assert naive.effective_sample_size.median() < 50
    assert good.effective_sample_size.median() > 499
    assert (naive.log_p - exact).abs().mean() > 100 * (good.log_p - exact).abs().mean()
    many = pv.naive_log_evidence(graph, x[:5], samples=200_000)
    torch.testing.assert_close(many.log_p, exact[:5], rtol=0, atol=0.2)


def test_memory_bound_does_not_change_the_figure(monkeypatch):
    graph, x = linear_gaussian.exact(), linear_gaussian.data(30)
    with torch.no_grad():
        graph.posterior.net.bias[2:] += 0.2
    whole = pv.log_evidence(graph, x, samples=4000)
    monkeypatch.setattr(chunking, "_AT_ONCE", 256 * 7 * 13)
    monkeypatch.setattr(chunking, "_ROWS", 7)
    pieces = pv.log_evidence(graph, x, samples=4000)
    assert ((whole.log_p - pieces.log_p).abs() < 6 * whole.standard_error).all()
    bound = pv.elbo(graph, x, samples=100)
    assert bound.elbo.shape == (30,)


@pytest.mark.parametrize("rows", [1, 5, 300])
def test_few_rows_take_few_runs(rows):
    """A run holds as many draws as its rows leave room for."""
    graph, x = linear_gaussian.exact(), linear_gaussian.data(rows)
    with programs.evaluation(graph):
        layouts = [runs for _, runs in chunking.chunks_of(graph, (x,), 1600, lambda p, q: None)]
    held = min(rows, chunking._ROWS) * 256  # values of a draw
    fewest = -(-1600 // (chunking._AT_ONCE // held))
    assert {len(runs) for runs in layouts} == {fewest}
    assert {sum(run.draws for run in runs) for runs in layouts} == {1600}


def test_memory_follows_the_widest_parameter_of_a_site():
    """A categorical over 256 levels holds 256 numbers for each of x."""
    shapes = []
    for likelihood in (
        pv.likelihoods.Bernoulli(nn.Linear(2, 500)),
        pv.likelihoods.Categorical(nn.Linear(2, 256 * 500)),
    ):
        graph = pv.VAE(
            pv.priors.StandardNormal(2), pv.posteriors.DiagonalNormal(nn.Linear(500, 4)), likelihood
        )
        with programs.evaluation(graph):
            shapes.append(chunking._width(graph, (torch.zeros(1, 500),)))
    assert shapes == [500, 256 * 500]


def test_elbo_terms():
    graph, x = linear_gaussian.exact(), linear_gaussian.data(30)
    terms = pv.elbo(graph, x, samples=4000)
    torch.testing.assert_close(terms.elbo, terms.reconstruction - terms.kl)
    q, p = graph.posterior(x), graph.prior()
    torch.testing.assert_close(
        terms.kl, torch.distributions.kl_divergence(q, p.expand([30])).detach()
    )
    torch.testing.assert_close(terms.elbo, linear_gaussian.evidence(graph, x), rtol=0, atol=0.15)


def test_an_autoencoder_has_no_evidence_and_says_so():
    graph = pv.VAE(
        pv.priors.Flat(2),
        pv.posteriors.Point(nn.Linear(6, 2)),
        pv.likelihoods.Gaussian(nn.Linear(2, 6)),
    )
    with pytest.raises(ValueError, match="an autoencoder has no density"):
        pv.log_evidence(graph, torch.randn(3, 6))
    assert torch.isfinite(pv.elbo(graph, torch.randn(3, 6)).elbo).all()
    with pytest.raises(ValueError, match="prior is flat"):
        pv.generate(graph, 3)
    with pytest.raises(ValueError, match="prior is flat"):
        pv.manifold(graph)


def test_a_latent_shared_by_all_rows_is_named():
    class Shared(nn.Module):
        def model(self, x):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(w[..., None] * torch.ones(6), 1.0).to_event(1), obs=x)

        def guide(self, x):
            pyro.sample("w", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match='site "w" is not in a plate over the 3 rows'):
        pv.log_evidence(Shared(), torch.randn(3, 6))


def test_a_graph_is_evaluated_at_a_draw_of_what_its_rows_share():
    class Shared:
        def model(self, x):
            w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z[..., None] + w, 1.0).to_event(1), obs=x)

        def guide(self, x):
            w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal((x - w).sum(-1) / 4, 0.5))

    w, x, shared = torch.tensor([1.0, 0.0, -1.0]), torch.randn(5, 3), Shared()
    graph = SimpleNamespace(  # in the guide w is given by the same handlers
        model=poutine.block(poutine.condition(shared.model, {"w": w}), hide=["w"]),
        guide=poutine.block(poutine.condition(shared.guide, {"w": w}), hide=["w"]),
    )
    exact = torch.distributions.MultivariateNormal(w, torch.eye(3) + 1).log_prob(x)
    torch.testing.assert_close(pv.log_evidence(graph, x, samples=3).log_p.float(), exact)


@pytest.mark.parametrize("event", [True, False])
def test_kl_per_dimension_minds_the_mask(event):
    class Masked:
        def site(self, x, loc, scale):
            q = dist.Normal(loc, scale)
            with pyro.plate("data", len(x)), poutine.mask(mask=x > 0):
                q = dist.Normal(loc[:, None].expand(-1, 2), scale).to_event(1) if event else q
                return pyro.sample("z", q)

        def model(self, x):
            z = self.site(x, torch.zeros(len(x)), 1.0)
            with pyro.plate("rows", len(x)):
                pyro.sample("x", dist.Normal(z.sum(-1) if event else z, 1.0), obs=x)

        def guide(self, x):
            self.site(x, x / 2, 0.7)

    x = torch.randn(40)
    found = pv.kl_per_dimension(Masked(), x)
    assert found.shape == (2 if event else 1,)
    torch.testing.assert_close(found.sum(), pv.elbo(Masked(), x).kl.mean())


def test_kl_per_dimension_sums_to_the_kl():
    graph, x = linear_gaussian.exact(), linear_gaussian.data(30)
    torch.testing.assert_close(pv.kl_per_dimension(graph, x).sum(), pv.elbo(graph, x).kl.mean())


def test_active_units_and_collapse():
    graph, x = linear_gaussian.exact(), linear_gaussian.data(200)
    assert pv.active_units(graph, x).tolist() == [True, True]
    with torch.no_grad():
        graph.posterior.net.weight[1] = 0
    assert pv.active_units(graph, x).tolist() == [True, False]
    assert pv.latent_summary(graph, x).warning is None
    with torch.no_grad():
        graph.posterior.net.weight.zero_()
        graph.posterior.net.bias.zero_()
    summary = pv.latent_summary(graph, x)
    assert "posterior collapse: 0 of 2 units" in summary.warning
    assert summary.mutual_information == pytest.approx(0, abs=1e-6)


def test_mutual_information_of_a_linear_gaussian():
    """I(x; z) for z = a x + noise with normal x: the sum of log(1 + a^2 var / s^2) / 2."""
    graph = linear_gaussian.vae(features=2)
    s = math.log(0.5)
    with torch.no_grad():
        graph.posterior.net.weight.copy_(
            torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
        )
        graph.posterior.net.bias.copy_(torch.tensor([0.0, 0.0, s, s]))
    x = torch.randn(4000, 2, dtype=torch.double)
    exact = 0.5 * (math.log(1 + 4) + math.log(1 + 16))
    assert pv.mutual_information(graph, x) == pytest.approx(exact, abs=0.1)


def test_posterior_mean_without_a_formula_is_sampled():
    cauchy = dist.Cauchy(torch.zeros(3), torch.ones(3)).to_event(1)
    assert programs.mean(cauchy).shape == (3,)
    assert torch.isfinite(programs.mean(cauchy)).all()


@pytest.mark.parametrize("function", [pv.log_evidence, pv.naive_log_evidence, pv.elbo])
@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (0, "0, expected a whole number of at least 1$"),
        (2.5, "2.5, expected a whole number of at least 1$"),
        (1e3, r"1000.0, expected a whole number of at least 1: int\(1000.0\)"),
        ("many", "'many', expected a whole number of at least 1$"),
    ],
)
def test_samples_are_a_whole_number(function, samples, words):
    with pytest.raises(ValueError, match=f"samples is {words}"):
        function(linear_gaussian.exact(), linear_gaussian.data(3), samples=samples)


@pytest.mark.parametrize("function", [pv.log_evidence, pv.elbo, pv.anomaly_score])
def test_a_seed_is_a_whole_number(function):
    with pytest.raises(ValueError, match="seed is 'zero', expected a whole number or None"):
        function(linear_gaussian.exact(), linear_gaussian.data(3), seed="zero")
    function(linear_gaussian.exact(), linear_gaussian.data(3), samples=4, seed=np.int64(3))


class Scalar(nn.Module):
    """z ~ N(0, 1) of each row, x ~ N(z, 1), in a plate that stands for more rows."""

    def __init__(self, rows=None, mean=0.5):
        super().__init__()
        self.rows, self.mean = rows, nn.Parameter(torch.tensor(mean))

    def plate(self, x):
        return pyro.plate("data", self.rows or len(x), subsample=x)

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def guide(self, x):
        with self.plate(x):
            pyro.sample("z", dist.Normal(self.mean * x[:, 0], 0.9))


def test_kl_per_dimension_is_that_of_the_elbo_in_a_subsampling_plate():
    x = torch.randn(40, 1)
    for graph in (Scalar(), Scalar(1000)):
        kl = pv.latent_summary(graph, x).kl_per_dimension
        torch.testing.assert_close(kl.sum(), pv.elbo(graph, x).kl.mean())


def test_the_collapse_of_a_latent_of_one_number_is_told():
    assert "0 of 1 units" in pv.latent_summary(Scalar(mean=0.0), torch.randn(20, 1)).warning


def test_bounds_of_a_graph_in_double_precision():
    bounds = pv.bidirectional_bounds(Scalar().double(), rows=3, samples=2, temperatures=3)
    assert bounds.x.dtype == torch.float64


class Inside(nn.Module):
    """z_ni ~ N(0, 1), x_ni ~ N(z_ni, 1) for i = 1 .. 3 in a plate, with the exact posterior."""

    def __init__(self, dim):
        super().__init__()
        self.dims, self.scale = (dim, -3 - dim), nn.Parameter(torch.ones(()))

    def of(self, x):
        return x if self.dims[0] == -2 else x.T

    def model(self, x):
        with pyro.plate("data", len(x), dim=self.dims[0]), pyro.plate("in", 3, dim=self.dims[1]):
            z = pyro.sample("z", dist.Normal(0.0, self.scale))
            pyro.sample("x", dist.Normal(z, 1.0), obs=self.of(x))

    def guide(self, x):
        with pyro.plate("data", len(x), dim=self.dims[0]), pyro.plate("in", 3, dim=self.dims[1]):
            pyro.sample("z", dist.Normal(self.of(x) / 2, 0.5**0.5))


class AsEvent(Inside):
    """The same, with an event in place of the plate."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 3), self.scale).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))


def test_latents_in_a_plate_inside_a_row_are_as_those_of_an_event():
    x = torch.randn(200, 3) * torch.tensor([2**0.5, 2**0.5, 0.0])
    found, wanted = (pv.latent_summary(graph, x) for graph in (Inside(-2), AsEvent(-2)))
    torch.testing.assert_close(found.kl_per_dimension, wanted.kl_per_dimension)
    assert found.active.tolist() == wanted.active.tolist() == [True, True, False]
    assert found.mutual_information == pytest.approx(wanted.mutual_information, abs=0.15)
    torch.testing.assert_close(
        pv.kl_per_dimension(Inside(-1), x), pv.kl_per_dimension(AsEvent(-2), x)
    )
    for dim in (-1, -2):
        torch.testing.assert_close(pv.embed(Inside(dim), x), x / 2)
    for function in (pv.mutual_information, pv.active_units, pv.latent_summary):
        with pytest.raises(ValueError, match=r"plate inside the rows.*\.to_event\(1\)"):
            function(Inside(-1), x)
