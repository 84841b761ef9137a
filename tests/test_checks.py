"""What evaluation and training refuse, with the site and the remedy, before any number appears."""

import warnings
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    EnergyDistance,
    JitTrace_ELBO,
    TraceEnum_ELBO,
    TraceTailAdaptive_ELBO,
    config_enumerate,
)
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyrovae as pv
from pyrovae import posteriors, programs
from pyrovae.distributions import Conditional
from pyrovae.objectives import IWAE, SGVB_B

X = torch.rand(20, 6, generator=torch.Generator().manual_seed(0)).round()
QUICK = {"samples": 3, "temperatures": 3}
READS_DATA = {
    "elbo": pv.elbo,
    "log_evidence": pv.log_evidence,
    "naive_log_evidence": pv.naive_log_evidence,
    "annealed_log_evidence": partial(pv.annealed_log_evidence, **QUICK),
    "reciprocal_log_evidence": partial(pv.reciprocal_log_evidence, samples=5, moves=2),
    "kl_per_dimension": pv.kl_per_dimension,
    "active_units": pv.active_units,
    "mutual_information": pv.mutual_information,
    "latent_summary": pv.latent_summary,
}
READS_DENSITIES = list(READS_DATA)[:5]


def vae(likelihood=pv.likelihoods.Bernoulli):
    return pv.VAE(
        pv.priors.StandardNormal(2),
        posteriors.DiagonalNormal(nn.Linear(6, 4)),
        likelihood(nn.Linear(2, 6)),
    )


class Own(nn.Module):
    """A graph without `check`, whose parts are functions."""

    def __init__(self, q=None, prior=None, likelihood=None):
        super().__init__()
        self.decoder = nn.Linear(4, 6)
        self.prior = prior or (lambda: dist.Normal(torch.zeros(4), 1.0).to_event(1))
        self.q = q or (lambda x: dist.Normal(x[:, :4], 1.0).to_event(1))
        self.likelihood = likelihood or (lambda h: dist.Normal(h, 1.0).to_event(1))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.likelihood(self.decoder(z.float())), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.q(x))


# ------------------------------------------------------------------------------------- support
@pytest.mark.parametrize("name", READS_DATA)
def test_data_outside_the_support_are_refused(name):
    """Counts under a Bernoulli had +150.9 nats. The value is the last one: all rows are read."""
    x = torch.cat([X.repeat(100, 1), torch.tensor([[0.0, 1, 0, 0, 1, 4]])])
    with pytest.raises(ValueError, match="expected x to hold 0 or 1, got 4 at row 2000"):
        READS_DATA[name](vae(), x)


@pytest.mark.parametrize("name", READS_DENSITIES)
def test_a_graph_without_a_check_is_run_under_pyros_validation(name):
    graph = Own(likelihood=lambda h: dist.Poisson(h.exp()).to_event(1))
    with pytest.raises(ValueError, match="within the support"):
        READS_DATA[name](graph, X + 0.5)


def test_the_check_reads_blocks_of_rows_and_changes_no_setting():
    graph, read = vae(), []
    graph.check = lambda x: read.append(x)
    pyro.enable_validation(False)
    try:
        pv.elbo(graph, X)
        assert not torch.distributions.Distribution._validate_args
    finally:
        pyro.enable_validation(True)
    assert [type(x).__name__ for x in read] == ["TensorRows"]  # a source, not the values at once


# ---------------------------------------------------------------------------- mixed measures
@pytest.mark.parametrize("f", [pv.elbo, pv.log_evidence])
def test_a_density_is_not_divided_by_a_probability(f):
    relaxed = partial(dist.RelaxedOneHotCategoricalStraightThrough, torch.tensor(0.5))
    one_hot = partial(dist.OneHotCategorical, logits=torch.zeros(4))
    graph = Own(q=lambda x: relaxed(logits=x[:, :4]), prior=one_hot)
    with pytest.raises(
        ValueError, match=r'site "z": the prior\'s OneHotCategorical has prob.* dens'
    ):
        f(graph, X)
    history = pv.fit(graph, X, epochs=1, objective=pv.objectives.SGVB_A(), progress=False)
    assert history.stopped == "all epochs ran"  # as an estimator of gradients it may train
    same = Own(q=lambda x: dist.OneHotCategorical(logits=x[:, :4]), prior=one_hot)
    assert f(same, X)[0].isfinite().all()


# ------------------------------------------------------------------------- latents that do not fit
class Lacks(Own):
    def guide(self, x):
        pass


@pytest.mark.parametrize("f", [pv.elbo, pv.log_evidence])
def test_a_latent_that_the_guide_lacks_is_refused(f):
    with pytest.raises(ValueError, match=r'site "z": latent in the model but absent .* Sample it'):
        f(Lacks(), X)


@pytest.mark.parametrize("f", [pv.elbo, pv.log_evidence])
def test_an_enumerated_latent_is_to_be_summed_out(f):
    graph = Lacks(prior=lambda: dist.OneHotCategorical(torch.ones(4) / 4))
    graph.model = config_enumerate(graph.model)
    with pytest.raises(ValueError, match=r'site "z": latent in the model but absent .* Sum it out'):
        f(graph, X)


class Auxiliary(Own):
    """u ~ N(0, 100) in the guide: the "ELBO" rose with its entropy above log p(x)."""

    density = False

    def model(self, x):
        super().model(x)
        if self.density:
            with pyro.plate("r", len(x)):
                pyro.sample("u", dist.Normal(0.0, 100.0))

    def guide(self, x):
        with pyro.plate("r", len(x)):
            pyro.sample("u", dist.Normal(torch.zeros(len(x)), 100.0))
        super().guide(x)


@pytest.mark.filterwarnings("ignore::pyrovae.EvidenceWarning")
@pytest.mark.parametrize("f", [pv.elbo, pv.log_evidence])
def test_an_auxiliary_latent_needs_a_density_in_the_model(f):
    graph = Auxiliary()
    with pytest.raises(ValueError, match=r'site "u": sampled in the guide only.*in the m'):
        f(graph, X)
    without = Own()
    without.load_state_dict(graph.state_dict())
    graph.density = True
    many = {"samples": 2000}
    torch.testing.assert_close(f(graph, X, **many)[0], f(without, X, **many)[0], rtol=0, atol=3.0)


def test_fit_refuses_an_auxiliary_latent_that_is_not_marked():
    """Pyro trains it with a warning; marked by `is_auxiliary`, it warns of nothing."""
    graph = Auxiliary()
    with pytest.raises(ValueError, match=r'site "u": sampled in the guide only.*in the m'):
        pv.fit(graph, X, epochs=1, progress=False)
    graph.guide = pyro.poutine.infer_config(
        graph.guide, lambda site: {"is_auxiliary": site["name"] == "u"}
    )
    assert len(pv.fit(graph, X, epochs=1, progress=False).elbo) == 1


@pytest.mark.parametrize(
    "f",
    [lambda graph: pv.fit(graph, X, epochs=1, progress=False), lambda graph: pv.elbo(graph, X)],
    ids=["fit", "elbo"],
)
def test_a_model_that_observes_nothing_is_named(f):
    graph = Own()
    graph.model = pyro.poutine.block(graph.model, hide=["x"])
    with pytest.raises(ValueError, match=r"the model observes nothing.*obs=x"):
        f(graph)


class Shared(Own):
    def model(self, x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            h = self.decoder(z) + w[..., None, None]
            pyro.sample("x", self.likelihood(h.reshape(*z.shape[:-1], 6)), obs=x)

    def guide(self, x):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        super().guide(x)


@pytest.mark.parametrize("name", sorted(set(READS_DENSITIES) - {"naive_log_evidence"}))
def test_a_latent_that_the_rows_share_is_refused_with_the_ways_out(name):
    with pytest.raises(ValueError, match=r'site "w" is not in a plate over the 20 rows.*condition'):
        READS_DATA[name](Shared(), X)


# ------------------------------------------------------------------------ shapes and foreign types
@pytest.mark.parametrize("f", [pv.log_evidence, partial(pv.fit, epochs=1, progress=False)])
def test_a_forgotten_to_event_is_named(f):
    with pytest.raises(ValueError, match=r"by \.to_event\(1\)"):
        f(Own(q=lambda x: dist.Normal(x[:, :4], 1.0)), X)


class Univariate(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.features, self.layer = features, nn.Linear(features, 4)

    def forward(self, x):
        return self.layer(x.reshape(-1, self.features))


SHAPES = [((20,), 1, 1), ((20, 8), 8, 1), ((20, 1), 1, 8), ((8,), 8, 8)]  # x, features, outputs
RUNS = [pv.log_evidence, pv.elbo, partial(pv.fit, epochs=1, progress=False)]


@pytest.mark.parametrize("f", RUNS)
@pytest.mark.parametrize(("shape", "features", "outputs"), SHAPES)
def test_values_that_fit_by_broadcasting_alone_are_refused(f, shape, features, outputs):
    graph = pv.VAE(
        pv.priors.StandardNormal(2),
        posteriors.DiagonalNormal(Univariate(features)),
        pv.likelihoods.Gaussian(nn.Linear(2, outputs), sigma=1.0),
    )
    with pytest.raises(ValueError, match=r"Give x the shape \(rows, \*event\)"):
        f(graph, torch.randn(shape))


def test_a_value_may_be_shared_by_a_plate_of_the_programs_own():
    class Rated:
        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.factor("weight", 0.0 * z)
                with pyro.plate("raters", 3):
                    pyro.sample("x", dist.Normal(z.expand(3, -1), 1.0), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x, 1.0))

    assert pv.elbo(Rated(), torch.randn(6)).elbo.isfinite().all()


class OneEvent(nn.Module):
    """All rows are one event, as in a Gaussian process."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def model(self, x):
        f = pyro.sample("f", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.MultivariateNormal(f.expand(len(x)), torch.eye(len(x))), obs=x)

    def guide(self, x):
        pyro.sample("f", dist.Normal(self.loc, 0.5))


class Steps(OneEvent):
    """A hidden Markov model that is the same at each step, of which Pyro says one."""

    def model(self, x):
        normal = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            h = dist.GaussianHMM(normal, torch.eye(2), normal, torch.eye(2), normal)
            pyro.sample("x", h.expand([len(x)]), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc, 0.5))


@pytest.mark.parametrize(("graph", "shape"), [(OneEvent, (20,)), (Steps, (20, 7, 2))])
def test_an_event_may_be_of_all_rows_or_of_any_length(graph, shape):
    history = pv.fit(graph(), torch.randn(shape), batch_size=20, epochs=2, progress=False)
    assert np.isfinite(history.elbo).all()


def test_what_fit_is_given_is_checked_before_it_starts():
    settings = {"epochs": 1, "progress": False}
    with pytest.raises(TypeError, match="masked array"):
        pv.fit(Own(), np.ma.masked_array(X.numpy(), X.numpy() > 0.5), **settings)
    with pytest.raises(TypeError, match="transform returned a ndarray"):
        pv.fit(Own(), X, transform=lambda x: x.numpy(), **settings)
    adam = torch.optim.Adam(Own().parameters())
    with pytest.raises(TypeError, match="scheduler is a StepLR"):
        pv.fit(Own(), X, scheduler=torch.optim.lr_scheduler.StepLR(adam, 1), **settings)
    with torch.no_grad(), pytest.raises(RuntimeError, match="gradients are switched off"):
        pv.fit(Own(), X, **settings)


@pytest.mark.parametrize("f", [pv.elbo, partial(pv.fit, epochs=1, progress=False)])
def test_a_distribution_of_torchs_is_refused_by_its_site(f):
    def normal(x):
        torch_normal = torch.distributions.Normal(x[:, :4], 1.0)
        return torch.distributions.Independent(torch_normal, 1)

    with pytest.raises(TypeError, match=r'site "z": got a torch.*Independent.*from_torch'):
        f(Own(q=normal), X)


def test_an_autoguide_beside_a_plate_of_ours_warns_of_nothing():
    class Auto(nn.Module):
        def __init__(self):
            super().__init__()
            self.guide = AutoNormal(self.model)

        def model(self, x):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            with programs.data_plate(x):
                pyro.sample("x", dist.Normal(w, 1.0).expand([len(x), 6]).to_event(1), obs=x)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.fit(Auto(), X, epochs=1, batch_size=20, progress=False)


# -------------------------------------------------------------- parameters made at first run
class Lazy(Own):
    """A parameter in Pyro's store that begins at the mean of the first data."""

    def model(self, x):
        shift = pyro.param("shift", lambda: x.mean(0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", dist.Normal(self.decoder(z) + shift, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(
    "f",
    [
        lambda graph: pv.log_evidence(graph, X, samples=3),
        lambda graph: pv.embed(graph, X),
        lambda graph: IWAE(3).loss(graph.model, graph.guide, X),
    ],
    ids=["log_evidence", "embed", "IWAE"],
)
def test_parameters_made_at_the_first_run_are_made_from_all_rows_of_it(f):
    """They were made from the three rows, or the one, on which the structure is looked at."""
    f(Lazy())
    if "shift" in pyro.get_param_store():  # embed runs the guide alone
        torch.testing.assert_close(pyro.param("shift"), X.mean(0))


# --------------------------------------------------------------------------------- Pyro's losses
def fit(objective, **options):
    options = {"epochs": 2, "batch_size": 8, "progress": False, **options}
    return pv.fit(vae(), X, objective=objective, seed=0, **options)


def test_losses_of_pyros_that_fit_cannot_follow_are_refused():
    adaptive = TraceTailAdaptive_ELBO(num_particles=4, vectorize_particles=True)
    with pytest.raises(ValueError, match="TraceTailAdaptive_ELBO reports an infinite loss by des"):
        fit(adaptive)
    with pytest.raises(TypeError, match=r"objective: got .*EnergyDistance.*expected one of"):
        fit(EnergyDistance())


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*deprecated")
def test_a_compiled_loss_needs_minibatches_of_one_size():
    with pytest.raises(ValueError, match="JitTrace_ELBO was compiled for minibatches of 8 rows"):
        fit(JitTrace_ELBO(ignore_jit_warnings=True))
    history = fit(JitTrace_ELBO(ignore_jit_warnings=True), batch_size=10)
    assert history.stopped == "all epochs ran"


def test_pyros_guess_of_plates_is_not_printed(caplog):
    with caplog.at_level("INFO", logger="pyro"):
        fit(TraceEnum_ELBO())
    assert not [record for record in caplog.records if "Guessed" in record.getMessage()]


def test_an_optimizer_that_needs_a_closure_is_refused():
    with pytest.raises(TypeError, match=r"LBFGS evaluates the loss several times"):
        pv.fit(vae(), X, optimizer=torch.optim.LBFGS, epochs=1, progress=False)


def test_a_loop_of_ones_own_is_the_fits():
    """`differentiable_loss` and `at`: the steps of `fit` at the same minibatches and noise."""
    torch.manual_seed(0)
    fitted, own = vae(), vae()
    own.load_state_dict(fitted.state_dict())
    sgd = partial(torch.optim.SGD, lr=0.1)
    objective = SGVB_B(beta=pv.objectives.warm_up(1.0))
    pv.fit(fitted, X, epochs=5, batch_size=20, objective=objective, optimizer=sgd, seed=3,
           progress=False)  # fmt: skip
    optimizer = sgd(own.parameters())
    torch.manual_seed(3)
    for step in range(5):
        objective.at(step / 4)
        loss = objective.differentiable_loss(own.model, own.guide, X) / 20
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for a, b in zip(fitted.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert objective.current_beta == 1.0


def test_data_far_from_unit_size_are_named():
    """Not torch's words about a constraint, nor what the networks would have to take."""
    x = 255 * torch.rand(64, 40)

    def graph(width):
        q = pv.posteriors.IAF(pv.nets.MLP(40, [width], 12), 4, context=4)
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 40))
        graph = pv.VAE(pv.priors.StandardNormal(4), q, pv.likelihoods.Gaussian(net))
        with torch.no_grad():
            for parameter in q.parameters():
                parameter *= 3  # as at an unlucky start
        return graph

    objective = pv.objectives.IWAE(samples=3)
    with pytest.raises((ValueError, pv.TrainingError), match="data of about unit size"):
        pv.fit(graph(32), x, epochs=1, objective=objective, progress=False)
    with pytest.raises(ValueError, match=r"\|x\| goes up to 2.5+e\+22.*Torch: Expected parameter"):
        pv.fit(graph(32), x * 1e20, epochs=1, progress=False)
    negative = pv.VAE(
        pv.priors.StandardNormal(2),
        OwnNormal(nn.Linear(40, 2)),
        pv.likelihoods.Gaussian(nn.Linear(2, 40)),
    )
    with pytest.raises(ValueError, match="Map what is positive, as a scale, by softplus"):
        pv.fit(negative, x / 255, epochs=1, progress=False)


class OwnNormal(Conditional):
    """Whose scale may be below 0."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return dist.Normal(self.net(x), self.net(x)).to_event(1)


class DrawsAPart(nn.Module):
    """A plate inside the rows of which 15 of 20 values are drawn."""

    def __init__(self):
        super().__init__()
        self.to_mean = nn.Parameter(torch.tensor(1 / 21))

    def model(self, x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0))
            with pyro.plate("values", 20, subsample_size=15, dim=-1) as i:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, i])

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("z", dist.Normal(self.to_mean * x.sum(-1, keepdim=True), 21**-0.5))


def test_random_parts_of_rows_have_a_bound_and_no_weights():
    graph, x = DrawsAPart(), torch.randn(6, 20)
    covariance = torch.eye(20) + 1
    exact = dist.MultivariateNormal(torch.zeros(20), covariance).log_prob(x)
    terms = pv.elbo(graph, x, samples=3_000)  # the guide is the posterior, so that the ELBO is it
    torch.testing.assert_close(terms.elbo, exact.double(), atol=0.2, rtol=0, check_dtype=False)
    for estimate in (
        pv.log_evidence,
        pv.naive_log_evidence,
        pv.annealed_log_evidence,
        pv.reciprocal_log_evidence,
    ):
        with pytest.raises(ValueError, match='site "x": a part of each row is drawn at random'):
            estimate(graph, x)
    with pytest.raises(ValueError, match='site "x": a part of each row is drawn at random'):
        pv.fit(graph, x, epochs=1, objective=IWAE(3), progress=False)
    assert pv.fit(graph, x, epochs=1, batch_size=3, progress=False).stopped == "all epochs ran"


def test_hidden_values_by_obs_mask_are_named():
    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Parameter(torch.zeros(()))

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x, obs_mask=x > 0)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.a * x, 1.0))

    with pytest.raises(ValueError, match=r"obs_mask makes a latent .*graphs\.Missing"):
        pv.fit(Graph(), torch.randn(20), epochs=1, progress=False)


def test_another_number_of_features_is_named():
    graph = pv.VAE(
        pv.priors.StandardNormal(2),
        posteriors.DiagonalNormal(nn.Linear(6, 4)),
        pv.likelihoods.Gaussian(nn.Linear(2, 6)),
    )
    for check in (pv.elbo, pv.log_evidence, pv.annealed_log_evidence):
        asks_guide = check is not pv.annealed_log_evidence
        words = "torch: .*mat1 and mat2" if asks_guide else r"event shape \(6,\)"
        with pytest.raises(ValueError, match=rf"x has shape \(20, 5\).*{words}"):
            check(graph, X[:, :5])


def test_plates_over_rows_of_several_sizes_are_refused():
    class Graph(DrawsAPart):
        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            with pyro.plate("again", 4 * len(x), subsample=torch.arange(len(x))):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x[:, 0], 1.0))

    with pytest.raises(ValueError, match="scale the sites by different factors"):
        IWAE(3).differentiable_loss(Graph().model, Graph().guide, torch.randn(6, 20))


def test_a_shared_latent_beside_subsampled_rows_is_named():
    class Shared(nn.Module):
        def model(self, x):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            with pyro.plate("data", 100, subsample=torch.arange(len(x))):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
                pyro.sample("x", dist.Normal(z + w, 1.0), obs=x)

        def guide(self, x):
            pyro.sample("w", dist.Normal(0.0, 1.0))
            with pyro.plate("data", 100, subsample=torch.arange(len(x))):
                pyro.sample("z", dist.Normal(x, 1.0))

    graph = Shared()
    with pytest.raises(ValueError, match='site "w" is not in a plate over the 8 rows'):
        IWAE(1).differentiable_loss(graph.model, graph.guide, torch.randn(8))


# --------------------------------------------------------------------------- what Pyro lacks
def planar():
    normal = dist.Normal(torch.zeros(4), 1.0).to_event(1)
    return dist.TransformedDistribution(normal, dist.transforms.Planar(4))


def without_expand():
    return dist.OMTMultivariateNormal(torch.zeros(4), torch.eye(4))


@pytest.mark.parametrize("f", [pv.elbo, pv.log_evidence, partial(pv.fit, epochs=1, progress=False)])
def test_what_a_distribution_lacks_is_told_with_its_site(f):
    graph = Own(prior=without_expand)
    with pytest.raises(NotImplementedError, match=r'site "z": OMTMulti.* has no expand \(Subclass'):
        f(graph, X)
    with pytest.raises(NotImplementedError, match=r'site "z": a transform has no inverse'):
        f(Own(prior=planar), X)
    graph = Own(prior=lambda: dist.VonMises3D(torch.tensor([1.0, 0.0, 0.0])))
    graph.guide = graph.model
    with pytest.raises(NotImplementedError, match=r'site "z": VonMises3D has no r?sample'):
        f(graph, X)


def test_what_a_prior_lacks_is_told_by_what_runs_the_model_alone():
    graph = Own(prior=without_expand)
    with pytest.raises(
        ValueError, match=r'generate: .*site "z": OMTMultivariateNormal has no expand'
    ):
        pv.generate(graph, 3)
    with pytest.raises(NotImplementedError, match=r'site "z": OMTMultivariateNormal has no expand'):
        pv.decode(graph, torch.zeros(3, 4))


class Idle(Own):
    """A parameter, on which no site depends."""

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", dist.Normal(z[..., :1].expand(len(x), 6), 1.0).to_event(1), obs=x)


def test_a_loss_without_parameters_is_refused_in_words():
    with pytest.raises(ValueError, match="SGVB_B: the loss depends on no parameter"):
        pv.fit(Idle(), X, epochs=1, progress=False)
