"""Priors p(z | c) over the latent z, with shape (*, D).

StandardNormal            N(0, I)
CentredNormal             N(0, s^2 I)
Flat                      1, improper, for an autoencoder
ConditionalNormal         N(mu(c), diag sigma(c)^2), for a conditional model
Mixture                   a mixture of normals with diagonal or full covariances
Vamp                      a mixture of the model's own posteriors, at pseudo-inputs
Flow                      a normalizing flow, autoregressive or of coupling layers
NeuralSplineFlow          a flow of monotonic splines, given c on request; needs zuko
VonMises, UniformAngle    densities over angles
LibraryNormal             a fixed normal per batch, over the log library size of cells
"""

from pyrovae.priors.circular import UniformAngle, VonMises
from pyrovae.priors.flows import Flow
from pyrovae.priors.library import LibraryNormal
from pyrovae.priors.mixtures import Mixture
from pyrovae.priors.neural_spline import NeuralSplineFlow
from pyrovae.priors.normal import CentredNormal, ConditionalNormal, Flat, StandardNormal
from pyrovae.priors.vamp import Vamp

Learned = ConditionalNormal  # its name in version 0.1.0

__all__ = [
    "CentredNormal",
    "ConditionalNormal",
    "Flat",
    "Flow",
    "Learned",
    "LibraryNormal",
    "Mixture",
    "NeuralSplineFlow",
    "StandardNormal",
    "UniformAngle",
    "Vamp",
    "VonMises",
]
