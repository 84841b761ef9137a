"""Likelihoods p(x | z, c): a network maps z (and c) to the parameters of a distribution over x.

Bernoulli                  x in {0, 1}             logit l
ContinuousBernoulli        x in [0, 1]             logit l
Gaussian                   x real                  mean mu
HeteroscedasticGaussian    x real                  mean mu, log sigma
Binomial                   x in {0, ..., n}        logit l
Poisson                    x in {0, 1, 2, ...}     log rate r
NegativeBinomial           x in {0, 1, 2, ...}     log mean r
DiscretizedLogistic        x in {0, ..., L - 1}    location m, log scale s
Categorical                x in {0, ..., L - 1}    L logits

The parameters of all values are stacked along the first event dimension of the network's output:
(mu_1, ..., mu_D, log sigma_1, ..., log sigma_D) for vectors, groups of channels for images. The
likelihoods of counts of genes are in `expression`.
"""

from pyrovae.likelihoods import expression
from pyrovae.likelihoods.base import Likelihood, suggest_likelihoods
from pyrovae.likelihoods.continuous import ContinuousBernoulli, Gaussian, HeteroscedasticGaussian
from pyrovae.likelihoods.discrete import (
    Bernoulli,
    Binomial,
    Categorical,
    DiscretizedLogistic,
    NegativeBinomial,
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
    "NegativeBinomial",
    "Poisson",
    "expression",
    "suggest_likelihoods",
]
