"""The contract of every part and network: each test here runs for every row of `cases.py`."""

import copy
import inspect
from itertools import product

import numpy as np
import pyro
import pytest
import torch
from cases import LIKELIHOODS, NETS, PARTS, POSTERIORS, PRIORS, Case, LikelihoodCase
from pyro.distributions.testing.gof import auto_goodness_of_fit
from torch import Tensor, nn
from torch.distributions import biject_to

from pyrovae import likelihoods
from pyrovae.distributions import FromTorch

LEADS = [(), (5,), (3, 5)]
all_parts = pytest.mark.parametrize("case", PARTS, ids=str)
all_nets = pytest.mark.parametrize("case", NETS, ids=str)


def value(case: Case, *lead: int) -> Tensor:
    """Return a value in the support of the part's distribution."""
    if isinstance(case, LikelihoodCase):
        return case.data(*lead)
    return biject_to(case.where)(torch.randn(*lead, *case.event))


def output(case: Case, part: nn.Module, inputs: list[Tensor], x: Tensor) -> Tensor:
    """Return what the tests of gradients and copies compare.

    That is log p(x), the draw of a posterior without a density, or the output of a network.
    """
    if case in NETS:
        return part(*inputs)
    return part(*inputs).log_prob(x) if case.proper or case in PRIORS else part(*inputs).rsample()


# ------------------------------------------------------------------------------ batch dimensions
@all_parts
@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_any_batch_dimensions(case, lead):
    p = case.make()(*case.inputs(*lead))
    assert p.event_shape == case.event
    assert p.batch_shape == (lead if case.given else ())
    x = value(case, *lead) if case.proper else torch.zeros(*lead, *case.event)
    assert p.log_prob(x).shape == lead
    if case not in PRIORS or case.proper:
        assert p.sample().shape == p.batch_shape + p.event_shape


@pytest.mark.parametrize("case", [case for case in PARTS if case.proper and case.given], ids=str)
def test_each_observation_in_a_batch_has_its_own_density(case):
    part, inputs, x = case.make(), case.inputs(3, 5), value(case, 3, 5)
    together = part(*inputs).log_prob(x)
    for k, b in product(range(3), range(5)):
        alone = part(*(i[k, b] for i in inputs)).log_prob(x[k, b])
        assert alone.item() == pytest.approx(together[k, b].item(), rel=1e-4)


class Returns(nn.Module):
    """A network's output, made into something else."""

    def __init__(self, net, change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, *given):
        return self.change(self.net(*given))


@pytest.mark.parametrize("case", [case for case in PARTS if hasattr(case.make(), "net")], ids=str)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: (y, y), "a tuple"),
        (lambda y: {"y": y}, "a dict"),
        (lambda y: None, "None"),
        (lambda y: y.long(), r"a torch\.int64 tensor"),
    ],
    ids=["tuple", "dict", "None", "integers"],
)
def test_a_network_that_returns_no_parameters_is_named(case, change, words):
    part = case.make()
    if isinstance(part, FromTorch):
        return  # what its network returns goes to the user's own function
    part.net = Returns(part.net, change)
    match = f"{type(part).__name__}: net returns {words}, expected one tensor of floating-point"
    with pytest.raises(TypeError, match=match):
        part(*case.inputs(5))


@all_nets
@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_networks_take_any_batch_dimensions(case, lead):
    net = case.make().eval()  # batch normalization in training mode needs two rows or more
    inputs = case.inputs(*lead)
    h = net(*inputs)
    assert h.shape == lead + case.event == lead + net.shape_out
    flat = (i.reshape(-1, *shape) for i, shape in zip(inputs, case.given, strict=True))
    torch.testing.assert_close(h, net(*flat).reshape(h.shape))


@pytest.mark.parametrize(
    "case",
    [c for c in NETS if len(c.given) == 2 and len(c.given[1]) == 1 and c.name != "WithoutContext"],
    ids=str,
)
def test_context_broadcasts(case):
    net, (x, c) = case.make(), case.inputs(3, 5)
    torch.testing.assert_close(net(x, c[0]), net(x, c[:1].expand(3, -1, -1)))
    torch.testing.assert_close(net(x[0], c), net(x[:1].expand_as(x), c))


# --------------------------------------------------------------------------------------- density
@pytest.mark.parametrize("case", [c for c in [*PRIORS, *POSTERIORS] if c.proper], ids=str)
def test_samples_fit_the_density(case):
    """The best of three, each with weights of its own.

    Distances between neighbours depend on each other, so the p-value of a correct density is below
    1e-3 more often than once in 1000; that of a wrong one always is.
    """
    assert max(fit_of_draws(case) for _ in range(3)) > 1e-3


def fit_of_draws(case):
    p = case.make()(*case.inputs())
    x = p.sample((20_000,))
    free = biject_to(case.where)  # the neighbourhoods must not extend over an edge
    y = free.inv(x)
    log_p = p.log_prob(x) + free.log_abs_det_jacobian(y, x).sum(-1)
    return auto_goodness_of_fit(y, log_p.exp(), dim=case.event[0])


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
    """On the meta device, as on a GPU, mixing with tensors of the CPU is an error."""
    with pyro.validation_enabled(False):
        q = case.make().to("meta")(*(i.to("meta") for i in case.inputs(5)))
        z = q.rsample((3,))
        assert q.log_prob(z).device.type == z.device.type == "meta"


# ------------------------------------------------------------------- gradients, copies and moves
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
        # Not of posteriors: a flow has no formula for its mean.
        assert case in POSTERIORS or p.mean.dtype == torch.float64
        assert p.sample().dtype in (torch.int64, torch.float64)


@pytest.mark.parametrize("case", [*PARTS, *NETS], ids=str)
def test_constructor_arguments_are_attributes(case):
    part = case.make()
    for name, parameter in inspect.signature(type(part).__init__).parameters.items():
        assert name == "self" or hasattr(part, name)
        # Files name every argument.
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)


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
