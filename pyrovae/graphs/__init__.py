"""Graphs: which sample sites there are. Each file holds one, with its own readable `model` and `guide`."""

from pyrovae.graphs.denoising import Denoising, GaussianNoise, MaskingNoise
from pyrovae.graphs.vae import VAE

__all__ = ["VAE", "Denoising", "GaussianNoise", "MaskingNoise"]
