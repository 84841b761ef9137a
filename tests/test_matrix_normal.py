"""The matrix normal against `MultivariateNormal` of vec(F^T), its draws, KL and parameters."""

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal
from torch.distributions import kl_divergence as registered

import pyrovae as pv
from pyrovae.distributions import MatrixMaps, MatrixNormal, kl_divergence

N, M = 3, 2
DENSE = [(False, False), (True, False), (False, True), (True, True)]


def matrix_normal(dense, batch=(), seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*batch, *shape, dtype=torch.double, generator=generator)

    def tril(n):
        return draw(n, n).tril(-1) + torch.diag_embed(draw(n).exp())

    arguments = {}
    for name, n, is_dense in (("row", N, dense[0]), ("column", M, dense[1])):
        arguments[f"{name}_tril" if is_dense else name] = tril(n) if is_dense else draw(n).exp()
    return MatrixNormal(draw(N, M), **arguments)


def as_vector(p):
    return MultivariateNormal(p.loc.flatten(-2), p.covariance_matrix)


@pytest.mark.parametrize("batch", [(), (4,), (5, 4)])
@pytest.mark.parametrize("dense", DENSE)
def test_it_is_the_multivariate_normal_of_the_flattened_matrix(dense, batch):
    p = matrix_normal(dense, batch)
    vector = as_vector(p)
    a, b = p.rows.covariance, p.columns.covariance
    for index in [()] if not batch else [(0,) * len(batch), (-1,) * len(batch)]:
        torch.testing.assert_close(p.covariance_matrix[index], torch.kron(a[index], b[index]))
    f = p.rsample((7,))
    assert f.shape == (7, *batch, N, M)
    torch.testing.assert_close(p.log_prob(f), vector.log_prob(f.flatten(-2)), atol=1e-10, rtol=0)
    torch.testing.assert_close(p.entropy(), vector.entropy())
    torch.testing.assert_close(p.variance.flatten(-2), vector.variance)
    wide = p.expand((6, *batch))
    torch.testing.assert_close(wide.log_prob(f[0]), p.log_prob(f[0]).expand(6, *batch))


@pytest.mark.parametrize("dense", DENSE)
def test_draws_have_its_covariance(dense):
    torch.manual_seed(0)
    p, n = matrix_normal(dense), 200_000
    z = torch.linalg.solve_triangular(
        torch.linalg.cholesky(p.covariance_matrix),
        (p.rsample((n,)) - p.loc).flatten(-2).T,
        upper=False,
    )
    # Whitened draws: the entries of their second moment have standard error 1 / sqrt n.
    error = (z @ z.T / n - torch.eye(N * M)) * n**0.5 / (1 + torch.eye(N * M)).sqrt()
    assert error.abs().max() < 4.5
    assert (z.mean(1) * n**0.5).abs().max() < 4.5


@pytest.mark.parametrize("of_p", DENSE)
@pytest.mark.parametrize("of_q", DENSE)
def test_kl_in_closed_form(of_q, of_p):
    q, p = matrix_normal(of_q, (4,)), matrix_normal(of_p, (4,), seed=1)
    torch.testing.assert_close(kl_divergence(q, p), registered(as_vector(q), as_vector(p)))
    zero, one = torch.zeros(4 * N * M, dtype=torch.double), torch.tensor(1.5).double()
    prior = Independent(Normal(zero, one), 1)
    expected = [
        registered(as_vector(q.expand((4,))), MultivariateNormal(zero[: N * M], 2.25 * eye()))
    ]
    torch.testing.assert_close(kl_divergence(MatrixMaps(q), prior), expected[0].sum())


def eye():
    return torch.eye(N * M, dtype=torch.double)


def test_kl_to_the_standard_normal_is_the_formula_of_the_notes():
    q = matrix_normal((True, True))
    omega, psi = q.rows.covariance, q.columns.covariance
    trace = omega.trace() * psi.trace() + q.loc.square().sum()
    kl = 0.5 * (trace - M * omega.logdet() - N * psi.logdet() - N * M)
    standard = Independent(Normal(torch.zeros(N * M).double(), 1.0), 1)
    maps = MatrixMaps(q.expand((1,)))
    torch.testing.assert_close(kl_divergence(maps, standard), kl)


def test_one_scale_is_redundant():
    p, c = matrix_normal((False, False)), 3.0
    other = MatrixNormal(p.loc, p.rows.scale * c**0.5, p.columns.scale / c**0.5)
    torch.testing.assert_close(other.covariance_matrix, p.covariance_matrix)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"row": torch.ones(N)}, "either column, standard deviations, or column_tril"),
        ({"row": torch.ones(N), "row_tril": torch.eye(N), "column": torch.ones(M)}, "either row"),
        ({"row": torch.ones(M), "column": torch.ones(N)}, r"expected \(\*, 2, 3\)"),
        ({"row_tril": torch.ones(N), "column": torch.ones(M)}, "square matrices"),
        ({"row": -torch.ones(N), "column": torch.ones(M)}, "not above 0"),
    ],
)
def test_wrong_factors_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        MatrixNormal(torch.zeros(N, M), **arguments)


@pytest.mark.parametrize(
    ("settings", "per_map"),
    [({}, 9 + 6), ({"rank": 1}, 4 * 3), ({"rank": 2}, 6 * 3), ({"dense": True}, 9 + 12)],
)
def test_the_posterior_has_the_notes_number_of_parameters(settings, per_map):
    assert pv.posteriors.MatrixNormal.parameters_of(64, 3, **settings) == 64 * per_map
    net = nn.Linear(5, 64 * per_map)
    q = pv.posteriors.MatrixNormal(net, 64, 3, **settings)(torch.randn(7, 5))
    assert q.batch_shape == (7,)
    assert q.event_shape == (64 * 9,)
    rank = torch.linalg.matrix_rank(q.maps.loc.detach(), rtol=1e-4)
    assert rank.max() == settings.get("rank", 3)
    with pytest.raises(ValueError, match="64 maps of 3 x 3"):
        pv.posteriors.MatrixNormal(nn.Linear(5, 10), 64, 3, **settings)(torch.randn(7, 5))
