"""Priors p(z | c) over the latent z, with shape (*, D).

StandardNormal            N(0, I)
Flat                      1, of an autoencoder, which has none
Learned                   N(mu(c), diag sigma(c)^2), of a conditional model
Mixture                   a mixture of normals, diagonal or full
Vamp                      a mixture of the model's own posteriors, at pseudo-inputs
Flow                      a normal bent by an autoregressive flow or by coupling layers
VonMises, UniformAngle    densities over angles
"""

from pyrovae.priors.circular import UniformAngle, VonMises
from pyrovae.priors.flows import Flow
from pyrovae.priors.library import LibraryNormal
from pyrovae.priors.mixtures import Mixture, Vamp
from pyrovae.priors.normal import Flat, Learned, StandardNormal

__all__ = [
    "Flat",
    "Flow",
    "Learned",
    "LibraryNormal",
    "Mixture",
    "StandardNormal",
    "UniformAngle",
    "Vamp",
    "VonMises",
]
