"""Likelihoods: densities, draws, the shape of an event, and the check of data before training."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from cases import LIKELIHOODS, LikelihoodCase
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import likelihoods, nets
from pyrovae.data import supports
from pyrovae.files import construction

all_likelihoods = pytest.mark.parametrize("case", LIKELIHOODS, ids=str)


# ---------------------------------------------------------------------------------------- density
@all_likelihoods
def test_likelihood_integrates_to_one(case):
    part = case.single()
    inputs = [torch.randn(4, *shape) for shape in case.given]
    p = part(*inputs)
    density = p.log_prob(
        case.grid.reshape(-1, *[1] * (1 + len(p.event_shape))).expand(-1, 4, *p.event_shape)
    ).exp()
    total = torch.trapezoid(density, case.grid, dim=0) if case.continuous else density.sum(0)
    torch.testing.assert_close(total, torch.ones(4), atol=1e-3 if case.continuous else 1e-5, rtol=0)


@all_likelihoods
def test_samples_have_the_mean_and_lie_in_the_support(case):
    part = case.make()
    p = part(*case.inputs(5))
    x = p.sample((2000,)).float()
    part.check(x.flatten(0, 1))
    assert p.mean.shape == (5, *case.event)
    error = (x.mean(0) - p.mean).abs() / (x.std(0) / 2000**0.5 + 1e-3)
    assert error.max() < 6  # standard errors


@all_likelihoods
def test_expands_in_a_plate(case):
    part, x = case.make(), case.data(7, 5)
    p = part(*case.inputs(5))
    q = p.expand((7, 5))
    assert q.batch_shape == (7, 5)
    assert q.sample().shape == (7, 5, *case.event)
    torch.testing.assert_close(q.log_prob(x), p.log_prob(x))


# ------------------------------------------------------------------------- the shape of an event
@all_likelihoods
def test_the_event_shape_is_that_of_one_observation(case):
    part = case.make()
    assert part.event_shape == case.event == part(*case.inputs(5)).event_shape
    assert part.event_ndim == len(case.event)


def test_a_network_without_shape_out_leaves_the_shape_open():
    part = likelihoods.HeteroscedasticGaussian(nn.Linear(2, 8))
    assert part.event_shape is None
    assert part(torch.zeros(5, 2)).event_shape == (4,)
    part.check(torch.zeros(3, 7))  # any shape: the network does not tell


class Laplace(likelihoods.Likelihood):
    """A likelihood that a user writes: a location and a log scale for each value."""

    support = supports.REAL

    def __init__(self, net, event_dim=None):
        super().__init__(net, event_dim)
        self.set_parameters_per_value(2)

    def forward(self, z, *c):
        loc, log_scale = self.net(z, *c).chunk(2, -self.event_ndim)
        return dist.Laplace(loc, log_scale.exp()).to_event(self.event_ndim)


def test_a_users_likelihood_declares_its_parameters_per_value():
    net = LIKELIHOODS[0].make().net  # 6 outputs
    assert Laplace(net).event_shape == Laplace(net)(torch.zeros(4, 2)).event_shape == (3,)
    with pytest.raises(ValueError, match=r"Laplace.*shape \(3,\).*got x with shape \(4, 6\)"):
        Laplace(net).check(torch.zeros(4, 6))


# ----------------------------------------------------------------------------- data off the support
@all_likelihoods
def test_check_takes_valid_data_of_any_type(case):
    part, x = case.make(), case.data(9)
    for data in (x, x.double(), x.numpy(), x.numpy().astype(">f8")):
        part.check(data)
    if not case.continuous:
        for dtype in (np.uint8, np.int64, np.float16):
            part.check(x.numpy().astype(dtype))
        part.check(x.long())
        part.check(x.half())


@all_likelihoods
def test_check_names_the_first_value_off_the_support(case):
    part = case.make()
    for off in case.off:
        x = case.data(9)
        x[5].view(-1)[-1] = off
        x[7] = off
        count = 1 + x[7].numel()
        position = tuple(n - 1 for n in case.event)
        for data in (x, x.numpy()):
            with pytest.raises(ValueError, match="likelihoods") as error:
                part.check(data, name="held_out")
            text = str(error.value)
            assert (
                f"expected held_out to hold {part.support.words}, got {x[7].view(-1)[0]:g} at row 5"
                in text
            )
            assert f"position {position} ({count} of {x.numel()} values" in text


def on_support(case: LikelihoodCase, x: Tensor) -> Tensor:
    """Whether each value is finite and in what the distribution itself calls its support."""
    constraint = case.make()(*case.inputs()).support
    while isinstance(constraint, constraints.independent):
        constraint = constraint.base_constraint
    return constraint.check(x) & x.isfinite()


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_check_agrees_with_the_support_on_anything(data):
    case = data.draw(st.sampled_from(LIKELIHOODS))
    kinds = st.one_of(
        st.floats(width=32),
        st.integers(-2, 300),
        st.sampled_from(case.off),
        st.just(case.grid[0].item()),
    )
    x = case.data(6).double()
    for _ in range(data.draw(st.integers(0, 3))):
        x[data.draw(st.integers(0, 5))].view(-1)[data.draw(st.integers(0, x[0].numel() - 1))] = (
            data.draw(kinds)
        )
    part = case.make()
    good = on_support(case, x)
    if good.all():
        part.check(x)
        return
    row, *position = (~good).nonzero()[0].tolist()
    with pytest.raises(ValueError, match=f"at row {row}, position") as error:
        part.check(x)
    assert f"position {tuple(position)} ({int((~good).sum())} of" in str(error.value)


def test_check_looks_beyond_the_first_chunk():
    x = np.zeros((1100, 1000), np.uint8)
    x[1099, 998] = 2
    with pytest.raises(
        ValueError, match=r"got 2 at row 1099, position \(998,\) \(1 of 1100000 values"
    ):
        likelihoods.Bernoulli(nn.Linear(2, 1000)).check(x)
    x.flags.writeable = False
    likelihoods.Poisson(nn.Linear(2, 1000)).check(x)


def test_remedies():
    bernoulli, net = likelihoods.Bernoulli(nn.Linear(2, 2)), nn.Linear(2, 2)
    for x, remedy in [
        ([[0.0, 0.5]], "ContinuousBernoulli.*pyrovae.batches.binarize"),
        ([[0, 16]], r"likelihoods.Binomial\(total_count=16\)"),
        ([[0, 255]], "likelihoods.DiscretizedLogistic, likelihoods.Categorical"),
        ([[0, 1000]], "likelihoods.Poisson"),
        ([[-1.5, 7.0]], "fit likelihoods.Gaussian"),
        ([[0.0, float("nan")]], "no likelihood fits NaN or infinite"),
    ]:
        with pytest.raises(ValueError, match=remedy):
            bernoulli.check(torch.tensor(x))
    with pytest.raises(
        ValueError, match=r"such data fit likelihoods.ContinuousBernoulli, likelihoods.Gaussian$"
    ):
        likelihoods.Poisson(net).check(np.array([[0.25, 1.0]]))


def test_check_names_a_shape_that_the_network_does_not_put_out():
    case = next(case for case in LIKELIHOODS if case.event == (1, 5, 3))
    with pytest.raises(
        ValueError, match=r"rows of x with shape \(1, 5, 3\).*got x with shape \(4, 15\)"
    ):
        case.make().check(torch.zeros(4, 15))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda net: likelihoods.Gaussian(net, sigma=0.0), "sigma > 0, got 0.0"),
        (lambda net: likelihoods.HeteroscedasticGaussian(net, floor=-1.0), "floor >= 0, got -1.0"),
        (lambda net: likelihoods.DiscretizedLogistic(net, floor=-1.0), "floor >= 0, got -1.0"),
        (lambda net: likelihoods.ContinuousBernoulli(net, floor=2.0), "got 2.0"),
        (lambda net: likelihoods.Gaussian(net, learned=True, floor=-1.0), "floor >= 0, got -1.0"),
        (lambda net: likelihoods.Gaussian(net, separate=True), "needs learned=True"),
        (lambda net: likelihoods.Gaussian(net, learned=True, floor=(1, 2)), "got 2 floors"),
        (lambda net: likelihoods.NegativeBinomial(nn.Linear(2, 3)), "tells its shape_out"),
        (
            lambda net: likelihoods.Categorical(net, levels=5),
            r"shape \(6,\), expected a multiple of 5",
        ),
    ],
)
def test_constructor_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make(LIKELIHOODS[0].make().net)


# ------------------------------------------------------------------------------------------ floors
def collapsed(make, outputs):
    """Return the likelihood of constant data whose network asks for no scale at all."""
    net = nets.MLP(1, [], outputs)
    with torch.no_grad():
        net.layers[0].weight.zero_()
        net.layers[0].bias.fill_(-200.0)
    return make(net)


@pytest.mark.parametrize(
    ("make", "outputs", "bound"),
    [
        (lambda net: likelihoods.DiscretizedLogistic(net), 2, 0.0),  # a mass
        (lambda net: likelihoods.ContinuousBernoulli(net), 1, np.log(255)),
        (lambda net: likelihoods.HeteroscedasticGaussian(net), 2, np.log(1e3)),
        (lambda net: likelihoods.Gaussian(net, 1.0, learned=True), 1, np.log(1e3)),
        (lambda net: likelihoods.Gaussian(net, learned=True, separate=True), 1, np.log(1e3)),
    ],
)
def test_a_floor_bounds_the_density_and_keeps_gradients_finite(make, outputs, bound):
    part = collapsed(make, outputs)
    if isinstance(part, likelihoods.Gaussian):
        with torch.no_grad():
            part.log_sigma.fill_(-200.0)
    p = part(torch.zeros(1, 1))
    x = torch.zeros(1, 1) if part.support.high < torch.inf else p.mean.detach()
    log_p = p.log_prob(x)
    assert log_p.item() <= bound
    log_p.sum().backward()
    assert all(q.grad is None or q.grad.isfinite().all() for q in part.parameters())


def test_a_floor_limits_what_one_surprising_pixel_costs():
    """At a scale of one sixth of a level, a pixel 255 levels off costs about 255 * 2 pi nats."""
    net = nets.MLP(1, [], 2)
    with torch.no_grad():
        net.layers[0].weight.zero_()
        net.layers[0].bias.copy_(torch.tensor([-1.0, -200.0]))  # at level 0, without any scale
    x = torch.tensor([[255.0]])
    bounded, free = (
        likelihoods.DiscretizedLogistic(net, **given)(torch.zeros(1, 1)).log_prob(x).item()
        for given in ({}, {"floor": 0.0})
    )
    assert bounded == pytest.approx(-2 * np.pi * 254.5, rel=1e-3)
    assert free < -1e6


def test_one_floor_for_each_value_is_held_by_each():
    part = likelihoods.Gaussian(nets.MLP(2, [], 3), learned=True, separate=True, floor=(0.1, 1, 2))
    with torch.no_grad():
        part.log_sigma.fill_(-50.0)
    torch.testing.assert_close(part.scale, torch.tensor([0.1, 1.0, 2.0]))


def test_a_model_saved_before_there_were_floors_has_none():
    for name, outputs in (("Gaussian", 3), ("DiscretizedLogistic", 6), ("ContinuousBernoulli", 3)):
        net = nets.MLP(2, [], outputs)
        described = construction.describe(getattr(likelihoods, name)(net))
        assert described["arguments"]["floor"] != 0
        for added in ("floor", "separate"):
            described["arguments"].pop(added, None)
        assert construction.build(described, numbers=100).floor == 0


def test_a_network_for_other_levels_than_those_of_categorical_is_told_of_both_remedies():
    net = nets.MLP(4, [8], (3, 8, 8))
    with pytest.raises(ValueError, match=r"Change its last layer, or levels=256$"):
        likelihoods.Categorical(net)
