"""The registry of parts and networks: one row each brings every contract test of `test_parts.py`.

A row names the part, how it is made, the shapes of what its forward takes (without batch
dimensions), and the shape of an event of the distribution that it returns (of the output, for a
network). Networks are small and smooth, so that gradients can be checked by finite differences.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyrovae import likelihoods, nets, posteriors, priors
from pyrovae.distributions import CIRCLE
from pyrovae.likelihoods import expression

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """One part or network.

    `make()` returns a new instance; `proper` tells whether it has a density, which integrates to
    one over the constraint `where`.
    """

    name: str
    make: Callable[[], nn.Module]
    given: tuple[Shape, ...]
    event: Shape
    proper: bool = True
    where: constraints.Constraint = constraints.real

    def inputs(self, *lead: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        """Return random inputs with batch dimensions `lead`."""
        return [torch.randn(*lead, *shape, dtype=dtype) for shape in self.given]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class LikelihoodCase(Case):
    """One likelihood.

    `single()` returns one over a single value, `grid` covers the support, `off` are values outside
    it.
    """

    single: Callable[[], nn.Module] = nn.Identity
    grid: Tensor = field(default_factory=lambda: torch.empty(0))
    off: tuple[float, ...] = ()
    continuous: bool = False

    def data(self, *lead: int) -> Tensor:
        """Return random data on the support, with batch dimensions `lead`."""
        return self.grid[torch.randint(len(self.grid), (*lead, *self.event))]


def mlp(features_in: int | Shape, features_out: int | Shape, context: int = 0) -> nn.Module:
    return nets.MLP(features_in, [7], features_out, activation=nn.Tanh, context=context)


def conv_decoder(shape: Shape) -> nn.Module:
    return nets.ConvDecoder(2, shape, channels=(3, 2), activation=nn.Tanh)


def iaf(**settings) -> nn.Module:
    return posteriors.IAF(
        mlp(6, 2 * 2 + 3),
        2,
        **{"steps": 2, "context": 3, "hidden": (8,), "activation": nn.Tanh, **settings},
    )


def matrices(rank: int | None, dense: bool) -> Callable[[], nn.Module]:
    settings = {"maps": 1, "size": 2, "rank": rank, "dense": dense}
    count = posteriors.MatrixNormal.parameters_of(**settings)
    return lambda: posteriors.MatrixNormal(mlp(6, count), **settings)


def flow(**settings) -> nn.Module:
    """Return a flow prior away from its start, with smooth networks."""
    part = priors.Flow(2, steps=2, hidden=(8,), **settings)
    bend(part, 0.3)
    return part


def spline_posterior(**settings) -> nn.Module:
    net = mlp(6, 2 * 2 + 3)
    return posteriors.NeuralSplineFlow(net, 2, context=3, **SPLINES, **settings)


def bend(part: nn.Module, spread: float) -> None:
    """Make a flow prior's networks smooth, and their last layers' weights as large as `spread`."""
    if not part.coupling:
        part.networks.activation = nn.Tanh()
        nn.init.normal_(part.networks.weights[-1], std=spread)
        return
    for net in part.networks:
        net.f = nn.Tanh()
        nn.init.normal_(net.layers[-1].weight, std=spread)


def full_mixture() -> nn.Module:
    part = priors.Mixture(2, 3, full=True, learned_weights=False)
    nn.init.normal_(part.lower)
    return part


def vamp_given_context() -> nn.Module:
    q = posteriors.FullRankNormal(mlp(6, 5, 3))
    return priors.Vamp(q, torch.rand(4, 6), low=0.0, high=1.0, learned_weights=True)


def batch_norm() -> nn.Module:
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))
    return nets.AnyLeading(net, 5, 3)


SPLINES = {"steps": 2, "hidden": (8,), "bins": 4, "activation": nn.Tanh}

PRIORS = [
    Case("CentredNormal", lambda: priors.CentredNormal(2, 0.3), (), (2,)),
    Case("StandardNormal", lambda: priors.StandardNormal(2), (), (2,)),
    Case("LibraryNormal", lambda: priors.LibraryNormal([7.0], [0.5]), (), (1,)),
    Case("Flat", lambda: priors.Flat(2), (), (2,), proper=False),
    Case("ConditionalNormal, c", lambda: priors.ConditionalNormal(mlp(3, 4)), ((3,),), (2,)),
    Case("Mixture", lambda: priors.Mixture(2, 3), (), (2,)),
    Case("Mixture, full, fixed weights", lambda: full_mixture(), (), (2,)),
    Case(
        "Vamp",
        lambda: priors.Vamp(posteriors.DiagonalNormal(mlp(6, 4)), torch.randn(3, 6)),
        (),
        (2,),
    ),
    Case("Vamp, c", lambda: vamp_given_context(), ((3,),), (2,)),
    Case("Flow", lambda: flow(), (), (2,)),
    Case("Flow, coupling, permuted", lambda: flow(coupling=True, seed=1), (), (2,)),
    Case(
        "VonMises", lambda: priors.VonMises(2, concentration=2.0, loc=0.5), (), (2,), where=CIRCLE
    ),
    Case("UniformAngle", lambda: priors.UniformAngle(2), (), (2,), where=CIRCLE),
]

POSTERIORS = [
    Case("DiagonalNormal", lambda: posteriors.DiagonalNormal(mlp(6, 4)), ((6,),), (2,)),
    Case("DiagonalNormal, c", lambda: posteriors.DiagonalNormal(mlp(6, 4, 3)), ((6,), (3,)), (2,)),
    Case(
        "DiagonalNormal, images",
        lambda: posteriors.DiagonalNormal(nets.ConvEncoder((1, 5, 3), 4, (3, 2), nn.Tanh)),
        ((1, 5, 3),),
        (2,),
    ),
    Case(
        "DiagonalNormal, floor",
        lambda: posteriors.DiagonalNormal(mlp(6, 4), floor=0.1),
        ((6,),),
        (2,),
    ),
    Case("Point", lambda: posteriors.Point(mlp(6, 2)), ((6,),), (2,), proper=False),
    *[
        Case(f"MatrixNormal, rank {rank}, dense {dense}", matrices(rank, dense), ((6,),), (4,))
        for rank in (None, 1)
        for dense in (False, True)
    ],
    Case("FullRankNormal", lambda: posteriors.FullRankNormal(mlp(6, 5)), ((6,),), (2,)),
    Case("FullRankNormal, c", lambda: posteriors.FullRankNormal(mlp(6, 9, 3)), ((6,), (3,)), (3,)),
    Case("LowRankNormal", lambda: posteriors.LowRankNormal(mlp(6, 6), 2, rank=1), ((6,),), (2,)),
    Case("IAF", lambda: iaf(), ((6,),), (2,)),
    Case(
        "IAF, plain, permuted",
        lambda: iaf(steps=3, gated=False, seed=1, hidden=(8, 6)),
        ((6,),),
        (2,),
    ),
    Case("Mixture", lambda: posteriors.Mixture(mlp(6, 15), 2, components=3), ((6,),), (2,)),
    Case("Laplace", lambda: posteriors.Laplace(mlp(6, 4)), ((6,),), (2,)),
    Case("StudentT", lambda: posteriors.StudentT(mlp(6, 4), df=5.0), ((6,),), (2,)),
    Case("Logistic", lambda: posteriors.Logistic(mlp(6, 4)), ((6,),), (2,)),
    Case("Cauchy", lambda: posteriors.Cauchy(mlp(6, 4)), ((6,),), (2,)),
    Case(
        "Exponential",
        lambda: posteriors.Exponential(mlp(6, 2)),
        ((6,),),
        (2,),
        where=constraints.positive,
    ),
    Case(
        "LogNormal",
        lambda: posteriors.LogNormal(mlp(6, 4)),
        ((6,),),
        (2,),
        where=constraints.positive,
    ),
    Case("Gamma", lambda: posteriors.Gamma(mlp(6, 4)), ((6,),), (2,), where=constraints.positive),
    Case("WrappedNormal", lambda: posteriors.WrappedNormal(mlp(6, 4)), ((6,),), (2,), where=CIRCLE),
]

REAL = {
    "grid": torch.linspace(-60, 60, 60001),
    "off": (float("nan"), float("inf")),
    "continuous": True,
}
LEVELS = {"grid": torch.arange(4.0), "off": (-1, 4, 0.5, float("nan"))}
LIKELIHOODS = [
    LikelihoodCase(
        "Bernoulli",
        lambda: likelihoods.Bernoulli(mlp(2, 6)),
        ((2,),),
        (6,),
        single=lambda: likelihoods.Bernoulli(nn.Linear(2, 1)),
        grid=torch.arange(2.0),
        off=(0.5, -1, 2, float("nan")),
    ),
    LikelihoodCase(
        "Bernoulli, c",
        lambda: likelihoods.Bernoulli(mlp(2, 6, 3)),
        ((2,), (3,)),
        (6,),
        single=lambda: likelihoods.Bernoulli(mlp(2, 1, 3)),
        grid=torch.arange(2.0),
        off=(0.5, -1, 2, float("nan")),
    ),
    LikelihoodCase(
        "Bernoulli, images, c",
        lambda: likelihoods.Bernoulli(nets.ConvDecoder(2, (1, 5, 3), (3, 2), nn.Tanh, context=3)),
        ((2,), (3,)),
        (1, 5, 3),
        single=lambda: likelihoods.Bernoulli(nets.MLP(2, [], (1, 1, 1), context=3)),
        grid=torch.arange(2.0),
        off=(0.5, -1, 2, float("inf")),
    ),
    LikelihoodCase(
        "ContinuousBernoulli",
        lambda: likelihoods.ContinuousBernoulli(mlp(2, 6)),
        ((2,),),
        (6,),
        single=lambda: likelihoods.ContinuousBernoulli(nn.Linear(2, 1)),
        grid=torch.linspace(0, 1, 1001),
        off=(1.5, -0.1, float("nan")),
        continuous=True,
    ),
    LikelihoodCase(
        "Gaussian",
        lambda: likelihoods.Gaussian(mlp(2, 6), sigma=0.5),
        ((2,),),
        (6,),
        single=lambda: likelihoods.Gaussian(nn.Linear(2, 1), sigma=0.5),
        **REAL,
    ),
    LikelihoodCase(
        "Gaussian, learned",
        lambda: likelihoods.Gaussian(mlp(2, 6), learned=True),
        ((2,),),
        (6,),
        single=lambda: likelihoods.Gaussian(nn.Linear(2, 1), learned=True),
        **REAL,
    ),
    LikelihoodCase(
        "Gaussian, one sigma for each value",
        lambda: likelihoods.Gaussian(mlp(2, 6), learned=True, separate=True, floor=0.1),
        ((2,),),
        (6,),
        single=lambda: likelihoods.Gaussian(nets.MLP(2, [], 1), learned=True, separate=True),
        **REAL,
    ),
    LikelihoodCase(
        "HeteroscedasticGaussian, images",
        lambda: likelihoods.HeteroscedasticGaussian(conv_decoder((4, 5, 3))),
        ((2,),),
        (2, 5, 3),
        single=lambda: likelihoods.HeteroscedasticGaussian(nn.Linear(2, 2), floor=0.1),
        **REAL,
    ),
    LikelihoodCase(
        "Binomial",
        lambda: likelihoods.Binomial(mlp(2, 6), total_count=16),
        ((2,),),
        (6,),
        single=lambda: likelihoods.Binomial(nn.Linear(2, 1), total_count=16),
        grid=torch.arange(17.0),
        off=(17, -1, 0.5, float("nan")),
    ),
    LikelihoodCase(
        "Poisson",
        lambda: likelihoods.Poisson(mlp(2, 6)),
        ((2,),),
        (6,),
        single=lambda: likelihoods.Poisson(nn.Linear(2, 1)),
        grid=torch.arange(200.0),
        off=(-1, 0.5, float("inf")),
    ),
    LikelihoodCase(
        "NegativeBinomial",
        lambda: likelihoods.NegativeBinomial(mlp(2, 6)),
        ((2,),),
        (6,),
        single=lambda: likelihoods.NegativeBinomial(nets.MLP(2, [], 1)),
        grid=torch.arange(400.0),
        off=(-1, 0.5, float("inf")),
    ),
    LikelihoodCase(
        "DiscretizedLogistic, images",
        lambda: likelihoods.DiscretizedLogistic(conv_decoder((2, 5, 3)), levels=4),
        ((2,),),
        (1, 5, 3),
        single=lambda: likelihoods.DiscretizedLogistic(nn.Linear(2, 2), levels=4),
        **LEVELS,
    ),
    LikelihoodCase(
        "Categorical, images",
        lambda: likelihoods.Categorical(conv_decoder((4 * 2, 5, 3)), levels=4),
        ((2,),),
        (2, 5, 3),
        single=lambda: likelihoods.Categorical(nn.Linear(2, 4), levels=4),
        **LEVELS,
    ),
]

COUNTS = {
    "grid": torch.arange(4000.0),  # the tail of theta = 0.1 is long
    "off": (-1, 0.5, float("nan")),
}
EXPRESSION = [
    LikelihoodCase(
        "Poisson, genes",
        lambda: expression.Poisson(mlp(2, 5), 6),
        ((2,), (1,)),
        (6,),
        single=lambda: expression.Poisson(mlp(2, 5), 1),
        **COUNTS,
    ),
    LikelihoodCase(
        "NegativeBinomial, genes",
        lambda: expression.NegativeBinomial(mlp(2, 5), 6),
        ((2,), (1,)),
        (6,),
        single=lambda: expression.NegativeBinomial(mlp(2, 5), 1),
        **COUNTS,
    ),
    LikelihoodCase(
        "ZeroInflated, genes",
        lambda: expression.ZeroInflated(mlp(2, 5), 6),
        ((2,), (1,)),
        (6,),
        single=lambda: expression.ZeroInflated(mlp(2, 5), 1),
        **COUNTS,
    ),
    LikelihoodCase(
        "ZeroInflated, theta by batch, c",
        lambda: expression.ZeroInflated(mlp(2, 5, 3), 6, expression.PER_BATCH, batches=3),
        ((2,), (1,), (3,)),
        (6,),
        single=lambda: expression.ZeroInflated(mlp(2, 5, 3), 1, expression.PER_BATCH, batches=3),
        **COUNTS,
    ),
    LikelihoodCase(
        "ZeroInflated, theta by label, c",
        lambda: expression.ZeroInflated(mlp(2, 5, 1), 6, expression.PER_LABEL, labels=2),
        ((2,), (1,), (3,)),
        (6,),
        single=lambda: expression.ZeroInflated(mlp(2, 5, 1), 1, expression.PER_LABEL, labels=2),
        **COUNTS,
    ),
    LikelihoodCase(
        "NegativeBinomial, theta by cell",
        lambda: expression.NegativeBinomial(mlp(2, 5), 6, expression.PER_CELL),
        ((2,), (1,)),
        (6,),
        single=lambda: expression.NegativeBinomial(mlp(2, 5), 1, expression.PER_CELL),
        **COUNTS,
    ),
]
LIKELIHOODS += EXPRESSION

NETS = [
    Case("MLP", lambda: mlp(5, 3), ((5,),), (3,)),
    Case("MLP, linear", lambda: nets.MLP(5, [], 3), ((5,),), (3,)),
    Case("MLP, images, c", lambda: mlp((2, 3, 4), (1, 2, 3), 3), ((2, 3, 4), (3,)), (1, 2, 3)),
    Case("PlusLinear, c", lambda: nets.PlusLinear(mlp((1, 5), (3, 1), 2)), ((1, 5), (2,)), (3, 1)),
    Case("ResidualMLP", lambda: nets.ResidualMLP(5, 4, 3, activation=nn.Tanh), ((5,),), (3,)),
    Case("ResidualMLP, c", lambda: nets.ResidualMLP(5, 4, (1, 3), context=2), ((5,), (2,)), (1, 3)),
    Case(
        "ConvEncoder", lambda: nets.ConvEncoder((2, 5, 3), 3, (3, 2), nn.Tanh), ((2, 5, 3),), (3,)
    ),
    Case(
        "ConvEncoder, c",
        lambda: nets.ConvEncoder((2, 5, 3), 3, (3, 2), nn.Tanh, 4),
        ((2, 5, 3), (4,)),
        (3,),
    ),
    Case(
        "ConvEncoder, code",
        lambda: nets.ConvEncoder((2, 5, 3), None, (3, 2), nn.Tanh),
        ((2, 5, 3),),
        (4,),
    ),
    Case(
        "MapDecoder",
        lambda: nets.MapDecoder(2, (2, 1), (2, 5, 3), (3, 2), nn.Tanh),
        ((4,),),
        (2, 5, 3),
    ),
    Case(
        "MapDecoder, c",
        lambda: nets.MapDecoder(2, 2, (1, 5, 3), (3, 2), nn.Tanh, context=3),
        ((8,), (3,)),
        (1, 5, 3),
    ),
    Case(
        "CoordinateDecoder",
        lambda: nets.CoordinateDecoder(2, (2, 5, 3), [6], frequencies=3),
        ((2,), (5, 3, 2)),
        (2, 5, 3),
    ),
    Case(
        "CoordinateDecoder, c",
        lambda: nets.CoordinateDecoder(2, (1, 5, 3), [6, 5], context=3),
        ((2,), (5, 3, 2), (3,)),
        (1, 5, 3),
    ),
    Case(
        "InterpolatedImage",
        lambda: nets.InterpolatedImage(nets.MLP(2, [6], (2, 5, 3)), (2, 5, 3)),
        ((2,), (5, 3, 2)),
        (2, 5, 3),
    ),
    Case("ConvDecoder", lambda: conv_decoder((2, 5, 3)), ((2,),), (2, 5, 3)),
    Case(
        "ConvDecoder, c",
        lambda: nets.ConvDecoder(2, (2, 5, 3), (3, 2), nn.Tanh, 4),
        ((2,), (4,)),
        (2, 5, 3),
    ),
    Case(
        "ConvDecoder, code",
        lambda: nets.ConvDecoder(None, (2, 5, 3), (3, 2), nn.Tanh),
        ((4,),),
        (2, 5, 3),
    ),
    Case("WithoutContext", lambda: nets.WithoutContext(mlp(5, 3)), ((5,), (4,)), (3,)),
    Case("Blocks", lambda: nets.Blocks(5, [4, 6], 3), ((5,),), (3,)),
    Case("Blocks, c", lambda: nets.Blocks(5, [4], context=2), ((5,), (2,)), (4,)),
    Case("AnyLeading", batch_norm, ((5,),), (3,)),
]

if find_spec("zuko"):
    PRIORS += [
        Case("NeuralSplineFlow", lambda: priors.NeuralSplineFlow(2, **SPLINES), (), (2,)),
        Case(
            "NeuralSplineFlow, coupling, permuted, c",
            lambda: priors.NeuralSplineFlow(2, context=3, coupling=True, seed=1, **SPLINES),
            ((3,),),
            (2,),
        ),
    ]
    POSTERIORS += [
        Case("NeuralSplineFlow", lambda: spline_posterior(), ((6,),), (2,)),
    ]

PARTS = [*PRIORS, *POSTERIORS, *LIKELIHOODS]
