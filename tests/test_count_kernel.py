"""The fast paths of log NB and log ZINB against the exact one in double precision."""

import itertools
import math
import sys
from importlib.util import find_spec

import mpmath
import pytest
import torch
from scipy import stats

from pyrovae.distributions import (
    NegativeBinomial,
    ZeroInflatedNegativeBinomial,
    device_counts,
    torch_counts,
)
from pyrovae.distributions import negative_binomial_log_prob as paths
from pyrovae.distributions.negative_binomial_log_prob import negative_binomial_log_prob

if find_spec("numba"):
    from pyrovae.distributions import count_kernel

    MODULES = [torch_counts, device_counts, count_kernel]
else:
    MODULES = [torch_counts, device_counts]

pytestmark = pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__.split(".")[-1])


@pytest.fixture(autouse=True)
def _use(module, monkeypatch):
    """The path under test, wherever a path in single precision is taken at all."""
    monkeypatch.setattr(paths, "_compiled", lambda: None if module is torch_counts else module)
    assert paths._module(torch.zeros(2, 3), torch.zeros(3), torch.ones(2, 3)) is module


def drawn(low=-3.0, high=3.0, genes=300, cells=40, most=600.0):
    a = torch.rand(cells, genes) * 14 - 8
    t = torch.rand(genes) * (high - low) + low
    g = torch.randn(cells, genes) * 4
    x = torch.poisson(torch.rand(cells, genes) ** 6 * most)
    return a, t, g, x * (torch.rand(cells, genes) < 0.4)


def with_gradients(a, t, g, x):
    given = [v.clone().requires_grad_() for v in (a, t, g) if v is not None]
    log_p = negative_binomial_log_prob(given[0], given[1], None if g is None else given[2], x)
    weights = torch.linspace(0.5, 2, log_p.numel()).view(log_p.shape).to(log_p.dtype)
    return log_p, *torch.autograd.grad((weights * log_p).sum(), given)


RANGES = [(-3, 3), (-9, -7), (7, 8.99), (-3, 20), (9, 16), (-40, -20)]


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("each", ["gene", "cell"])
@pytest.mark.parametrize(("low", "high"), RANGES)
def test_value_and_gradients_are_those_of_double_precision(low, high, each, gated):
    a, t, g, x = drawn(low, high)
    g = g if gated else None
    t = t if each == "gene" else torch.rand(a.shape) * (high - low) + low
    assert (x > 16).any()
    assert (x == 0).any()
    exact = with_gradients(*(None if v is None else v.double() for v in (a, t, g)), x.double())
    found = with_gradients(a, t, g, x)
    for name, value, wanted in zip(("log p", *"atg")[: len(found)], found, exact, strict=True):
        assert value.dtype == torch.float32
        # theta (slope - d) at theta = e^9 has 4 digits more before the point than after
        tolerance = 2e-4 if name == "t" and high > 3 else 2e-5
        torch.testing.assert_close(value.double(), wanted, rtol=5e-6, atol=tolerance)


@pytest.mark.parametrize("each", ["gene", "cell"])
def test_digits_are_kept_at_a_large_theta(module, each):
    a, t, g, x = drawn(9, 14)  # above, lgamma loses digits in double precision too
    t = t if each == "gene" else t.expand(a.shape).flip(0).contiguous()
    exact = with_gradients(*(v.double() for v in (a, t, g, x)))
    most = 2e-7 if module is not torch_counts else 1e-4  # without a series for all
    for value, wanted in zip(with_gradients(a, t, g, x), exact, strict=True):
        assert ((value - wanted).abs() / (1 + wanted.abs())).max() < most


@pytest.mark.parametrize("theta", [1e-35, 0.4, 30.0, 1e6, 1e10])
def test_log_nb_is_that_of_exact_arithmetic(theta):
    x = torch.tensor([0.0, 1.0, 5.0, 16.0, 17.0, 40.0, 3000.0, 1e6])
    t, mu = torch.tensor(math.log(theta)), 7.5
    for shape in (x.shape, (2, *x.shape)):
        a = torch.full(shape, math.log(mu))
        found = negative_binomial_log_prob(a, t.expand(shape).clone(), None, x.expand(shape))
        mpmath.mp.dps = 40
        r, m = mpmath.exp(mpmath.mpf(t.item())), mpmath.exp(mpmath.mpf(a.flatten()[0].item()))
        wanted = [
            mpmath.loggamma(k + r)
            - mpmath.loggamma(r)
            - mpmath.loggamma(k + 1)
            - r * mpmath.log1p(m / r)
            + k * (mpmath.log(m) - mpmath.log(m + r))
            for k in x.int().tolist()
        ]
        wanted = torch.tensor([float(value) for value in wanted]).expand(shape)
        torch.testing.assert_close(found, wanted, rtol=3e-6, atol=2e-6)


def test_the_value_alone_is_that_of_the_gradients(module):
    a, t, g, x = drawn()
    for gate, theta in itertools.product((g, None), (t, t.expand(a.shape).contiguous())):
        alone, *none = module.evaluate(a, theta, gate, x, False)
        assert not none
        torch.testing.assert_close(alone, module.evaluate(a, theta, gate, x, True)[0])


@pytest.mark.parametrize("genes", [300, 301])
@pytest.mark.parametrize("which", ["a", "t", "g", "x"])
def test_nan_comes_through(which, genes):
    given = dict(zip("atgx", drawn(genes=genes), strict=True))
    given[which][(5,) if which == "t" else (3, 5)] = math.nan
    wrong = ~negative_binomial_log_prob(*given.values()).isfinite()
    assert wrong[3, 5]
    others = torch.ones_like(wrong)
    others[..., 5] = False
    assert not (wrong & others).any()


@pytest.mark.parametrize(
    ("which", "count"), [("a", 3.0), ("a", 40.0), ("g", 0.0), ("g", 3.0), ("g", 40.0)]
)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("large", [False, True])
def test_infinite_parameters_are_as_on_the_exact_path(which, count, sign, large):
    a, t, g, x = drawn()
    t = t + 10 if large else t
    (a if which == "a" else g)[3, 5], x[3, 5] = sign * math.inf, count
    exact = negative_binomial_log_prob(*(v.double() for v in (a, t, g, x)))
    found = negative_binomial_log_prob(a, t, g, x)
    assert torch.equal(found.isfinite(), exact.isfinite())
    finite = exact.isfinite()
    torch.testing.assert_close(found[finite], exact[finite].float(), rtol=5e-6, atol=2e-5)


def test_a_mean_of_zero_gives_a_zero():
    a, t, g, x = drawn()
    a[:], x[:] = -math.inf, 0.0
    torch.testing.assert_close(negative_binomial_log_prob(a, t, None, x), torch.zeros_like(a))
    found = negative_binomial_log_prob(a, t, g, x)
    torch.testing.assert_close(found, torch.zeros_like(a), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(40, 300), (1, 300), (300,), (3, 1, 300), (3, 40, 300)])
def test_counts_broadcast(shape):
    a, t, g, _ = drawn()
    a, g = (v.expand(3, 40, 300) for v in (a, g))
    x = torch.poisson(torch.full(shape, 3.0))
    repeated = negative_binomial_log_prob(a, t, g, x.expand(3, 40, 300).clone())
    torch.testing.assert_close(negative_binomial_log_prob(a, t, g, x), repeated)


def test_one_cell_without_a_batch():
    a, t, g, x = drawn()
    one = negative_binomial_log_prob(a[0], t, g[0], x[0])
    torch.testing.assert_close(one, negative_binomial_log_prob(a, t, g, x)[0])


def test_threads_change_nothing(module, monkeypatch):
    a, t, g, x = drawn(cells=41)
    before, alone = torch.get_num_threads(), with_gradients(a, t, g, x)
    if hasattr(module, "_LEAST_VALUES"):
        monkeypatch.setattr(module, "_LEAST_VALUES", 1000)
    torch.set_num_threads(3)
    try:
        together = with_gradients(a, t, g, x)
    finally:
        torch.set_num_threads(before)
    for one, several in zip(alone, together, strict=True):
        torch.testing.assert_close(one, several)


def test_a_gate_that_is_never_shut_is_no_gate():
    a, t, _, x = drawn()
    g = torch.full_like(a, -math.inf)
    for shape in (t.shape, a.shape):
        theta = t.expand(shape).contiguous()
        plain, *of_plain = with_gradients(a, theta, None, x)
        found, *gradients = with_gradients(a, theta, g, x)
        torch.testing.assert_close(found, plain)
        torch.testing.assert_close(gradients[:2], of_plain)
        assert not gradients[2].any()


def test_a_tiny_theta_has_finite_gradients():
    a, t, g, x = drawn()
    for shape in (t.shape, a.shape):
        found = with_gradients(a, torch.full(shape, -100.0), g, x)
        assert all(values.isfinite().all() for values in found)


def test_other_precision_and_nothing_at_all_take_the_general_path():
    a, t, _, x = drawn()
    assert paths._module(a.double(), t.double(), x.double()) is torch_counts
    assert paths._module(a[:0], t, x[:0]) is torch_counts
    assert negative_binomial_log_prob(a[:0], t, None, x[:0]).shape == (0, 300)


@pytest.mark.parametrize("shape", [(40, 1), (1, 300), (1,), (), (3, 40, 300), (3, 1, 1)])
def test_theta_broadcasts(shape):
    a, _, g, x = drawn()
    a, g = (v.expand(3, 40, 300).contiguous() for v in (a, g))
    t = torch.randn(shape)
    whole = t.expand(3, 40, 300).contiguous()
    repeated, da, dt, dg = with_gradients(a, whole, g, x)
    found, *gradients = with_gradients(a, t, g, x)
    torch.testing.assert_close(found, repeated)
    torch.testing.assert_close(gradients, [da, dt.sum_to_size(shape), dg], rtol=1e-4, atol=1e-3)


def test_the_distributions_use_it(module, monkeypatch):
    a, t, g, x = drawn()
    used = []
    evaluate = module.evaluate

    def counted(*given):
        used.append(1)
        return evaluate(*given)

    monkeypatch.setattr(module, "evaluate", counted)
    assert NegativeBinomial.from_logs(a, t).log_prob(x).isfinite().all()
    assert ZeroInflatedNegativeBinomial.from_logs(a, t, g).log_prob(x).isfinite().all()
    assert len(used) == 2


def test_one_number_for_all_genes_and_no_count():
    a, t, _, _ = drawn()
    found = NegativeBinomial.from_logs(a[0], t).log_prob(torch.tensor(2.0))
    torch.testing.assert_close(
        found, NegativeBinomial.from_logs(a[0], t).log_prob(torch.full_like(t, 2.0))
    )


@pytest.mark.parametrize("count", [-1.0, -1e9])
def test_a_negative_number_has_no_log_prob(count):
    a, t, g, x = drawn()
    x[3, 5] = count
    assert negative_binomial_log_prob(a, t, g, x).isnan().nonzero().tolist() == [[3, 5]]


def test_a_broken_numba_is_told_and_left_out(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pyrovae.distributions.count_kernel", None)
    monkeypatch.delattr("pyrovae.distributions.count_kernel", raising=False)
    paths._compiled.cache_clear()
    try:
        with pytest.warns(UserWarning, match="numba cannot be imported"):
            assert paths._compiled() is None
    finally:
        paths._compiled.cache_clear()


@pytest.mark.parametrize(
    ("mu", "theta", "x"), [(1e5, 1e-4, 1e6), (1e6, 1e-3, 1e6), (1e6, 1e-3, 1e7)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_digits_are_lost_where_mu_is_far_above_theta(mu, theta, x, dtype):
    given = [torch.tensor([[math.log(value)]], dtype=dtype) for value in (mu, theta)]
    found = negative_binomial_log_prob(*given, None, torch.tensor([[x]], dtype=dtype))
    mean, theta = (value.double().exp().item() for value in given)
    wanted = stats.nbinom.logpmf(x, theta, theta / (theta + mean))
    assert found.item() == pytest.approx(wanted, rel=2e-6 if dtype == torch.float32 else 1e-9)
