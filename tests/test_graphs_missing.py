"""Missing values of x: evidence and bound of the observed values, imputation, refusals."""

import copy

import linear_gaussian
import pyro
import pyro.distributions as dist
import pytest
import torch
import user_graphs
from pyro.infer import SVI, Trace_ELBO
from torch import nn
from torch.distributions import MultivariateNormal

import pyrovae as pv
from pyrovae.graphs import fill_missing

NAN = float("nan")


def with_holes(n=8, share=0.4):
    """Return linear-Gaussian data with NaN at random, and without."""
    x = linear_gaussian.data(n)
    holes = torch.rand(x.shape) < share
    return x.masked_fill(holes, NAN), x


def prior_as_guide(graph):
    """Return the graph with q(z | x) = p(z)."""
    with torch.no_grad():
        graph.posterior.net.weight.zero_()
        graph.posterior.net.bias.zero_()
    return graph


def test_evidence_is_that_of_the_observed_values():
    """log N(x_o; m_o, (W W^T + s^2 I)_oo) of each row, within 4.5 standard errors."""
    vae = prior_as_guide(linear_gaussian.exact(sigma=1.0))
    x = pv.generate(vae, 8, mean=False, seed=0)
    holed = x.masked_fill(torch.rand(x.shape) < 0.4, NAN)
    w, m = vae.likelihood.net.weight.detach(), vae.likelihood.net.bias.detach()
    covariance = w @ w.T + vae.likelihood.sigma**2 * torch.eye(6).double()
    exact = []
    for row in holed:
        o = ~row.isnan()
        exact.append(MultivariateNormal(m[o], covariance[o][:, o]).log_prob(row[o]))
    found = pv.log_evidence(pv.Missing(vae), *fill_missing(holed), samples=50_000)
    assert found.effective_sample_size.min() > 500
    z = (found.log_p - torch.stack(exact)) / found.standard_error
    assert z.abs().max() < 4.5


def test_the_bound_is_that_of_a_model_of_the_observed_columns():
    """The same columns are missing in every row: a decoder of the others gives the same ELBO."""
    vae, x = linear_gaussian.exact(), linear_gaussian.data(5)
    columns = [0, 2, 3]
    observed = torch.zeros_like(x)
    observed[:, columns] = 1
    fewer = copy.deepcopy(vae)
    fewer.likelihood.net.weight = nn.Parameter(vae.likelihood.net.weight[columns])
    fewer.likelihood.net.bias = nn.Parameter(vae.likelihood.net.bias[columns])
    fewer.likelihood.net.out_features = 3

    class Fewer(nn.Module):
        def model(self, x):
            return fewer.model(x[:, columns])

        def guide(self, x):
            return fewer.guide(x * observed[0])

    got, wanted = pv.elbo(pv.Missing(vae), x, observed), pv.elbo(Fewer(), x)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_values_under_the_mask_change_nothing():
    vae = linear_gaussian.exact()
    x, observed = fill_missing(with_holes()[0])
    other = torch.where(observed.bool(), x, 99.0)
    for fill in (0.0, x.mean(0)):
        graph = pv.Missing(vae, fill=fill).double()
        for task in (pv.embed, pv.reconstruct, lambda *a: pv.elbo(*a).elbo):
            torch.testing.assert_close(task(graph, x, observed), task(graph, other, observed))
    whole = torch.ones_like(x)
    torch.testing.assert_close(pv.elbo(pv.Missing(vae), x, whole), pv.elbo(vae, x))


@pytest.mark.parametrize("see_mask", [False, True])
def test_training_fills_in_what_is_missing(see_mask, tmp_path):
    """The error at the missing values is at least a quarter below that of the columns' means."""
    holed, x = with_holes(400, share=0.3)
    holed, x = holed.float(), x.float()
    net = pv.nets.MLP(6, [32], 4, context=6 if see_mask else 0)
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(net),
        pv.likelihoods.Gaussian(pv.nets.MLP(2, [], 6), sigma=0.5, learned=True),
    )
    graph = pv.Missing(vae, fill=holed.nanmean(0), see_mask=see_mask)
    data = fill_missing(holed)
    pv.fit(
        graph,
        data,
        epochs=60,
        batch_size=50,
        progress=False,
        seed=0,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
    )
    holes = holed.isnan()
    error = (pv.reconstruct(graph, *data) - x)[holes].square().mean().sqrt()
    of_means = (holed.nanmean(0) - x)[holes].square().mean().sqrt()
    assert error < 0.75 * of_means
    loaded = pv.load(pv.save(graph, tmp_path / "model"))
    torch.testing.assert_close(pv.reconstruct(loaded, *data), pv.reconstruct(graph, *data))
    assert pv.generate(graph, 5, torch.ones(5, 6)).shape == (5, 6)
    assert pv.latent_summary(graph, *data).active.shape == (2,)
    bound = pv.objectives.IWAE(samples=4)
    assert pv.fit(graph, data, epochs=1, objective=bound, progress=False).loss[0] < 20
    SVI(graph.model, graph.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO()).step(*data)


@pytest.mark.parametrize(
    "likelihood",
    [
        lambda: pv.likelihoods.Bernoulli(pv.nets.MLP(2, [], (1, 2, 3))),
        lambda: pv.likelihoods.ContinuousBernoulli(pv.nets.MLP(2, [], (1, 2, 3))),
        lambda: pv.likelihoods.Categorical(pv.nets.MLP(2, [], (2, 2, 3)), levels=2),
        lambda: pv.likelihoods.Poisson(pv.nets.MLP(2, [], (1, 2, 3))),
    ],
)
def test_likelihoods_of_images(likelihood):
    """The density of one observed value is that of its own term."""
    part = likelihood()
    posterior = pv.posteriors.DiagonalNormal(pv.nets.MLP((1, 2, 3), [], 4))
    vae = pv.VAE(pv.priors.StandardNormal(2), posterior, part)
    x, observed = torch.ones(4, 1, 2, 3), torch.zeros(4, 1, 2, 3)
    observed[..., 0, 1] = 1
    graph = pv.Missing(vae)
    trace = pyro.poutine.trace(graph.model).get_trace(x, observed)
    trace.compute_log_prob()
    one = part(trace.nodes["z"]["value"]).base_dist.log_prob(x)[..., 0, 1].flatten()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"], one)
    assert pv.reconstruct(graph, x, observed).shape == x.shape


def test_refusals():
    vae, x = linear_gaussian.exact(), linear_gaussian.data(4)
    graph, ones = pv.Missing(vae), torch.ones(4, 6)
    fit = lambda graph, data: pv.fit(graph, data, epochs=1, progress=False)  # noqa: E731
    with pytest.raises(ValueError, match="fill_missing"):
        fit(graph, x)
    with pytest.raises(ValueError, match=r"observed shape \(4, 1\)"):
        fit(graph, (x, ones[:, :1]))
    with pytest.raises(ValueError, match="other values than 0 and 1"):
        fit(graph, (x, ones * 0.5))
    with pytest.raises(ValueError, match=r'"x1" has values of shape \(4,\), observed \(6,\)'):
        pv.elbo(pv.Missing(user_graphs.TwoViews()), x.float(), ones, torch.ones(4, 2))

    class Twice(nn.Module):
        def model(self, x):
            for name in ("x", "again"):
                pyro.sample(name, dist.Normal(torch.zeros(len(x), 6), 1.0).to_event(1), obs=x)

    with pytest.raises(ValueError, match='"x" and "again"'):
        pv.Missing(Twice()).model(x, ones)

    class Correlated(nn.Module):
        def forward(self, z):
            return dist.MultivariateNormal(z.sum(-1, keepdim=True).expand(-1, 6), torch.eye(6))

    odd = pv.VAE(
        pv.priors.StandardNormal(2), pv.posteriors.DiagonalNormal(nn.Linear(6, 4)), Correlated()
    )
    with pytest.raises(ValueError, match=r"MultivariateNormal.*not independent"):
        pv.elbo(pv.Missing(odd), x.float(), ones)
