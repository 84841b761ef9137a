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

from pyrovae.distributions.angles import CIRCLE, CircularUniform, CircularVonMises, WrappedNormal
from pyrovae.distributions.bernoulli import ContinuousBernoulli, IndependentBernoulli
from pyrovae.distributions.counts import NegativeBinomial, ZeroInflatedNegativeBinomial
from pyrovae.distributions.discrete import DiscretizedLogistic, Levels, LogPoisson
from pyrovae.distributions.gaussian import cholesky_factor
from pyrovae.distributions.latent import Improper, UnitNormal
from pyrovae.distributions.mixture import MixtureOf
from pyrovae.distributions.stacked import Stacked

__all__ = [
    "CIRCLE",
    "CircularUniform",
    "CircularVonMises",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Improper",
    "IndependentBernoulli",
    "Levels",
    "LogPoisson",
    "MixtureOf",
    "NegativeBinomial",
    "Stacked",
    "UnitNormal",
    "WrappedNormal",
    "ZeroInflatedNegativeBinomial",
    "cholesky_factor",
]
