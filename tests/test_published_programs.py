"""Programs as papers and Pyro's examples write them, against loops without the library."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import pyrovae as pv
from pyrovae.objectives import SGVB_A, SGVB_B


def normal(parameters):
    """Return a diagonal normal from (mu, log sigma), stacked along the last dimension."""
    mu, log_sigma = parameters.chunk(2, -1)
    return dist.Normal(mu, log_sigma.exp()).to_event(1)


def unit_normal(d):
    """Return N(0, I)."""
    return dist.Normal(torch.zeros(d), 1.0).to_event(1)


# ------------------------------------------------------------- one of the programs masks or scales
class OneSided(nn.Module):
    """A latent that handlers count in the model, in the guide, in both or in neither."""

    def __init__(self, of_model, of_guide):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, 4), nn.Linear(2, 3)
        self.of_model, self.of_guide = of_model, of_guide

    def model(self, x, in_model, in_guide):
        with pyro.plate("data", len(x)):
            with self.of_model(in_model):
                z = pyro.sample("z", unit_normal(2))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x, in_model, in_guide):
        with pyro.plate("data", len(x)), self.of_guide(in_guide):
            pyro.sample("z", normal(self.encoder(x)))


def masked(count):
    """Return a handler that counts the rows of a mask."""
    return poutine.mask(mask=count > 0)


def scaled(count):
    """Return a handler that scales each row."""
    return poutine.scale(scale=1.0 + count)


def one_sided(handler):
    """Return a graph and eight rows, two for each way of counting the latent."""
    torch.manual_seed(0)
    in_model, in_guide = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0]]).repeat_interleave(2, 1)
    return OneSided(handler, handler), (torch.randn(8, 3), in_model, in_guide)


def test_a_latent_that_one_program_masks_otherwise_has_no_kl_in_closed_form():
    """A latent that the guide alone masks made the ELBO exceed the evidence."""
    graph, batch = one_sided(masked)
    x, in_model, in_guide = batch
    q, p = normal(graph.encoder(x)), unit_normal(2)
    z = q.rsample(torch.Size([20_000]))
    expected = (in_guide * q.log_prob(z) - in_model * p.log_prob(z)).mean(0)
    found = pv.elbo(graph, *batch, samples=5000)
    assert torch.allclose(found.kl, expected, atol=0.15)
    in_both = torch.distributions.kl_divergence(q.base_dist, p.base_dist).sum(-1)[:2]
    assert torch.allclose(found.kl[:2], in_both, atol=1e-5)


@pytest.mark.parametrize("handler", [masked, scaled])
def test_estimator_b_is_a_where_the_latent_counts_otherwise(handler):
    graph, batch = one_sided(handler)
    only_one = tuple(part[2:6] for part in batch)
    losses = []
    for objective in (SGVB_A(), SGVB_B()):
        torch.manual_seed(1)
        losses.append(objective.loss(graph.model, graph.guide, *only_one))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


class Loss(nn.Module):
    """The loss of a graph as a module, so that its parameters can be arguments."""

    def __init__(self, graph):
        super().__init__()
        self.graph = graph

    def forward(self, *batch):
        with torch.no_grad(), pyro.validation_enabled(False):
            return SGVB_B().differentiable_loss(self.graph.model, self.graph.guide, *batch)


def test_a_traced_loss_counts_each_row_as_the_programs_do():
    graph, batch = one_sided(masked)
    loss, parameters = Loss(graph), dict(Loss(graph).named_parameters())

    def function(parameters, *batch):
        return torch.func.functional_call(loss, parameters, batch)

    traced = make_fx(function, tracing_mode="fake")(parameters, *batch)
    other = batch[0], batch[2], batch[1]
    for rows in (batch, other):
        torch.manual_seed(2)
        expected = loss(*rows)
        torch.manual_seed(2)
        assert torch.allclose(traced(parameters, *rows), expected)


# ---------------------------------------------------------------------- decoders that read x itself
class Autoregressive(nn.Module):
    """p(x | z) = prod_j N(x_j; W z + a_j x_<j, 1/4) in one site, by a masked layer as MADE's."""

    def __init__(self, strength=1.0):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(2, 4)
        self.before = nn.Parameter(strength * torch.randn(4, 4).tril(-1))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", unit_normal(2))
            loc = self.decoder(z) + x @ self.before.T
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(self.encoder(x)))


@pytest.mark.parametrize("method", ["refine", "importance", "hmc", "encoder"])
def test_an_autoregressive_decoder_is_not_imputed_as_if_it_were_independent(method):
    """Its imputed mean was four standard deviations from that of the exact conditional."""
    torch.manual_seed(0)
    x, hidden = torch.randn(3, 4), torch.tensor([False, True, False, False])
    with pytest.raises(ValueError, match=r"autoregressive decoder.*given as context"):
        pv.impute(Autoregressive(), x, hidden=hidden, method=method, samples=8, steps=2, draws=2)
    with pytest.raises(ValueError, match=r'hidden_log_prob: .* site "x" depends on values of x'):
        pv.hidden_log_prob(Autoregressive(), x, hidden=hidden, method=method, samples=8, steps=2)
    without = Autoregressive(strength=0.0)
    found = pv.impute(without, x, hidden=hidden, method=method, samples=8, steps=2, draws=2)
    assert found.mean.isfinite().all()


class Partly(Autoregressive):
    """A model with a latent that its guide leaves out."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", unit_normal(2))
            h = pyro.sample("h", dist.Normal(self.decoder(z), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(h, 0.5).to_event(1), obs=x)


@pytest.mark.parametrize("method", ["refine", "encoder"])
def test_a_latent_that_the_guide_leaves_out_is_named(method):
    x, hidden = torch.randn(3, 4), torch.tensor([False, True, False, False])
    with pytest.raises(ValueError, match='"h": latent in the model but absent from the guide'):
        pv.impute(Partly(), x, hidden=hidden, method=method)


class Predicted(Autoregressive):
    """Pyro's CVAE: what is not to be predicted is masked where x holds -1."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", unit_normal(2))
            p = dist.Bernoulli(logits=self.decoder(z)).mask(x != -1).to_event(1)
            pyro.sample("x", p, obs=x.clamp(min=0))


def test_a_mask_made_from_x_is_told_to_need_rows_as_an_example():
    x = torch.randint(-1, 2, (5, 4)).float()
    with pytest.raises(ValueError, match=r"shape mismatch.*without values.*like=x"):
        pv.generate(Predicted(), 5)
    assert pv.generate(Predicted(), 5, like=x).shape == (5, 4)


def test_a_recurrent_model_generates_from_what_it_drew():
    """x_t = w z + a x_{t-1} + noise, whose variances are those of the exact linear model."""

    class Recurrent(nn.Module):
        def model(self, x):
            with pyro.plate("data", len(x)):
                z = before = pyro.sample("z", dist.Normal(0.0, 1.0))
                for t in range(3):
                    p = dist.Normal(0.5 * z + 0.9 * before, 0.1)
                    before = pyro.sample(f"x{t}", p, obs=x[:, t])

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(0.0, 1.0))

    drawn = pv.generate(Recurrent(), 20_000, like=torch.full((1, 3), 7.0), mean=False, seed=0)
    a, noise, variances = 1.4, 0.01, []
    for _ in range(3):
        variances.append(a**2 + noise)
        a, noise = 0.5 + 0.9 * a, 0.01 + 0.81 * noise
    found = torch.stack([value.var() for value in drawn.values()])
    assert torch.allclose(found, torch.tensor(variances), rtol=0.05)


# ------------------------------------------------------------------------- weights with a prior
class Weighted(PyroModule):
    """x = W z: the weights are a latent that all rows share."""

    def __init__(self):
        super().__init__()
        self.linear = PyroModule[nn.Linear](2, 3, bias=False)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([3, 2]).to_event(2))

    def forward(self, x):
        weight = self.linear.weight
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", unit_normal(2))
            pyro.sample("x", dist.Normal(z @ weight.mT, 0.5).to_event(1), obs=x)


class Method(Weighted):
    """The same program in a method that is named model, as of other graphs."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(3, 4)

    def model(self, x):
        return self.forward(x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(self.encoder(x)))


class Called(nn.Module):
    """The same program as a module that is called, with an autoguide of the weights."""

    def __init__(self):
        super().__init__()
        self.model, self.encoder = Weighted(), nn.Linear(3, 4)
        self.of_weights = AutoNormal(poutine.block(self.model, hide=["z", "x"]))

    def guide(self, x):
        self.of_weights(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(self.encoder(x)))


def test_a_prior_of_weights_that_is_no_site_is_warned_of():
    """Pyro draws the weights at each run, so that the fit trained a guide to noise."""
    x = torch.randn(16, 3)
    settings = dict(epochs=1, batch_size=16, progress=False)
    with pytest.warns(UserWarning, match=r'"linear.weight" has a prior.*self.model = Decoder'):
        pv.fit(Method(), x, **settings)
    graph = Called()
    pv.fit(graph, x, **settings)  # without a warning
    sites = poutine.trace(graph.guide).get_trace(x).nodes
    assert {"linear.weight", "z"} <= set(sites)
