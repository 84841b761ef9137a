"""HMC leaves known densities invariant, converges to them, and keeps the leapfrog's order."""

import math
from itertools import pairwise

import pytest
import torch
from pyro.distributions import constraints
from pyro.distributions.testing.gof import unif01_goodness_of_fit
from torch.distributions import (
    Categorical,
    Gamma,
    Independent,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from pyrovae.distributions import CIRCLE, WrappedNormal, wrap
from pyrovae.programs import hmc

FAILURE_RATE = 1e-4  # of a test, were the law right
COVARIANCE = torch.tensor([[2.0, 0.9, 0.0], [0.9, 1.0, -0.3], [0.0, -0.3, 0.5]]).double()
GAUSSIAN = MultivariateNormal(torch.tensor([1.0, -2.0, 0.5]).double(), COVARIANCE)


def banana(z):
    """z_1 ~ N(0, 1), z_2 | z_1 ~ N(z_1^2 / 2, 0.5^2)."""
    return Normal(0.0, 1.0).log_prob(z[..., 0]) + Normal(z[..., 0].square() / 2, 0.5).log_prob(
        z[..., 1]
    )


def banana_draws(*shape):
    a, b = torch.randn(2, *shape, dtype=torch.double)
    return torch.stack([a, a.square() / 2 + 0.5 * b], -1)


def uniforms(z):
    """The banana's draws as independent standard uniforms."""
    return Normal(0.0, 1.0).cdf(
        torch.stack([z[..., 0], (z[..., 1] - z[..., 0].square() / 2) / 0.5], -1)
    )


def test_a_gaussian_stays():
    z0 = GAUSSIAN.sample((4000, 5))
    z, acceptance = hmc.sample(GAUSSIAN.log_prob, z0, steps=5, leapfrog=4, step_size=0.8)
    assert z.shape == z0.shape
    assert acceptance.shape == (4000, 5)
    assert (
        0.5 < acceptance.mean() < 0.9
    )  # moves are refused, so the test sees whether they are refused rightly
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(COVARIANCE), (z - GAUSSIAN.loc)[..., None], upper=False
    )
    for part in Normal(0.0, 1.0).cdf(white[..., 0]).flatten(0, 1).unbind(-1):
        assert unif01_goodness_of_fit(part) > FAILURE_RATE
    n = 20000
    assert (z.mean((0, 1)) - GAUSSIAN.loc).abs().max() < 5 * math.sqrt(2 / n)
    assert (torch.cov(z.flatten(0, 1).T) - COVARIANCE).abs().max() < 5 * 2 * math.sqrt(
        2 / n
    )  # standard error of a variance of 2
    moved = torch.corrcoef(torch.stack([z0[..., 0].flatten(), z[..., 0].flatten()]))[0, 1]
    assert moved.abs() < 0.2  # and not because nothing moved


def test_a_banana_stays_and_is_found():
    z0 = banana_draws(20000)
    z, acceptance = hmc.sample(banana, z0, steps=5, leapfrog=8, step_size=0.4)
    assert 0.5 < acceptance.mean() < 0.9
    for part in uniforms(z).unbind(-1):
        assert unif01_goodness_of_fit(part) > FAILURE_RATE
    start, eps = hmc.adapt(banana, torch.full((20000, 2), -2.0, dtype=torch.double), steps=30)
    found, _ = hmc.sample(banana, start, steps=20, step_size=eps)
    for part in uniforms(found).unbind(-1):
        assert unif01_goodness_of_fit(part) > FAILURE_RATE


def test_the_test_would_see_a_move_that_always_accepts(monkeypatch):
    monkeypatch.setattr(torch, "rand_like", torch.zeros_like)
    z, _ = hmc.sample(banana, banana_draws(20000), steps=5, leapfrog=8, step_size=0.4)
    assert min(unif01_goodness_of_fit(part) for part in uniforms(z).unbind(-1)) < FAILURE_RATE


def test_constrained_sites_keep_their_laws():
    """A gamma and a log-normal whose location is another site, started far from their laws."""

    def log_density(z):
        rate = Gamma(3.0, 2.0).log_prob(z["rate"]).sum(-1)
        return rate + Normal(0.0, 1.0).log_prob(z["m"]) + LogNormal(z["m"], 0.5).log_prob(z["y"])

    z0 = {
        "rate": torch.full((8000, 2, 1), 9.0),
        "m": torch.zeros(8000, 2),
        "y": torch.full((8000, 2), 0.1),
    }
    supports = {"rate": constraints.independent(constraints.positive, 1), "y": constraints.positive}
    start, eps = hmc.adapt(
        log_density, z0, steps=30, step_size=torch.full((2,), 0.1), supports=supports
    )
    assert eps.shape == (2,)
    z, acceptance = hmc.sample(log_density, start, steps=30, step_size=eps, supports=supports)
    assert {name: value.shape for name, value in z.items()} == {
        name: value.shape for name, value in z0.items()
    }
    assert acceptance.mean() == pytest.approx(0.65, abs=0.12)
    assert z["rate"].min() > 0
    # the incomplete gamma function, as torch's Gamma has no cdf on every version
    assert (
        unif01_goodness_of_fit(torch.special.gammainc(torch.tensor(3.0), 2 * z["rate"].flatten()))
        > FAILURE_RATE
    )
    assert unif01_goodness_of_fit(Normal(0.0, 1.0).cdf(z["m"]).flatten()) > FAILURE_RATE
    assert (
        unif01_goodness_of_fit(Normal(0.0, 1.0).cdf((z["y"].log() - z["m"]) / 0.5).flatten())
        > FAILURE_RATE
    )


def test_chains_of_angles_go_round():
    """An angle near pi and a number correlated with it, both found from one side of pi."""

    def log_density(z):
        angle = WrappedNormal(torch.tensor(3.0), torch.tensor(0.7)).log_prob(z["angle"])
        return angle.sum(-1) + Normal(z["angle"].cos(), 0.5).log_prob(z["y"]).sum(-1)

    z0 = {"angle": torch.full((10_000, 1), 2.5), "y": torch.zeros(10_000, 1)}
    supports = {"angle": constraints.independent(CIRCLE, 1)}
    start, eps = hmc.adapt(log_density, z0, steps=30, supports=supports)
    z, _ = hmc.sample(log_density, start, steps=20, step_size=eps, supports=supports)
    assert z["angle"].abs().max() <= math.pi
    assert z["angle"].min() < -2
    around = Normal(0.0, 0.7).cdf(wrap(z["angle"] - 3.0))  # mass of 7e-6 is further than pi
    assert unif01_goodness_of_fit(around.flatten()) > FAILURE_RATE
    given = Normal(z["angle"].cos(), 0.5).cdf(z["y"])
    assert unif01_goodness_of_fit(given.flatten()) > FAILURE_RATE


def test_coordinates_carry_the_jacobian():
    z = {
        "p": torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.1, 0.3]]),
        "s": torch.tensor([[0.5], [2.0]]),
        "x": torch.randn(2, 2, 2),
    }
    supports = {"p": constraints.simplex, "s": constraints.independent(constraints.positive, 1)}
    coordinates = hmc.Coordinates(z, supports, 1)
    u = coordinates.vector(z)
    assert u.shape == (2, 2 + 1 + 4)
    for name, value in coordinates.sites(u).items():
        torch.testing.assert_close(value, z[name])
    for row in range(2):

        def free(u):
            parts = coordinates.sites(u[None])
            return torch.cat([parts["p"][0, :2], parts["s"][0], parts["x"][0].flatten()])

        jacobian = torch.autograd.functional.jacobian(free, u[row])
        torch.testing.assert_close(
            coordinates.log_det(u)[row], torch.linalg.slogdet(jacobian).logabsdet
        )


def test_energy_error_falls_as_the_square_of_the_step():
    z, v = banana_draws(200), torch.randn(200, 2, dtype=torch.double)
    errors = []
    for leapfrog in (20, 40, 80, 160):  # over one unit of time
        eps = torch.full((200,), 1 / leapfrog, dtype=torch.double)
        _, v1, gain = hmc.leapfrog_steps(banana, z, v, eps, leapfrog)
        errors.append(((v1.square() - v.square()).sum(-1) / 2 - gain).abs().mean())
    assert [(a / b).item() for a, b in pairwise(errors)] == pytest.approx([4, 4, 4], rel=0.15)


def test_leapfrog_comes_back():
    z, v, eps = (
        banana_draws(50),
        torch.randn(50, 2, dtype=torch.double),
        torch.full((50,), 0.1, dtype=torch.double),
    )
    there, v1, gain = hmc.leapfrog_steps(banana, z, v, eps, 12)
    back, v2, loss = hmc.leapfrog_steps(banana, there, -v1, eps, 12)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(v2, -v)
    torch.testing.assert_close(gain, -loss)


def test_each_row_finds_its_own_step():
    """The scales of rows differ a hundredfold: step sizes do too, and each reaches the target."""
    scale = torch.tensor([0.01, 0.1, 1.0])
    f = lambda z: Normal(torch.zeros(()), scale[:, None]).log_prob(z).sum(-1)  # noqa: E731
    z, eps = hmc.adapt(
        f, torch.randn(200, 3, 4) * scale[:, None], steps=100, step_size=torch.full((3,), 0.05)
    )
    assert (eps / scale).max() / (eps / scale).min() < 1.5
    _, acceptance = hmc.sample(f, z, steps=50, step_size=eps)
    assert (acceptance.mean(0) - 0.65).abs().max() < 0.1


def test_chains_are_independent():
    """What one chain meets, a density that ends, moves no other."""
    edge = lambda z: torch.where(z[..., 0] > 3, torch.nan, -z.square().sum(-1) / 2)  # noqa: E731
    z0 = torch.zeros(2, 100, 2)
    z0[1] = 2.99
    results = []
    for log_density in (edge, lambda z: -z.square().sum(-1) / 2):
        torch.manual_seed(1)
        z, acceptance = hmc.sample(log_density, z0, steps=3)
        assert torch.isfinite(z).all()
        assert torch.isfinite(acceptance).all()
        results.append(z)
    torch.testing.assert_close(results[0][0], results[1][0])
    assert not torch.equal(results[0][1], results[1][1])


def test_no_gradient_reaches_parameters():
    net = torch.nn.Linear(2, 1)
    with torch.no_grad():
        z, _ = hmc.sample(
            lambda z: -net(z).square()[..., 0] - z.square().sum(-1), torch.zeros(3, 4, 2), steps=2
        )
    assert not z.requires_grad
    assert net.weight.grad is None


def test_errors():
    f = lambda z: -z.square().sum(-1)  # noqa: E731
    with pytest.raises(ValueError, match="steps is 0"):
        hmc.sample(f, torch.zeros(3, 2), steps=0)
    with pytest.raises(
        ValueError,
        match=r"1 of 3 chains start where the density is zero or not finite, the first at \(1,\)",
    ):
        hmc.sample(f, torch.tensor([[0.0], [torch.inf], [0.0]]))
    with pytest.raises(ValueError, match='site "k" is discrete'):
        hmc.sample(lambda z: z["k"].float(), {"k": torch.zeros(3, dtype=torch.long)})
    with pytest.raises(
        ValueError, match=r"\['sigma'\], which are not sites; the sites are \['z'\]"
    ):
        hmc.sample(f, torch.zeros(3, 2), supports={"sigma": constraints.positive})
    with pytest.raises(ValueError, match=r'site "b" has the support .*no bijection'):
        hmc.sample(
            lambda z: z["b"],
            {"b": torch.zeros(3)},
            supports={"b": constraints.MixtureSameFamilyConstraint(constraints.dependent)},
        )


def test_a_mixture_moves_on_its_components_support():
    mixture = MixtureSameFamily(
        Categorical(torch.ones(2)),
        Independent(Gamma(torch.full((2, 1), 3.0), torch.tensor([[2.0], [4.0]])), 1),
    )
    z, _ = hmc.sample(
        lambda z: mixture.log_prob(z["z"]),
        {"z": mixture.sample((5000,))},
        steps=10,
        supports={"z": mixture.support},
    )
    uniform = torch.stack(
        [torch.special.gammainc(torch.tensor(3.0), rate * z["z"]) for rate in (2, 4)]
    ).mean(0)
    assert unif01_goodness_of_fit(uniform.flatten()) > FAILURE_RATE
