"""The contract that every part and network keeps: one test here, for every row of `cases.py`."""

import copy
import inspect
from itertools import product

import numpy as np
import pyro
import pytest
import torch
from cases import LIKELIHOODS, NETS, PARTS, POSTERIORS, PRIORS, Case, LikelihoodCase
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.distributions.testing.gof import auto_goodness_of_fit
from torch import Tensor, nn
from torch.distributions import biject_to, constraints

from pyrovae import likelihoods

LEADS = [(), (5,), (3, 5)]
all_parts = pytest.mark.parametrize("case", PARTS, ids=str)
all_nets = pytest.mark.parametrize("case", NETS, ids=str)
all_likelihoods = pytest.mark.parametrize("case", LIKELIHOODS, ids=str)


def value(case: Case, *lead: int) -> Tensor:
    """Something that the part gives a density to."""
    if isinstance(case, LikelihoodCase):
        return case.data(*lead)
    return biject_to(case.where)(torch.randn(*lead, *case.event))


def output(case: Case, part: nn.Module, inputs: list[Tensor], x: Tensor) -> Tensor:
    """What the tests of gradients and copies look at: log p(x), the code of a posterior without one, a network's output."""
    if case in NETS:
        return part(*inputs)
    return part(*inputs).log_prob(x) if case.proper or case in PRIORS else part(*inputs).rsample()


# ------------------------------------------------------------------------------------------------------------------ axes
@all_parts
@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_any_leading_axes(case, lead):
    p = case.make()(*case.inputs(*lead))
    assert p.event_shape == case.event
    assert p.batch_shape == (lead if case.given else ())
    x = value(case, *lead) if case.proper else torch.zeros(*lead, *case.event)
    assert p.log_prob(x).shape == lead
    if case not in PRIORS or case.proper:
        assert p.sample().shape == p.batch_shape + p.event_shape


@pytest.mark.parametrize("case", [case for case in PARTS if case.proper and case.given], ids=str)
def test_leading_axes_are_rows(case):
    part, inputs, x = case.make(), case.inputs(3, 5), value(case, 3, 5)
    together = part(*inputs).log_prob(x)
    for k, b in product(range(3), range(5)):
        assert part(*(i[k, b] for i in inputs)).log_prob(x[k, b]).item() == pytest.approx(
            together[k, b].item(), rel=1e-4
        )


@all_nets
@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_networks_take_any_leading_axes(case, lead):
    net = case.make().eval()  # a batch norm that trains asks for more than one row
    inputs = case.inputs(*lead)
    h = net(*inputs)
    assert h.shape == lead + case.event == lead + net.shape_out
    rows = net(*(i.reshape(-1, *shape) for i, shape in zip(inputs, case.given, strict=True)))
    torch.testing.assert_close(h, rows.reshape(h.shape))


@pytest.mark.parametrize(
    "case", [c for c in NETS if len(c.given) == 2 and c.name != "WithoutContext"], ids=str
)
def test_context_broadcasts(case):
    net, (x, c) = case.make(), case.inputs(3, 5)
    torch.testing.assert_close(net(x, c[0]), net(x, c[:1].expand(3, -1, -1)))
    torch.testing.assert_close(net(x[0], c), net(x[:1].expand_as(x), c))


# --------------------------------------------------------------------------------------------------------------- density
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


@pytest.mark.parametrize("case", [c for c in [*PRIORS, *POSTERIORS] if c.proper], ids=str)
def test_samples_fit_the_density(case):
    """The best of three, each with weights of its own: neighbours' distances depend on each other, so that a right density gives
    values below 1e-3 now and then (measured: 8 in 100), a wrong one always."""
    assert max(fit_of_draws(case) for _ in range(3)) > 1e-3


def fit_of_draws(case):
    p = case.make()(*case.inputs())
    x = p.sample((20_000,))
    free = biject_to(case.where)  # the test's balls must not reach over an edge
    y = free.inv(x)
    log_p = p.log_prob(x) + free.log_abs_det_jacobian(y, x).sum(-1)
    return auto_goodness_of_fit(y, log_p.exp(), dim=case.event[0])


@all_likelihoods
def test_samples_have_the_mean_and_lie_in_the_support(case):
    part = case.make()
    p = part(*case.inputs(5))
    x = p.sample((2000,)).float()
    part.check(x.flatten(0, 1))
    assert p.mean.shape == (5, *case.event)
    error = (x.mean(0) - p.mean).abs() / (x.std(0) / 2000**0.5 + 1e-3)
    assert error.max() < 6  # standard errors


@pytest.mark.parametrize("case", POSTERIORS, ids=str)
def test_posteriors_draw_and_expand_in_any_shape(case):
    q = case.make()(*case.inputs(5))
    assert q.sample((3, 7)).shape == (3, 7, 5, *case.event)
    wide = q.expand((7, 5))
    z = wide.rsample() if case.proper else wide.sample()
    assert z.shape == (7, 5, *case.event)
    torch.testing.assert_close(q.log_prob(z), wide.log_prob(z))


@pytest.mark.parametrize("case", POSTERIORS, ids=str)
def test_posteriors_stay_on_their_device(case):
    """The device without data: to mix it with the CPU's tensors is an error there as it is on a GPU."""
    with pyro.validation_enabled(False):
        q = case.make().to("meta")(*(i.to("meta") for i in case.inputs(5)))
        z = q.rsample((3,))
        assert q.log_prob(z).device.type == z.device.type == "meta"


@all_likelihoods
def test_expands_in_a_plate(case):
    part, x = case.make(), value(case, 7, 5)
    p = part(*case.inputs(5))
    q = p.expand((7, 5))
    assert q.batch_shape == (7, 5)
    assert q.sample().shape == (7, 5, *case.event)
    torch.testing.assert_close(q.log_prob(x), p.log_prob(x))


# -------------------------------------------------------------------------------------------- gradients, copies and moves
@pytest.mark.parametrize("case", [*PARTS, *NETS], ids=str)
def test_gradients_by_finite_differences(case):
    part = case.make().double()
    inputs, x = case.inputs(2, dtype=torch.float64), value(case, 2).double()
    wanted = (*(i.requires_grad_() for i in inputs), *part.parameters())
    if not wanted:
        pytest.skip("nothing to differentiate by")
    assert torch.autograd.gradcheck(lambda *_: output(case, part, inputs, x), wanted)


@pytest.mark.parametrize("case", [*PARTS, *NETS], ids=str)
def test_gradient_reaches_every_parameter(case):
    part = case.make()
    y = output(case, part, case.inputs(5), value(case, 5))
    if list(part.parameters()):
        (y * torch.randn_like(y)).sum().backward()
    for name, parameter in part.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("case", [*PARTS, *NETS], ids=str)
def test_state_dict_round_trip_and_copy(case):
    first, second, inputs, x = case.make(), case.make(), case.inputs(5), value(case, 5)
    wanted = output(case, first, inputs, x)
    assert torch.equal(output(case, copy.deepcopy(first), inputs, x), wanted)
    second.load_state_dict(first.state_dict())
    assert torch.equal(output(case, second, inputs, x), wanted)


@pytest.mark.parametrize("case", [*PARTS, *NETS], ids=str)
def test_moves_to_double(case):
    part = case.make().double()
    inputs, x = case.inputs(5, dtype=torch.float64), value(case, 5).double()
    assert output(case, part, inputs, x).dtype == torch.float64
    if case in LIKELIHOODS or case in POSTERIORS:
        p = part(*inputs)
        assert (
            case in POSTERIORS or p.mean.dtype == torch.float64
        )  # a flow has no formula for its mean
        assert p.sample().dtype in (torch.int64, torch.float64)


@pytest.mark.parametrize("case", [*PARTS, *NETS], ids=str)
def test_constructor_arguments_are_attributes(case):
    part = case.make()
    for name, parameter in inspect.signature(type(part).__init__).parameters.items():
        assert name == "self" or hasattr(part, name)
        assert parameter.kind in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        )  # files name every argument


# ----------------------------------------------------------------------------------------------------- data off the support
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


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.array([[0, 1]]), "Bernoulli, Gaussian"),
        (np.array([[True, False]]), "Bernoulli, Gaussian"),
        (
            torch.tensor([[0, 16]]),
            "Poisson, Binomial(total_count=16), Categorical(levels=17), Gaussian",
        ),
        (
            np.array([[0, 255]], np.uint8),
            "DiscretizedLogistic, Categorical, Poisson, Gaussian",
        ),
        (np.array([[0, 256]]), "Poisson, Gaussian"),
        (np.array([[0.5, 1.0]]), "ContinuousBernoulli, Gaussian"),
        (np.array([[-1.0, 1.0]]), "Gaussian"),
        (np.array([[0.0, np.nan]]), ""),
    ],
)
def test_suggested_likelihoods_take_the_data(x, words):
    suggested = likelihoods.suggest_likelihoods(x)
    assert ", ".join(map(str, suggested)) == words
    for name, arguments in suggested:
        getattr(likelihoods, name)(nn.Linear(2, 2), **arguments).check(x)


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
        (lambda net: likelihoods.Categorical(net, levels=5), r"5 blocks on the first axis.*\(6,\)"),
    ],
)
def test_constructor_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make(LIKELIHOODS[0].make().net)
