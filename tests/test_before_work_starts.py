"""What cannot be computed is refused before it begins, by errors that name place and remedy."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae as pv


def vae(encoder=None, decoder=None):
    q = pv.posteriors.DiagonalNormal(encoder or nn.Linear(6, 4))
    return pv.VAE(
        pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(decoder or nn.Linear(2, 6))
    )


X = torch.ones(20, 6)


@pytest.mark.parametrize(
    "call",
    [
        lambda graph: pv.fit(graph, X, epochs=1, progress=False),
        lambda graph: pv.elbo(graph, X),
        lambda graph: pv.generate(graph, 3),
        lambda graph: pv.denoise(graph, X),
    ],
    ids=["fit", "elbo", "generate", "denoise"],
)
def test_nothing_is_computed_on_the_device_meta(call):
    graph = vae()
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    error = pytest.raises((RuntimeError, ValueError), match=r"meta, .* leave the .* block")
    with torch.device("meta"), error:
        call(graph)
    for name, value in graph.state_dict().items():
        assert torch.equal(value, before[name])


def test_data_on_the_device_meta_are_refused():
    with pytest.raises(ValueError, match=r"data: x is on the device meta, .* leave the"):
        pv.fit(vae(), X.to("meta"), epochs=1, progress=False)


def test_a_graph_on_the_device_meta_is_not_saved(tmp_path):
    with torch.device("meta"):
        graph = vae()
    with pytest.raises(ValueError, match=r"save: .* is on the device meta, .* build the graph out"):
        pv.save(graph, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_lazy_modules_are_saved_once_they_have_run(tmp_path):
    graph = vae(nn.LazyLinear(4), nn.LazyLinear(6))
    with pytest.raises(ValueError, match=r"save: .*weight has no shape yet, .* run it once"):
        pv.save(graph, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    found = pv.elbo(graph, X).elbo
    pv.save(graph, tmp_path / "model")
    into = vae(nn.LazyLinear(4), nn.LazyLinear(6))
    with pytest.raises(pv.FileError, match=r"of `into` has no shape yet, .* run `into` once"):
        pv.load(tmp_path / "model", into=into)
    pv.elbo(into, X)
    loaded = pv.load(tmp_path / "model", into=into)
    torch.testing.assert_close(pv.elbo(loaded, X).elbo, found, rtol=0, atol=0)


class Counting(pv.hooks.Hook):
    pass


@pytest.mark.parametrize("hooks", [Counting, [Counting]])
def test_a_class_of_hooks_is_refused(hooks):
    with pytest.raises(TypeError, match=r"hooks has the class Counting, expected .*Counting\("):
        pv.fit(vae(), X, epochs=1, progress=False, hooks=hooks)


@pytest.mark.parametrize("hooks", [3, print, [print]])
def test_what_is_no_hook_is_refused(hooks):
    with pytest.raises(TypeError, match=r"expected objects of pyrovae\.hooks\.Hook"):
        pv.fit(vae(), X, epochs=1, progress=False, hooks=hooks)


def test_a_fit_in_half_precision_that_breaks_names_the_cause():
    torch.manual_seed(0)
    graph = vae(pv.nets.MLP(6, [64], 4), pv.nets.MLP(2, [64], 6)).half()
    x = torch.rand(256, 6, generator=torch.Generator().manual_seed(0)).round()
    x[:, 0] = 0
    with pytest.raises(pv.TrainingError, match=r"weights are float16, .* eps .* graph.float\(\)"):
        pv.fit(graph, x, epochs=60, learning_rate=1e-2, seed=0, progress=False)
    assert all(value.isfinite().all() for value in graph.state_dict().values())


class Subsampled(nn.Module):
    """A plate that draws 8 of its rows by itself."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 2), nn.Linear(2, 6)

    def model(self, x):
        with pyro.plate("rows", len(x), subsample_size=8) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            p = dist.Bernoulli(logits=self.decoder(z)).to_event(1)
            pyro.sample("x", p, obs=x[rows] if x.numel() else None)

    def guide(self, x):
        with pyro.plate("rows", len(x), subsample_size=8) as rows:
            pyro.sample("z", dist.Normal(self.encoder(x[rows]), 1.0).to_event(1))


@pytest.mark.parametrize(
    "task",
    [
        lambda graph: pv.manifold(graph),
        lambda graph: pv.denoise(graph, X),
        lambda graph: pv.denoise(graph, X, noise=pv.graphs.GaussianNoise(0.5)),
        lambda graph: pv.generate(graph, 5),
        lambda graph: pv.decode(graph, torch.zeros(5, 2)),
        lambda graph: pv.reconstruct(graph, X),
        lambda graph: pv.embed(graph, X),
        lambda graph: pv.elbo(graph, X),
        lambda graph: pv.interpolate(graph, X[0], X[1]),
    ],
)
def test_a_plate_that_draws_rows_by_itself_is_named(task):
    with pytest.raises(ValueError, match=r'plate "rows" draws 8 rows by itself.*pyro\.plate\('):
        task(Subsampled())


def test_a_grid_takes_a_number_or_a_list_as_context():
    def parts():
        return pv.VAE(
            pv.priors.StandardNormal(2),
            pv.posteriors.DiagonalNormal(pv.nets.MLP(6, [4], 4, context=1)),
            pv.likelihoods.Bernoulli(pv.nets.MLP(2, [4], 6, context=1)),
        )

    torch.manual_seed(0)
    graph = parts()
    expected = pv.manifold(graph, torch.tensor([2.0]), steps=3)
    assert torch.equal(pv.manifold(graph, [2.0], steps=3), expected)


class SummedOut(nn.Module):
    """A mixture whose classes the model sums out: the guide draws nothing."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(3, 6)

    def model(self, x):
        with pyro.plate("rows", len(x)):
            k = pyro.sample("k", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
            p = dist.Bernoulli(logits=self.decoder(torch.eye(3)[k])).to_event(1)
            pyro.sample("x", p, obs=x)

    def guide(self, x):
        pass


def test_a_guide_without_latents_has_no_embedding():
    with pytest.raises(ValueError, match=r"draws no latent.*compute_marginals"):
        pv.embed(SummedOut(), X)


def test_a_reconstruction_takes_no_latent_from_the_prior_in_silence():
    with pytest.raises(ValueError, match='guide does not draw the latent "k" of the model'):
        pv.reconstruct(SummedOut(), X)
    assert pv.reconstruct(SummedOut(), X, fixed={"k": 1}).shape == X.shape


NETWORKS = {
    part: getattr(pv.posteriors, part)
    for part in ("DiagonalNormal", "FullRankNormal", "Point", "Laplace", "LibraryNormal")
} | {
    "likelihoods.Bernoulli": pv.likelihoods.Bernoulli,
    "ConditionalNormal": pv.priors.ConditionalNormal,
    "LowRankNormal": lambda net: pv.posteriors.LowRankNormal(net, 2),
    "Mixture": lambda net: pv.posteriors.Mixture(net, 2, 3),
    "IAF": lambda net: pv.posteriors.IAF(net, 2),
    "NeuralSplineFlow": lambda net: pv.posteriors.NeuralSplineFlow(net, 2),
    "MatrixNormal": lambda net: pv.posteriors.MatrixNormal(net, 2, 3),
}


@pytest.mark.parametrize("part", NETWORKS)
@pytest.mark.parametrize(
    ("net", "words"),
    [(nn.Linear, "net is the class Linear, expected a network"), ("mlp", "net is 'mlp', expected")],
    ids=["class", "string"],
)
def test_a_part_takes_a_network_and_nothing_else(part, net, words):
    with pytest.raises(TypeError, match=f"{part}: {words}"):
        NETWORKS[part](net)


SIZES = [
    pv.priors.StandardNormal,
    lambda d: pv.priors.CentredNormal(d, 0.1),
    pv.priors.Flat,
    pv.priors.VonMises,
    pv.priors.UniformAngle,
]


@pytest.mark.parametrize("prior", SIZES, ids=["standard", "centred", "flat", "mises", "uniform"])
@pytest.mark.parametrize("d", [0, -1, 2.0, "2", None, (2, 3), True])
def test_a_prior_has_a_whole_number_of_latents(prior, d):
    with pytest.raises(ValueError, match=r"d is .*, expected a whole number of at least 1"):
        prior(d)


@pytest.mark.parametrize(
    "sizes", [(-1, [3], 2), ("3", [3], 2), (3, [2.5], 2), (3, [4], 2.0), (2.0, [4], 3)]
)
def test_a_network_has_whole_numbers_of_features(sizes):
    with pytest.raises(ValueError, match=r"a network has .* features, expected a whole number"):
        pv.nets.MLP(*sizes)


def test_parts_in_another_order_are_named():
    parts = vae()
    swapped = pv.VAE(parts.posterior, parts.prior, parts.likelihood)
    with pytest.raises(TypeError, match="in the order prior, posterior, likelihood"):
        pv.fit(swapped, X, epochs=1, progress=False)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ({"transform": 3}, "transform is a int, expected a function of x"),
        ({"batch_transform": "binarize"}, r"batch_transform is a str, expected a function of \(x"),
        ({"seed": "zero"}, "seed is 'zero', expected a whole number or None"),
    ],
    ids=["transform", "batch_transform", "seed"],
)
def test_arguments_of_a_fit_are_checked_first(argument, words):
    with pytest.raises((TypeError, ValueError), match=f"fit: {words}"):
        pv.fit(vae(), X, epochs=1, progress=False, **argument)
