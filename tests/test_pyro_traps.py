"""What Pyro does that bites (design.md): one test a trap."""

import copy
import gc

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyrovae as pv
from pyrovae import training
from pyrovae.programs import data_plate, parameters_held, register


def vae(net=None):
    return pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(net or nn.Linear(6, 4)),
        pv.likelihoods.Bernoulli(nn.Linear(2, 6)),
    )


X = torch.tensor([[0.0, 1, 1, 0, 0, 1], [1, 0, 1, 0, 1, 0], [1, 1, 0, 0, 0, 1]])


def moved(graph, steps):
    before = [p.clone() for p in graph.parameters()]
    for _ in range(3):
        steps()
    return [not torch.equal(p, q) for p, q in zip(before, graph.parameters(), strict=True)]


def svi(graph, loss=None):
    return SVI(graph.model, graph.guide, pyro.optim.Adam({"lr": 0.1}), loss or Trace_ELBO())


def test_bare_svi_trains_every_parameter():
    graph = vae()
    inference = svi(graph)
    assert all(moved(graph, lambda: inference.step(X)))


def test_two_models_in_one_process_both_train():
    first, second = vae(), vae()
    a, b = svi(first), svi(second)
    assert all(moved(first, lambda: a.step(X)))
    assert all(moved(second, lambda: b.step(X)))


def test_a_deep_copy_trains_apart_from_its_original():
    first = vae()
    a = svi(first)
    a.step(X)
    second = copy.deepcopy(first)
    b = svi(second)
    kept = [p.clone() for p in first.parameters()]
    assert all(moved(second, lambda: b.step(X)))
    assert all(torch.equal(p, q) for p, q in zip(kept, first.parameters(), strict=True))


def test_a_model_gone_leaves_nothing_in_the_store_and_no_slot_for_the_next():
    graph = vae()
    register(graph)
    assert len(pyro.get_param_store()) == 4
    del graph
    gc.collect()
    assert len(pyro.get_param_store()) == 0


def test_a_parameter_missing_from_the_store_after_clearing_is_registered_again():
    graph = vae()
    register(graph)
    pyro.clear_param_store()
    inference = svi(graph)
    assert all(moved(graph, lambda: inference.step(X)))


def test_held_graphs_are_not_shown_and_others_are():
    inside, outside = vae(), vae()
    with parameters_held(inside):
        register(inside)
        register(outside)
    assert len(pyro.get_param_store()) == 4


def test_evaluation_changes_nothing_and_repeats():
    """Evaluation changes nothing: no weights, no BatchNorm statistics, no random state."""
    graph = vae(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4)))
    inference = svi(graph)
    inference.step(X)
    graph.posterior.net[1].eval()  # a mode of its own is kept too
    modes = [module.training for module in graph.modules()]
    state, random = copy.deepcopy(graph.state_dict()), torch.get_rng_state()
    figures = [
        lambda: pv.elbo(graph, X),
        lambda: pv.log_evidence(graph, X, samples=11),
        lambda: pv.naive_log_evidence(graph, X, samples=11),
        lambda: pv.latent_summary(graph, X)[:2],
        lambda: [torch.tensor(pv.mutual_information(graph, X))],
        lambda: [
            pv.embed(graph, X),
            pv.reconstruct(graph, X),
            pv.interpolate(graph, X[0], X[1]),
            pv.manifold(graph, steps=3),
        ],
        lambda: [pv.generate(graph, 3, mean=False, seed=4)],
    ]
    for figure in figures:
        once, twice = figure(), figure()
        assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(state.values(), graph.state_dict().values(), strict=True)
    )
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [module.training for module in graph.modules()]


def test_one_objective_serves_two_models_through_fit():
    """An ELBO object remembers its model's plate nesting; `fit` works on a copy."""
    objective = pv.objectives.SGVB_B(samples=2)

    class Deep(pv.VAE):
        def model(self, x, *c):
            with pyro.plate("outer", 1, dim=-2):
                return super().model(x, *c)

        def guide(self, x, *c):
            with pyro.plate("outer", 1, dim=-2):
                return super().guide(x, *c)

    for graph in (
        vae(),
        Deep(*[getattr(vae(), part) for part in ("prior", "posterior", "likelihood")]),
    ):
        pv.fit(graph, X, epochs=1, objective=objective, progress=False)
    assert objective.max_plate_nesting == pv.objectives.SGVB_B(samples=2).max_plate_nesting


def test_importance_weights_are_per_datum():
    """A joint weight per minibatch is looser; ours sums the rows' bounds, each estimated alone."""
    graph = vae()
    together = pv.log_evidence(graph, X, samples=20_000).log_p
    alone = torch.cat(
        [pv.log_evidence(graph, row[None], samples=20_000, seed=1).log_p for row in X]
    )
    torch.testing.assert_close(together, alone, atol=0.05, rtol=0)


def test_beta_scales_both_sides():
    """Equal to poutine.scale around the same site in model and guide."""
    graph, beta = vae().double(), 0.3
    x = X.double()

    class Scaled:
        def model(self, x):
            with pyro.plate("data", len(x)):
                with pyro.poutine.scale(scale=beta):
                    z = pyro.sample("z", graph.prior())
                pyro.sample("x", graph.likelihood(z), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)), pyro.poutine.scale(scale=beta):
                pyro.sample("z", graph.posterior(x))

    losses = []
    for objective, programs in (
        (pv.objectives.SGVB_B(beta=beta), graph),
        (TraceMeanField_ELBO(), Scaled()),
    ):
        torch.manual_seed(0)
        losses.append(objective.loss(programs.model, programs.guide, x))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_batchnorm_takes_the_width_for_channels_only_if_leading_axes_are_not_flattened():
    net = (
        pv.nets.ResidualMLP(6, 8, 4) if hasattr(pv.nets, "ResidualMLP") else pv.nets.MLP(6, [8], 4)
    )
    x = torch.randn(8, 8, 6)
    net.eval()
    torch.testing.assert_close(net(x), torch.stack([net(row) for row in x]))


def test_rows_are_a_plate_without_a_site_of_its_own():
    def model(x):
        with data_plate(x):
            return pyro.sample("x", pyro.distributions.Normal(0.0, 1.0))

    trace = pyro.poutine.trace(model).get_trace(X)
    assert list(trace.nodes) == ["_INPUT", "x", "_RETURN"]
    (frame,) = trace.nodes["x"]["cond_indep_stack"]
    assert (frame.name, frame.dim, frame.size, trace.nodes["x"]["scale"]) == ("data", -1, 3, 1.0)
    assert trace.nodes["x"]["value"].shape == (3,)


@pytest.mark.parametrize(
    "loc",
    [torch.zeros(()), torch.zeros(3), torch.zeros(7, 3)],
    ids=lambda loc: str(tuple(loc.shape)),
)
@pytest.mark.parametrize("outer", [None, 7])
def test_rows_are_pyros_plate_in_all_else(loc, outer):
    """The same frames, scales and shapes as Pyro's plate, inside other plates and handlers too."""

    def model(plate):
        with pyro.poutine.scale(scale=0.5), plate:
            pyro.sample("x", pyro.distributions.Normal(loc, 1.0))

    nodes = []
    for plate in (data_plate(X), pyro.plate("data", 3)):
        inside = (
            (lambda p: model(p))
            if outer is None
            else pyro.plate("outer", outer, dim=-2)(lambda p: model(p))
        )
        torch.manual_seed(0)
        nodes.append(pyro.poutine.trace(inside).get_trace(plate).nodes["x"])
    if loc.dim() == 2 and outer is None:
        return  # no plate for the left axis: Pyro's validation, not this plate's matter
    ours, pyros = nodes
    assert [f[:3] for f in ours["cond_indep_stack"]] == [f[:3] for f in pyros["cond_indep_stack"]]
    assert ours["scale"] == pyros["scale"]
    assert torch.equal(ours["value"], pyros["value"])


def test_validation_of_pyro_is_off_only_while_training_runs():
    seen = []

    class Watching(pv.VAE):
        def guide(self, x, *c):
            seen.append(pyro.distributions.Normal(0.0, 1.0)._validate_args)
            return super().guide(x, *c)

    graph = Watching(*[getattr(vae(), part) for part in ("prior", "posterior", "likelihood")])
    pv.fit(graph, X, epochs=3, progress=False)
    assert seen[0]  # the programs are checked once, with validation
    assert not any(seen[-3:])
    assert pyro.distributions.Normal(0.0, 1.0)._validate_args


def test_an_elbo_module_on_a_graph_shows_its_parameters():
    """`Trace_ELBO()(vae.model, vae.guide)` has no parameters; `fit` and SVI find them."""
    graph = vae()
    assert len(list(Trace_ELBO()(graph.model, graph.guide).parameters())) == 0
    assert len(training.check_programs(graph, pv.objectives.SGVB_B(), X).trainable()) == 4
