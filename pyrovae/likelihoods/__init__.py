"""Likelihoods p(x | z, c): a network reads z (and c) and puts out the parameters of a distribution over x.

Bernoulli                  x in {0, 1}             logit l
ContinuousBernoulli        x in [0, 1]             logit l
Gaussian                   x real                  mean mu
HeteroscedasticGaussian    x real                  mean mu, log sigma
Binomial                   x in {0, ..., n}        logit l
Poisson                    x in {0, 1, 2, ...}     log rate r
DiscretizedLogistic        x in {0, ..., L - 1}    location m, log scale s
Categorical                x in {0, ..., L - 1}    L logits

Several parameters of each value come as consecutive blocks along the first event axis of the network's output:
(mu_1, ..., mu_D, log sigma_1, ..., log sigma_D) for vectors, blocks of channels for images.
"""

from pyrovae.likelihoods import expression
from pyrovae.likelihoods.base import Likelihood, suggest_likelihoods
from pyrovae.likelihoods.continuous import ContinuousBernoulli, Gaussian, HeteroscedasticGaussian
from pyrovae.likelihoods.discrete import (
    Bernoulli,
    Binomial,
    Categorical,
    DiscretizedLogistic,
    Poisson,
)
from pyrovae.likelihoods.expression import Dispersion, Expression

__all__ = [
    "Bernoulli",
    "Binomial",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Dispersion",
    "Expression",
    "Gaussian",
    "HeteroscedasticGaussian",
    "Likelihood",
    "Poisson",
    "expression",
    "suggest_likelihoods",
]
