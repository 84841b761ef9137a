"""What a fit reports of Pyro's own ELBOs, beside closed forms."""

from functools import partial

import linear_gaussian
import pyro
import pytest
import torch
from pyro.infer import RenyiELBO, ReweightedWakeSleep, Trace_ELBO, TraceGraph_ELBO
from torch import nn

import pyrovae as pv


class Dreaming(nn.Module):
    """The linear VAE with its exact posterior, as Pyro's sleep phase calls it."""

    def __init__(self):
        super().__init__()
        self.vae = linear_gaussian.exact()

    def model(self, x, observations=None):
        pyro.module("dreaming", self)
        with pyro.plate("data", x.shape[-2], dim=-1):
            z = pyro.sample("z", self.vae.prior().expand(x.shape[:-1]))
            pyro.sample("x", self.vae.likelihood(z), obs=x)

    def guide(self, x, observations=None):
        pyro.module("dreaming", self)
        x = x if observations is None else observations["x"]
        with pyro.plate("data", x.shape[-2], dim=-1):
            pyro.sample("z", self.vae.posterior(x))


@pytest.mark.parametrize("model_has_params", [True, False])
@pytest.mark.parametrize("insomnia", [1.0, 0.5, 0.0])
def test_validation_by_pyros_wake_sleep_is_the_evidence_at_the_exact_posterior(
    insomnia, model_has_params
):
    """The guide's loss is no part of it; nor is 100, Pyro's loss of a model it does not train."""
    graph, x = Dreaming(), linear_gaussian.data(60)
    elbo = ReweightedWakeSleep(
        num_particles=2, insomnia=insomnia, model_has_params=model_has_params, max_plate_nesting=1
    )
    sgd = partial(torch.optim.SGD, lr=0.0)
    settings = dict(epochs=1, optimizer=sgd, batch_size=30, progress=False)
    history = pv.fit(graph, x, validation=x, objective=elbo, **settings)
    expected = linear_gaussian.evidence(graph.vae, x).mean().item()
    assert history.validation_elbo == pytest.approx([expected], rel=1e-9)
    of_guide = -graph.vae.posterior(x).log_prob(graph.vae.posterior(x).sample()).mean().item()
    of_model = 0.0 if insomnia == 0 and not model_has_params else -expected
    assert history.loss == pytest.approx([of_model + of_guide], abs=0.8)  # 100 / 30 rows is more


@pytest.mark.parametrize(
    ("elbo", "name"),
    [
        (Trace_ELBO(), "ELBO"),
        (RenyiELBO(alpha=0.5, num_particles=2), "L_alpha"),
        (ReweightedWakeSleep(num_particles=2), "L_K"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_history_names_the_bound_of_pyros_class(elbo, name):
    graph, x = linear_gaussian.exact(), linear_gaussian.data(20)
    assert pv.fit(graph, x, epochs=1, objective=elbo, progress=False).bound_name == name


def test_a_plateau_of_pyros_loss_is_judged_without_validation_data():
    """The terms of the bound are NaN, which never improves: the rate fell every other epoch."""
    graph, x = linear_gaussian.vae(), linear_gaussian.data(100)
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.zero_()
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=1, factor=0.1)
    settings = dict(epochs=8, batch_size=100, seed=0, scheduler=plateau, progress=False)
    history = pv.fit(graph, x, objective=TraceGraph_ELBO(num_particles=20), **settings)
    assert history.loss == sorted(history.loss, reverse=True)
    assert history.learning_rate == [1e-3] * 8
