"""Every prior with every posterior, likelihood and objective: one finite step that moves weights."""

import itertools
import math

import cases
import pytest
import torch

import pyrovae as pv
from pyrovae.objectives import SGVB_A, SGVB_B, warm_up

OBJECTIVES = {"A": lambda: SGVB_A(samples=2), "B": lambda: SGVB_B(beta=warm_up(0.5)), "beta": lambda: SGVB_B(beta=4.0)}
FITTING = [  # posteriors of data with shape (6,), without context, meet likelihoods of such data
    (prior, posterior, likelihood)
    for prior, posterior, likelihood in itertools.product(cases.PRIORS, cases.POSTERIORS, cases.LIKELIHOODS)
    if posterior.given == (likelihood.event,) and likelihood.given == ((2,),) and prior.event == (2,)
]


def test_the_product_is_not_empty():
    assert len(FITTING) >= sum(prior.event == (2,) for prior in cases.PRIORS) * 2 * 6


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("prior", "posterior", "likelihood"), FITTING, ids=str)
def test_one_finite_step(prior, posterior, likelihood, objective):
    graph = pv.VAE(prior.make(), posterior.make(), likelihood.make())
    before = [parameter.clone() for parameter in graph.parameters()]
    history = pv.fit(graph, likelihood.data(4), epochs=1, objective=OBJECTIVES[objective](), progress=False)
    assert all(math.isfinite(getattr(history, term)[0]) for term in ("loss", "elbo", "reconstruction", "kl"))
    assert all(torch.isfinite(parameter).all() for parameter in graph.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, graph.parameters(), strict=True))
