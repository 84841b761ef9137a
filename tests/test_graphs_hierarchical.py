"""z2 -> z1 -> x: against a linear-Gaussian chain in closed form; trained, copied and saved."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from torch.distributions import MultivariateNormal

import pyrovae as pv
from pyrovae import objectives

D2, D1, G, S1, S = 2, 3, 5, 0.7, 0.4


class Linear(nn.Module):
    """N(A x + a, covariance): an exact conditional of the chain."""

    def __init__(self, a, offset, covariance):
        super().__init__()
        self.register_buffer("a", a)
        self.offset = nn.Parameter(offset)
        self.register_buffer("covariance", covariance)

    def forward(self, x, *c):
        return dist.MultivariateNormal(x @ self.a.T + self.offset, self.covariance)


class Chain(pv.HierarchicalVAE):
    """The linear chain with its exact posterior as the guide."""

    def __init__(self, widened=1.0):
        g = torch.Generator().manual_seed(3)

        def eye(n):
            return torch.eye(n, dtype=torch.double)

        a, w = (torch.randn(n, m, generator=g, dtype=torch.double) for n, m in ((D1, D2), (G, D1)))
        a0, b = (torch.randn(n, generator=g, dtype=torch.double) for n in (D1, G))
        of_z1 = a @ a.T + S1**2 * eye(D1)  # z1 alone
        of_x = w @ of_z1 @ w.T + S**2 * eye(G)
        gain, top_gain = of_z1 @ w.T @ of_x.inverse(), a.T @ of_z1.inverse()
        super().__init__(
            pv.priors.StandardNormal(D2).double(),
            Linear(a, a0, S1**2 * eye(D1)),
            Linear(gain, a0 - gain @ (w @ a0 + b), widened * (of_z1 - gain @ w @ of_z1)),
            Linear(top_gain, -top_gain @ a0, eye(D2) - top_gain @ a),
            Linear(w, b, S**2 * eye(G)),
        )
        self.exact = MultivariateNormal(w @ a0 + b, of_x)


def test_the_evidence_is_the_closed_form_for_every_draw_of_the_exact_posterior():
    graph, x = Chain(), torch.randn(4, G, dtype=torch.double)
    found = pv.log_evidence(graph, x, samples=3)
    torch.testing.assert_close(found.log_p, graph.exact.log_prob(x))
    torch.testing.assert_close(
        found.effective_sample_size, torch.full((4,), 3.0, dtype=torch.double)
    )
    assert objectives.SGVB_A().loss(graph.model, graph.guide, x) == pytest.approx(
        -graph.exact.log_prob(x).sum().item()
    )


def test_the_evidence_by_importance_sampling_from_another_guide():
    graph, x = Chain(widened=1.5), torch.randn(4, G, dtype=torch.double)
    found = pv.log_evidence(graph, x, samples=5000)
    assert found.standard_error.max() < 0.02
    assert ((found.log_p - graph.exact.log_prob(x)).abs() < 5 * found.standard_error).all()


@pytest.mark.parametrize("estimate", ["SGVB B", "free bits", "elbo"])
def test_no_closed_form_is_used_where_z2_was_drawn_given_z1(estimate):
    """KL(q(z1 | x) || p(z1 | z2)) at a z2 ~ q(z2 | z1) is no term of the bound.

    With it, the bound would miss the evidence by 0.2 nats here.
    """
    graph, x, n = Chain(), torch.randn(1, G, dtype=torch.double), 4000
    objective = {"SGVB B": objectives.SGVB_B(), "free bits": objectives.FreeBits(nats=0.0)}.get(
        estimate
    )
    rows = x.expand(n, G)
    if objective is None:
        bounds = pv.elbo(graph, rows).elbo
    else:
        bounds = -torch.tensor(
            [objective.loss(graph.model, graph.guide, rows) / n for _ in range(20)],
            dtype=torch.double,
        )
    error = bounds.std() / len(bounds) ** 0.5
    assert error < 0.03
    assert abs(bounds.mean() - graph.exact.log_prob(x)) < 5 * error


def test_kl_per_dimension_is_refused_for_z1_and_known_for_z2():
    graph, x = deep(), data()[0]
    with pytest.raises(ValueError, match='site "z1"'):
        pv.kl_per_dimension(graph, x, site="z1")
    assert pv.kl_per_dimension(graph, x, site="z2").shape == (2,)
    assert pv.latent_summary(graph, x, site="z1").kl_per_dimension is None


# ------------------------------------------------------------------------------------- as any graph
def data(n=240):
    g = torch.Generator().manual_seed(0)
    patterns = (torch.rand(4, 8, generator=g) < 0.5).float()
    k = torch.arange(n) % 4
    flips = (torch.rand(n, 8, generator=g) < 0.05).float()
    return (patterns[k] - flips).abs(), nn.functional.one_hot(k, 4).float()


def deep(context=0):
    def net(features, out):
        return pv.nets.MLP(features, [16], out, context=context)

    return pv.HierarchicalVAE(
        pv.priors.StandardNormal(2),
        pv.priors.Learned(net(2, 6)),
        pv.posteriors.DiagonalNormal(net(8, 6)),
        pv.posteriors.DiagonalNormal(net(3, 4)),
        pv.likelihoods.Bernoulli(net(3, 8)),
    )


def bound(graph, *batch):
    return pv.elbo(graph, *batch, samples=50).elbo.mean().item()


@pytest.mark.parametrize("context", [0, 4])
def test_fit_trains_every_part(context):
    x, c = data()
    batch = (x, c)[: 1 + bool(context)]
    graph = deep(context)
    first, before = bound(graph, *batch), copy.deepcopy(graph.state_dict())
    pv.fit(
        graph,
        batch,
        epochs=30,
        batch_size=40,
        optimizer=lambda p: torch.optim.Adam(p, 1e-2),
        progress=False,
    )
    assert bound(graph, *batch) > first + 1.5
    assert all(not torch.equal(value, before[name]) for name, value in graph.named_parameters())
    evidence = pv.log_evidence(graph, *batch, samples=200)
    assert evidence.log_p.mean() > bound(graph, *batch)


def test_two_of_them_train_side_by_side_under_plain_svi():
    x, _ = data()
    graphs = deep(), deep()
    first = [bound(graph, x) for graph in graphs]
    for graph in graphs:
        svi = SVI(graph.model, graph.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO())
        for _ in range(150):
            svi.step(x)
    assert all(bound(graph, x) > before + 1.5 for graph, before in zip(graphs, first, strict=True))


def test_files_copies_and_tasks(tmp_path):
    x, c = data()
    graph = deep(4)
    pv.fit(graph, (x, c), epochs=1, progress=False)
    loaded, wanted = (
        pv.load(pv.save(graph, tmp_path / "model")),
        pv.log_evidence(graph, x[:5], c[:5], samples=4).log_p,
    )
    for other in (loaded, copy.deepcopy(graph)):
        torch.testing.assert_close(pv.log_evidence(other, x[:5], c[:5], samples=4).log_p, wanted)
    assert repr(loaded) == repr(graph)
    assert pv.embed(graph, x, c, site="z2").shape == (240, 2)
    assert pv.embed(graph, x, c, site="z1").shape == (240, 3)
    assert pv.generate(graph, 7, c[:7]).shape == (7, 8)
    z1 = pv.embed(graph, x, c, site="z1")
    torch.testing.assert_close(pv.reconstruct(graph, x, c, site="z1"), graph.likelihood(z1, c).mean)
    points = pv.interpolate(graph, x[0], x[1], c[0], steps=4, site="z1")
    torch.testing.assert_close(
        points[[0, -1]],
        graph.likelihood(pv.embed(graph, x[:2], c[[0, 0]], site="z1"), c[[0, 0]]).mean,
    )
    with pytest.raises(ValueError, match=r"latent sites \['z2', 'z1'\].*site="):
        pv.decode(graph, z1, c)


def test_data_off_the_support_is_refused():
    with pytest.raises(ValueError, match="Bernoulli"):
        pv.fit(deep(), torch.full((4, 8), 0.5), epochs=1, progress=False)
