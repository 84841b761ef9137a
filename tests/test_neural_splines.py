"""Neural spline flows: density by Jacobian and by integral, draws, files, and zuko's import."""

import copy
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from sklearn.datasets import make_moons
from torch import nn
from torch.distributions import Independent, Normal

import pyrovae as pv
from pyrovae.posteriors import NeuralSplineFlow as Posterior
from pyrovae.priors import NeuralSplineFlow as Prior

if not find_spec("zuko"):
    pytest.skip("zuko is not installed", allow_module_level=True)

KINDS = [
    pytest.param({}, id="autoregressive"),
    pytest.param({"coupling": True}, id="coupling"),
    pytest.param({"seed": 3, "steps": 2}, id="permuted"),
]


def bent(part):
    """Return the part in double precision, its weights at random and its splines well bent."""
    for parameter in part.parameters():
        nn.init.normal_(parameter, std=0.25)
    return part.double()


def by_jacobian(p, z, noise):
    """Return log N(eps; 0, I) + log |det deps / dz| by automatic differentiation."""
    return torch.stack(
        [
            Independent(Normal(torch.zeros_like(row), 1.0), 1).log_prob(noise(row))
            + torch.autograd.functional.jacobian(noise, row).slogdet().logabsdet
            for row in z
        ]
    )


def to_noise(p):
    def noise(z):
        for transform in reversed(p.transforms):
            z = transform.inv(z)
        return z

    return noise


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("d", [2, 5])
def test_density_is_that_of_the_autograd_jacobian(settings, d):
    p = bent(Prior(d, hidden=(16,), **settings))()
    q = bent(Posterior(nn.Linear(3, 2 * d + 4), d, hidden=(16,), context=4, **settings))(
        torch.randn(3).double()
    )
    for each in (p, q):
        z = each.sample((6,))
        wanted = by_jacobian(each, z, to_noise(each))
        torch.testing.assert_close(each.log_prob(z), wanted, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("settings", KINDS)
def test_a_draw_has_the_density_that_any_value_has(settings):
    """The posterior remembers its last pass; a copy of the value goes the other way."""
    q = bent(Posterior(nn.Linear(3, 4 + 4), 2, context=4, **settings))(torch.randn(5, 3).double())
    z = q.rsample()
    torch.testing.assert_close(q.log_prob(z), q.log_prob(z.clone()), atol=1e-9, rtol=1e-9)
    with torch.no_grad():
        z = q.sample()
    assert q.log_prob(z).requires_grad


@pytest.mark.parametrize("settings", KINDS)
def test_integrates_to_one(settings):
    side = torch.linspace(-7, 7, 201).double()
    grid = torch.cartesian_prod(side, side)
    cell = (side[1] - side[0]).item() ** 2
    net = nn.Linear(3, 4 + 4)
    q = bent(Posterior(net, 2, hidden=(16,), context=4, **settings))
    with torch.no_grad():
        net.bias[:4] = 0
        net.weight[:4] = 0  # mu = 0, sigma = 1: the grid covers it
    for p in (bent(Prior(2, hidden=(16,), **settings))(), q(torch.randn(3).double())):
        assert p.log_prob(grid).exp().sum().item() * cell == pytest.approx(1, abs=0.01)


def test_the_context_of_a_prior():
    part = bent(Prior(2, context=3))
    c = torch.randn(4, 3).double()
    p, z = part(c[:, :1], c[:, 1:]), torch.randn(4, 2).double()
    assert p.batch_shape == (4,)
    alone = torch.stack([part(row).log_prob(value) for row, value in zip(c, z, strict=True)])
    torch.testing.assert_close(p.log_prob(z), alone)
    assert Prior(2)(c).batch_shape == ()  # ignored


def test_two_moons_are_no_normal():
    """The mean log density of held-out points, after 150 steps of maximum likelihood."""
    x = torch.tensor(make_moons(1200, noise=0.05, random_state=0)[0], dtype=torch.float32)
    x = (x - x.mean(0)) / x.std(0)
    train, test = x[:1000], x[1000:]
    prior = Prior(2, hidden=(32, 32))
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        (-prior().log_prob(train).mean()).backward()
        optimizer.step()
    normal = torch.distributions.MultivariateNormal(train.mean(0), torch.cov(train.T))
    assert prior().log_prob(test).mean() > normal.log_prob(test).mean() + 0.8


def test_files_and_copies_after_use(tmp_path):
    graph = pv.VAE(
        Prior(2, hidden=(8,), seed=2),
        Posterior(nn.Linear(6, 7), 2, context=3, hidden=(8,), activation=nn.Tanh),
        pv.likelihoods.Bernoulli(pv.nets.MLP(2, [8], 6)),
    )
    graph.posterior.net = pv.nets.MLP(6, [], 7)
    x = torch.rand(20, 6).round()
    pv.fit(graph, x, epochs=2, batch_size=10, progress=False, seed=0)
    wanted = pv.log_evidence(graph, x, samples=4).log_p
    for other in (pv.load(pv.save(graph, tmp_path / "model")), copy.deepcopy(graph)):
        assert torch.equal(pv.log_evidence(other, x, samples=4).log_p, wanted)
    assert pv.embed(graph, x).shape == (20, 2)
    assert pv.latent_summary(graph, x).active.shape == (2,)
    assert pv.generate(graph, 3).shape == (3, 6)


def test_errors():
    with pytest.raises(ValueError, match="at least 2 latents"):
        Prior(1)
    with pytest.raises(ValueError, match="context is 0"):
        Posterior(nn.Linear(3, 4), 2, context=0)
    with pytest.raises(ValueError, match=r"NeuralSplineFlow.*2 of context"):
        Posterior(nn.Linear(3, 4), 2, context=2)(torch.zeros(1, 3))


def run(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_torch_validates_as_before():
    """The import of zuko turns validation off for the whole process."""
    code = (
        "import sys, torch, pyrovae as pv\n"
        "assert 'zuko' not in sys.modules\n"
        "pv.priors.NeuralSplineFlow(2)\n"
        "try: torch.distributions.Normal(0.0, -1.0)\n"
        "except ValueError: print('validated')\n"
        "import warnings; warnings.simplefilter('error')\n"
        "import zuko; print(zuko.flows.NSF(2)().sample().shape)\n"
    )
    assert run(code).split() == ["validated", "torch.Size([2])"]


def test_without_zuko_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['zuko'] = None\n"
        "import pyrovae as pv\n"
        "try: pv.priors.NeuralSplineFlow(2)\n"
        "except ImportError as error: print(error)\n"
    )
    assert "pip install pyrovae[flows]" in run(code)
