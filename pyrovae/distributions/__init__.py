"""Densities that Pyro lacks or computes slowly or badly, each from the natural parameter that a network puts out.

IndependentBernoulli   log p(x | l) = sum_j x_j l_j - softplus(l_j)                         x_j in {0, 1}
ContinuousBernoulli    log p(x | l) = x l - log Z(l),  Z(l) = (e^l - 1) / l                 x in [0, 1]
LogPoisson             log p(x | r) = x r - e^r - log x!                                    x in {0, 1, 2, ...}
Levels                 p(x | l) = softmax(l)_x                                              x in {0, ..., L - 1}
DiscretizedLogistic    p(x | m, s) = sigmoid(b) - sigmoid(a), the mass of the bin of x      x in {0, ..., L - 1}
NegativeBinomial, ZeroInflatedNegativeBinomial                                              x in {0, 1, 2, ...}
UnitNormal             p(z) = N(0, 1)                                                       z real
Improper               p(z) = 1                                                             z in R^D
CircularUniform        p(theta) = 1 / (2 pi)                                                theta an angle
WrappedNormal          q(theta) = sum_k N(theta + 2 pi k; mu, sigma^2)                      theta an angle
MixtureOf              p(z) = sum_k w_k p_k(z)                                              any
Stacked                p(x)_k = p_k(x_k), k = 1 .. K                                        any
"""

from pyrovae.distributions.autoregressive import Autoregressive, orders
from pyrovae.distributions.bernoulli import ContinuousBernoulli, IndependentBernoulli
from pyrovae.distributions.circular import CIRCLE, CircularUniform, CircularVonMises, WrappedNormal
from pyrovae.distributions.conditional import Conditional, Standardized
from pyrovae.distributions.discrete import DiscretizedLogistic, Levels, LogPoisson
from pyrovae.distributions.kl import cholesky_factor
from pyrovae.distributions.mixture import MixtureOf
from pyrovae.distributions.negative_binomial import NegativeBinomial, ZeroInflatedNegativeBinomial
from pyrovae.distributions.normal import Improper, UnitNormal
from pyrovae.distributions.parameters import chunk_parameters, split_parameters
from pyrovae.distributions.pathwise_mixture import PathwiseMixture
from pyrovae.distributions.stacked import Stacked

__all__ = [
    "CIRCLE",
    "Autoregressive",
    "CircularUniform",
    "CircularVonMises",
    "Conditional",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Improper",
    "IndependentBernoulli",
    "Levels",
    "LogPoisson",
    "MixtureOf",
    "NegativeBinomial",
    "PathwiseMixture",
    "Stacked",
    "Standardized",
    "UnitNormal",
    "WrappedNormal",
    "ZeroInflatedNegativeBinomial",
    "cholesky_factor",
    "chunk_parameters",
    "orders",
    "split_parameters",
]
