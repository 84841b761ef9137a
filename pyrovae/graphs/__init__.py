"""A graph is a pair of Pyro programs, `model` and `guide`, with the modules that they use.

VAE               z -> x
HierarchicalVAE   z2 -> z1 -> x
CountVAE          z, l -> x, counts with a library size l
BayesianVAE       z, w -> x, where w are the weights of the likelihood's network
PoseVAE           z, theta, dx, s -> x, images with a pose
Denoising         any graph, its guide given a corrupted x
Missing           any graph, of an x with missing values

All take a context c. Each file defines one set of sample sites, by its own `model` and `guide`. The
rest of the library requires of a graph only these two methods, called as (x, *c).
"""

from pyrovae.graphs.bayesian import BayesianVAE
from pyrovae.graphs.count import CountVAE, observed_library
from pyrovae.graphs.denoising import Denoising, GaussianNoise, MaskingNoise, SaltAndPepperNoise
from pyrovae.graphs.hierarchical import HierarchicalVAE
from pyrovae.graphs.labelled import LabelledCountVAE
from pyrovae.graphs.missing import Missing, fill_missing
from pyrovae.graphs.places import aligned, pixel_grid, posed_places
from pyrovae.graphs.pose import PoseVAE
from pyrovae.graphs.scvi import Encoder, count_vae
from pyrovae.graphs.vae import VAE

__all__ = [
    "VAE",
    "BayesianVAE",
    "CountVAE",
    "Denoising",
    "Encoder",
    "GaussianNoise",
    "HierarchicalVAE",
    "LabelledCountVAE",
    "MaskingNoise",
    "Missing",
    "PoseVAE",
    "SaltAndPepperNoise",
    "aligned",
    "count_vae",
    "fill_missing",
    "observed_library",
    "pixel_grid",
    "posed_places",
]
