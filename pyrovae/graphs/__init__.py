"""Graphs: which sample sites there are. Each file holds one, with its own readable `model` and `guide`."""

from pyrovae.graphs.bayesian import BayesianVAE
from pyrovae.graphs.count import CountVAE, observed_library
from pyrovae.graphs.denoising import Denoising, GaussianNoise, MaskingNoise
from pyrovae.graphs.hierarchical import HierarchicalVAE
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
    "MaskingNoise",
    "count_vae",
    "observed_library",
]
