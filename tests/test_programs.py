"""Running pairs of programs: plain Pyro beside our handlers, and several draws in one run."""

import math
import types
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import mlp
from torch import nn

import pyrovae as pv
from pyrovae import programs
from pyrovae.distributions import AutoregressiveFlow
from pyrovae.programs import Layout, Programs, plain_pyro

X = torch.arange(60.0).reshape(10, 6).remainder(2)


def vae(likelihood=None):
    torch.manual_seed(3)
    q = pv.posteriors.DiagonalNormal(mlp(6, 4))
    return pv.VAE(pv.priors.StandardNormal(2), q, likelihood or pv.likelihoods.Bernoulli(mlp(2, 6)))


def loss_and_gradients(graph, objective):
    torch.manual_seed(5)
    loss = objective.loss_and_grads(graph.model, graph.guide, X)
    gradients = [parameter.grad.clone() for parameter in graph.parameters()]
    graph.zero_grad()
    return loss, gradients


OBJECTIVES = {
    "SGVB A": pv.objectives.SGVB_A,
    "SGVB B": pv.objectives.SGVB_B,
    "SGVB B, 5 draws": partial(pv.objectives.SGVB_B, 5),
    "IWAE": partial(pv.objectives.IWAE, 5),
    "DReG": partial(pv.objectives.DReG, 5),
    "wake-sleep": partial(pv.objectives.ReweightedWakeSleep, 3, 0.5),
}


@pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)
def test_plain_pyro_gives_the_same_losses_and_gradients(make):
    graph = vae()
    loss, gradients = loss_and_gradients(graph, make())
    with plain_pyro():
        assert programs.is_plain()
        plain_loss, plain_gradients = loss_and_gradients(graph, make())
    assert not programs.is_plain()
    assert loss == pytest.approx(plain_loss, rel=1e-6)
    for ours, plain in zip(gradients, plain_gradients, strict=True):
        torch.testing.assert_close(ours, plain)


def test_plain_pyro_gives_the_same_fit():
    losses = []
    for context in (plain_pyro, torch.enable_grad):
        with context():
            losses.append(pv.fit(vae(), X, epochs=2, batch_size=5, seed=0, progress=False).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# ------------------------------------------------------------- networks of one batch dimension
class GRU(nn.Module):
    """x as a sequence of six: the second dimension of its input is time."""

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(2, 5, batch_first=True), nn.Linear(5, 1)

    def forward(self, z):
        return self.head(self.gru(z.unsqueeze(1).expand(-1, 6, -1))[0]).squeeze(-1)


class Deconvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 4), nn.ConvTranspose1d(4, 1, 6)

    def forward(self, z):
        return self.last(self.first(z).view(-1, 4, 1)).flatten(1)


def batchnorm(width):
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 6))


class Alone(nn.Module):
    """Reference: a network called with one batch dimension, whatever dimensions come."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, z):
        return self.net(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:-1], 6)


NETWORKS = {
    "GRU": GRU,
    "ConvTranspose1d": Deconvolution,
    "BatchNorm1d of any width": partial(batchnorm, 7),
    "BatchNorm1d of the batch's size": partial(batchnorm, len(X)),
    "BatchNorm1d of the looked-at rows": partial(batchnorm, 3),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")  # few or poor draws, on purpose
def test_networks_of_one_batch_dimension_are_evaluated_as_they_are_trained(make):
    torch.manual_seed(0)
    net = make()
    graph, reference = (vae(pv.likelihoods.Bernoulli(n)) for n in (net, Alone(net)))
    pv.fit(graph, X, epochs=3, batch_size=5, seed=0, progress=False)
    reference.load_state_dict(
        {
            k.replace("likelihood.net.", "likelihood.net.net."): v
            for k, v in graph.state_dict().items()
        }
    )
    layout = programs.find_layout(graph.model, graph.guide, X, draws=4)
    assert layout.depth is None  # repeated rows
    assert programs.find_layout(reference.model, reference.guide, X, draws=4).depth == 1
    for a, b in zip(
        pv.log_evidence(graph, X, samples=50),
        pv.log_evidence(reference, X, samples=50),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        pv.elbo(graph, X, samples=7).elbo, pv.elbo(reference, X, samples=7).elbo
    )
    annealed = [
        pv.annealed_log_evidence(g, X, samples=2, temperatures=5).log_p for g in (graph, reference)
    ]
    torch.testing.assert_close(*annealed, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES)
def test_networks_of_one_batch_dimension_train_with_several_draws(make):
    torch.manual_seed(0)
    net = GRU()
    graph, reference = (vae(pv.likelihoods.Bernoulli(n)) for n in (net, Alone(net)))
    losses = [loss_and_gradients(g, make()) for g in (graph, reference)]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-5)
    for a, b in zip(losses[0][1], losses[1][1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


class Scaled(nn.Module):
    """A plate of 1000 rows, subsampled, and a decoder that takes one batch dimension."""

    def __init__(self, decoder=None, register=True):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 2), decoder or GRU()
        self.registered = register

    def plate(self, x):
        return pyro.plate("data", 1000, subsample=x)

    def model(self, x):
        pyro.module("decoder of a test", self.decoder)
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        if self.registered:
            pyro.module("encoder of a test", self.encoder)
        with self.plate(x):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))


def test_a_scale_by_the_number_of_rows_is_not_multiplied_by_draws():
    graph = Scaled()
    with pytest.raises(ValueError, match=r"SGVB_B: samples is 4.*repeated rows would change"):
        pv.objectives.SGVB_B(4).loss(graph.model, graph.guide, X)
    torch.manual_seed(0)
    alone = pv.objectives.SGVB_B().loss(graph.model, graph.guide, X)
    broadcasting = Scaled(Alone(graph.decoder))
    broadcasting.encoder = graph.encoder
    together = pv.objectives.SGVB_B(50).loss(broadcasting.model, broadcasting.guide, X)
    assert together == pytest.approx(alone, rel=0.2)
    for a, b in zip(pv.elbo(graph, X, samples=9), pv.elbo(broadcasting, X, samples=9), strict=True):
        torch.testing.assert_close(a, b)  # the evidence knows no scale


class Whole(Scaled):
    """A prior whose mean depends on all rows of the batch."""

    def plate(self, x):
        return pyro.plate("data", len(x))

    def model(self, x):
        with self.plate(x):
            z = pyro.sample("z", dist.Normal(x.sum() * torch.ones(2) / 60, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)


@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")  # few or poor draws, on purpose
def test_programs_that_add_up_rows_are_evaluated_by_separate_runs():
    graph = Whole()
    assert programs.find_layout(graph.model, graph.guide, X, draws=3).separate
    reference = Whole(Alone(graph.decoder))
    reference.encoder = graph.encoder
    a, b = (pv.log_evidence(g, X, samples=3000) for g in (graph, reference))
    assert ((a.log_p - b.log_p).abs() < 6 * (a.standard_error + b.standard_error)).all()
    annealed = pv.annealed_log_evidence(graph, X, samples=2, temperatures=4)
    assert annealed.log_p.isfinite().all()


class Mixing(nn.Module):
    """A network that normalizes over the rows where there are draws, and shows it later only."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 6)
        nn.init.zeros_(self.linear.weight)

    def forward(self, z):
        return self.linear(nn.functional.normalize(z, dim=1))


def test_a_layout_that_the_first_weights_allow_is_looked_at_again():
    graph = vae(pv.likelihoods.Bernoulli(Mixing()))
    objective = pv.objectives.SGVB_A(4)
    assert objective.layout(graph.model, graph.guide, X).depth == 1  # zero weights hide it
    graph.likelihood.net.linear.weight.data.normal_()
    assert objective.layout(graph.model, graph.guide, X).depth is None


class OwnMeans(nn.Module):
    """A posterior mean for each of the ten rows: the programs take no other number of rows."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(10))

    def model(self, x):
        with pyro.plate("data", 10):
            z = pyro.sample("z", dist.Normal(torch.zeros(10), 1.0))
            pyro.sample(
                "x", dist.Normal(z[..., None], 1.0).expand([*z.shape, 6]).to_event(1), obs=x
            )

    def guide(self, x):
        with pyro.plate("data", 10):
            pyro.sample("z", dist.Normal(self.mean, 0.6))


def test_a_guide_with_a_mean_per_row_trains_with_draws_and_is_evaluated():
    graph = OwnMeans()
    adam = partial(torch.optim.Adam, lr=0.05)
    for objective in (pv.objectives.SGVB_A(4), pv.objectives.IWAE(3)):
        pv.fit(graph, X, epochs=100, batch_size=10, objective=objective, optimizer=adam,
               seed=0, progress=False)  # fmt: skip
    evidence = pv.log_evidence(graph, X, samples=4000)
    assert ((evidence.log_p - exact(X)).abs() < 5 * evidence.standard_error).all()


@pytest.mark.parametrize("name", ["draws", "samples", "num_particles_vectorized"])
def test_the_name_of_a_plate_over_rows_is_free(name):
    graph = Rows("event", name)
    x = torch.randn(5, 3)
    named = pv.log_evidence(graph, x, samples=20)
    torch.testing.assert_close(named.log_p, pv.log_evidence(Rows("event"), x, samples=20).log_p)


def test_pyros_elbo_scales_every_gradient_and_says_when_it_finds_none():
    torch.manual_seed(0)
    part = Scaled(nn.Linear(2, 6), register=False)  # the encoder is hidden from Pyro's handlers
    weights = part.encoder.weight.clone()
    sgd = partial(torch.optim.SGD, lr=1e-5)
    history = pv.fit(part, X, objective=pyro.infer.Trace_ELBO(), optimizer=sgd, epochs=2,
                     batch_size=5, seed=0, progress=False)  # fmt: skip
    assert math.isfinite(history.loss[-1])
    assert 0 < (part.encoder.weight - weights).abs().max() < 1
    with pytest.raises(ValueError, match="Trace_ELBO found no parameter in the programs"):
        pv.fit(OwnMeans(), X, objective=pyro.infer.Trace_ELBO(), epochs=1, batch_size=10,
               progress=False)  # fmt: skip


def test_looking_moves_nothing():
    graph = vae(pv.likelihoods.Bernoulli(batchnorm(7)))
    before, stream = Programs(graph).state(), torch.get_rng_state()
    programs.find_layout(graph.model, graph.guide, X, draws=3)
    assert all(
        torch.equal(a, b)
        for a, b in zip(before.values(), Programs(graph).state().values(), strict=True)
    )
    assert torch.equal(stream, torch.get_rng_state())
    assert all(module.training for module in graph.modules())


def test_modules_of_plain_functions_are_looked_at_in_eval_mode():
    net = batchnorm(7)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=net(z)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    before = net[1].running_mean.clone()
    assert programs.find_layout(model, guide, X, draws=3).depth is None
    assert torch.equal(before, net[1].running_mean)
    assert net[1].training


# ---------------------------------------------------------------------------- plates of any kind
class Rows:
    """z ~ N(0, 1), x_m ~ N(z, 1) for m = 1 .. M; M as an event, or in a plate inside the row."""

    def __init__(self, how, name="rows", **plate):
        self.how, self.name, self.plate = how, name, plate

    def model(self, x):
        with pyro.plate(self.name, **{"size": len(x), **self.options(x)}, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if self.how == "event":
                pyro.sample(
                    "x",
                    dist.Normal(z[..., None], 1.0).expand([*z.shape, x.shape[1]]).to_event(1),
                    obs=x,
                )
            else:
                with pyro.plate("inside", x.shape[1], dim=-2):
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x.T)

    def guide(self, x):
        with pyro.plate(self.name, **{"size": len(x), **self.options(x)}, dim=-1):
            m = x.shape[1]
            pyro.sample("z", dist.Normal(x.sum(1) / (m + 1), 1.2 / math.sqrt(m + 1)))

    def options(self, x):
        return {"subsample": x, **self.plate} if self.plate else {}


def exact(x):
    m = x.shape[1]
    return dist.MultivariateNormal(torch.zeros(m), torch.eye(m) + 1).log_prob(x)


@pytest.mark.parametrize(
    "columns", [3, 4, 5], ids=["as many as looked-at rows", "4", "as many as rows"]
)
@pytest.mark.parametrize("how", ["event", "plate"])
def test_a_plate_inside_a_row_is_evaluated(how, columns):
    x = torch.randn(5, columns)
    graph = Rows(how)
    depth = programs.find_layout(graph.model, graph.guide, x, draws=2).depth
    assert depth == (1 if how == "event" else 2)  # the draws have a plate of their own
    evidence = pv.log_evidence(graph, x, samples=4000)
    assert ((evidence.log_p - exact(x)).abs() < 5 * evidence.standard_error).all()
    annealed = pv.annealed_log_evidence(graph, x, samples=100, temperatures=5, from_guide=True)
    assert ((annealed.log_p - exact(x)).abs() < 5 * annealed.standard_error + 1e-3).all()
    assert (pv.elbo(graph, x, samples=500).elbo < exact(x) + 0.05).all()
    objective = pv.objectives.IWAE(samples=500)
    bound = -objective.loss(graph.model, graph.guide, x)
    assert bound == pytest.approx(exact(x).sum().item(), abs=0.2)


def test_a_subsampling_plate_and_a_scale_leave_the_evidence_alone():
    x = torch.randn(5, 3)
    plain = pv.log_evidence(Rows("event"), x, samples=100)
    for graph in (Rows("event", size=1000), Rows("plate", size=1000)):
        torch.testing.assert_close(pv.log_evidence(graph, x, samples=100).log_p, plain.log_p)
    scaled = Rows("event")
    scaled.model = pyro.poutine.scale(scaled.model, scale=3.0)
    torch.testing.assert_close(pv.log_evidence(scaled, x, samples=100).log_p, plain.log_p)


class Chain:
    """z_1 ~ N(0, 1), z_t ~ N(z_(t-1), 1), x_t ~ N(z_t, 1), sampled in a Python loop."""

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z = torch.zeros(())
            for t in range(x.shape[1]):
                z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
                pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t])

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            for t in range(x.shape[1]):
                pyro.sample(f"z{t}", dist.Normal(x[:, t] / 2, 1.0))


def test_a_loop_over_time_is_evaluated():
    x = torch.randn(4, 3)
    covariance = torch.eye(3) + torch.minimum(torch.arange(1, 4)[:, None], torch.arange(1, 4))
    log_p = dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x)
    evidence = pv.log_evidence(Chain(), x, samples=20_000)
    assert ((evidence.log_p - log_p).abs() < 5 * evidence.standard_error).all()


def test_a_plate_of_a_fixed_size_takes_all_rows_at_once():
    def model(x):
        with pyro.plate("all", 7):
            z = pyro.sample("z", dist.Normal(torch.zeros(7), 1.0))
            pyro.sample(
                "x", dist.Normal(z[..., None], 1.0).expand([*z.shape, 3]).to_event(1), obs=x
            )

    def guide(x):
        with pyro.plate("all", 7):
            pyro.sample("z", dist.Normal(x.sum(1) / 4, 0.6))

    graph, x = types.SimpleNamespace(model=model, guide=guide), torch.randn(7, 3)
    evidence = pv.log_evidence(graph, x, samples=4000)
    assert ((evidence.log_p - exact(x)).abs() < 5 * evidence.standard_error).all()


def test_by_row_and_back():
    x = torch.randn(5, 4)
    for how in ("event", "plate"):
        graph = Rows(how)
        for layout in (Layout(5), Layout(5, 3), Layout(5, 3, 1 if how == "event" else 2)):
            p, q = programs.run(graph.model, graph.guide, x, layout=layout)
            for trace in (p, q):
                for site in programs.latent(trace) + programs.observed(trace):
                    value = site["fn"].sample()
                    by_row = layout.by_row(value, site)
                    assert by_row.shape[:2] == (layout.draws, 5)
                    assert torch.equal(layout.as_site(by_row, site), value)


# ------------------------------------------------------------------------------- graph as a module
def test_forward_runs_both_programs():
    graph = vae()
    p, q = Programs(graph)(X)
    assert list(programs.latent_by_name(q)) == ["z"]
    assert [site["name"] for site in programs.observed(p)] == ["x"]
    loss = Programs(graph, pv.objectives.SGVB_B().differentiable_loss)(X)
    loss.backward()
    assert all(parameter.grad is not None for parameter in graph.parameters())


def test_what_is_no_graph_is_refused():
    with pytest.raises(TypeError, match=r"got a Linear, expected an object with two Pyro programs"):
        pv.fit(nn.Linear(2, 2), X)


class WithParam(nn.Module):
    """A module whose programs also have a parameter in Pyro's store."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 1)

    def model(self, x):
        scale = pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample(
                "x", dist.Normal(z[..., None], scale).expand([*z.shape, 6]).to_event(1), obs=x
            )

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x).squeeze(-1), 0.5))


def test_a_parameter_in_pyros_store_trains_and_its_best_value_is_put_back():
    graph = WithParam()
    losses = []

    def stop_late(history):
        losses.append(pyro.param("scale").item())

    history = pv.fit(graph, X, validation=X, epochs=30, optimizer=partial(torch.optim.Adam, lr=0.5),
                     callback=stop_late, seed=0, progress=False)  # fmt: skip
    assert pyro.param("scale").item() != 2.0
    assert pyro.param("scale").item() == pytest.approx(losses[history.best_epoch - 1])


@pytest.mark.parametrize(
    ("hidden", "depth"),
    [(nn.Tanh(), 1), (nn.BatchNorm1d(8), None)],
    ids=["a plate", "repeated rows"],
)
def test_the_layout_of_draws_needs_no_inverse_of_a_flow(monkeypatch, hidden, depth):
    """That of a gate that is nearly shut has no digit left, where the flow's own draw has all."""
    nothing = lambda self, net, y, order: (y * math.nan, y * math.nan)  # noqa: E731
    monkeypatch.setattr(AutoregressiveFlow, "_invert", nothing)
    graph = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.IAF(pv.nets.MLP(6, [8], 8), 2, context=4, hidden=(8,)),
        pv.likelihoods.Bernoulli(nn.Sequential(nn.Linear(2, 8), hidden, nn.Linear(8, 6))),
    )
    x = torch.rand(7, 6).round()
    layout = programs.find_layout(graph.model, graph.guide, x, draws=3)
    assert (layout.depth, layout.separate) == (depth, False)
    q = graph.posterior(x)
    elsewhere = q.sample().clone()
    with pytest.raises(ValueError, match="nan"):  # as it would be, if one were taken
        q.log_prob(elsewhere)
