"""The contract that every graph keeps, a user's own pair of programs included, and `Denoising`.

The graphs with more to test have modules of their own: test_graphs_bayesian.py,
test_graphs_hierarchical.py, test_counts.py.
"""

import copy

import linear_gaussian
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import mlp
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from torch import nn

import pyrovae as pv
from pyrovae import programs
from pyrovae.graphs.labelled import LabelledCountVAE
from pyrovae.objectives import SGVB_A

ROWS = 5


class Users(nn.Module):
    """A graph that a user writes: plain Pyro, no base class, no `check`."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)

    def model(self, x):
        pyro.module(f"users-{id(self)}", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module(f"users-{id(self)}", self)
        with pyro.plate("data", len(x)):
            mu, log_sigma = self.encoder(x).chunk(2, -1)
            return pyro.sample("z", dist.Normal(mu, log_sigma.exp()).to_event(1))


def parts(likelihood=None):
    likelihood = likelihood or pv.likelihoods.Bernoulli(mlp(2, 6))
    return pv.priors.StandardNormal(2), pv.posteriors.DiagonalNormal(mlp(6, 4)), likelihood


def hierarchical():
    p = pv.priors.StandardNormal(2), pv.priors.Learned(mlp(2, 6))
    q = pv.posteriors.DiagonalNormal(mlp(6, 6)), pv.posteriors.DiagonalNormal(mlp(3, 4))
    return pv.HierarchicalVAE(*p, *q, pv.likelihoods.Bernoulli(mlp(3, 6)))


def masking():
    return pv.graphs.MaskingNoise(0.3)


def counts(library):
    return pv.graphs.count_vae(6, hidden=4, latents=2, dropout=0.0, library=library)


GRAPHS = {  # name: (graph, the shapes of its latent sites)
    "VAE": (lambda: pv.VAE(*parts()), {"z": (ROWS, 2)}),
    "HierarchicalVAE": (hierarchical, {"z2": (ROWS, 2), "z1": (ROWS, 3)}),
    "CountVAE": (lambda: counts(([2.0], [0.5])), {"z": (ROWS, 2), "l": (ROWS, 1)}),
    "CountVAE, observed library": (lambda: counts(None), {"z": (ROWS, 2)}),
    "BayesianVAE": (
        lambda: pv.BayesianVAE(*parts(), data_size=20),
        {"w": (2 * 7 + 7 + 7 * 6 + 6,), "z": (ROWS, 2)},
    ),
    "Denoising": (lambda: pv.Denoising(pv.VAE(*parts()), masking()), {"z": (ROWS, 2)}),
    "a user's": (Users, {"z": (ROWS, 2)}),
    "a user's, denoising": (lambda: pv.Denoising(Users(), nn.Dropout(0.3)), {"z": (ROWS, 2)}),
}
every_graph = pytest.mark.parametrize("name", GRAPHS)
OURS = [name for name in GRAPHS if "user" not in name]


def is_graph(kind):
    return isinstance(kind, type) and issubclass(kind, nn.Module) and hasattr(kind, "model")


def data(n=ROWS):
    return torch.randint(2, (n, 6)).float()


@every_graph
def test_sites_and_shapes(name):
    make, latents = GRAPHS[name]
    graph, x = make(), data()
    p, q = programs.run(graph.model, graph.guide, x)
    drawn = programs.latent(q)
    assert {site["name"]: tuple(site["value"].shape) for site in drawn} == latents
    assert {site["name"] for site in programs.latent(p)} == set(latents)
    assert [site["name"] for site in programs.observed(p)] == ["x"]
    assert programs.log_prob(p["x"]).shape == (ROWS,)


@every_graph
def test_both_programs_return_values_of_their_rows(name):
    graph, x = GRAPHS[name][0](), data()
    assert torch.equal(graph.model(x), x)
    assert len(graph.guide(x)) == ROWS


@pytest.mark.parametrize("kind", [kind for kind in vars(pv.graphs).values() if is_graph(kind)])
def test_a_graph_called_as_a_function_says_what_to_call(kind):
    with pytest.raises(NotImplementedError, match=rf"{kind.__name__}.*pyrovae\.reconstruct\("):
        kind.forward(kind.__new__(kind), data())


@every_graph
def test_draws_at_once_are_further_batch_dimensions(name):
    make, latents = GRAPHS[name]
    graph, x = make(), data()
    with pyro.plate("samples", 3, dim=-2):
        p, q = programs.run(graph.model, graph.guide, x)
    assert q["z" if "z" in latents else "z1"]["value"].shape[:2] == (3, ROWS)
    assert programs.log_prob(p["x"]).shape == (3, ROWS)


@every_graph
@pytest.mark.parametrize("train", ["fit", "SVI"])
def test_every_parameter_trains_in_two_at_once(name, train):
    x = data(20)
    for graph in (GRAPHS[name][0](), GRAPHS[name][0]()):
        before = copy.deepcopy(graph.state_dict())
        if train == "fit":
            pv.fit(graph, x, objective=SGVB_A(), epochs=2, batch_size=5, progress=False)
        else:
            svi = SVI(graph.model, graph.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
            for rows in x.split(5) * 2:
                svi.step(rows)
        still = [n for n, value in graph.named_parameters() if torch.equal(value, before[n])]
        assert not still


@pytest.mark.parametrize("name", OURS)
def test_files_keep_it(name, tmp_path):
    graph = GRAPHS[name][0]().eval()
    loaded = pv.load(pv.save(graph, tmp_path))
    assert repr(loaded) == repr(graph)
    values = zip(graph.state_dict().values(), loaded.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in values)


# ------------------------------------------------------------------------------------------ check
@pytest.mark.parametrize("name", OURS)
def test_data_outside_the_support_are_refused_before_training(name):
    graph, x = GRAPHS[name][0](), data(20) + 0.5
    with pytest.raises(ValueError, match=r"expected x to hold .*, got \d\.5 at row 0"):
        graph.check(x)
    with pytest.raises(ValueError, match="expected x to hold"):
        pv.fit(graph, x, epochs=1, progress=False)


class Unchecked(nn.Module):
    """A user's likelihood, which has no `check`."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 6)

    def forward(self, z):
        return dist.Normal(self.net(z), 1.0).to_event(1)


@pytest.mark.parametrize(
    "graph",
    [
        pv.VAE(*parts(Unchecked())),
        pv.BayesianVAE(*parts(Unchecked()), data_size=20),
        pv.Denoising(pv.VAE(*parts(Unchecked())), nn.Dropout(0.3)),
        pv.Denoising(Users(), nn.Dropout(0.3)),
    ],
    ids=["VAE", "BayesianVAE", "Denoising", "Denoising, a user's"],
)
def test_a_part_without_a_check_passes_any_data(graph):
    graph.check(torch.full((ROWS, 6), 0.5))


def test_parts_that_are_classes_or_no_parts_are_named():
    """Parentheses that were forgotten, a number, a graph where a part is meant."""
    prior, q, p = parts()
    above = pv.priors.Learned(mlp(2, 6))
    cells = counts(None)
    none = {"library_prior": pv.priors.StandardNormal(1), "library_posterior": 3}
    made = {
        "HierarchicalVAE: prior is the class": lambda: pv.HierarchicalVAE(
            prior, pv.priors.ConditionalNormal, q, q, p
        ),
        "HierarchicalVAE: top_posterior is 3": lambda: pv.HierarchicalVAE(prior, above, q, 3, p),
        "BayesianVAE: prior is the class StandardNormal": lambda: pv.BayesianVAE(
            pv.priors.StandardNormal, q, p, data_size=9
        ),
        "BayesianVAE: likelihood is the class Bernoulli": lambda: pv.BayesianVAE(
            prior, q, pv.likelihoods.Bernoulli, data_size=9
        ),
        "CountVAE: posterior is None": lambda: pv.CountVAE(prior, None, p),
        "CountVAE: library_posterior is 3": lambda: pv.CountVAE(prior, q, p, **none),
        "LabelledCountVAE: classifier is the class Linear": lambda: LabelledCountVAE(
            cells, nn.Linear, mlp(5, 4), mlp(5, 4), 3, 2
        ),
        "LabelledCountVAE: cells is the class CountVAE": lambda: LabelledCountVAE(
            pv.CountVAE, mlp(2, 3), mlp(5, 4), mlp(5, 4), 3, 2
        ),
        "Denoising: graph is the class Users": lambda: pv.Denoising(Users, nn.Dropout(0.3)),
        "Denoising: corrupt is the class Dropout": lambda: pv.Denoising(Users(), nn.Dropout),
        "Missing: graph is Bernoulli": lambda: pv.Missing(p),
        "Missing: graph is the class VAE": lambda: pv.Missing(pv.VAE),
    }
    for words, make in made.items():
        with pytest.raises(TypeError, match=words):
            make()
    with pytest.raises(ValueError, match="the likelihood has no parameters"):
        pv.BayesianVAE(prior, q, lambda z: p(z), data_size=9)


def test_an_observed_library_size_needs_counts():
    assert pv.graphs.observed_library(torch.zeros(2, 3)).tolist() == [[0.0], [0.0]]
    with pytest.raises(ValueError, match="x has no genes; generate from a model with a library"):
        pv.generate(counts(None), 3)


# -------------------------------------------------------------------------------------- denoising
def test_denoising_sees_noise_in_training_only():
    graph = pv.Denoising(linear_gaussian.exact(), pv.graphs.GaussianNoise(3.0))
    x = linear_gaussian.data(5)
    torch.testing.assert_close(pv.embed(graph, x), pv.embed(graph.graph, x))
    graph.train()
    torch.manual_seed(0)
    assert not torch.equal(graph.guide(x), graph.guide(x))


def test_the_model_explains_the_clean_data():
    graph, x = pv.Denoising(pv.VAE(*parts()), pv.graphs.MaskingNoise(0.9)), data()
    trace = poutine.trace(graph.model).get_trace(x)
    assert torch.equal(trace.nodes["x"]["value"], x)


def test_noise_has_its_strength():
    x = torch.ones(100_000)
    masked = pv.graphs.MaskingNoise(0.3)(x)
    assert (masked == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert masked.unique().tolist() == [0.0, 1.0]
    assert (pv.graphs.GaussianNoise(2.0)(x) - x).std() == pytest.approx(2.0, rel=0.01)
