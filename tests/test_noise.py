"""Noise and sums over squares, against integrals, enumeration and moments of draws."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch.distributions import Beta, Multinomial, Normal
from torch.utils._python_dispatch import TorchDispatchMode

import pyrovae as pv
from pyrovae.distributions import (
    BlockSums,
    ContinuousBernoulli,
    DiscretizedLogistic,
    GaussianNoise,
    LogPoisson,
    MaskingNoise,
    NegativeBinomial,
    SaltAndPepperNoise,
    block_sums,
    families,
    levels,
    tilted_sums,
)
from pyrovae.distributions.block_sums import blocks

Y = torch.tensor([-0.4, 0.0, 0.2, 0.7, 1.0, 1.3])


def bayes(log_p, values, log_noise):
    """Return log p(y), E[x | y], Var[x | y] by a sum over values of x with shape (K, 1)."""
    joint = log_p + log_noise
    w = joint.softmax(0)
    mean = (w * values).sum(0)
    return joint.logsumexp(0), mean, (w * (values - mean).square()).sum(0)


def check_draws(draws, mean, variance):
    z = (draws.mean(0) - mean) / (variance / len(draws)).sqrt().clamp(min=1e-6)
    assert z.abs().max() < 5


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.8])
def test_gaussian_noise_on_grey_values(sigma):
    p, noise = ContinuousBernoulli(torch.linspace(-8, 8, 6)), GaussianNoise(sigma)
    y = Y.clamp(-2 * sigma, 1 + 2 * sigma).double()
    p = ContinuousBernoulli(p.logits.double())
    x = ((torch.arange(20_000).double() + 0.5) / 20_000)[:, None]
    log_p = p.log_prob(x) - math.log(20_000)
    wanted, mean, variance = bayes(log_p, x, dist.Normal(x, sigma).log_prob(y))
    torch.testing.assert_close(noise.log_prob(y, p), wanted, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(noise.mean(y, p), mean, rtol=1e-3, atol=1e-3)
    check_draws(noise.draw(y.expand(2000, -1), p.expand((2000, 6))), mean, variance)


@pytest.mark.parametrize(
    ("p", "top"),
    [
        (dist.Binomial(5, logits=torch.linspace(-2, 2, 6)), 5),
        (DiscretizedLogistic(torch.linspace(-1, 1, 6), torch.zeros(6), levels=7), 6),
        (dist.Categorical(logits=torch.randn(6, 4)), 3),
    ],
)
def test_gaussian_noise_on_levels(p, top):
    noise, y = GaussianNoise(0.9), torch.linspace(-1, top + 1, 6)
    k = torch.arange(top + 1.0)[:, None]
    found = bayes(p.log_prob(k.expand(-1, 6)), k, dist.Normal(k, 0.9).log_prob(y))
    torch.testing.assert_close(noise.log_prob(y, p), found[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(noise.mean(y, p), found[1], rtol=1e-4, atol=1e-4)
    check_draws(noise.draw(y.expand(2000, -1), p.expand((2000, 6))), found[1], found[2])


def test_noise_that_replaces_values_of_levels():
    p = dist.Bernoulli(torch.linspace(0.1, 0.9, 6))
    for noise, of_y in (
        (SaltAndPepperNoise(0.4), lambda y, k: 0.6 * (y == k) + 0.2),
        (MaskingNoise(0.3), lambda y, k: 0.7 * (y == k) + 0.3 * (y == 0)),
    ):
        for y in (torch.zeros(6), torch.ones(6)):
            k = torch.tensor([[0.0], [1.0]])
            wanted, mean, variance = bayes(p.log_prob(k.expand(-1, 6)), k, of_y(y, k).log())
            torch.testing.assert_close(noise.log_prob(y, p), wanted)
            torch.testing.assert_close(noise.mean(y, p), mean)
            check_draws(noise.draw(y.expand(4000, -1), p.expand((4000, 6))), mean, variance)


def test_a_recorded_grey_value_may_be_salt_or_clean():
    """At a resolution of d, a clean value equals salt with probability d p(salt)."""
    p, step = ContinuousBernoulli(torch.zeros(6) + 4.0), 1 / 255
    noise = SaltAndPepperNoise(0.2, resolution=step)
    y = torch.ones(6)
    kept, replaced = 0.8 * step * p.log_prob(y).exp(), torch.tensor(0.1)
    torch.testing.assert_close(noise.log_prob(y, p), (kept + replaced).log())
    w = kept / (kept + replaced)
    torch.testing.assert_close(noise.mean(y, p), w + (1 - w) * p.mean)
    strict = SaltAndPepperNoise(0.2)
    torch.testing.assert_close(strict.mean(y, p), p.mean)
    middle = torch.full((6,), 0.5)
    torch.testing.assert_close(strict.mean(middle, p), middle)
    assert torch.equal(strict.draw(middle, p), middle)


def test_corrupting_data():
    x = torch.full((100_000,), 0.3)
    y = SaltAndPepperNoise(0.4, low=-1.0, high=2.0)(x)
    for value, share in ((-1.0, 0.2), (2.0, 0.2), (0.3, 0.6)):
        found = torch.isclose(y, torch.tensor(value)).double().mean()
        assert abs(found - share) < 4.5 * (share * (1 - share) / 1e5) ** 0.5
    assert abs((GaussianNoise(0.5)(x) - x).std() - 0.5) < 4.5 * 0.5 / (2e5) ** 0.5
    assert abs((MaskingNoise(0.25)(x) == 0).double().mean() - 0.25) < 4.5 * (0.1875 / 1e5) ** 0.5


def test_noise_is_saved_with_a_model(tmp_path):
    q = pv.posteriors.DiagonalNormal(pv.nets.MLP(6, [4], 4))
    vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(pv.nets.MLP(2, [4], 6)))
    for noise in (SaltAndPepperNoise(0.1, high=2.0), MaskingNoise(0.2), GaussianNoise(0.3)):
        loaded = pv.load(pv.save(pv.Denoising(vae, noise), tmp_path / type(noise).__name__))
        assert vars(loaded.corrupt).get("high") == vars(noise).get("high")
        assert type(loaded.corrupt) is type(noise) is getattr(pv.graphs, type(noise).__name__)


# ------------------------------------------------------------------------------ sums over squares
def states(n):
    """Return all values of four pixels, (n ** 4, 4), first row of a square first."""
    return torch.cartesian_prod(*[torch.arange(float(n))] * 4)


@pytest.mark.parametrize(
    ("p", "n"),
    [
        (dist.Bernoulli(logits=torch.randn(2, 2)), 2),
        (dist.Binomial(3, logits=torch.randn(2, 2)), 4),
        (dist.Categorical(logits=torch.randn(2, 2, 5)), 5),
    ],
)
def test_sums_of_levels_by_enumeration(p, n):
    x = states(n)
    log_p = p.log_prob(x.reshape(-1, 2, 2)).sum((1, 2))
    sums = BlockSums(p, 2)
    for s in (0.0, 1.0, 3.0, 4.0 * (n - 1)):
        fits = x.sum(1) == s
        given = log_p.masked_fill(~fits, -torch.inf)
        of_s = torch.tensor([[s]])
        torch.testing.assert_close(sums.log_prob(of_s)[0, 0], given.logsumexp(0))
        mean = given.softmax(0) @ x
        torch.testing.assert_close(sums.mean(of_s).flatten(), mean, rtol=1e-4, atol=1e-5)
        draws = BlockSums(p.expand((2000, 2, 2)), 2).draw(of_s.expand(2000, 1, 1)).flatten(1)
        assert (draws.sum(1) == s).all()
        check_draws(draws, mean, given.softmax(0) @ (x - mean).square())
    assert sums.log_prob(torch.tensor([[0.5]])) == -torch.inf
    assert sums.log_prob(torch.tensor([[-1.0]])) == -torch.inf


# ------------------------------------------------------------ sums of values on more than 64 levels
def randn(*shape):
    return torch.randn(*shape, dtype=torch.double)


MANY = {
    "DiscretizedLogistic": lambda: DiscretizedLogistic(randn(9, 4, 4) / 2, randn(9, 4, 4) - 3, 80),
    "Binomial": lambda: dist.Binomial(79, logits=randn(9, 4, 4)),
    "Categorical": lambda: dist.Categorical(logits=randn(9, 4, 4, 80)),
    "a family of its own": lambda: Levels(logits=randn(9, 4, 4, 80)),
}


class Levels(dist.Categorical):
    """A distribution on levels that pyrovae does not know."""


def masses(p):
    """Return the log masses of the values of each square, with shape (n, 4, 80)."""
    k = torch.arange(80.0, dtype=torch.double).reshape(-1, 1, 1, 1)
    log_mass = p.log_prob(k.expand(80, *p.batch_shape))
    return torch.stack([blocks(part, 2) for part in log_mass], -1).flatten(0, -3)


def exact(p, s):
    """Return log p(S) and E[x | S] of each square by convolution."""

    def log_prob(log_mass):
        sums = log_mass[:, 0]
        for a in log_mass[:, 1:].unbind(1):
            pairs = sums.unsqueeze(-1) + a.unsqueeze(-2)
            lines = [pairs[:, :, k] for k in range(80)]
            shifted = [F.pad(line, (k, 79 - k), value=-torch.inf) for k, line in enumerate(lines)]
            sums = torch.stack(shifted).logsumexp(0)
        return sums.gather(-1, s.flatten().long()[:, None])[:, 0]

    t = torch.zeros(s.numel(), 4, 1, dtype=torch.double, requires_grad=True)
    log_p = log_prob(masses(p) + t * torch.arange(80))
    (mean,) = torch.autograd.grad(log_p.sum(), t)
    return log_p.detach().reshape(s.shape), mean.reshape(*s.shape, 4)


@pytest.mark.parametrize("kind", MANY)
def test_sums_of_many_levels_by_convolution(kind):
    """Of sums as drawn, and of sums far out in the tails."""
    p = MANY[kind]()
    sums, drawn = BlockSums(p, 2), blocks(p.sample().double(), 2).sum(-1)
    far = torch.randint(1, 4 * 79, drawn.shape).double()
    for s, tolerance in ((drawn, 0.1), (far, 0.02)):
        log_p, mean = exact(p, s)
        assert (sums.log_prob(s) - log_p).abs().mean() < 0.1 + tolerance * log_p.abs().mean()
        assert (blocks(sums.mean(s), 2) - mean).abs().mean() < 1.5
        torch.testing.assert_close(blocks(sums.mean(s), 2).sum(-1), s)


@pytest.mark.parametrize("kind", MANY)
def test_draws_of_many_levels_have_the_sum_and_spread_as_the_values_do(kind):
    p = MANY[kind]()
    s = blocks(p.sample().double(), 2).sum(-1)
    draws = BlockSums(p.expand((500, 9, 4, 4)), 2).draw(s)
    assert draws.min() >= 0
    assert draws.max() <= 79
    assert (draws == draws.round()).all()
    assert torch.equal(blocks(draws, 2).sum(-1), s.expand(500, 9, 2, 2))
    mean, at_once = exact(p, s)[1], blocks(draws, 2)
    assert (at_once.mean(0) - mean).abs().mean() < 1.5
    spread = blocks(p.sample((500,)).double(), 2).std(0)
    assert 0.4 < at_once.std(0).mean() / spread.mean() < 1.05  # less, as their sum is known


def test_the_ends_of_many_levels_are_exact():
    p = MANY["DiscretizedLogistic"]()
    sums, zero = BlockSums(p, 2), torch.zeros(9, 2, 2, dtype=torch.double)
    for s, k in ((zero, 0), (zero + 4 * 79, -1)):
        torch.testing.assert_close(sums.log_prob(s), masses(p)[..., k].sum(-1).reshape(9, 2, 2))
        torch.testing.assert_close(sums.mean(s), torch.full((9, 4, 4), [0.0, 79.0][k]).double())
    assert (sums.log_prob(zero - 1) == -torch.inf).all()
    assert (sums.log_prob(zero + 4 * 79 + 1) == -torch.inf).all()


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_sums_off_whole_numbers_by_rounding_count_as_whole(factor):
    """At the ends too, where a sum that is larger by rounding alone is not impossible."""
    p = DiscretizedLogistic(torch.zeros(factor, factor), torch.zeros(factor, factor))
    sums, most = BlockSums(p, factor), torch.full((1, 1), 255.0 * factor**2)
    for s in (most, 0 * most, most // 2):
        off = torch.stack([torch.nextafter(s, s + 1), torch.nextafter(s, s - 1)])
        torch.testing.assert_close(sums.log_prob(off), sums.log_prob(s.expand_as(off)))
        assert torch.equal(blocks(sums.draw(off), factor).sum(-1), s.expand_as(off))
    assert (sums.log_prob(torch.stack([most + 0.1, 0 * most - 0.1])) == -torch.inf).all()
    assert sums.log_prob(most / 2 + 0.5).isfinite()
    x = sums.draw(most / 2 + 0.25)
    assert x.sum() == most / 2 + 0.25
    assert (x != x.round()).sum() <= 1


def test_sums_of_levels_without_mass_are_impossible():
    """Where Newton's method has no root to go to, and log p(S) was some -1e18."""
    logits = torch.full((2, 2, 80), -torch.inf)
    logits[..., 10:30] = torch.randn(2, 2, 20)
    logits.requires_grad_()
    p = dist.Categorical(logits=logits)
    s = torch.tensor([1.0, 39.0, 40.0, 77.0, 116.0, 117.0, 315.0]).reshape(-1, 1, 1)
    log_p = BlockSums(p, 2).log_prob(s.expand(7, 1, 1)).flatten()
    assert torch.equal(log_p.isneginf(), torch.tensor([1, 1, 0, 0, 0, 1, 1]).bool())
    for at, k in ((2, 10), (4, 29)):
        torch.testing.assert_close(log_p[at], p.logits[..., k].sum(), rtol=1e-4, atol=1e-3)
    (gradient,) = torch.autograd.grad(log_p.sum(), logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.double])
def test_sums_of_many_levels_in_any_precision(dtype):
    """Where cubes of levels are above 65504, the largest number, and sums are of another type."""
    loc, log_scale = torch.tensor([[-0.5, 0.25], [0.0, 0.75]]), torch.full((2, 2), -2.0)
    wanted = BlockSums(DiscretizedLogistic(loc, log_scale), 2)
    sums = BlockSums(DiscretizedLogistic(loc.to(dtype), log_scale.to(dtype)), 2)
    for s in (torch.tensor([[500.0]]), torch.tensor([[500.0]], dtype=dtype), torch.tensor([[500]])):
        got = sums.log_prob(s).float()
        torch.testing.assert_close(got, wanted.log_prob(s), rtol=1e-3, atol=1e-3)
        assert sums.mean(s).dtype == sums.draw(s).dtype == dtype
        assert sums.draw(s).float().sum() == 500


def test_sums_of_no_values():
    p = dist.Binomial(255, logits=torch.zeros(0, 4, 4))
    assert BlockSums(p, 2).log_prob(torch.zeros(0, 2, 2)).shape == (0, 2, 2)


def test_a_square_that_is_certain_has_probability_one():
    """Where a normal density of the same moments has 57 nats, or infinitely few."""
    p = DiscretizedLogistic(torch.full((2, 2), -1.3), torch.full((2, 2), -7.0))
    log_p = [BlockSums(p, 2).log_prob(torch.full((1, 1), s)) for s in (0.0, 1.0, 40.0)]
    assert log_p[0] == 0
    assert -5000 < log_p[2] < log_p[1] < -10
    loc = torch.tensor([[0.2, -0.41], [0.9, 0.7]])
    bright = DiscretizedLogistic(loc, torch.full((2, 2), -12.0))
    assert BlockSums(bright, 2).log_prob(bright.sample().sum().reshape(1, 1)) > -1e-3


@pytest.mark.parametrize("kind", ["DiscretizedLogistic", "Categorical"])
def test_gradients_of_sums_of_many_levels(kind, monkeypatch):
    monkeypatch.setattr(tilted_sums, "_CLOSE", 1e-9)
    if kind == "Categorical":
        parts, make = (randn(2, 2, 70),), lambda a: dist.Categorical(logits=a)
    else:
        parts = randn(2, 2) / 2, randn(2, 2) - 3
        make = lambda a, b: DiscretizedLogistic(a, b, 70)  # noqa: E731
    parts = [part.requires_grad_() for part in parts]
    s = torch.tensor([[97.0]], dtype=torch.double)
    assert torch.autograd.gradcheck(lambda *given: BlockSums(make(*given), 2).log_prob(s), parts)


def test_moments_of_bins_keep_their_digits():
    """In single precision, from nearly certain levels to uniform ones, against double precision."""
    loc = torch.linspace(-1.3, 1.3, 401)
    for log_scale in (-6.0, -4.0, -1.0, 2.0):
        p = DiscretizedLogistic(loc, torch.full_like(loc, log_scale))
        twice = DiscretizedLogistic(loc.double(), torch.full_like(loc, log_scale).double())
        mass, k = twice.log_masses().exp(), torch.arange(256.0, dtype=torch.double)[:, None]
        mean = (mass * k).sum(0)
        variance = (mass * (k - mean).square()).sum(0)
        for got, wanted in zip(levels.moments(p), (mean, variance), strict=True):
            torch.testing.assert_close(got.double(), wanted, rtol=1e-3, atol=1e-4)


def test_sums_of_poisson_counts():
    rate = torch.tensor([[1.0, 2.0], [0.5, 4.0]])
    for p in (dist.Poisson(rate), LogPoisson(rate.log())):
        sums, s = BlockSums(p, 2), torch.tensor([[9.0]])
        torch.testing.assert_close(sums.log_prob(s), dist.Poisson(rate.sum()).log_prob(s))
        of_pixels = Multinomial(9, rate.flatten() / rate.sum())
        torch.testing.assert_close(sums.mean(s).flatten(), of_pixels.mean)
        every = BlockSums(p.expand((4000, 2, 2)), 2)
        draws = every.draw(s.expand(4000, 1, 1)).flatten(1)
        assert (draws.sum(1) == 9).all()
        check_draws(draws, of_pixels.mean, of_pixels.variance)


def test_sums_of_other_values_by_their_moments():
    mu, theta = torch.full((4, 4), 30.0), torch.full((4, 4), 8.0)
    p = NegativeBinomial(mu, theta)
    s = torch.full((2, 2), 130.0)
    variance = 4 * (30 + 900 / 8) + 1 / (2 * math.pi)
    wanted = dist.Normal(120.0, variance**0.5).log_prob(s)
    torch.testing.assert_close(BlockSums(p, 2).log_prob(s), wanted)
    torch.testing.assert_close(BlockSums(p, 2).mean(s), torch.full((4, 4), 32.5))


@pytest.mark.parametrize(
    "p",
    [
        NegativeBinomial(torch.full((2, 2), 1e-20), torch.ones(2, 2)),
        DiscretizedLogistic(torch.full((2, 2), -1.3), torch.full((2, 2), -7.0), 65_536),
        dist.Binomial(65_535, logits=torch.full((2, 2), -60.0)),
    ],
)
def test_counts_that_are_certain_have_probability_one(p):
    sums = BlockSums(p, 2)
    zero, some = torch.zeros(1, 1), torch.full((1, 1), 3.0)
    assert isinstance(sums.sums, block_sums._NormalSums)
    assert sums.log_prob(zero).abs() < 1e-5
    assert -torch.inf < sums.log_prob(some) < -10
    torch.testing.assert_close(sums.mean(some), torch.full((2, 2), 0.75))


def test_squares_of_an_image_lie_where_pooling_has_them():
    x = torch.randn(3, 1, 4, 6)
    p = dist.Normal(x, 1e-3)
    pooled = torch.nn.functional.avg_pool2d(x, 2) * 4
    sums = BlockSums(p, 2)
    torch.testing.assert_close(sums.mean(pooled), x)
    flat = BlockSums(dist.Normal(x.flatten(1), 1e-3), 2, tuple(x.shape))
    torch.testing.assert_close(flat.mean(pooled), x)
    assert (sums.log_prob(pooled) > 0).all()


def test_a_distribution_without_a_variance_is_named():
    class Odd(dist.Normal):
        @property
        def variance(self):
            raise NotImplementedError

    with pytest.raises(ValueError, match=r"Odd has no known variance"):
        GaussianNoise(1.0).log_prob(torch.zeros(4, 4), Odd(torch.zeros(4, 4), 1.0))
    with pytest.raises(ValueError, match=r"Odd has no known variance"):
        BlockSums(Odd(torch.zeros(4, 4), 1.0), 2)


# --------------------------------------------------------------------- many levels, block by block
LEVELS = {
    "Binomial": lambda a, b: dist.Binomial(40, logits=a),
    "Categorical": lambda a, b: dist.Categorical(logits=a[..., None] * torch.linspace(-1, 1, 41)),
    "DiscretizedLogistic": lambda a, b: DiscretizedLogistic(a / 3, b, levels=41),
    "ContinuousBernoulli": lambda a, b: ContinuousBernoulli(a),
}


@pytest.mark.parametrize("kind", LEVELS)
@pytest.mark.parametrize("block", [1, 7 * 64, 1 << 20])
def test_blocks_of_levels_give_what_all_levels_give_at_once(kind, block, monkeypatch):
    """log p(y), its gradients and E[x | y]; p has draws beside the rows, y has not."""
    monkeypatch.setattr(families, "_BLOCK", block)
    a = torch.randn(3, 5, 4, dtype=torch.double, requires_grad=True)
    b = (torch.randn(3, 5, 4, dtype=torch.double) - 2).requires_grad_()
    p = LEVELS[kind](a, b)
    top, sigma = (1.0, 0.1) if kind == "ContinuousBernoulli" else (40.0, 4.0)
    y, noise = torch.rand(5, 4, dtype=torch.double) * top, GaussianNoise(sigma)
    found, x = levels.points(p), levels.points(p).values.reshape(-1, 1, 1, 1)
    log_p = p.log_prob(x.expand(-1, 3, 5, 4)) + found.log_weight.reshape(-1, 1, 1, 1)
    wanted, mean, _ = bayes(log_p, x, dist.Normal(x, sigma).log_prob(y))
    got, weights = noise.log_prob(y, p), torch.rand(3, 5, 4, dtype=torch.double)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(noise.mean(y, p), mean)
    torch.testing.assert_close(found.log_mass, log_p)
    torch.testing.assert_close(found.moments(), bayes(log_p, x, 0 * log_p)[1:])
    of_both = [
        torch.autograd.grad((weights * value).sum(), [a, b], allow_unused=True, retain_graph=True)
        for value in (got, wanted)
    ]
    torch.testing.assert_close(*of_both)


class Largest(TorchDispatchMode):
    """The most values of a tensor that operations returned."""

    most = 0

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        out = f(*args, **(kwargs or {}))
        self.most = max(self.most, out.numel() if isinstance(out, torch.Tensor) else 0)
        return out


@pytest.mark.parametrize("kind", ["noise on a Binomial", "sums of a DiscretizedLogistic"])
def test_memory_of_many_levels_does_not_grow_with_their_number(kind):
    """The forward and the backward pass hold no tensor of all levels of all values."""
    logits = torch.randn(1250, 4, 4, requires_grad=True)
    with Largest() as largest:
        if kind == "noise on a Binomial":
            p = dist.Binomial(255, logits=logits)
            GaussianNoise(20.0).log_prob(torch.full((4,), 100.0), p).sum().backward()
        else:
            p = DiscretizedLogistic(logits, logits - 3)
            BlockSums(p, 2).log_prob(torch.full((2, 2), 500.0)).sum().backward()
    assert largest.most <= families._BLOCK


@pytest.mark.parametrize(
    "make",
    [
        *[lambda s=s: GaussianNoise(s) for s in (-0.5, math.nan, math.inf)],
        *[lambda s=s: MaskingNoise(s) for s in (-0.5, 1.0, 1.5, math.nan)],
        lambda: SaltAndPepperNoise(1.5),
        lambda: SaltAndPepperNoise(0.5, resolution=-1.0),
    ],
)
def test_what_is_no_share_or_deviation_is_refused(make):
    with pytest.raises(ValueError, match=r"Noise: .* expected a"):
        make()


@pytest.mark.parametrize("corrupt", [lambda x: None, lambda x: x[:1], lambda x: x.sum()])
def test_what_corrupts_into_another_shape_is_refused(corrupt):
    graph = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(torch.nn.Linear(3, 4)),
        pv.likelihoods.Gaussian(torch.nn.Linear(2, 3)),
    )
    with pytest.raises(ValueError, match=r"Denoising: corrupt returned .* expected a tensor of x"):
        pv.fit(pv.Denoising(graph, corrupt), torch.randn(5, 3), epochs=1, progress=False)


def test_each_column_may_have_its_own_noise():
    noisy = GaussianNoise(torch.tensor([0.0, 0.5]))(torch.ones(4000, 2))
    assert (noisy[:, 0] == 1).all()
    assert noisy[:, 1].std().item() == pytest.approx(0.5, rel=0.1)


def test_no_noise_leaves_values_of_every_kind():
    """A sum over levels or nodes has no normal density of width 0."""
    noise, bits = GaussianNoise(0.0), dist.Bernoulli(torch.tensor([0.3, 0.3, 0.3]))
    y = torch.tensor([1.0, 0.0, 0.5])
    expected = torch.tensor([0.3, 0.7, 0.0]).log()
    torch.testing.assert_close(noise.log_prob(y, bits), expected)
    grey, z = dist.Beta(torch.full((3,), 2.0), 3.0), torch.tensor([0.2, 0.6, 0.9])
    torch.testing.assert_close(noise.log_prob(z, grey), grey.log_prob(z))
    for p, values in ((bits, y), (grey, z), (dist.Normal(torch.zeros(3), 1.0), z)):
        torch.testing.assert_close(noise.mean(values, p), values)
        torch.testing.assert_close(noise.draw(values, p), values)
    by_column = GaussianNoise(torch.tensor([0.0, 0.3, 0.0]))
    clean, noisy = grey.log_prob(z), GaussianNoise(0.3).log_prob(z, grey)
    expected = torch.stack([clean[0], noisy[1], clean[2]])
    torch.testing.assert_close(by_column.log_prob(z, grey), expected)


def test_a_uniform_on_the_unit_interval_is_no_normal():
    p, y, sigma = dist.Uniform(torch.zeros(1), 1.0), torch.tensor([0.7]), 0.3
    normal = torch.distributions.Normal(0.0, 1.0)
    inside = normal.cdf(y / sigma) - normal.cdf((y - 1) / sigma)
    torch.testing.assert_close(GaussianNoise(sigma).log_prob(y, p), inside.log())


@pytest.mark.parametrize(
    ("a", "b"), [(0.05, 0.05), (0.1, 2.0), (2.0, 5.0), (1000.0, 1000.0), (5e4, 3e4), (2e5, 1.0)]
)
@pytest.mark.parametrize("sigma", [0.05, 0.2])
def test_noise_on_a_steep_or_narrow_density_of_the_unit_interval(a, b, sigma):
    """Nodes of one rule for all miss what is narrower than their distance, and the ends."""
    shapes = [torch.tensor([v], dtype=torch.double, requires_grad=True) for v in (a, b)]
    p = Beta(*shapes)
    y, noise = torch.tensor([0.45], dtype=torch.double), GaussianNoise(sigma)
    x = torch.from_numpy(scipy.stats.beta(a, b).ppf((np.arange(100_000) + 0.5) / 100_000))
    log_p = Normal(x, sigma).log_prob(y)
    found = noise.log_prob(y, p)
    expected = log_p.logsumexp(0, keepdim=True) - math.log(len(x))
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    expected = (log_p.softmax(0) * x).sum(0, keepdim=True)
    torch.testing.assert_close(noise.mean(y, p), expected, atol=1e-3, rtol=0)
    draws = noise.draw(y.expand(4000), p.expand((4000,)))
    error = draws.std() / len(draws) ** 0.5
    assert (draws.mean() - expected).abs() < 5 * error + 1e-3
    gradients = torch.autograd.grad(found.sum(), shapes)
    assert all(g.isfinite().all() for g in gradients)
