"""Amortized posteriors q(z | x, c): a network reads x (and c) and outputs the parameters.

DiagonalNormal, FullRankNormal, LowRankNormal     N(mu(x), Sigma(x)), with a covariance that is
                                                  diagonal, full, or diagonal plus low rank
IAF                                               inverse autoregressive flow
NeuralSplineFlow                                  flow of monotonic splines; needs zuko
MatrixNormal                                      N maps with a matrix normal each
Mixture                                           mixture of diagonal normals
Laplace, StudentT, Logistic, Cauchy               location and scale families
Exponential, LogNormal, Gamma                     over positive z
WrappedNormal                                     over angles
LibraryNormal                                     a cell's library size, near its observed total
Point                                             a single point z = f(x), for an autoencoder
Factorized                                        abstract: write the family of one dimension

Draws have shape (*, D) for data with batch dimensions (*), and are differentiable in all
parameters.
"""

from pyrovae.posteriors.circular import WrappedNormal
from pyrovae.posteriors.factorized import (
    Cauchy,
    Exponential,
    Factorized,
    Gamma,
    Laplace,
    Logistic,
    LogNormal,
    StudentT,
)
from pyrovae.posteriors.gaussian import DiagonalNormal, FullRankNormal, LowRankNormal, Point
from pyrovae.posteriors.iaf import IAF
from pyrovae.posteriors.library import LibraryNormal
from pyrovae.posteriors.matrix_normal import MatrixNormal
from pyrovae.posteriors.mixture import Mixture
from pyrovae.posteriors.neural_spline import NeuralSplineFlow

__all__ = [
    "IAF",
    "Cauchy",
    "DiagonalNormal",
    "Exponential",
    "Factorized",
    "FullRankNormal",
    "Gamma",
    "Laplace",
    "LibraryNormal",
    "LogNormal",
    "Logistic",
    "LowRankNormal",
    "MatrixNormal",
    "Mixture",
    "NeuralSplineFlow",
    "Point",
    "StudentT",
    "WrappedNormal",
]
