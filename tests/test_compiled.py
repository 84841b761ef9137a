"""A compiled fit does what a plain one does, or says why there is none."""

from functools import partial

import cases
import numpy as np
import pyro
import pytest
import torch
from torch import nn

import pyrovae as pv
from pyrovae import likelihoods, nets, posteriors, priors
from pyrovae.distributions import device_counts, negative_binomial_log_prob
from pyrovae.training import compiled

X = (torch.rand(130, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()


def vae(prior=None, posterior=None, likelihood=None, data=6):
    return pv.VAE(
        prior or priors.StandardNormal(2),
        posterior or posteriors.DiagonalNormal(nets.MLP(data, [8], 4)),
        likelihood or likelihoods.Bernoulli(nets.MLP(2, [8], data)),
    )


def fitted(make, x=X, **settings):
    """The histories and weights of a plain and of a compiled fit."""
    found = []
    for compile in (False, True):
        torch.manual_seed(0)
        graph = make()
        settings = {"epochs": 2, "batch_size": 50, "seed": 0, "progress": False} | settings
        history = pv.fit(graph, x, compile=compile, **settings)
        found.append((history, graph.state_dict()))
    return found


def assert_equal(plain, other, **tolerance):
    assert plain[0].elbo == pytest.approx(other[0].elbo, rel=1e-6)
    for name, value in plain[1].items():
        torch.testing.assert_close(other[1][name], value, msg=name, **tolerance)


@pytest.fixture
def traced(monkeypatch):
    """The traced functions, which run as they are: compiling them takes seconds each."""
    found = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: found.append(function) or function)
    return found


class Net(nn.Module):
    """With batch normalization and dropout."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 4)
        )
        self.layers[0].bias = None  # batch normalization would leave noise as its gradient

    def forward(self, x):
        return self.layers(x)


def test_compiled_by_the_machines_compiler():
    settings = {"objective": pv.objectives.SGVB_B(beta=pv.objectives.warm_up(0.5)), "epochs": 3}
    assert_equal(*fitted(vae, **settings))


@pytest.mark.parametrize(
    "case", [c for c in cases.PRIORS if not c.given and c.event == (2,)], ids=str
)
def test_every_prior(traced, case):
    angles = case.where is cases.CIRCLE
    q = posteriors.WrappedNormal if angles else posteriors.DiagonalNormal
    assert_equal(*fitted(lambda: vae(case.make(), q(nets.MLP(6, [8], 4)))))
    assert len(traced) == 1


@pytest.mark.parametrize("case", [c for c in cases.POSTERIORS if c.given == ((6,),)], ids=str)
def test_every_posterior(traced, case):
    d = case.event[0]
    prior = priors.UniformAngle(d) if case.where is cases.CIRCLE else priors.StandardNormal(d)
    make = lambda: vae(prior, case.make(), likelihoods.Bernoulli(nets.MLP(d, [8], 6)))  # noqa: E731
    assert_equal(*fitted(make, epochs=1))
    assert len(traced) == 1


@pytest.mark.parametrize(
    "objective",
    [
        pv.objectives.SGVB_A(samples=2),
        pv.objectives.SGVB_B(samples=3, beta=0.5, data_size=130),
        pv.objectives.SGVB_B(beta=pv.objectives.warm_up(0.8), annealed=["z"]),
        pv.objectives.IWAE(samples=4),
        pv.objectives.IWAE(samples=3, beta=pv.objectives.warm_up(0.8)),
        pv.objectives.DReG(samples=3, beta=pv.objectives.warm_up(0.8), annealed=["z"]),
        pv.objectives.Renyi(0.5, samples=3, beta=pv.objectives.cyclical(2)),
        pv.objectives.DReG(samples=4),
        pv.objectives.FreeBits(0.1),
        pv.objectives.Renyi(0.5, samples=3),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_objectives(traced, objective):
    assert_equal(*fitted(vae, objective=objective))
    assert len(traced) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"freeze": ["posterior"]},
        {"clip_norm": 1.0, "ema": 0.9, "accumulate": 2},
        {"precision": "bf16"},
        {"validation": X[:30], "drop_last": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_of_fit(traced, settings):
    assert_equal(*fitted(vae, **settings))
    assert len(traced) == 1


def test_batch_normalization_and_dropout(traced):
    assert_equal(*fitted(lambda: vae(posterior=posteriors.DiagonalNormal(Net()))))
    assert len(traced) == 1


class Free(nn.Module):
    """A graph whose x has a mean of any form, and a scale of a dictionary."""

    def __init__(self, mean):
        super().__init__()
        self.mean, self.settings = mean, {"scale": 1.0}
        self.encoder, self.linear, self.act = nn.Linear(6, 4), nn.Linear(2, 6), nn.Identity()
        self.w = nn.Parameter(torch.randn(6, 2) / 3)
        self.a, self.b = (nn.Parameter(torch.zeros(6)) for _ in range(2))

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(x.new_zeros(len(x), 2), 1).to_event(1))
            mean = self.act(self.mean(self, z))
            of_x = pyro.distributions.Normal(mean, self.settings["scale"])
            pyro.sample("x", of_x.to_event(1), obs=x)

    def guide(self, x):
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", pyro.distributions.Normal(loc, log_scale.exp()).to_event(1))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"clip_norm": 0.1},
        {"accumulate": 2, "ema": 0.9, "clip_norm": "auto"},
        {"optimizer": partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True, foreach=True)},
    ],
    ids=["Adam", "clipped", "accumulated", "foreach"],
)
@pytest.mark.parametrize(
    "mean",
    [
        lambda s, z: torch.einsum("bi,oi->bo", z, s.w),
        lambda s, z: z[:, :1] + s.w.sum(1),
        lambda s, z: s.linear(z) + (s.a + s.b),
        lambda s, z: s.linear(z) * (1 + s.a.mean()).exp() + s.b.sum(),
        lambda s, z: s.linear(z) + (s.a * s.a).sum() / 2,
    ],
    ids=["transposed", "expanded", "shared", "scalars", "of itself"],
)
def test_gradients_of_any_layout(traced, mean, settings):
    """Of a fused optimizer, and of what changes gradients in place."""
    assert_equal(*fitted(lambda: Free(mean), X, epochs=10, **settings))
    assert len(traced) == 1


class Capacity(pv.objectives.SGVB_B):
    """Burgess et al. 2018: the KL is drawn to a number that rises."""

    capacity = 0.0

    def at(self, t):
        self.capacity = 5 * t
        return super().at(t)

    def bound(self, model, guide, *batch):
        bound = super().bound(model, guide, *batch)
        kl = sum(bound.kl.values())
        return bound._replace(loss=-bound.reconstruction + (kl - self.capacity * len(X)).abs())

    def validation_objective(self):
        return pv.objectives.SGVB_B()


class Tripled(pv.objectives.SGVB_B):
    def loss_of(self, bound, rows):
        return 3 * super().loss_of(bound, rows)


class Weighted(pv.objectives.SGVB_B):
    def beta_of(self, site):
        return 2.0


class OwnSchedule(pv.objectives.SGVB_B):
    def at(self, t):
        self.current_beta = 0.1 + t
        return self.current_beta


@pytest.mark.parametrize("objective", [Tripled, Weighted, OwnSchedule])
def test_objectives_of_ones_own(traced, objective):
    assert_equal(*fitted(vae, objective=objective()))
    assert len(traced) == 1


def test_a_number_that_an_objective_changes_is_not_frozen(traced):
    with pytest.raises(ValueError, match=r"Capacity\.capacity was 0\.0 when it was compiled"):
        pv.fit(vae(), X, epochs=2, compile=True, objective=Capacity(), progress=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda graph: graph.settings.update(scale=2.0), r"settings\.scale was 1\.0"),
        (lambda graph: setattr(graph, "act", nn.Tanh()), "the modules of the graph changed"),
        (lambda graph: graph.w.requires_grad_(False), "requires_grad changed"),
        (
            lambda graph: graph.encoder.register_forward_hook(lambda *given: given[-1] * 2),
            "the forward hooks of encoder changed",
        ),
    ],
    ids=["entry", "module", "requires_grad", "hook"],
)
def test_what_a_callback_changes_is_not_frozen(traced, change, words):
    graph = Free(lambda s, z: z @ s.w.T)
    callback = lambda history: [change(graph)] == []  # noqa: E731
    with pytest.raises(ValueError, match=words):
        pv.fit(graph, X, epochs=3, compile=True, callback=callback, progress=False)


def vamp(posterior):
    return vae(priors.Vamp(posterior, X[:5], low=0.0, high=1.0), posterior)


class Tied(nn.Module):
    """One matrix in two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight, self.last = self.first.weight, nn.Linear(6, 4)

    def forward(self, x):
        return self.last(self.second(self.first(x).tanh()).tanh())


@pytest.mark.parametrize("net", [lambda: nets.MLP(6, [8], 4), Net, Tied])
def test_a_prior_that_calls_the_posterior(traced, net):
    assert_equal(*fitted(lambda: vamp(posteriors.DiagonalNormal(net()))), atol=1e-5, rtol=1e-4)
    assert len(traced) == 1


def test_a_prior_that_inverts_a_flow(traced):
    iaf = lambda: posteriors.IAF(nets.MLP(6, [8], 8), 2, context=4, hidden=(8,))  # noqa: E731
    assert_equal(*fitted(lambda: vamp(iaf())), atol=1e-5, rtol=1e-4)
    assert len(traced) == 1


def test_hooks_on_parameters_see_and_change_gradients(traced):
    seen = []

    def make():
        graph = vae()
        first, second, *_ = graph.likelihood.parameters()
        first.register_hook(lambda gradient: gradient * 0)
        second.register_post_accumulate_grad_hook(lambda moved: seen.append(moved.grad.clone()))
        return graph

    plain, other = fitted(make)
    assert_equal(plain, other)
    torch.manual_seed(0)
    first, start = next(make().likelihood.named_parameters())
    assert torch.equal(other[1][f"likelihood.{first}"], start)
    half = len(seen) // 2
    torch.testing.assert_close(seen[:half], seen[half:])


def scaling(module, inputs, output):
    return output * 0.5


def scaling_in_place(module, inputs, output):
    output.mul_(0.5)


def before(module, inputs):
    return (inputs[0] * 0.5,)


@pytest.mark.parametrize("hook", [scaling, scaling_in_place, before])
def test_forward_hooks_that_compute(traced, hook):
    def make():
        graph = vae()
        layer = graph.likelihood.net.layers[0]
        how = layer.register_forward_pre_hook if hook is before else layer.register_forward_hook
        how(hook)
        return graph

    assert_equal(*fitted(make, precision="bf16"))
    assert len(traced) == 1


def test_a_forward_hook_that_only_looks_is_refused(traced):
    seen, graph = [], vae()
    layer = graph.likelihood.net.layers[0]
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    (hook,) = layer._forward_hooks.values()
    with pytest.raises(ValueError, match=r"hook of likelihood\.net\.layers\.0 returns nothing"):
        pv.fit(graph, X, epochs=1, compile=True, progress=False)
    assert [*layer._forward_hooks.values()] == [hook]


def test_a_context(traced):
    c = torch.eye(3)[torch.arange(130) % 3]
    make = lambda: vae(  # noqa: E731
        posterior=posteriors.DiagonalNormal(nets.MLP(6, [8], 4, context=3)),
        likelihood=likelihoods.Bernoulli(nets.MLP(2, [8], 6, context=3)),
    )
    assert_equal(*fitted(make, (X, c)))
    assert len(traced) == 1


COUNTS = torch.poisson(torch.full((130, 9), 3.0), generator=torch.Generator().manual_seed(0))
CONTEXT = torch.eye(3)[torch.arange(130) % 3]  # of the batch, or of the label


def of_counts(kind, dispersion, library=([3.3] * 3, [0.4] * 3), **options):
    return pv.graphs.count_vae(
        9,
        batches=1 if dispersion == "gene-label" else 3,
        labels=3 if dispersion == "gene-label" else 0,
        hidden=8,
        latents=2,
        likelihood=kind,
        dispersion=dispersion,
        library=None if dispersion == "gene-label" else library,
        **options,
    )


@pytest.mark.parametrize("dispersion", list(pv.expression.Dispersion))
@pytest.mark.parametrize(
    "kind", [pv.expression.ZeroInflated, pv.expression.NegativeBinomial, pv.expression.Poisson]
)
def test_counts(traced, kind, dispersion):
    make = lambda: of_counts(kind, dispersion)  # noqa: E731
    plain, other = fitted(make, (COUNTS, CONTEXT), epochs=3)
    for _, state in (plain, other):  # batch normalization leaves noise as this bias's gradient
        for name in [name for name in state if name.endswith(("0.0.bias", "0.1.running_mean"))]:
            del state[name]
    assert_equal(plain, other, atol=1e-4, rtol=1e-4)
    assert len(traced) == 1


def test_counts_with_a_prior_that_calls_the_posterior(traced):
    prior = lambda q: priors.Vamp(q, COUNTS[:5].log1p(), low=0.0)  # noqa: E731
    make = lambda: of_counts(pv.expression.ZeroInflated, "gene", prior=prior)  # noqa: E731
    assert_equal(*fitted(make, (COUNTS, CONTEXT), epochs=3), atol=1e-4, rtol=1e-4)
    assert len(traced) == 1


def test_counts_are_compiled_for_a_device_in_all_their_operations(traced, monkeypatch):
    monkeypatch.setattr(negative_binomial_log_prob, "_module", lambda *_: device_counts)
    monkeypatch.setattr(negative_binomial_log_prob, "_is_opaque", lambda a: False)
    make = lambda: of_counts(pv.expression.ZeroInflated, "gene")  # noqa: E731
    assert_equal(*fitted(make, (COUNTS, CONTEXT), epochs=3), atol=1e-4, rtol=1e-4)
    names = {str(node.target) for node in traced[0].graph.nodes}
    assert "aten.lgamma.default" in names
    assert not any("count_log_prob" in name for name in names)


def test_counts_compiled_by_the_machines_compiler(monkeypatch):
    pytest.importorskip("anndata")
    found, compiles, calls = [], torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda *a, **k: calls.append(a) or compiles(*a, **k))
    for settings in ({}, {"compile": True}, {"plan_kwargs": {"compile": True}}):
        torch.manual_seed(0)
        model = of_cells()
        history = model.train(4, batch_size=40, train_size=1.0, seed=0, progress=False, **settings)
        found.append((history, model.graph.state_dict()))
    for other in found[1:]:
        assert_equal(found[0], other, atol=1e-4, rtol=1e-4)
    assert len(calls) == 2


def of_cells():
    import anndata

    from pyrovae.singlecell import SingleCellVAE

    cells = anndata.AnnData(COUNTS[:120].numpy())
    cells.obs["batch"] = [str(i % 2) for i in range(120)]
    SingleCellVAE.setup_anndata(cells, batch_key="batch")
    return SingleCellVAE(cells, n_hidden=8, n_latent=2, seed=0)


def test_minibatches_of_another_size_are_not_compiled(traced, monkeypatch):
    sizes = []
    run = compiled.CompiledBackward.__call__
    monkeypatch.setattr(
        compiled.CompiledBackward,
        "__call__",
        lambda self, *batch: sizes.append(len(batch[0])) or run(self, *batch),
    )
    fitted(vae)
    assert sizes == [50] * 4  # of 50, 50, 30 in each of two epochs


# ------------------------------------------------------------------------------------------ refused
BRANCH = r"test_compiled\.py, line \d+, needs the value of a tensor: return self\.net"


class Branching(nn.Module):
    """A network whose course depends on values."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 4)

    def forward(self, x):
        return self.net(x) if x.sum() > 0 else self.net(-x)


class Replacing(nn.Module):
    """A network that replaces a buffer by another tensor."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 4)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return self.net(x - self.mean)


class Counting(nn.Module):
    """A network that depends on how often it was called, as `count` counts it."""

    def __init__(self, count):
        super().__init__()
        self.net, self.count, self.calls, self.kept = nn.Linear(6, 4), count, 0, {}
        self.mean, self.seen = torch.zeros(6), []  # no buffer

    def forward(self, x):
        return self.net(x) / (1 + self.count(self, x))


def attribute(net, x):
    net.calls += 1
    return 0.1 * net.calls


def entry(net, x):
    net.kept["calls"] = net.kept.get("calls", 0) + 1
    return 0.1 * net.kept["calls"]


def growing(net, x):
    net.seen.append(x.mean().detach())
    return 0.0


def in_place(net, x):
    return net.mean.mul_(0.9).add_(x.mean(0)).square().sum()


def numpys(net, x):
    return torch.from_numpy(np.random.default_rng().uniform(size=1)).float()


class Mixing(nn.Module):
    """A network that mixes rows as soon as its second layer has moved."""

    def __init__(self):
        super().__init__()
        self.net, self.of_mean = nn.Linear(2, 6), nn.Linear(2, 6)
        nn.init.zeros_(self.of_mean.weight)
        nn.init.zeros_(self.of_mean.bias)

    def forward(self, z):
        return self.net(z) + self.of_mean(z - z.mean(0))


def test_rows_that_are_mixed_later_are_seen(traced):
    make = lambda: vae(likelihood=likelihoods.Bernoulli(Mixing()))  # noqa: E731
    assert_equal(*fitted(make, objective=pv.objectives.IWAE(samples=3)))
    assert len(traced) == 2  # the draws got another layout


class Stored(nn.Module):
    """A graph with a parameter in Pyro's store."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 6)

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", priors.StandardNormal(2)())
            pyro.sample("x", pyro.distributions.Bernoulli(logits=self.net(z)).to_event(1), obs=x)

    def guide(self, x):
        loc = pyro.param("test_compiled_loc", torch.zeros(2))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", pyro.distributions.Normal(loc, 1.0).to_event(1))


class Stateful(pv.objectives.SGVB_B):
    """An objective with a state."""

    def state_dict(self):
        return {"baseline": 1.0}


@pytest.mark.parametrize(
    ("make", "settings", "words"),
    [
        (lambda: vae(posterior=posteriors.DiagonalNormal(Branching())), {}, BRANCH),
        (lambda: vae(posterior=posteriors.DiagonalNormal(Replacing())), {}, r"mean is replaced"),
        (lambda: vamp(posteriors.DiagonalNormal(Branching())), {}, BRANCH),
        *[
            (lambda c=c: vae(posterior=posteriors.DiagonalNormal(Counting(c))), {}, words)
            for c, words in (
                (attribute, r"changes posterior\.net\.calls"),
                (entry, r"changes posterior\.net\.kept"),
                (growing, r"changes posterior\.net\.seen"),
                (numpys, "not the same at each step"),
                (in_place, "register_buffer"),
            )
        ],
        (Stored, {}, "is not in the graph"),
        (vae, {"objective": Stateful()}, "Stateful has .* a state"),
    ],
)
def test_what_cannot_be_compiled_is_refused(traced, make, settings, words):
    graph = make()
    start = {name: value.clone() for name, value in graph.named_parameters()}
    with pytest.raises(ValueError, match=words):
        pv.fit(graph, X, epochs=1, compile=True, progress=False, **settings)
    for name, value in graph.named_parameters():
        assert torch.equal(value, start[name]), name
    if isinstance(net := getattr(getattr(graph, "posterior", None), "net", None), Counting):
        assert all(type(value) is torch.Tensor for value in net.seen)  # what checks left alone


class Scaled(nn.Linear):
    scale = 1.0

    def forward(self, x):
        return super().forward(x) * self.scale


def test_a_number_that_a_callback_changes_is_not_frozen(traced):
    net = Scaled(6, 4)
    net.scale = 1.0

    def halve(history):
        net.scale *= 0.5

    with pytest.raises(ValueError, match=r"posterior\.net\.scale was 1\.0 .* is 0\.5 now"):
        pv.fit(
            vae(posterior=posteriors.DiagonalNormal(net)),
            X,
            epochs=3,
            callback=halve,
            compile=True,
            progress=False,
        )


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.GRU(1, 3, batch_first=True), nn.Linear(3, 4)

    def forward(self, x):
        return self.head(self.layer(x[..., None])[0][:, -1])


def test_a_recurrent_layer_is_named(traced):
    graph = vae(posterior=posteriors.DiagonalNormal(Recurrent()))
    with pytest.raises(ValueError, match=r"the recurrent layer posterior\.net\.layer"):
        pv.fit(graph, X, epochs=1, compile=True, progress=False)


def test_a_missing_compiler_is_named(monkeypatch, tmp_path):
    def fails(function, **_):
        def compiled(*_):
            raise RuntimeError("no working C++ compiler\nand more")

        return compiled

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(ValueError, match=r"no working C\+\+ compiler\. Leave compile out"):
        pv.fit(vae(), X, epochs=1, compile=True, progress=False)
