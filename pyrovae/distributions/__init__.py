"""Densities that Pyro lacks, or computes slowly or inaccurately, and what the parts are made of.

IndependentBernoulli   log p(x | l) = sum_j x_j l_j - softplus(l_j)              x_j in {0, 1}
ContinuousBernoulli    log p(x | l) = x l - log Z(l),  Z(l) = (e^l - 1) / l      x in [0, 1]
LogPoisson             log p(x | r) = x r - e^r - log x!                         x in {0, 1, 2, ...}
OrdinalCategorical     p(x | l) = softmax(l)_x                                   x in 0 .. L - 1
DiscretizedLogistic    p(x | m, s) = sigmoid(b) - sigmoid(a), the mass of        x in 0 .. L - 1
                       a logistic density in the bin of x
NegativeBinomial       Var x = mu + mu^2 / theta                                 x in {0, 1, 2, ...}
ZeroInflatedNegativeBinomial                                                     x in {0, 1, 2, ...}
UnitNormal             p(z) = N(0, 1)                                            z in R
ImproperUniform        p(z) = 1                                                  z in R^D
CircularUniform        p(theta) = 1 / (2 pi)                                     an angle
CircularVonMises       p(theta) = exp(kappa cos(theta - mu)) / (2 pi I_0(kappa)) an angle
WrappedNormal          q(theta) = sum_k N(theta + 2 pi k; mu, sigma^2)           an angle
MatrixNormal           F = M + A E B^T, E_ij ~ N(0, 1)                           F in R^(n x m)
MatrixMaps             N of them, as one vector                                  R^(N n m)
SameFamilyMixture      p(z) = sum_k w_k p_k(z)                                   any
PathwiseMixture        q(z) = sum_k w_k N(z; mu_k, diag sigma_k^2)               z in R^D
Stacked                p(x)_k = p_k(x_k), k = 1 .. K                             any
BlockSums              p(S), p(x | S) of the sums S over squares of an image     any
GaussianNoise          y = x + sigma eps                                         any
SaltAndPepperNoise     y = x, or one of two values                               any
MaskingNoise           y = x, or 0                                               any

`AutoregressiveFlow` is a transform, `AutoregressiveNetworks` its networks, `NeuralSplines` those of
a neural spline flow, `kl_divergence` KL(q || p) in closed form; `Conditional` is what all parts of
a model are, and `from_torch` makes one of a distribution of torch's or zuko's.
"""

from pyrovae.distributions.arguments import check_network, whole_number
from pyrovae.distributions.autoregressive import AutoregressiveFlow
from pyrovae.distributions.bernoulli import ContinuousBernoulli, IndependentBernoulli
from pyrovae.distributions.block_sums import BlockSums
from pyrovae.distributions.circular import (
    CIRCLE,
    CircularUniform,
    CircularVonMises,
    WrappedNormal,
    is_circle,
    wrap,
)
from pyrovae.distributions.conditional import Conditional, FromTorch, Standardized, from_torch
from pyrovae.distributions.discrete import DiscretizedLogistic, LogPoisson, OrdinalCategorical
from pyrovae.distributions.kl import kl_divergence
from pyrovae.distributions.levels import expected, numbers_per_value
from pyrovae.distributions.masked_networks import AutoregressiveNetworks, step_orders
from pyrovae.distributions.matrix_normal import MatrixMaps, MatrixNormal
from pyrovae.distributions.mixture import SameFamilyMixture
from pyrovae.distributions.negative_binomial import NegativeBinomial, ZeroInflatedNegativeBinomial
from pyrovae.distributions.negative_binomial_log_prob import is_traced
from pyrovae.distributions.neural_spline import NeuralSplines
from pyrovae.distributions.noise import GaussianNoise, MaskingNoise, Noise, SaltAndPepperNoise
from pyrovae.distributions.normal import ImproperUniform, UnitNormal
from pyrovae.distributions.parameters import (
    checked_output,
    cholesky_factor,
    chunk_parameters,
    split_parameters,
)
from pyrovae.distributions.pathwise_mixture import PathwiseMixture
from pyrovae.distributions.stacked import Stacked
from pyrovae.distributions.sums import summed, widened

__all__ = [
    "CIRCLE",
    "AutoregressiveFlow",
    "AutoregressiveNetworks",
    "BlockSums",
    "CircularUniform",
    "CircularVonMises",
    "Conditional",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "FromTorch",
    "GaussianNoise",
    "ImproperUniform",
    "IndependentBernoulli",
    "LogPoisson",
    "MaskingNoise",
    "MatrixMaps",
    "MatrixNormal",
    "NegativeBinomial",
    "NeuralSplines",
    "Noise",
    "OrdinalCategorical",
    "PathwiseMixture",
    "SaltAndPepperNoise",
    "SameFamilyMixture",
    "Stacked",
    "Standardized",
    "UnitNormal",
    "WrappedNormal",
    "ZeroInflatedNegativeBinomial",
    "check_network",
    "checked_output",
    "cholesky_factor",
    "chunk_parameters",
    "expected",
    "from_torch",
    "is_circle",
    "is_traced",
    "kl_divergence",
    "numbers_per_value",
    "split_parameters",
    "step_orders",
    "summed",
    "whole_number",
    "widened",
    "wrap",
]
