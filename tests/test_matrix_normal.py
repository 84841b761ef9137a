"""The matrix normal against `MultivariateNormal` of vec(F^T), its draws, KL and parameters."""

from functools import partial

import numpy as np
import pytest
import torch
from pyro.distributions import TransformedDistribution
from pyro.distributions.transforms import affine_autoregressive
from scipy import stats
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


@pytest.mark.parametrize("dense", DENSE)
def test_density_and_entropy_are_those_of_scipy(dense):
    p = matrix_normal(dense)
    f = p.sample((7,))
    known = stats.matrix_normal(p.loc.numpy(), p.rows.covariance.numpy(), p.columns.covariance)
    np.testing.assert_allclose(p.log_prob(f), known.logpdf(f.numpy()), rtol=1e-12)
    np.testing.assert_allclose(p.entropy(), known.entropy(), rtol=1e-12)


@pytest.mark.parametrize("dense", DENSE)
def test_gradients_of_draws_density_and_kl(dense):
    """The draw's derivatives by M, A and B are those of M + A E B^T by finite differences."""
    p, other = matrix_normal(dense), matrix_normal((True, True), seed=1)
    value = p.sample()
    names = ["row_tril" if dense[0] else "row", "column_tril" if dense[1] else "column"]
    tensors = [t.requires_grad_() for t in (p.loc, p.rows.scale, p.columns.scale)]

    def results(loc, row, column):
        lower = (row.tril() if dense[0] else row), (column.tril() if dense[1] else column)
        q = MatrixNormal(loc, **dict(zip(names, lower, strict=True)))
        torch.manual_seed(0)
        return q.rsample((2,)), q.log_prob(value), kl_divergence(q, other), q.entropy()

    assert torch.autograd.gradcheck(results, tensors)


def test_a_nearly_singular_factor_loses_no_digits():
    a, e = torch.tensor([[1.0, 0.0], [1.0, 1e-7]]).double(), torch.ones(2, 2).double()
    p = MatrixNormal(torch.zeros(2, 2).double(), row_tril=a, column_tril=a)
    of_noise = -0.5 * 4 - 2 * np.log(2 * np.pi) - 4 * np.log(1e-7)
    found = p.log_prob(a @ e @ a.mT).item()
    # A^-1 B^-T enlarges the rounding of F, 1e-16, by 1 / 1e-14 at most.
    assert found == pytest.approx(of_noise, abs=0.1)
    assert p.entropy().item() == pytest.approx(2 + 2 * np.log(2 * np.pi) + 4 * np.log(1e-7))
    standard = Independent(Normal(torch.zeros(2, 2).double(), 1.0), 2)
    kl = 0.5 * (2 * 2 - 4) - 4 * np.log(1e-7)
    assert kl_divergence(p, standard).item() == pytest.approx(kl)


def test_kl_between_batches_that_broadcast():
    q, p = matrix_normal((True, False), (5, 1)), matrix_normal((False, True), (4,), seed=1)
    kl = kl_divergence(q, p)
    assert kl.shape == (5, 4)
    for i, j in ((0, 0), (4, 3)):
        expected = registered(as_vector(q), as_vector(p.expand((1, 4)))).expand(5, 4)[i, j]
        torch.testing.assert_close(kl[i, j], expected)
    maps, others = (MatrixMaps(part.expand((5, 4))) for part in (q, p))
    torch.testing.assert_close(kl_divergence(maps, others), kl.sum(-1))


@pytest.mark.parametrize("dense", DENSE)
def test_kl_to_independent_normals_of_the_same_shape(dense):
    q = matrix_normal(dense, (4,))
    loc, scale = torch.randn(N, M).double(), torch.rand(N, M).double() + 0.5
    p = Independent(Normal(loc, scale), 2)
    vector = MultivariateNormal(loc.flatten(), torch.diag(scale.flatten().square()))
    torch.testing.assert_close(kl_divergence(q, p), registered(as_vector(q), vector))


@pytest.mark.parametrize(
    "p",
    [
        matrix_normal((False, False)).expand((1,)),
        MatrixMaps(matrix_normal((False, False)).expand((1,))),
        Independent(Normal(torch.zeros(N, M), 1.0), 1),
        Independent(Normal(torch.zeros(1), 1.0), 1),
    ],
)
def test_kl_between_spaces_of_different_shapes_is_refused(p):
    q = MatrixNormal(torch.zeros(4, 1, 1), torch.ones(4, 1), torch.ones(4, 1))
    with pytest.raises(ValueError, match="expected the same"):
        kl_divergence(MatrixMaps(q) if isinstance(p, MatrixMaps) else q, p)


def test_an_expanded_distribution_is_validated_like_the_first():
    p = matrix_normal((True, False)).expand((4,))
    for q, value in ((p, p.mean), (MatrixMaps(p), MatrixMaps(p).mean)):
        with pytest.raises(ValueError, match="support"):
            q.log_prob(value * float("nan"))
        with pytest.raises(ValueError, match="shape"):
            q.log_prob(value[..., :-1])


def test_a_flow_on_top():
    base = MatrixMaps(matrix_normal((True, True), (4,)))
    torch.manual_seed(0)
    flow = affine_autoregressive(4 * N * M, [32]).double()
    z = TransformedDistribution(base, [flow]).rsample((5,))
    before = flow.inv(z)
    expected = base.log_prob(before) - flow.log_abs_det_jacobian(before, z)
    torch.testing.assert_close(TransformedDistribution(base, [flow]).log_prob(z), expected)


@pytest.mark.parametrize("size", [1, (1, 3), (3, 1)])
@pytest.mark.parametrize("dense", [False, True])
def test_maps_of_one_row_or_one_column(size, dense):
    count = pv.posteriors.MatrixNormal.parameters_of(2, size, dense=dense)
    q = pv.posteriors.MatrixNormal(nn.Linear(5, count), 2, size, dense=dense).double()
    q = q(torch.randn(7, 5).double())
    n, m = (size, size) if isinstance(size, int) else size
    z = q.rsample((3,))
    assert z.shape == (3, 7, 2 * n * m)
    each = as_vector(q.maps).log_prob(z.unflatten(-1, (2, n * m)))
    torch.testing.assert_close(q.log_prob(z), each.sum(-1))


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
        ({"row": torch.tensor(1.0), "column": torch.ones(M)}, "row is one number"),
        ({"row_tril": torch.ones(N, N), "column": torch.ones(M)}, "row_tril is not lower"),
        ({"row": torch.ones(N), "column_tril": -torch.eye(M)}, "column_tril is not lower"),
    ],
)
def test_wrong_factors_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        MatrixNormal(torch.zeros(N, M), **arguments)


def test_a_mean_that_is_no_number_and_a_single_map_are_refused():
    with pytest.raises(ValueError, match="loc"):
        MatrixNormal(torch.full((N, M), float("nan")), torch.ones(N), torch.ones(M))
    with pytest.raises(ValueError, match=r"maps\.expand\(\(1,\)\)"):
        MatrixMaps(matrix_normal((False, False)))


@pytest.mark.parametrize(("maps", "size", "rank"), [(0, 3, None), (2, (3, 0), None), (2, 3, 0)])
def test_numbers_below_one_are_refused(maps, size, rank):
    for make in (
        lambda: pv.posteriors.MatrixNormal(nn.Identity(), maps, size, rank),
        lambda: pv.posteriors.MatrixNormal.parameters_of(maps, size, rank),
    ):
        with pytest.raises(ValueError, match="at least 1 of each"):
            make()


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


@pytest.mark.parametrize("settings", [{}, {"rank": 1}, {"dense": True}])
def test_it_is_one_more_posterior_of_the_vae(settings, tmp_path):
    torch.manual_seed(0)
    count = pv.posteriors.MatrixNormal.parameters_of(4, 2, **settings)
    encoder = pv.nets.ConvEncoder((1, 8, 8), count, (4,))
    graph = pv.VAE(
        pv.priors.StandardNormal(16),
        pv.posteriors.MatrixNormal(encoder, 4, 2, **settings),
        pv.likelihoods.Bernoulli(pv.nets.MapDecoder(4, 2, (1, 8, 8), (8, 4))),
    )
    x = torch.zeros(64, 1, 8, 8)
    x[:32, :, :4] = 1  # the upper half or nothing; without latents 32 log 2 nats an image
    adam = partial(torch.optim.Adam, lr=1e-2)
    pv.fit(graph, x, optimizer=adam, epochs=60, batch_size=32, seed=0, progress=False)
    terms = pv.elbo(graph.eval(), x, samples=50)
    assert -terms.elbo.mean() < 16 * np.log(2)
    q = graph.posterior(x)
    torch.testing.assert_close(terms.kl, kl_divergence(q, graph.prior()))
    pv.save(graph, tmp_path / "model")
    loaded = pv.load(tmp_path / "model")
    assert torch.equal(pv.embed(loaded, x), pv.embed(graph, x))
    torch.testing.assert_close(pv.embed(graph, x), q.mean)
