"""A plate of time left of the plate over the rows: what tasks return has its rows first.

z ~ N(0, 1),   x_t | z ~ N(w_t z, s^2):   p(x) = N(0, w w^T + s^2 I),   p(z | x) is normal
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

import pyrovae as pv
from pyrovae.objectives import WakeSleep

T, S = 4, 0.5
W = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.double)
N = [T, 7]  # rows; as many as times, too
METHODS = ["importance", "refine", "hmc"]


class TimeLeft(nn.Module):
    """The exact posterior as guide; x has shape (B, T), its site (T, B)."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(W / (W @ W + S**2))

    def plates(self, x):
        return pyro.plate("time", T, dim=-2), pyro.plate("rows", len(x), dim=-1)

    def model(self, x):
        time, rows = self.plates(x)
        with rows:
            z = pyro.sample("z", dist.Normal(W.new_zeros(len(x)), 1.0))
            with time:
                pyro.sample("x", dist.Normal(W[:, None] * z, S), obs=x.T)

    def guide(self, x):
        with self.plates(x)[1]:
            pyro.sample("z", dist.Normal(x @ self.gain, S / (W @ W + S**2).sqrt()))


class LatentsOfTime(TimeLeft):
    """u_t ~ N(0, 1),   x_t | u_t ~ N(w_t u_t, s^2):   latents in both plates."""

    def model(self, x):
        time, rows = self.plates(x)
        with time, rows:
            u = pyro.sample("u", dist.Normal(W.new_zeros(T, len(x)), 1.0))
            pyro.sample("x", dist.Normal(W[:, None] * u, S), obs=x.T)

    def guide(self, x):
        time, rows = self.plates(x)
        precision = (W**2 / S**2 + 1)[:, None]
        with time, rows:
            pyro.sample("u", dist.Normal(W[:, None] * x.T / S**2 / precision, precision**-0.5))

    @staticmethod
    def posterior_mean(x):
        return x * W / (W**2 + S**2)


COVARIANCE = torch.outer(W, W) + S**2 * torch.eye(T, dtype=torch.double)


def data(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    z, e = (torch.randn(n, k, generator=g, dtype=torch.double) for k in (1, T))
    return z * W + S * e


@pytest.mark.parametrize("n", N)
def test_generated_rows_come_first(n):
    x = pv.generate(TimeLeft(), 4000, mean=False, seed=0)
    torch.testing.assert_close(torch.cov(x.T), COVARIANCE, rtol=0.1, atol=0.1)
    assert pv.generate(TimeLeft(), n, seed=0).shape == (n, T)
    means = pv.generate(TimeLeft(), n, fixed={"z": torch.arange(n)})
    torch.testing.assert_close(means, torch.arange(n)[:, None] * W)


@pytest.mark.parametrize("n", N)
def test_decoded_rows_come_first(n):
    z = torch.arange(3 * n, dtype=torch.double).reshape(3, n)
    torch.testing.assert_close(pv.decode(TimeLeft(), z), z[..., None] * W)
    u = torch.arange(n * T, dtype=torch.double).reshape(n, T)
    torch.testing.assert_close(pv.decode(LatentsOfTime(), u), u * W)
    torch.testing.assert_close(pv.decode(LatentsOfTime(), u.expand(3, n, T))[2], u * W)
    z = torch.zeros(n, dtype=torch.double)
    torch.testing.assert_close(pv.generate(LatentsOfTime(), n, fixed={"u": u}), u * W)


@pytest.mark.parametrize("n", N)
def test_embedded_and_reconstructed_rows_come_first(n):
    x, graph = data(n), TimeLeft()
    z = x @ graph.gain
    torch.testing.assert_close(pv.embed(graph, x), z)
    assert pv.embed(graph, x, draws=3).shape == (3, n)
    torch.testing.assert_close(pv.reconstruct(graph, x), z[:, None] * W)
    u = LatentsOfTime.posterior_mean(x)
    torch.testing.assert_close(pv.embed(LatentsOfTime(), x), u)
    torch.testing.assert_close(pv.reconstruct(LatentsOfTime(), x), u * W)


@pytest.mark.parametrize("batch_size", [4, 64])
@pytest.mark.parametrize("method", METHODS)
def test_imputed_values_do_not_depend_on_the_batch_size(method, batch_size):
    x = data(9)
    hidden = torch.tensor([False, False, False, True])
    options = {"draws": 200, "samples": 2000, "batch_size": batch_size, "seed": 0}
    found = pv.impute(TimeLeft(), x, hidden=hidden, method=method, **options)
    known = COVARIANCE[:3, :3]
    expected = x[:, :3] @ torch.linalg.solve(known, COVARIANCE[:3, 3])
    spread = (S**2 + W[3] ** 2 / (1 + (W[:3] @ W[:3]) / S**2)).sqrt()
    assert found.mean.shape == x.shape
    assert (found.mean[:, 3] - expected).abs().max() < 0.5 * spread
    torch.testing.assert_close(found.draws[:, :, 3].std(0).mean(), spread, rtol=0.2, atol=0)
    torch.testing.assert_close(found.mean[:, :3], x[:, :3])


@pytest.mark.parametrize("n", N)
def test_the_score_of_hidden_values_and_a_denoised_x(n):
    x = data(n)
    hidden = torch.tensor([False, False, False, True])
    found = pv.hidden_log_prob(TimeLeft(), x, hidden=hidden, batch_size=3)
    known = MultivariateNormal(torch.zeros(3).double(), COVARIANCE[:3, :3])
    whole = MultivariateNormal(torch.zeros(T).double(), COVARIANCE)
    expected = whole.log_prob(x) - known.log_prob(x[:, :3])
    assert ((found.log_p - expected).abs() < 5 * found.standard_error + 1e-3).all()
    denoised = pv.denoise(TimeLeft(), x, noise=pv.graphs.GaussianNoise(1.0), batch_size=3, seed=0)
    noisy = COVARIANCE + torch.eye(T)
    torch.testing.assert_close(
        denoised.mean, x @ torch.linalg.solve(noisy, COVARIANCE), rtol=0, atol=0.15
    )


@pytest.mark.parametrize("n", N)
@pytest.mark.parametrize("method", ["refine", "hmc"])
def test_super_resolved_pixels_come_after_the_rows(n, method):
    """The four times are an image of 2 x 2, of which the sum is given."""
    total = data(n).sum(1)
    found = pv.super_resolve(
        TimeLeft(),
        total.reshape(n, 1, 1),
        sums=True,
        method=method,
        draws=400,
        samples=2000,
        seed=0,
    )
    gain = COVARIANCE.sum(1) / COVARIANCE.sum()
    mean = total[:, None] * gain
    spread = COVARIANCE - COVARIANCE.sum() * torch.outer(gain, gain)
    assert found.mean.shape == (n, T)
    assert ((found.mean - mean).abs() < 5 * spread.diagonal().sqrt() / 400**0.5).all()
    torch.testing.assert_close(found.draws.sum(-1), total.expand(400, -1))
    off = (found.draws - mean).flatten(0, 1)
    torch.testing.assert_close(off.T @ off / len(off), spread, rtol=0, atol=0.15)


class BitsLeft(TimeLeft):
    """Binary pixels, whose sums are found from the probabilities of both levels."""

    def model(self, x):
        time, rows = self.plates(x)
        with rows:
            z = pyro.sample("z", dist.Normal(W.new_zeros(len(x)), 1.0))
            with time:
                pyro.sample("x", dist.Bernoulli(logits=W[:, None] * z), obs=x.T)


@pytest.mark.parametrize("n", N)
def test_super_resolved_bits_come_after_the_rows(n):
    total = torch.arange(n, dtype=torch.double) % (T + 1)
    found = pv.super_resolve(
        BitsLeft(), total.reshape(n, 1, 1), sums=True, samples=2000, draws=5, seed=0
    )
    z = torch.linspace(-8, 8, 401, dtype=torch.double)
    x = torch.cartesian_prod(*T * [torch.arange(2.0)]).double()
    log_p = dist.Bernoulli(logits=W * z[:, None, None]).log_prob(x).sum(-1)  # (401, 2^T)
    p = (log_p + dist.Normal(0.0, 1.0).log_prob(z)[:, None]).logsumexp(0).exp()
    exact = torch.stack(
        [p[x.sum(1) == s] @ x[x.sum(1) == s] / p[x.sum(1) == s].sum() for s in total]
    )
    assert (found.mean - exact).abs().max() < 0.05
    assert torch.equal(found.draws.sum(-1), total.expand(5, -1))


class MaskedLeft(TimeLeft):
    """A model that masks by time or, of a batch with an even number of rows, every other row."""

    def __init__(self, of_rows):
        super().__init__()
        self.of_rows = of_rows

    def model(self, x):
        mask = torch.arange(len(x))[None] % 2 == 0 if self.of_rows else torch.arange(T)[:, None] > 0
        time, rows = self.plates(x)
        with rows:
            z = pyro.sample("z", dist.Normal(W.new_zeros(len(x)), 1.0))
            with time:
                p = dist.Normal(W[:, None] * z, S).mask(mask.expand(T, len(x)))
                pyro.sample("x", p, obs=x.T)


def test_a_mask_of_some_pixels_leaves_no_sum():
    pooled = torch.full((6, 1, 1), 9.0)
    with pytest.raises(ValueError, match=r'site "x" masks some values of a row'):
        pv.super_resolve(MaskedLeft(of_rows=False), pooled, sums=True)
    found = pv.super_resolve(MaskedLeft(of_rows=True), pooled, sums=True, draws=2000, seed=0)
    free = found.draws.sum(-1).mean(0)  # the draws of all rows have the given sums
    torch.testing.assert_close(free, torch.full((6,), 9.0).double())
    exact = 9 * COVARIANCE.sum(1) / COVARIANCE.sum()
    assert (found.mean[::2] - exact).abs().max() < 0.2
    assert (found.mean[1::2] - 9 / T).abs().max() < 0.4  # z is drawn from its prior there


@pytest.mark.parametrize("graph", [TimeLeft(), LatentsOfTime()], ids=["rows", "time"])
@pytest.mark.parametrize("rows", N)
def test_bidirectional_bounds_return_rows_first_and_are_those_of_the_row(graph, rows):
    found = pv.bidirectional_bounds(graph, rows=rows, temperatures=60, samples=16)
    of_row = COVARIANCE if type(graph) is TimeLeft else torch.diag(W**2 + S**2)
    assert_close_to_the_evidence(found, rows, of_row)


def assert_close_to_the_evidence(found, rows, covariance):
    """Few temperatures leave noise of 0.2 to 0.6 nats; test_annealing looks at the bounds."""
    law = MultivariateNormal(torch.zeros(T).double(), covariance)
    exact = law.log_prob(found.x)
    assert found.x.shape == (rows, T)
    assert (found.lower - exact).abs().mean() < 0.7
    assert (found.upper - exact).abs().mean() < 0.7
    if rows == T:
        assert (law.log_prob(found.x.T) - exact).abs().mean() > 2, "transposed rows stand out"


@pytest.mark.parametrize("rows", N)
def test_the_sleep_phase_gives_the_guide_rows_first(rows):
    graph, gains = TimeLeft(), []
    for seed in range(200):
        torch.manual_seed(seed)
        loss = WakeSleep().differentiable_loss(graph.model, graph.guide, data(rows))
        (gain,) = torch.autograd.grad(loss, graph.gain)
        gains.append(gain / rows)
    gains = torch.stack(gains)  # at the exact posterior the gradient of the guide is 0
    assert (gains.mean(0) / gains.std(0) * 200**0.5).abs().max() < 4.5


class Columns(TimeLeft):
    """A latent of the row is in two plates' way: u in both, z and x as events in that of rows."""

    def model(self, x):
        time, rows = self.plates(x)
        with rows:
            z = pyro.sample("z", dist.Normal(W.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z[..., None] * W, S).to_event(1), obs=x)
            with time:
                pyro.sample("u", dist.Normal(W.new_zeros(T, len(x)), 1.0))

    def guide(self, x):
        time, rows = self.plates(x)
        with rows:
            pyro.sample("z", dist.Normal(x @ self.gain, S / (W @ W + S**2).sqrt()))
        with time, rows:
            pyro.sample("u", dist.Normal(W.new_zeros(T, len(x)), 1.0))


def test_the_place_of_a_plate_that_a_site_is_not_in_is_left_out():
    x = data(5)
    assert pv.embed(Columns(), x, site="z", draws=3).shape == (3, 5)
    hidden = torch.tensor([False, False, False, True])
    found = pv.impute(Columns(), x, hidden=hidden, draws=7, seed=0)
    assert found.mean.shape == x.shape
    assert found.draws.shape == (7, *x.shape)
    exact = MultivariateNormal(torch.zeros(T).double(), COVARIANCE).log_prob(x)
    torch.testing.assert_close(pv.log_evidence(Columns(), x, samples=5).log_p, exact)


class ReadsTime(TimeLeft):
    """A model that reads the number of times from x."""

    def model(self, x):
        time = pyro.plate("time", x.shape[1], dim=-2)
        with pyro.plate("rows", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x[:, 0] * 0, 1.0))
            with time:
                pyro.sample("x", dist.Normal(W[: x.shape[1], None] * z, S), obs=x.T)


def test_bidirectional_bounds_of_a_model_that_reads_x():
    with pytest.raises(ValueError, match=r"bidirectional_bounds: .* like=x"):
        pv.bidirectional_bounds(ReadsTime(), rows=6, temperatures=2)
    found = pv.bidirectional_bounds(ReadsTime(), rows=6, temperatures=60, like=data(2))
    assert_close_to_the_evidence(found, 6, COVARIANCE)
