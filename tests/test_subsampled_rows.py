"""A plate over N rows of which a minibatch holds M: what is reported is of a row, by closed forms.

With the exact posterior as guide, log p(x, z) - log q(z | x) = log p(x) at every draw.
"""

import linear_gaussian
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import JitTrace_ELBO, Trace_ELBO
from torch import nn

import pyrovae as pv
from pyrovae.objectives import (
    IWAE,
    SGVB_A,
    SGVB_B,
    MonteCarloEM,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunction,
    WakeSleep,
)

N = 200
EXACT = [
    SGVB_A(),
    SGVB_A(data_size=N),
    IWAE(3),
    Renyi(0.5, 3),
    ScoreFunction(2),
    WakeSleep(),
    ReweightedWakeSleep(2),
    MonteCarloEM(leapfrog=2),
]


class Subsampled(nn.Module):
    """The exact linear-Gaussian VAE inside a plate over N rows."""

    def __init__(self):
        super().__init__()
        self.vae = linear_gaussian.exact()

    def model(self, x):
        pyro.module("vae", self.vae)
        with pyro.plate("data", N, subsample=x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", self.vae.likelihood(z), obs=x)

    def guide(self, x):
        with pyro.plate("data", N, subsample=x):
            pyro.sample("z", self.vae.posterior(x))


def still(graph, objective, x, **options):
    """Return the history of an epoch in which nothing moves."""

    def sgd(parameters):
        return torch.optim.SGD(parameters, lr=0.0)

    torch.manual_seed(0)
    return pv.fit(graph, x, objective=objective, optimizer=sgd, epochs=1, progress=False, **options)


@pytest.mark.parametrize("objective", EXACT, ids=lambda each: type(each).__name__)
def test_the_bound_of_the_history_is_of_a_row(objective):
    graph, x = Subsampled(), linear_gaussian.data(N)
    expected = linear_gaussian.evidence(graph.vae, x).mean().item()
    held_out = linear_gaussian.data(30, seed=1)
    history = still(graph, objective, x, batch_size=30, validation=held_out)
    assert history.elbo == pytest.approx([expected], rel=1e-5)
    expected = linear_gaussian.evidence(graph.vae, held_out).mean().item()
    assert history.validation_elbo == pytest.approx([expected], rel=1e-5)


def test_terms_and_loss_of_the_history_are_of_a_row():
    graph, x = Subsampled(), linear_gaussian.data(N)
    history = still(graph, SGVB_B(beta=2.0), x, batch_size=30, accumulate=3)
    kl = pv.elbo(graph.vae, x).kl.mean().item()
    assert history.kl == pytest.approx([kl], rel=1e-5)
    assert history.loss == pytest.approx([2 * kl - history.reconstruction[0]], rel=1e-5)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*(deprecated|copy)")
@pytest.mark.parametrize("elbo", [Trace_ELBO, JitTrace_ELBO])
def test_a_bound_of_pyros_is_of_a_row(elbo):
    graph, x = Subsampled(), linear_gaussian.data(N)
    expected = linear_gaussian.evidence(graph.vae, x).mean().item()
    history = still(graph, elbo(ignore_jit_warnings=True), x, batch_size=20, validation=x)
    assert history.loss == pytest.approx([-expected], rel=1e-5)
    assert history.validation_elbo == pytest.approx([expected], rel=1e-5)


def test_a_compiled_step_reports_the_bound_of_a_row():
    graph, x = Subsampled(), linear_gaussian.data(N)
    expected = linear_gaussian.evidence(graph.vae, x).mean().item()
    history = still(graph, SGVB_A(), x, batch_size=20, compile=True)
    assert history.elbo == pytest.approx([expected], rel=1e-5)


def test_the_gradient_is_of_the_mean_loss_of_a_row():
    x = linear_gaussian.data(20)
    gradients = []
    for graph in (Subsampled(), linear_gaussian.exact()):
        torch.manual_seed(0)
        SGVB_B().backward(graph.model, graph.guide, x)
        gradients.append(torch.cat([p.grad.flatten() for p in graph.parameters()]))
    torch.testing.assert_close(*gradients)


def test_the_loss_for_a_loop_of_ones_own_is_that_of_pyro():
    graph, x = Subsampled(), linear_gaussian.data(20)
    expected = -linear_gaussian.evidence(graph.vae, x).sum().item() * N / 20
    assert SGVB_A().loss(graph.model, graph.guide, x) == pytest.approx(expected)
    assert Trace_ELBO().loss(graph.model, graph.guide, x) == pytest.approx(expected)


class SharedMean(nn.Module):
    """w ~ N(0, 1), x_i ~ N(w, 1) for N rows, with the exact posterior of w as guide."""

    def __init__(self, x):
        super().__init__()
        self.mean = nn.Parameter(x.sum() / (N + 1))

    def model(self, x):
        w = pyro.sample("w", dist.Normal(self.mean.new_zeros(()), 1.0))
        with pyro.plate("data", N, subsample=x):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(self, x):
        pyro.sample("w", dist.Normal(self.mean, (N + 1) ** -0.5))


def test_a_latent_that_all_rows_share_counts_once_in_all_of_them():
    torch.manual_seed(0)
    x = torch.randn(N, dtype=torch.double) + 0.7
    graph = SharedMean(x)
    of_all = torch.distributions.MultivariateNormal(
        torch.zeros(N).double(), torch.eye(N).double() + 1
    )
    history = still(graph, SGVB_A(), x, batch_size=N)
    assert history.elbo == pytest.approx([of_all.log_prob(x).item() / N], rel=1e-5)
    small = still(graph, SGVB_B(), x, batch_size=20)
    assert small.kl == pytest.approx(still(graph, SGVB_B(), x, batch_size=N).kl, rel=1e-5)


class DrawsRows(nn.Module):
    """The plate draws the rows by itself, as in Pyro's tutorial of minibatches."""

    def __init__(self):
        super().__init__()
        self.vae = linear_gaussian.exact()

    def model(self, x):
        pyro.module("vae", self.vae)
        with pyro.plate("data", len(x), subsample_size=5) as rows:
            z = pyro.sample("z", dist.Normal(x.new_zeros(5, 2), 1.0).to_event(1))
            pyro.sample("x", self.vae.likelihood(z), obs=x[rows])

    def guide(self, x):
        with pyro.plate("data", len(x), subsample_size=5) as rows:
            pyro.sample("z", self.vae.posterior(x[rows]))


ROW_BY_ROW = [
    pv.elbo, pv.log_evidence, pv.naive_log_evidence, pv.annealed_log_evidence,
    pv.kl_per_dimension, pv.active_units, pv.latent_summary, pv.embed,
]  # fmt: skip


@pytest.mark.parametrize("f", ROW_BY_ROW, ids=lambda f: f.__name__)
def test_a_plate_that_draws_rows_itself_is_named(f):
    words = r'"data" draws 5 rows by itself.* of the 20 that are given.*"data", len\(x\)'
    with pytest.raises(ValueError, match=words):
        f(DrawsRows(), linear_gaussian.data(20))


def test_objectives_that_need_no_rows_take_such_a_plate():
    graph, x = DrawsRows(), linear_gaussian.data(20)
    expected = linear_gaussian.evidence(graph.vae, x)
    found = [still(graph, SGVB_A(), x, batch_size=20).elbo[0] for _ in range(3)]
    assert max(abs(each - expected.mean()) for each in found) < 2 * expected.std()
    with pytest.raises(ValueError, match='"data" draws 5 rows by itself'):
        still(graph, IWAE(3), x, batch_size=20)
