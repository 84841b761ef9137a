"""Amortized posteriors q(z | x, c): a network reads x (and c) and puts out the parameters of a distribution over z, with shape (*, D).

DiagonalNormal, FullRankNormal, LowRankNormal     N(mu(x), Sigma(x)), its covariance diagonal, full, or diagonal plus low rank
IAF                                               an inverse autoregressive flow of a diagonal normal
Mixture                                           a mixture of diagonal normals
Laplace, StudentT, Logistic                       location and scale (Kingma & Welling 2014, section 2.4)
Exponential, Cauchy                               inverse distribution functions
LogNormal, Gamma                                  composition, and implicit gradients
WrappedNormal                                     a normal wound around the circle, for angles
Point                                             a single point z = f(x), for the autoencoder
"""

from pyrovae.posteriors.circular import WrappedNormal
from pyrovae.posteriors.gaussian import DiagonalNormal, FullRankNormal, LowRankNormal, Point
from pyrovae.posteriors.iaf import IAF
from pyrovae.posteriors.location_scale import (
    Cauchy,
    Exponential,
    Gamma,
    Laplace,
    Logistic,
    LogNormal,
    StudentT,
)
from pyrovae.posteriors.mixture import Mixture

__all__ = [
    "IAF",
    "Cauchy",
    "DiagonalNormal",
    "Exponential",
    "FullRankNormal",
    "Gamma",
    "Laplace",
    "LogNormal",
    "Logistic",
    "LowRankNormal",
    "Mixture",
    "Point",
    "StudentT",
    "WrappedNormal",
]
