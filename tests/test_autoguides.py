"""Pyro's autoguides on latents with constrained supports: a Delta holds the density of a draw."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoStructured,
)
from torch import nn

import pyrovae as pv
from pyrovae.distributions import kl_divergence
from pyrovae.objectives import SGVB_A, SGVB_B, FreeBits

N = 6
GUIDES = [AutoNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal]
ORDERED, STICK = dist.transforms.OrderedTransform(), dist.transforms.StickBreakingTransform()


def transformed(n, d, transform):
    return dist.TransformedDistribution(dist.Normal(torch.zeros(n, d), 1.0).to_event(1), transform)


PRIORS = {
    "gamma": lambda n: dist.Gamma(torch.full((n, 3), 2.0), 1.0).to_event(1),
    "simplex": lambda n: dist.Dirichlet(torch.ones(n, 3)),
    "ordered": lambda n: transformed(n, 3, ORDERED),
    "stick breaking": lambda n: transformed(n, 2, STICK),
    "Cholesky": lambda n: dist.LKJCholesky(3, 1.0).expand([n]),
}


class Guided(nn.Module):
    def __init__(self, prior, autoguide):
        super().__init__()
        self.prior = prior
        self.guide = autoguide(self.model)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior(len(x)))
            mean = z if z.dim() == 2 else z[..., -1, :]
            pyro.sample("x", dist.Normal(mean, 0.5).to_event(1), obs=x)


@pytest.mark.parametrize("autoguide", GUIDES)
@pytest.mark.parametrize("prior", PRIORS)
def test_the_bound_counts_the_density_of_a_transformed_draw(prior, autoguide):
    """At the same draws, estimators A and B are equal: no KL here has a closed form."""
    torch.manual_seed(0)
    x = torch.rand(N, 3)
    graph = Guided(PRIORS[prior], autoguide)
    pv.fit(graph, x, epochs=1, batch_size=N, progress=False)
    losses = []
    for objective in (SGVB_A(), SGVB_B()):
        torch.manual_seed(1)
        losses.append(objective.loss(graph.model, graph.guide, x))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_elbo_of_an_autoguide_is_the_mean_of_log_weights(prior):
    torch.manual_seed(0)
    x = torch.rand(N, 3)
    graph = Guided(PRIORS[prior], AutoNormal)
    pv.fit(graph, x, epochs=1, batch_size=N, progress=False)
    bound = pv.elbo(graph, x, samples=200, seed=0).elbo
    alone = [pv.log_evidence(graph, x, samples=1, seed=seed).log_p for seed in range(200)]
    weights = torch.stack(alone)
    error = weights.std(0) * (2 / 200) ** 0.5
    assert ((bound - weights.mean(0)).abs() < 4.5 * error).all()


@pytest.mark.parametrize("autoguide", [*GUIDES[1:], AutoDiagonalNormal, AutoStructured])
def test_a_guide_that_joins_the_rows_is_named_with_the_remedy(autoguide):
    torch.manual_seed(0)
    graph, x = Guided(PRIORS["gamma"], autoguide), torch.rand(N, 3)
    graph.guide(x)
    named = rf"{autoguide.__name__}.* for all 6 rows.*Take AutoNormal"
    for f in (pv.elbo, pv.log_evidence):
        with pytest.raises(ValueError, match=named):
            f(graph, x)
    annealed = pv.annealed_log_evidence(graph, x, temperatures=150)  # asks no guide
    bound = -Trace_ELBO(num_particles=200).loss(graph.model, graph.guide, x)
    assert bound < annealed.log_p.sum() + 3 * annealed.standard_error.sum()


def test_free_bits_refuse_the_base_draw_of_a_transform():
    """Its term and that of the Delta are one KL together; each under a floor is another loss."""
    graph = Guided(PRIORS["gamma"], AutoNormal)
    with pytest.raises(ValueError, match=r'FreeBits: site "z_unconstrained".*Use SGVB_B'):
        pv.fit(graph, torch.rand(N, 3), objective=FreeBits(0.1), epochs=1, progress=False)


def test_an_embedding_by_an_autoguide_has_one_row_for_each():
    graph, x = Guided(PRIORS["simplex"], AutoNormal), torch.rand(N, 3)
    graph.guide(x)
    z = pv.embed(graph, x)
    assert z.shape == (N, 3)
    torch.testing.assert_close(z.sum(1), torch.ones(N))


def test_the_divergence_of_a_held_draw_counts_its_density():
    z, log_q = torch.rand(4, 3), torch.randn(4)
    q, p = dist.Delta(z, log_q, 1), dist.Normal(torch.zeros(4, 3), 1.0).to_event(1)
    torch.testing.assert_close(kl_divergence(q, p), log_q - p.log_prob(z))
    normal = dist.MultivariateNormal(torch.zeros(3), torch.eye(3))
    inner = dist.Delta(z, log_q[:, None].expand(4, 3) / 3).to_event(1)
    torch.testing.assert_close(kl_divergence(inner, normal), log_q - p.log_prob(z))
