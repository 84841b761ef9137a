"""Every prior with every posterior, likelihood, objective: a finite step that changes weights.

Any three of the four meet. All four do with `PYROVAE_WHOLE_PRODUCT=1`, in four times the time.
"""

import itertools
import math
import os
from collections import Counter

import cases
import pyro
import pytest
import torch

import pyrovae as pv
from pyrovae.distributions import CIRCLE
from pyrovae.objectives import (
    IWAE,
    SGVB_A,
    SGVB_B,
    DReG,
    FreeBits,
    LeaveOneOut,
    MonteCarloEM,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunction,
    WakeSleep,
)
from pyrovae.training import FusedSVI, Optimization, adam

WHOLE_PRODUCT = os.environ.get("PYROVAE_WHOLE_PRODUCT") == "1"
OBJECTIVES = {
    "A": lambda: SGVB_A(samples=2),
    "B": SGVB_B,
    "beta": lambda: SGVB_B(beta=4.0),
    "free bits": lambda: FreeBits(nats=0.1),
    "score function": lambda: ScoreFunction(samples=2, baseline=LeaveOneOut()),
    "IWAE": lambda: IWAE(samples=2),
    "DReG": lambda: DReG(samples=2),
    "Renyi": lambda: Renyi(alpha=0.5, samples=2),
    "reweighted wake-sleep": lambda: ReweightedWakeSleep(samples=2),
    "wake-sleep": WakeSleep,
    "EM": lambda: MonteCarloEM(leapfrog=2),
}


def fit_together(prior, posterior):
    """Return whether prior and posterior are over the same z, given the same context."""
    if not prior.event == posterior.event == (2,) or posterior.given[0] != (6,):
        return False
    if prior.where is CIRCLE and posterior.where is not CIRCLE:
        return False
    # A Vamp prior hands the context to its posterior; other priors may ignore it.
    return prior.given == posterior.given[1:] or (not prior.given and prior.name != "Vamp")


PAIRS = [
    (prior, posterior)
    for prior, posterior in itertools.product(cases.PRIORS, cases.POSTERIORS)
    if fit_together(prior, posterior)
]


def likelihoods_for(posterior):
    """Return the likelihoods of the data and context that the posterior is given."""
    given = ((2,), *posterior.given[1:])
    return [
        case
        for case in cases.LIKELIHOODS
        if (case.event,) == posterior.given[:1] and case.given == given
    ]


def meetings():
    """Return the likelihoods of each pair: a quarter of them, such that each part meets each."""
    priors, posteriors = (Counter(str(pair[i]) for pair in PAIRS) for i in range(2))
    met, found = Counter(), {}
    for pair in PAIRS:
        names = [str(part) for part in pair]
        all_of_them = likelihoods_for(pair[1])
        share = min(4, priors[names[0]], posteriors[names[1]])
        count = len(all_of_them) if WHOLE_PRODUCT else math.ceil(len(all_of_them) / share)
        times = {each: sum(met[name, each] for name in names) for each in all_of_them}
        rarest = sorted(all_of_them, key=times.get)
        found[tuple(names)] = rarest[:count]
        met.update((name, each) for name in names for each in rarest[:count])
    return found


def makes_sense(name, prior, posterior):
    """Return whether the objective is defined.

    The sleep phase and EM need proper densities, and a Delta a gradient through its draws.
    """
    if name not in ("wake-sleep", "EM"):
        return posterior.proper or OBJECTIVES[name]().stop_gradient is None
    return prior.proper and posterior.proper and posterior.where is prior.where


def test_the_product_is_not_empty():
    assert len(PAIRS) > 100
    assert {case.name for case, _ in PAIRS} == {
        case.name for case in cases.PRIORS if case.event == (2,)
    }
    assert all(
        len(likelihoods_for(posterior)) >= (1 if posterior.given[1:] else 6)
        for _, posterior in PAIRS
    )


MEETINGS = meetings()


@pytest.mark.parametrize("part", [0, 1])
def test_every_part_meets_every_likelihood(part):
    met = {(names[part], each) for names, found in MEETINGS.items() for each in found}
    assert met == {(str(pair[part]), each) for pair in PAIRS for each in likelihoods_for(pair[1])}


@pytest.mark.parametrize(("prior", "posterior"), PAIRS, ids=str)
def test_one_finite_step(prior, posterior):
    objectives = [make for name, make in OBJECTIVES.items() if makes_sense(name, prior, posterior)]
    for likelihood, objective in itertools.product(
        MEETINGS[str(prior), str(posterior)], objectives
    ):
        graph = pv.VAE(prior.make(), posterior.make(), likelihood.make())
        before = [parameter.clone() for parameter in graph.parameters()]
        batch = (likelihood.data(4), *(torch.randn(4, *shape) for shape in posterior.given[1:]))
        with pyro.validation_enabled(False):
            step = FusedSVI(graph, objective(), Optimization(adam), batch)
            result = step.step(batch)
        where = f"{likelihood}, {step.objective}"
        assert math.isfinite(result.loss), where
        assert all(map(math.isfinite, [result.reconstruction, *result.kl.values()])), where
        assert all(torch.isfinite(parameter).all() for parameter in graph.parameters()), where
        assert any(
            not torch.equal(old, new) for old, new in zip(before, graph.parameters(), strict=True)
        ), where
