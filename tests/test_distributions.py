"""Densities against scipy, torch and Pyro, at extreme parameters, and their gradients."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro.distributions.testing.gof import auto_goodness_of_fit
from scipy import integrate, stats
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import constraints
from torch.distributions.kl import _KL_REGISTRY

from pyrovae.distributions import (
    ContinuousBernoulli,
    DiscretizedLogistic,
    ImproperUniform,
    IndependentBernoulli,
    LogPoisson,
    NegativeBinomial,
    OrdinalCategorical,
    SameFamilyMixture,
    UnitNormal,
    ZeroInflatedNegativeBinomial,
    kl_divergence,
)

DOUBLE = torch.float64
LOGITS = [0.0, 1e-9, 1e-3, 0.1, 0.4999, 0.5, 0.5001, 1.0, 5.0, 16.0, 30.0, 100.0]
LOGITS = torch.tensor([-value for value in LOGITS] + LOGITS, dtype=DOUBLE)


def bernoulli(logits, n=1):
    return IndependentBernoulli(dist.Bernoulli(logits=logits), n)


def bits(*shape):
    return torch.randint(2, shape).double()


# ---------------------------------------------------------------------------- independent Bernoulli
@pytest.mark.parametrize("d", [1, 2, 63, 64, 65, 128, 784])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_bernoulli_equals_pyro(d, scale):
    logits, x = (scale * torch.randn(5, d, dtype=DOUBLE)).requires_grad_(), bits(5, d)
    ours = bernoulli(logits).log_prob(x)
    theirs = dist.Bernoulli(logits=logits).to_event(1).log_prob(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-11)
    g = torch.randn(5, dtype=DOUBLE)
    torch.testing.assert_close(*(torch.autograd.grad(y, logits, g)[0] for y in (ours, theirs)))


def test_bernoulli_in_float32_is_within_rounding():
    logits, x = 4 * torch.randn(50, 784), bits(50, 784).float()
    cross_entropy = F.binary_cross_entropy_with_logits(
        logits.double(), x.double(), reduction="none"
    )
    exact = -cross_entropy.sum(-1)
    torch.testing.assert_close(bernoulli(logits).log_prob(x).double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("x_shape", "logits_shape"),
    [((5, 3), (4, 5, 3)), ((4, 5, 3), (5, 3)), ((3,), (5, 3)), ((5, 3), (1, 3))],
)
def test_bernoulli_broadcasts(x_shape, logits_shape):
    logits, x = torch.randn(*logits_shape, dtype=DOUBLE, requires_grad=True), bits(*x_shape)
    ours = bernoulli(logits).log_prob(x)
    theirs = dist.Bernoulli(logits=logits).to_event(1).log_prob(x)
    torch.testing.assert_close(ours, theirs)
    g = torch.randn_like(ours)
    torch.testing.assert_close(*(torch.autograd.grad(y, logits, g)[0] for y in (ours, theirs)))


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_bernoulli_takes_any_event(n):
    logits, x = torch.randn(2, 3, 4, dtype=DOUBLE, requires_grad=True), bits(2, 3, 4)
    p = bernoulli(logits, n)
    assert (p.batch_shape, p.event_shape) == (x.shape[: 3 - n], x.shape[3 - n :])
    torch.testing.assert_close(p.log_prob(x), dist.Bernoulli(logits=logits).to_event(n).log_prob(x))
    assert gradcheck(lambda logits: bernoulli(logits, n).log_prob(x), logits)


def test_bernoulli_has_second_derivatives_and_keeps_its_graph():
    logits, x = torch.randn(2, 3, dtype=DOUBLE, requires_grad=True), bits(2, 3)
    assert gradgradcheck(lambda logits: bernoulli(logits).log_prob(x), logits)
    y = bernoulli(logits).log_prob(x).sum()
    first, second = (torch.autograd.grad(y, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_bernoulli_differentiates_by_x():
    x = torch.rand(2, 3, dtype=DOUBLE, requires_grad=True)
    with pyro.validation_enabled(False):
        assert gradcheck(lambda x: bernoulli(torch.ones(2, 3, dtype=DOUBLE)).log_prob(x), x)


def test_bernoulli_expands_masks_and_validates():
    logits, x = torch.randn(5, 3, requires_grad=True), bits(7, 5, 3).float()
    p = bernoulli(logits).expand((7, 5))
    assert isinstance(p, IndependentBernoulli)
    ours, theirs = p.log_prob(x), dist.Bernoulli(logits=logits).to_event(1).log_prob(x)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), logits)[0] for y in (ours, theirs)))
    assert p.mask(False).log_prob(x).sum() == 0
    with pytest.raises(ValueError, match="within the support"):
        p.log_prob(x + 0.5)
    torch.testing.assert_close(p.log_prob(x.byte()), p.log_prob(x))


def test_bernoulli_at_extreme_logits():
    logits = torch.tensor([100.0, -100.0, 100.0, -100.0], requires_grad=True)
    y = bernoulli(logits).log_prob(torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert y.item() == -200
    assert torch.autograd.grad(y, logits)[0].tolist() == pytest.approx([0, 0, -1, 1])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bernoulli_does_not_hide_bad_logits(bad):
    logits, x = torch.zeros(2, 100), torch.ones(2, 100)
    logits[0, 3], x[0, 3] = bad, float(bad < 0)
    with pyro.validation_enabled(False):
        y = bernoulli(logits).log_prob(x)
    assert not y[0].isfinite()
    assert y[1].isfinite()


# ----------------------------------------------------------------------------- continuous Bernoulli
@pytest.mark.parametrize("l", LOGITS.tolist())
def test_continuous_bernoulli_is_a_density_with_its_mean(l):  # noqa: E741
    p = ContinuousBernoulli(torch.tensor(l, dtype=DOUBLE))

    def density(x):
        return p.log_prob(torch.tensor(x, dtype=DOUBLE)).exp().item()

    assert integrate.quad(density, 0, 1)[0] == pytest.approx(1, abs=1e-9)
    mean = integrate.quad(lambda x: x * density(x), 0, 1)[0]
    assert mean == pytest.approx(p.mean.item(), abs=1e-9)


def test_continuous_bernoulli_equals_torch_where_torch_is_good():
    logits = torch.tensor([-8.0, -2.0, -0.5, 0.5, 2.0, 8.0], dtype=DOUBLE)
    x = torch.rand(6, dtype=DOUBLE)
    ours = ContinuousBernoulli(logits)
    theirs = torch.distributions.ContinuousBernoulli(logits=logits)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.icdf(x), theirs.icdf(x))


def test_continuous_bernoulli_in_float32():
    single = LOGITS.float().requires_grad_()
    for x in (0.0, 0.3, 1.0):
        y, exact = (
            ContinuousBernoulli(logits).log_prob(torch.full_like(logits, x))
            for logits in (single, LOGITS)
        )
        torch.testing.assert_close(y.double(), exact, rtol=1e-5, atol=1e-6)
        slope = torch.autograd.grad(y.sum(), single)[0]
        torch.testing.assert_close(
            slope.double(), x - ContinuousBernoulli(LOGITS).mean, rtol=1e-5, atol=1e-6
        )


def test_continuous_bernoulli_gradients():
    x, logits = torch.rand(len(LOGITS), dtype=DOUBLE), LOGITS.clone().requires_grad_()
    assert gradcheck(lambda logits: ContinuousBernoulli(logits).log_prob(x), logits)
    # The second derivative is not defined where the series takes over, at 1/2.
    smooth = (LOGITS + 0.01).requires_grad_()
    zero = torch.zeros(1, dtype=DOUBLE, requires_grad=True)
    assert gradgradcheck(lambda logits: ContinuousBernoulli(logits).log_prob(x), smooth)
    assert gradgradcheck(lambda logits: ContinuousBernoulli(logits).log_prob(x[:1]), zero)
    moderate = torch.tensor([-9.0, -1.0, -0.1, 0.1, 1.0, 9.0], dtype=DOUBLE, requires_grad=True)
    assert gradcheck(lambda logits: ContinuousBernoulli(logits).icdf(x[:6]), moderate)


@pytest.mark.parametrize("l", [-30.0, -3.0, 0.0, 1e-4, 3.0, 30.0])
def test_continuous_bernoulli_samples(l):  # noqa: E741
    p = ContinuousBernoulli(torch.tensor(l))
    x = p.sample((20_000,))
    assert x.min() >= 0
    assert x.max() <= 1
    assert auto_goodness_of_fit(x, p.log_prob(x).exp(), dim=1) > 1e-3


# -------------------------------------------------------------------------------- counts and levels
def test_log_poisson_equals_scipy():
    log_rate, x = torch.linspace(-5, 5, 7, dtype=DOUBLE), torch.arange(30.0, dtype=DOUBLE)[:, None]
    wanted = stats.poisson(log_rate.exp().numpy()).logpmf(x.numpy())
    torch.testing.assert_close(LogPoisson(log_rate).log_prob(x), torch.as_tensor(wanted))
    assert gradcheck(lambda log_rate: LogPoisson(log_rate).log_prob(x), log_rate.requires_grad_())


@pytest.mark.parametrize("mean", [0.1, 3.0, 17.0, 255.0, 1e3, 1e4, 1e5, 1e6, 1e7])
def test_log_poisson_keeps_its_digits_at_large_counts(mean):
    """In single precision x r, e^r and log x! have none left of what remains of them."""
    log_rate = torch.tensor(mean).log() + 0.01 * torch.randn(200)
    x = torch.poisson(log_rate.exp())
    wanted = dist.Poisson(log_rate.double().exp()).log_prob(x.double())
    error = (LogPoisson(log_rate).log_prob(x) - wanted).abs().max()
    assert error < 3e-6 * max(10, mean**0.5)  # r itself is known to 1e-6
    torch.testing.assert_close(LogPoisson(log_rate.double()).log_prob(x), wanted)


def test_log_poisson_where_the_rate_underflows():
    log_rate = torch.tensor(-200.0, requires_grad=True)
    y = LogPoisson(log_rate).log_prob(torch.tensor(3.0))
    assert y.item() == pytest.approx(-600 - math.log(6))
    assert torch.autograd.grad(y, log_rate)[0] == 3
    assert LogPoisson(torch.tensor(0.0)).log_prob(torch.tensor(255, dtype=torch.uint8)).isfinite()


def test_ordinal_categorical_moments():
    p = OrdinalCategorical(logits=torch.randn(3, 5, dtype=DOUBLE))
    for row, mean, variance in zip(p.probs, p.mean, p.variance, strict=True):
        exact = stats.rv_discrete(values=(range(5), row.numpy()))
        assert (mean.item(), variance.item()) == pytest.approx((exact.mean(), exact.var()))
    assert isinstance(p.expand((2, 3)), OrdinalCategorical)
    assert p.expand((2, 3)).mean.shape == (2, 3)


def test_discretized_logistic_equals_scipy():
    m, s, x = 0.3, 0.05, torch.arange(256, dtype=DOUBLE)
    p = DiscretizedLogistic(torch.tensor(m, dtype=DOUBLE), torch.tensor(s, dtype=DOUBLE).log())
    edges = (2 * x.numpy() - 1) / 255 - 1
    below = stats.logistic(m, s).cdf(edges)
    wanted = [b - a for a, b in zip([0, *below[1:]], [*below[1:], 1], strict=True)]
    torch.testing.assert_close(
        p.log_prob(x).exp(), torch.tensor(wanted, dtype=DOUBLE), rtol=1e-9, atol=1e-15
    )
    assert p.mean.item() == pytest.approx(sum(k * w for k, w in enumerate(wanted)))


@pytest.mark.parametrize(
    "log_scale", [-200.0, -30.0, -15.0, -7.0, -3.0, 0.0, 5.0, 20.0, 59.0, 100.0]
)
@pytest.mark.parametrize("loc", [-30.0, -1.0, -0.5, 0.0, 0.1234, 1.0, 30.0])
def test_discretized_logistic_at_extremes(loc, log_scale):
    loc, log_scale = (torch.tensor(value, requires_grad=True) for value in (loc, log_scale))
    p, x = DiscretizedLogistic(loc, log_scale), torch.arange(256.0)
    log_p = p.log_prob(x)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-4)
    assert log_p.isfinite().all()
    for gradient in torch.autograd.grad(log_p.sum(), (loc, log_scale)):
        assert gradient.isfinite()
    assert p.mean.item() == pytest.approx((x * log_p.exp()).sum().item(), abs=0.01)
    assert p.support.check(p.sample((100,))).all()


def test_discretized_logistic_gradients():
    loc, log_scale = (torch.randn(4, 1, dtype=DOUBLE, requires_grad=True) for _ in range(2))
    x = torch.arange(4.0, dtype=DOUBLE)
    assert gradcheck(lambda m, s: DiscretizedLogistic(m, s, 4).log_prob(x), (loc, log_scale))
    # At m = 0 the edge between the middle bins is exactly at m.
    zero = torch.zeros(1, dtype=DOUBLE, requires_grad=True)
    assert gradcheck(lambda m: DiscretizedLogistic(m, torch.zeros_like(m), 4).log_prob(x), zero)


def test_discretized_logistic_samples():
    p = DiscretizedLogistic(torch.tensor(0.2), torch.tensor(-1.0), levels=16)
    counts = torch.bincount(p.sample((20_000,)).long(), minlength=16)
    wanted = p.log_prob(torch.arange(16.0)).exp()
    wanted = wanted * 20_000 / wanted.sum()
    assert stats.chisquare(counts, wanted, sum_check=False).pvalue > 1e-3
    assert p.expand((3,)).sample((2,)).shape == (2, 3)
    with pytest.raises(ValueError, match="within the support"):
        p.log_prob(torch.tensor(16.0))


# ------------------------------------------------------------------------------------- divergences
def normal(*shape, kind=dist.Normal):
    return kind(torch.randn(shape, dtype=DOUBLE), torch.rand(shape, dtype=DOUBLE) + 0.1)


def unit_normal(*shape, kind=UnitNormal):
    return kind(torch.zeros(shape, dtype=DOUBLE), torch.ones(shape, dtype=DOUBLE))


def test_kl_to_the_unit_normal_equals_the_general_formula():
    mu, sigma = torch.randn(5, 3, dtype=DOUBLE), torch.rand(5, 3, dtype=DOUBLE) + 0.01
    mu.requires_grad_()
    sigma.requires_grad_()
    zeros, ones = torch.zeros(3, dtype=DOUBLE), torch.ones(3, dtype=DOUBLE)

    def kl(mu, sigma, kind=UnitNormal):
        p = kind(zeros, ones).expand([5, 3]).to_event(1)
        return kl_divergence(dist.Normal(mu, sigma).to_event(1), p)

    torch.testing.assert_close(kl(mu, sigma), kl(mu, sigma, dist.Normal), rtol=1e-12, atol=1e-12)
    assert gradcheck(kl, (mu, sigma))
    assert torch.equal(kl(zeros.expand(5, 3), ones.expand(5, 3)), torch.zeros(5, dtype=DOUBLE))


@pytest.mark.parametrize(
    ("n", "m", "shape"), [(1, 1, (4, 3)), (2, 2, (4,)), (0, 0, (4, 3, 2)), (2, 1, ()), (1, 2, ())]
)
def test_kl_unwraps_event_dimensions_as_pyro_does(n, m, shape):
    q, p = normal(4, 3, 2).to_event(n), unit_normal(4, 3, 2).to_event(m)
    if n != m:
        with pytest.raises(NotImplementedError, match=r"KL\(.*Normal.* \|\| .*UnitNormal"):
            kl_divergence(q, p)
        return
    found = kl_divergence(q, p)
    assert found.shape == shape
    plain = unit_normal(4, 3, 2, kind=dist.Normal).to_event(m)
    torch.testing.assert_close(found, torch.distributions.kl_divergence(q, plain))


@pytest.mark.filterwarnings("ignore:Singular sample detected")
def test_kl_of_wisharts_is_the_mean_of_log_ratios_and_reaches_the_guide():
    """Torch's holds the parameters of q constant, and fails where gradients are off."""
    g = torch.Generator().manual_seed(0)
    tril = torch.randn(2, 3, 3, generator=g, dtype=torch.double).tril(-1) / 2 + torch.eye(3)
    df = torch.tensor([4.0, 9.0], dtype=torch.double, requires_grad=True)
    tril.requires_grad_()
    p = dist.Wishart(torch.tensor(5.0).double(), torch.eye(3).double() * 0.7)
    with torch.no_grad():
        q = dist.Wishart(df, scale_tril=tril)
        z = q.sample((40_000,))
        ratio = q.log_prob(z) - p.log_prob(z)
        off = kl_divergence(q, p) - ratio.mean(0)
        assert (off.abs() < 5 * ratio.std(0) / 200).all()
        torch.testing.assert_close(kl_divergence(q, q), torch.zeros(2).double())

    def kl(df, tril):
        return kl_divergence(dist.Wishart(df, scale_tril=tril.tril()), p)

    assert torch.autograd.gradcheck(kl, (df, tril))


def test_kl_unwraps_masks_as_pyro_does():
    q, p, plain = normal(5), unit_normal(5), unit_normal(5, kind=dist.Normal)
    some, others = torch.arange(5) < 3, torch.arange(5) > 0
    for a, b in ((True, True), (some, True), (True, some), (some, others), (False, True)):
        found = kl_divergence(q.mask(a), p.mask(b))
        theirs = torch.distributions.kl_divergence(q.mask(a), plain.mask(b))
        torch.testing.assert_close(found, torch.as_tensor(theirs, dtype=DOUBLE).expand(5))


def test_other_divergences_are_those_of_torch_and_pyro():
    rate = torch.rand(5, 3, dtype=DOUBLE) + 0.5
    full = torch.distributions.MultivariateNormal(rate, torch.eye(3, dtype=DOUBLE))
    for q, p in (
        (dist.Gamma(rate, 1 + rate).to_event(1), dist.Gamma(2 * rate, rate).to_event(1)),
        (dist.Delta(rate, event_dim=1), unit_normal(5, 3).to_event(1)),
        (normal(5, 3).to_event(1), full),
    ):
        theirs = torch.distributions.kl_divergence(q, p)
        torch.testing.assert_close(kl_divergence(q, p), theirs)


def test_no_divergence_is_registered_with_torch():
    modules = {function.__module__.split(".")[0] for function in _KL_REGISTRY.values()}
    assert modules == {"torch", "pyro"}


# ----------------------------------------------------------------------------------------- latents
def test_the_improper_density_has_the_type_of_the_value():
    flat = ImproperUniform(constraints.real_vector, torch.Size(), torch.Size([3]))
    for p, shape in ((flat, (5,)), (flat.expand([2, 5]), (2, 5))):
        density = p.log_prob(torch.randn(5, 3, dtype=DOUBLE))
        assert torch.equal(density, torch.zeros(shape, dtype=DOUBLE))


# ------------------------------------------------------------------------------- negative binomial
MU, THETA, GATE = torch.rand(4, 3) * 5, torch.rand(3) + 0.5, torch.randn(4, 3)


@pytest.mark.parametrize("gate", [(), (GATE,)], ids=["plain", "zero-inflated"])
def test_expanded_counts_keep_their_precision_and_type(gate):
    kind = ZeroInflatedNegativeBinomial if gate else NegativeBinomial
    p, x = kind(MU, THETA, *gate), torch.arange(12.0).reshape(4, 3)
    q = p.expand((2, 4, 3))
    assert type(q) is kind
    assert (q.batch_shape, q.log_mu.dtype) == ((2, 4, 3), torch.float64)
    assert q.mean.dtype == q.variance.dtype == q.sample().dtype == torch.float32
    assert torch.equal(q.log_prob(x), p.log_prob(x).expand(2, 4, 3))
    torch.testing.assert_close(q.variance, p.variance.expand(2, 4, 3))
    logs = kind.from_logs(MU.log(), THETA.log(), *gate)
    torch.testing.assert_close(logs.log_prob(x), p.log_prob(x), rtol=1e-5, atol=1e-5)


def test_counts_want_both_parameters():
    with pytest.raises(ValueError, match="NegativeBinomial: expected mu and theta, or log_mu and"):
        NegativeBinomial(MU, log_theta=THETA.log())
    with pytest.raises(ValueError, match="expected gate_logits"):
        ZeroInflatedNegativeBinomial(MU, THETA)


def test_divergence_of_spaces_of_other_shapes_is_refused():
    def normal(*shape):
        return dist.Normal(torch.zeros(shape), 1.0).to_event(1)

    for q, p in ((normal(5, 3), normal(1)), (normal(5, 3), normal(4)), (normal(5, 1), normal(3))):
        with pytest.raises(ValueError, match=r"q is over arrays of shape \(\d,\) and p over"):
            kl_divergence(q, p)
    assert kl_divergence(normal(5, 3), normal(3)).shape == (5,)


def test_weights_of_a_mixture_that_differ_by_row_are_refused():
    components = dist.Normal(torch.zeros(5, 3, 2), 1.0).to_event(1)
    with pytest.raises(ValueError, match=r"logits have shape \(5, 3\).*MixtureSameFamily"):
        SameFamilyMixture(torch.zeros(5, 3), components)
