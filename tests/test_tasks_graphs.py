"""The tasks on graphs of a user's own: site names, several sites, loops, labels, shared latents."""

import math

import linear_gaussian
import pyro
import pyro.distributions as dist
import pytest
import torch
import user_graphs
from torch import nn
from torch.nn.functional import one_hot

import pyrovae as pv

X = torch.rand(5, 6).round()


# ------------------------------------------------------------------------------- names of sites
def test_sites_of_any_name():
    graph = user_graphs.PyroExample()
    assert pv.generate(graph, 4).shape == (4, 6)
    assert set(pv.generate(graph, 40, mean=False).unique().tolist()) == {0.0, 1.0}
    z = pv.embed(graph, X)
    torch.testing.assert_close(z, graph.encoder(X)[:, :2].detach())
    wanted = torch.sigmoid(graph.decoder(z)).detach()
    torch.testing.assert_close(pv.decode(graph, z), wanted)
    torch.testing.assert_close(pv.reconstruct(graph, X), wanted)
    points = pv.interpolate(graph, X[0], X[1], steps=3)
    torch.testing.assert_close(points[[0, 2]], wanted[:2])
    assert pv.manifold(graph, steps=3).shape == (3, 3, 6)


def test_names_that_are_not_there():
    graph = user_graphs.PyroExample()
    with pytest.raises(ValueError, match=r'latent site "z", it has \[.latent.\].*site='):
        pv.decode(graph, torch.zeros(3, 2), site="z")
    with pytest.raises(ValueError, match=r'no latent site "z"'):
        pv.embed(graph, X, site="z")
    with pytest.raises(ValueError, match=r'observes no site "x".*observed='):
        pv.generate(graph, 3, observed="x")


def test_of_several_latents_one_must_be_named():
    mlp = lambda a, b: nn.Linear(a, b)  # noqa: E731
    graph = pv.HierarchicalVAE(
        pv.priors.StandardNormal(2),
        pv.priors.ConditionalNormal(mlp(2, 6)),
        pv.posteriors.DiagonalNormal(mlp(6, 6)),
        pv.posteriors.DiagonalNormal(mlp(3, 4)),
        pv.likelihoods.Bernoulli(mlp(3, 6)),
    )
    for task in (lambda: pv.embed(graph, X), lambda: pv.decode(graph, torch.zeros(2, 3))):
        with pytest.raises(ValueError, match=r"z1.*site="):
            task()
    torch.testing.assert_close(pv.reconstruct(graph, X), pv.reconstruct(graph, X, site="z1"))
    assert pv.generate(graph, 3).shape == (3, 6)


# ------------------------------------------------------------------------ several observed sites
def test_two_views_come_by_name():
    graph, present = user_graphs.TwoViews(), torch.tensor([[1.0, 0.0]] * 5)
    both = pv.generate(graph, 5, present)
    assert {name: tuple(value.shape) for name, value in both.items()} == {
        "x1": (5, 4),
        "x2": (5, 2),
    }
    assert pv.generate(graph, 5, present, observed="x2").shape == (5, 2)
    z = pv.embed(graph, X, present)
    filled = pv.reconstruct(graph, X, present)  # the view that is missing too
    torch.testing.assert_close(filled["x2"], graph.decoders[1](z).detach())
    assert pv.decode(graph, z, present, observed="x1").shape == (5, 4)
    grid = pv.manifold(graph, present[0], steps=2)
    assert grid["x1"].shape == (2, 2, 4)
    ends = pv.interpolate(graph, X[0], X[1], present[0], steps=4, observed="x2")
    assert ends.shape == (4, 2)


def test_a_loop_over_time_reads_an_example():
    graph = user_graphs.Markov()
    x, lengths = torch.randn(5, 4, 3), torch.tensor([[4.0], [2.0], [1.0], [3.0], [4.0]])
    series = pv.generate(graph, 7, torch.full((7, 1), 4.0), mean=False, like=x)
    assert list(series) == ["x_0", "x_1", "x_2", "x_3"]
    assert all(value.shape == (7, 3) for value in series.values())
    assert pv.generate(graph, 5, lengths, like=x[:1], observed="x_3").shape == (5, 3)
    assert pv.embed(graph, x, lengths, site="z_2").shape == (5, 2)
    again = pv.reconstruct(graph, x, lengths)
    assert [tuple(value.shape) for value in again.values()] == [(5, 3)] * 4
    z = torch.randn(5, 2)
    first = pv.decode(graph, z, lengths, site="z_0", observed="x_0", like=x)
    torch.testing.assert_close(first, graph.emission(z).detach())
    with pytest.raises(ValueError, match=r"like=x"):
        pv.generate(graph, 7, torch.full((7, 1), 4.0))
    with pytest.raises(ValueError, match=r"like=x"):
        pv.decode(graph, z, lengths, site="z_0")


class Images(nn.Module):
    """A model that reads the shape of x."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", user_graphs.unit_normal(len(x), 2))
            p = dist.Normal(z.sum(-1)[:, None, None], 1.0)
            pyro.sample("x", p.expand([len(x), 3, 2]).to_event(2), obs=x.view(len(x), 3, 2))

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", user_graphs.unit_normal(len(x), 2))


def test_a_model_that_reshapes_x_reads_an_example():
    assert pv.generate(Images(), 4, like=torch.zeros(1, 6)).shape == (4, 3, 2)
    with pytest.raises(ValueError, match=r"RuntimeError.*like=x"):
        pv.generate(Images(), 4)
    with pytest.raises(ValueError, match=r"like=x"):
        pv.manifold(Images(), steps=2)
    assert pv.manifold(Images(), steps=2, like=torch.zeros(1, 6)).shape == (2, 2, 3, 2)


def test_an_observed_library_size_is_read_from_the_example():
    graph = pv.graphs.count_vae(6, likelihood=pv.expression.Poisson)
    counts = torch.poisson(torch.full((5, 6), 20.0))
    made = pv.generate(graph, 10, like=counts)
    torch.testing.assert_close(made.sum(1), counts.sum(1).repeat(2), rtol=1e-3, atol=0)
    assert pv.reconstruct(graph, counts).shape == counts.shape


# ------------------------------------------------------------------------------------ labels
def test_labels_that_are_passed_are_kept():
    graph, y = user_graphs.SemiSupervised(), one_hot(torch.tensor([0, 2, 1, 1, 0]), 3).float()
    z = torch.randn(5, 2)
    wanted = torch.sigmoid(graph.decode(torch.cat([z, y], -1))).detach()
    torch.testing.assert_close(pv.decode(graph, z, y), wanted)
    assert pv.generate(graph, 5, y).shape == (5, 6)
    torch.testing.assert_close(pv.decode(graph, {"z": z, "y": y}), wanted)
    assert pv.generate(graph, 4).shape == (4, 6)  # y is drawn
    assert pv.embed(graph, X).shape == (5, 2)
    assert pv.reconstruct(graph, X, y).shape == pv.reconstruct(graph, X).shape == (5, 6)
    probabilities = torch.softmax(graph.classify(X), -1).detach()
    torch.testing.assert_close(pv.embed(graph, X, site="y"), probabilities)


def test_the_sleep_phase_dreams_of_x_at_the_labels_that_are_passed():
    graph, y = user_graphs.SemiSupervised(), one_hot(torch.tensor([0, 2, 1, 1, 0]), 3).float()
    history = pv.fit(graph, (X, y), epochs=1, progress=False, objective=pv.objectives.WakeSleep())
    assert math.isfinite(history.loss[0])


def test_a_latent_given_a_label_is_averaged_over_the_label():
    """E q(z | x) = sum_y q(y | x) E q(z | x, y), within 4 standard errors of 256 draws."""
    graph = user_graphs.SemiSupervised()
    probabilities = torch.softmax(graph.classify(X), -1)[..., None]
    each = [graph.encode(torch.cat([X, y.expand(5, 3)], -1))[:, :2] for y in torch.eye(3)]
    means = torch.stack(each, 1)
    exact = (probabilities * means).sum(1)
    variance = (probabilities * (means - exact[:, None]).square()).sum(1)
    z = (pv.embed(graph, X) - exact) / (variance / 256).sqrt()
    assert z.abs().max() < 4


def test_classes_are_embedded_by_their_probabilities():
    graph = user_graphs.Classes()
    probabilities = torch.softmax(graph.encoder(X), -1).detach()
    torch.testing.assert_close(pv.embed(graph, X), probabilities)
    best = torch.sigmoid(graph.decoder(probabilities.argmax(-1))).detach()
    torch.testing.assert_close(pv.reconstruct(graph, X), best)
    torch.testing.assert_close(pv.decode(graph, probabilities.argmax(-1)), best)
    with pytest.raises(ValueError, match=r"z has shape \(5, 3\)"):
        pv.decode(graph, probabilities)


# ---------------------------------------------------------------------------- shared latents
def test_a_shared_latent_comes_from_the_prior_or_the_guide():
    graph = user_graphs.SharedScale()
    assert pv.generate(graph, 9, seed=0).mean() < 25  # from the prior
    assert pv.generate(graph, 9, from_guide=["shift"], like=X, seed=0).mean() > 45
    assert pv.reconstruct(graph, X).mean() > 45
    assert pv.embed(graph, X).shape == (5, 2)  # the only latent with a value per row
    with pytest.raises(ValueError, match="shared by all rows"):
        pv.embed(graph, X, site="shift")
    with pytest.raises(ValueError, match=r"from_guide names \['w'\]"):
        pv.generate(graph, 9, from_guide=["w"], like=X)


def test_a_shared_latent_is_not_drawn_to_decode():
    graph = user_graphs.SharedScale()
    z = pv.embed(graph, X)
    for task in (
        lambda: pv.decode(graph, z),
        lambda: pv.interpolate(graph, X[0], X[1]),
        lambda: pv.manifold(graph, steps=2),
        lambda: pv.reconstruct(graph, X, site="code"),
    ):
        with pytest.raises(ValueError, match='all rows share the latent "shift"'):
            task()
    wanted = graph.decoder(z).detach() + 50
    torch.testing.assert_close(pv.decode(graph, z, fixed={"shift": 50.0}), wanted)
    torch.testing.assert_close(pv.reconstruct(graph, X, site="code", fixed={"shift": 50}), wanted)


# --------------------------------------------------------------------- latents beside the path
class Rejected(nn.Module):
    """A latent y given z whose draw takes as many random numbers as it needs, and another, v."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", user_graphs.unit_normal(len(x), 2))
            y = pyro.sample("y", dist.Poisson(torch.exp(2 + z[:, 0])))
            v = pyro.sample("v", dist.Gamma(torch.ones(len(x)), 1.0))
            mean = torch.stack([y, v], -1)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))
            pyro.sample("y", dist.Poisson(torch.ones(len(x))))
            pyro.sample("v", dist.Gamma(torch.ones(len(x)), 1.0))


def turning():
    """Return a graph of images with an angle and a shift."""
    return pv.PoseVAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(pv.nets.MLP((1, 4, 4), [8], 4)),
        pv.likelihoods.Bernoulli(pv.nets.CoordinateDecoder(2, (1, 4, 4), [16])),
        shape=(1, 4, 4),
        rotation_prior=pv.priors.UniformAngle(1),
        rotation_posterior=pv.posteriors.WrappedNormal(pv.nets.MLP((1, 4, 4), [], 2)),
        translation_prior=pv.priors.CentredNormal(2, 0.5),
        translation_posterior=pv.posteriors.DiagonalNormal(pv.nets.MLP((1, 4, 4), [], 4)),
    )


def two_layers():
    return layered(
        pv.posteriors.DiagonalNormal(nn.Linear(6, 4)),
        pv.posteriors.DiagonalNormal(nn.Linear(2, 4)),
    )


BESIDE = {  # graph, a row of data, the site that moves
    "VAE": (lambda: user_graphs.PyroExample(), (6,), None),
    "a pose": (turning, (1, 4, 4), None),
    "z1 given z2": (two_layers, (6,), "z2"),
    "z2 above z1": (two_layers, (6,), "z1"),
    "as many random numbers as needed": (Rejected, (2,), None),
}


@pytest.mark.parametrize("name", BESIDE)
def test_a_walk_from_a_row_to_itself_stands_still(name):
    torch.manual_seed(1)
    make, shape, site = BESIDE[name]
    graph, x = make(), torch.rand(2, *shape).round()
    other = x[1] + 2 * torch.rand(shape)
    stream = torch.get_rng_state()
    still = pv.interpolate(graph, x[0], x[0], steps=4, site=site)
    assert torch.equal(still, still[:1].expand_as(still))
    walk = pv.interpolate(graph, x[0], other, steps=4, site=site)
    assert all((a - b).abs().max() > 0 for a, b in zip(walk[1:], walk[:-1], strict=True))
    assert torch.equal(torch.get_rng_state(), stream)
    assert torch.equal(pv.interpolate(graph, x[0], x[0], steps=4, site=site), still)


def test_a_latent_beside_the_path_has_one_value():
    """v does not depend on z, and y takes more random numbers the larger z is."""
    x = torch.tensor([[-1.0, 0.0], [1.5, 0.0]])
    v = pv.interpolate(Rejected(), x[0], x[1], steps=6)[:, 1]
    assert torch.equal(v, v[:1].expand(6))
    grid = pv.manifold(Rejected(), steps=3)
    assert len(grid[..., 1].unique()) == 1
    assert len(grid[..., 0].unique()) >= 3


def test_frames_and_tiles_share_the_pose_that_is_drawn_or_given():
    torch.manual_seed(0)
    graph, x = turning(), torch.rand(2, 1, 4, 4).round()
    z = pv.embed(graph, x)
    poses = {"theta": torch.rand(3, 1), "dx": torch.rand(3, 2)}
    given = pv.interpolate(graph, x[0], x[1], steps=3, fixed=poses)
    path = pv.tasks.linear(z[0], z[1], torch.linspace(0, 1, 3))
    torch.testing.assert_close(given, pv.decode(graph, {"z": path, **poses}))
    torch.testing.assert_close(given, pv.decode(graph, path, fixed=poses))
    side = torch.special.ndtri(torch.linspace(0.01, 0.99, 3))
    points = torch.cartesian_prod(-side, side).flip(-1)
    grid = pv.manifold(graph, steps=3, fixed={"theta": 0.3, "dx": [0.1, 0.2]})
    at = {"theta": torch.full((9, 1), 0.3), "dx": torch.tensor([[0.1, 0.2]]).expand(9, 2)}
    torch.testing.assert_close(grid.flatten(0, 1), pv.decode(graph, {"z": points, **at}))
    drawn, turned = pv.manifold(graph, steps=3, fixed={"dx": 0.0}).flatten(0, 1), []
    for angle in torch.linspace(-math.pi, math.pi, 721):  # one of them is that of all tiles
        at = {"z": points, "theta": angle.expand(9, 1), "dx": torch.zeros(9, 2)}
        turned.append((pv.decode(graph, at) - drawn).abs().max())
    assert min(turned) < 0.05 * max(turned)
    with pytest.raises(ValueError, match='interpolate: fixed names "angle"'):
        pv.interpolate(graph, x[0], x[1], fixed={"angle": 0.0})
    with pytest.raises(ValueError, match=r"manifold: fixed names \['z'\]"):
        pv.manifold(graph, fixed={"z": 0.0})


def test_fixed_values_of_more_rows_than_a_run_takes():
    torch.manual_seed(0)
    graph, n = turning(), 1500
    poses = {"theta": torch.rand(n, 1), "dx": torch.rand(n, 2)}
    z = torch.randn(n, 2)
    wanted = pv.decode(graph, {"z": z, **poses})
    torch.testing.assert_close(pv.decode(graph, z, fixed=poses), wanted)
    draws = pv.decode(graph, torch.stack([z, z]), fixed=poses)
    torch.testing.assert_close(draws, torch.stack([wanted, wanted]))
    x = torch.rand(n, 1, 4, 4).round()
    at = pv.decode(graph, {"z": pv.embed(graph, x), **poses})
    torch.testing.assert_close(pv.reconstruct(graph, x, fixed=poses), at)


# ------------------------------------------------------------------ draws and averages
def layered(q_z1, q_z2):
    """Return a hierarchical graph with given posteriors."""
    graph = pv.HierarchicalVAE(
        pv.priors.StandardNormal(2),
        pv.priors.ConditionalNormal(nn.Linear(2, 4)),
        q_z1,
        q_z2,
        pv.likelihoods.Bernoulli(nn.Linear(2, 6)),
    )
    return graph.double()


def test_the_upper_layer_is_averaged_over_the_lower():
    """q(z1 | x) = N(W x, s^2), q(z2 | z1) = N(3 z1 + 1, .): the mean is 3 W x + 1.

    Within 4 standard errors of 256 draws; equal rows are equal.
    """
    graph = layered(
        pv.posteriors.DiagonalNormal(nn.Linear(6, 4)), pv.posteriors.DiagonalNormal(nn.Linear(2, 4))
    )
    with torch.no_grad():
        graph.posterior.net.weight[2:] = 0
        graph.posterior.net.bias[2:] = 0
        graph.top_posterior.net.weight[:2] = 3 * torch.eye(2)
        graph.top_posterior.net.bias[:2] = 1
    x = torch.randn(3, 6).double().repeat(2, 1)
    z = pv.embed(graph, x, site="z2")
    exact = (3 * graph.posterior(x).mean + 1).detach()
    assert (z - exact).abs().max() < 4 * 3 / math.sqrt(256)
    torch.testing.assert_close(z[:3], z[3:], rtol=0, atol=1e-12)
    torch.testing.assert_close(z - exact, (z - exact)[:1].expand(6, 2))  # one noise for all rows


@pytest.mark.parametrize(
    "posterior",
    [
        lambda: pv.posteriors.IAF(nn.Linear(6, 7), 2, context=3, hidden=(8,)),
        lambda: pv.posteriors.Cauchy(nn.Linear(6, 4)),
    ],
)
def test_equal_rows_have_equal_embeddings(posterior):
    likelihood = pv.likelihoods.Bernoulli(nn.Linear(2, 6))
    graph = pv.VAE(pv.priors.StandardNormal(2), posterior(), likelihood)
    z = pv.embed(graph, X[:1].expand(4, 6))
    torch.testing.assert_close(z, z[:1].expand(4, 2), rtol=0, atol=1e-5)
    assert torch.equal(z, pv.embed(graph, X[:1].expand(4, 6)))


def test_draws_of_each_row_are_decoded():
    graph, x = linear_gaussian.exact(), linear_gaussian.data(5)
    z = graph.posterior(x).sample((3,))
    wanted = graph.likelihood.net(z).detach()
    torch.testing.assert_close(pv.decode(graph, z), wanted)
    with pytest.raises(ValueError, match=r"z has shape \(5, 3\).*expected \(B, 2\)"):
        pv.decode(graph, torch.zeros(5, 3))


def test_draws_of_each_row_go_with_its_context():
    graph, y = user_graphs.SemiSupervised(), one_hot(torch.arange(3), 3).float()
    z = torch.randn(4, 3, 2)
    wanted = torch.stack([pv.decode(graph, part, y) for part in z])
    torch.testing.assert_close(pv.decode(graph, z, y), wanted)
    with pytest.raises(ValueError, match="the context has 3"):
        pv.decode(graph, z[:, :2], y)


def test_a_flat_prior_is_decoded_and_not_sampled():
    graph = pv.VAE(
        pv.priors.Flat(2),
        pv.posteriors.Point(nn.Linear(6, 2)),
        pv.likelihoods.Gaussian(nn.Linear(2, 6)),
    )
    assert pv.decode(graph, torch.zeros(3, 2)).shape == (3, 6)
    for task in (lambda: pv.generate(graph, 3), lambda: pv.manifold(graph)):
        with pytest.raises(ValueError, match="flat"):
            task()


# --------------------------------------------------------- networks that take minibatches alone
class LabelledPosterior(nn.Module):
    """q(z | x, label), the label looked up in an embedding."""

    def __init__(self):
        super().__init__()
        self.labels, self.net = nn.Embedding(10, 3), nn.Linear(9, 4)

    def forward(self, x, y):
        return user_graphs.normal(self.net(torch.cat([x, self.labels(y)], -1)))


class LabelledLikelihood(nn.Module):
    """p(x | z, label), the label looked up in an embedding."""

    def __init__(self):
        super().__init__()
        self.labels, self.net = nn.Embedding(10, 3), nn.Linear(5, 6)

    def forward(self, z, y):
        return dist.Bernoulli(logits=self.net(torch.cat([z, self.labels(y)], -1))).to_event(1)


def test_labels_for_an_embedding_stay_integers():
    graph = pv.VAE(pv.priors.StandardNormal(2), LabelledPosterior(), LabelledLikelihood())
    y = torch.tensor([3, 9, 0, 1, 3])
    pv.fit(graph, (X, y), epochs=1, progress=False)
    assert pv.elbo(graph, X, y).elbo.shape == (5,)
    assert pv.log_evidence(graph, X, y, samples=3).log_p.shape == (5,)
    z = pv.embed(graph, X, y)
    wanted = graph.likelihood(z, y).mean
    torch.testing.assert_close(pv.decode(graph, z, y), wanted)
    torch.testing.assert_close(pv.reconstruct(graph, X, y), wanted)
    assert pv.generate(graph, 5, y).shape == (5, 6)
    ends = pv.interpolate(graph, X[0], X[1], torch.tensor(3), steps=4)
    torch.testing.assert_close(ends[0], graph.likelihood(z[:1], y[:1]).mean[0])
    assert pv.manifold(graph, torch.tensor(3), steps=2).shape == (2, 2, 6)


class Recurrent(nn.Module):
    """A decoder of sequences that takes one batch dimension alone."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.GRU(2, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, z):
        h, _ = self.rnn(z[:, None].expand(len(z), 3, 2))
        return self.out(h).flatten(1)


DECODERS = {
    "BatchNorm1d": lambda: nn.Sequential(
        nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 6)
    ),
    "ConvTranspose2d": lambda: nn.Sequential(
        nn.Linear(2, 4), nn.Unflatten(1, (4, 1, 1)), nn.ConvTranspose2d(4, 1, (2, 3)), nn.Flatten()
    ),
    "GRU": Recurrent,
}


@pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
@pytest.mark.parametrize("rows", [5, 8])  # 8 is the width of the normalized layer
def test_networks_of_one_batch_dimension(decoder, rows):
    """Everything equals the same network in `AnyLeading`, which takes any batch dimensions."""
    net, x = decoder(), torch.rand(rows, 6).round()
    q = pv.posteriors.DiagonalNormal(nn.Linear(6, 4))
    own, wrapped = (
        pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(part))
        for part in (net, pv.nets.AnyLeading(net, 2, 6))
    )
    pv.fit(own, x, epochs=2, objective=pv.objectives.IWAE(3), progress=False, seed=0)
    for parameter in q.parameters():
        nn.init.zeros_(parameter)  # q = p: many effective samples for so weak a decoder
    few = pv.log_evidence(own, x, samples=2000)
    many = pv.log_evidence(wrapped, x, samples=2000)
    error = (few.standard_error.square() + many.standard_error.square()).sqrt()
    assert ((few.log_p - many.log_p).abs() < 4.5 * error).all()
    assert many.effective_sample_size.min() > 200
    annealed = pv.annealed_log_evidence(own, x, samples=64, temperatures=10, leapfrog=3)
    error = (annealed.standard_error.square() + many.standard_error.square()).sqrt()
    assert ((annealed.log_p - many.log_p).abs() < 4.5 * error).all()
    z = torch.randn(4, rows, 2)
    for task in (
        lambda graph: pv.decode(graph, z),
        lambda graph: pv.reconstruct(graph, x),
        lambda graph: pv.generate(graph, 9, seed=0),
        lambda graph: pv.interpolate(graph, x[0], x[1]),
        lambda graph: pv.manifold(graph, steps=3),
    ):
        torch.testing.assert_close(task(own), task(wrapped))


class ChannelsOutside(nn.Module):
    """A plate of one channel lies left of that over the rows; w is in a plate of one, too."""

    def model(self, x):
        with pyro.plate("k", 1):
            w = pyro.sample("w", dist.Normal(torch.zeros(1), 1.0))
        with pyro.plate("channels", 1, dim=-2), pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1, len(x)), 1.0))
        with pyro.plate("data again", len(x), dim=-1):
            return pyro.sample("x", dist.Normal(z[0] + 0 * w, 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("k", 1):
            pyro.sample("w", dist.Normal(torch.zeros(1), 1.0))
        with pyro.plate("channels", 1, dim=-2), pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x[None], 1.0))


def test_a_plate_of_one_is_not_taken_for_the_rows():
    graph, x = ChannelsOutside(), torch.randn(5)
    fixed = {"z": torch.arange(5.0), "w": torch.zeros(1)}
    found = pv.generate(graph, 5, like=x, fixed=fixed)
    torch.testing.assert_close(found, torch.arange(5.0))
    with pytest.raises(ValueError, match='all rows share the latent "w"'):
        pv.decode(graph, torch.zeros(3), site="z", like=x)


def test_values_of_latents_come_by_name():
    vae = pv.VAE(
        pv.priors.StandardNormal(2),
        pv.posteriors.DiagonalNormal(nn.Linear(6, 4)),
        pv.likelihoods.Bernoulli(nn.Linear(2, 6)),
    )
    with pytest.raises(TypeError, match=r"generate: fixed is a Tensor, .* by name"):
        pv.generate(vae, 3, fixed=torch.zeros(2))
