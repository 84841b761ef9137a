"""Evidence of graphs that users write, against closed forms: masks, classes, loops over time."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyrovae as pv
from pyrovae import programs
from pyrovae.evaluation import reciprocal


def mvn(mean, covariance):
    return dist.MultivariateNormal(mean, covariance)


class SemiSupervised(nn.Module):
    """M2 (Kingma et al. 2014): y -> x <- z; the class is observed, with noise, in labelled rows.

    p(y) = 1 / 3,   z ~ N(0, I),   x = W z + V y + N(0, 0.5^2),   label = y with probability 0.8
    """

    def __init__(self):
        super().__init__()
        stream = torch.Generator().manual_seed(0)
        self.w = torch.randn(2, 4, generator=stream)
        self.v = torch.randn(3, 4, generator=stream)
        self.classes, self.latent = nn.Linear(4, 3), nn.Linear(7, 4)
        self.noise = 0.7 * torch.eye(3) + 0.1

    def model(self, x, label, labelled):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(3) / 3))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with poutine.mask(mask=labelled[:, 0] > 0):
                pyro.sample("label", dist.OneHotCategorical(y @ self.noise), obs=label)
            pyro.sample("x", dist.Normal(z @ self.w + y @ self.v, 0.5).to_event(1), obs=x)

    def guide(self, x, label, labelled):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=self.classes(x) / 4))
            x = x.expand(*y.shape[:-1], 4)
            mean, log_sigma = (self.latent(torch.cat([x, y], -1)) / 4).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_sigma.exp()).to_event(1))

    def exact(self, x, label, labelled):
        """Return log p(x, label) by the sum over y and the integral over z."""
        covariance = self.w.T @ self.w + 0.25 * torch.eye(4)
        terms = []
        for y in range(3):
            of_label = labelled[:, 0] * (label @ self.noise[y]).log()
            terms.append(
                mvn(self.v[y], covariance).log_prob(x) + of_label - torch.tensor(3.0).log()
            )
        return torch.stack(terms).logsumexp(0)


def test_classes_with_a_mask_for_each_row():
    torch.manual_seed(0)
    graph, x = SemiSupervised(), torch.randn(6, 4)
    label = nn.functional.one_hot(torch.arange(6) % 3, 3).float()
    labelled = torch.tensor([1.0, 1, 1, 0, 0, 0])[:, None]
    data = x, label, labelled
    evidence = pv.log_evidence(graph, *data, samples=40_000)
    exact = graph.exact(*data)
    assert ((evidence.log_p - exact).abs() < 5 * evidence.standard_error).all()
    assert (pv.elbo(graph, *data, samples=2000).elbo < exact).all()


class StateSpace(nn.Module):
    """z_t = 0.8 z_(t-1) + N(0, 1), x_t = z_t + N(0, 0.5^2), of rows of different lengths."""

    def model(self, x, length):
        with pyro.plate("data", len(x)):
            z = torch.zeros(())
            for t in range(x.shape[1]):
                with poutine.mask(mask=length[:, 0] > t):
                    z = pyro.sample(f"z{t}", dist.Normal(0.8 * z, 1.0))
                    pyro.sample(f"x{t}", dist.Normal(z, 0.5), obs=x[:, t])

    def guide(self, x, length):
        with pyro.plate("data", len(x)):
            for t in range(x.shape[1]):
                with poutine.mask(mask=length[:, 0] > t):
                    pyro.sample(f"z{t}", dist.Normal(0.8 * x[:, t], 0.6))


def test_time_steps_after_the_end_of_a_row_count_nothing():
    torch.manual_seed(0)
    x, length = torch.randn(5, 4), torch.tensor([4.0, 3, 2, 1, 4])[:, None]
    lag = torch.arange(4)
    step = torch.where(lag[:, None] >= lag, 0.8 ** (lag[:, None] - lag).clamp(min=0), 0.0)
    covariance = step @ step.T + 0.25 * torch.eye(4)
    exact = torch.stack([
        mvn(torch.zeros(n), covariance[:n, :n]).log_prob(row[:n])
        for row, n in zip(x, length[:, 0].int().tolist(), strict=True)
    ])  # fmt: skip
    evidence = pv.log_evidence(StateSpace(), x, length, samples=40_000)
    assert ((evidence.log_p - exact).abs() < 5 * evidence.standard_error).all()


class TwoViews(nn.Module):
    """A product of experts (Wu & Goodman 2018): two views of z, each missing in some rows."""

    def model(self, x, y, seen):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with poutine.mask(mask=seen[:, 0] > 0):
                pyro.sample("x", dist.Normal(z, 0.5), obs=x[:, 0])
            with poutine.mask(mask=seen[:, 1] > 0):
                pyro.sample("y", dist.Normal(-z, 1.0), obs=y[:, 0])

    def guide(self, x, y, seen):
        precision = 1 + seen[:, 0] / 0.25 + seen[:, 1]
        mean = (seen[:, 0] * x[:, 0] / 0.25 - seen[:, 1] * y[:, 0]) / precision
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mean, 1.2 * precision**-0.5))


def test_two_views_of_which_one_may_be_missing():
    x, y = torch.randn(2, 3, 1)
    seen = torch.tensor([[1.0, 1], [1, 0], [0, 1]])
    both = mvn(torch.zeros(2), torch.tensor([[1.25, -1], [-1, 2]]))
    exact = torch.stack([
        both.log_prob(torch.cat([x[0], y[0]])),
        dist.Normal(0.0, 1.25**0.5).log_prob(x[1, 0]),
        dist.Normal(0.0, 2**0.5).log_prob(y[2, 0]),
    ])  # fmt: skip
    evidence = pv.log_evidence(TwoViews(), x, y, seen, samples=4000)
    assert ((evidence.log_p - exact).abs() < 5 * evidence.standard_error).all()


class Angle:
    """z ~ von Mises, x ~ N((cos z, sin z), 4), with torch's class, whose support is the line."""

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.VonMises(torch.zeros(len(x)), 0.2))
            place = torch.stack([z.cos(), z.sin()], -1)
            return pyro.sample("x", dist.Normal(place, 2.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            return pyro.sample("z", dist.VonMises(torch.zeros(len(x)), 0.1))


class AngleOnTheLine(Angle):
    """With a guide over which the prior's mass is infinite."""

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            return pyro.sample("z", dist.Normal(torch.zeros(len(x)), 3.0))


ANGLES = torch.tensor([[0.9, 0.2], [-0.8, 0.1]])


def test_a_von_mises_of_torch_is_on_the_circle():
    z = torch.linspace(-math.pi, math.pi, 20_001)[:-1, None]
    likelihood = dist.Normal(torch.stack([z.cos(), z.sin()], -1), 2.0).log_prob(ANGLES).sum(-1)
    prior = dist.VonMises(0.0, 0.2).log_prob(z)
    exact = (prior + likelihood).double().logsumexp(0) + math.log(2 * math.pi / 20_000)
    found = pv.reciprocal_log_evidence(Angle(), ANGLES, samples=1000)
    assert (found.log_p - exact).abs().max() < 0.05
    em = pv.objectives.MonteCarloEM(steps=50, step_size=1.0)
    _, chain = em.draw(Angle().model, Angle().guide, ANGLES.repeat(50, 1))
    assert chain["z"]["value"].abs().max() <= math.pi
    for check in (pv.elbo, pv.log_evidence):
        with pytest.raises(ValueError, match="the prior is on the circle and the guide's Normal"):
            check(AngleOnTheLine(), ANGLES)
    assert programs.support_of(dist.VonMises(torch.zeros(3), 1.0).to_event(1)).event_dim == 1
    shifted = dist.TransformedDistribution(
        dist.VonMises(0.0, 1.0), [dist.transforms.AffineTransform(1.0, 2.0)]
    )
    assert programs.support_of(shifted) is dist.constraints.real


class AngleAtTheEdge(Angle):
    """z is known to about 0.2, near pi in the first row and near 0 in the second."""

    def model(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.VonMises(torch.zeros(len(x)), 0.2))
            place = torch.stack([z.cos(), z.sin()], -1)
            return pyro.sample("x", dist.Normal(place, 0.2).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            return pyro.sample("z", dist.VonMises(torch.atan2(x[:, 1], x[:, 0]), 20.0))


def test_evidence_of_an_angle_at_the_end_of_the_interval():
    x = torch.tensor([[-1.0, 0.1], [1.0, 0.1], [-0.2, -0.1]])
    z = torch.linspace(-math.pi, math.pi, 20_001)[:-1, None]
    likelihood = dist.Normal(torch.stack([z.cos(), z.sin()], -1), 0.2).log_prob(x).sum(-1)
    joint = (dist.VonMises(0.0, 0.2).log_prob(z) + likelihood).double()
    exact = joint.logsumexp(0) + math.log(2 * math.pi / 20_000)
    found = pv.reciprocal_log_evidence(AngleAtTheEdge(), x, samples=1000)
    torch.testing.assert_close(found.log_p, exact, atol=0.01, rtol=0)
    annealed = pv.annealed_log_evidence(AngleAtTheEdge(), x, samples=200, temperatures=25)
    assert ((annealed.log_p - exact).abs() < 4 * annealed.standard_error).all()


def test_fitted_density_over_angles_and_the_line_is_normalized():
    mean, factor = torch.tensor([3.0, -1.0, -2.9]), torch.randn(3, 3, dtype=torch.double)
    states = mean + torch.randn(400, 1, 3, dtype=torch.double) @ factor.T
    angles = torch.tensor([True, False, True])
    around = torch.linspace(-math.pi, math.pi, 61, dtype=torch.double)[:-1]
    line = torch.linspace(-15, 15, 101, dtype=torch.double)
    u = torch.cartesian_prod(around, line, around)[:, None]
    log_q = reciprocal._fitted_log_prob(states, u, angles)
    volume = (2 * math.pi / 60) ** 2 * (line[1] - line[0])
    assert (log_q.logsumexp(0).exp() * volume).item() == pytest.approx(1, abs=1e-3)
    turns = torch.tensor([2 * math.pi, 0.0, -4 * math.pi], dtype=torch.double)
    torch.testing.assert_close(reciprocal._fitted_log_prob(states, u + turns, angles), log_q)
    # where the angles are narrow, that of the normal with full covariance
    narrow = mean + 0.05 * torch.randn(400, 1, 3, dtype=torch.double) @ factor.T
    normal = mvn(narrow.mean(0)[0], narrow[:, 0].T.cov())
    torch.testing.assert_close(
        reciprocal._fitted_log_prob(narrow, wrap_angles(narrow, angles), angles)[:, 0],
        normal.log_prob(narrow[:, 0]),
    )


def wrap_angles(u, angles):
    """Return vectors whose angles are in [-pi, pi)."""
    return torch.where(angles, torch.atan2(u.sin(), u.cos()), u)


def test_chains_that_do_not_spread_are_refused():
    states = torch.zeros(100, 3, 2, dtype=torch.double)
    states[:, 1:] = torch.randn(100, 2, 2, dtype=torch.double)
    with pytest.raises(ValueError, match="of 1 rows, the first row 0 of its batch, do not spread"):
        reciprocal._fitted_log_prob(states, states, torch.zeros(2, dtype=torch.bool))


class Auto(nn.Module):
    """A guide of Pyro's with parameters for each of eight rows."""

    def __init__(self):
        super().__init__()
        self.vae = pv.VAE(
            pv.priors.StandardNormal(2),
            pv.posteriors.DiagonalNormal(nn.Linear(3, 4)),
            pv.likelihoods.Gaussian(nn.Linear(2, 3), sigma=1.0),
        )
        self.own = AutoNormal(self.vae.model)

    def model(self, x):
        return self.vae.model(x)

    def guide(self, x):
        return self.own(x)


def test_a_guide_of_so_many_rows_is_refused_by_name():
    x = torch.randn(8, 3)
    graph = Auto()
    pv.fit(graph, x, epochs=1, batch_size=8, objective=pv.objectives.SGVB_A(), progress=False)
    with pytest.raises(ValueError, match=r"do not run on one row .* autoguide"):
        pv.elbo(graph, x)
