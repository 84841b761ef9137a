"""Variational autoencoders as probabilistic programs, in Pyro.

A prior p(z | c), a posterior q(z | x, c) and a likelihood p(x | z, c) make a graph; `fit` is Pyro's SVI over its `model` and
`guide`.
"""

from pyrovae import batches, blocks, conditional, expression, graphs, likelihoods, nets, objectives, posteriors, priors, tasks
from pyrovae.annealing import Bounds, annealed_log_evidence, bidirectional_bounds
from pyrovae.evaluate import Evidence, Terms, elbo, log_evidence, naive_log_evidence
from pyrovae.files import inspect, load, save
from pyrovae.fit import TrainingError, fit
from pyrovae.graphs import VAE, BayesianVAE, CountVAE, Denoising, HierarchicalVAE
from pyrovae.history import History
from pyrovae.latents import LatentSummary, active_units, kl_per_dimension, latent_summary, mutual_information
from pyrovae.reciprocal import reciprocal_log_evidence
from pyrovae.tasks import decode, embed, generate, interpolate, manifold, reconstruct

__version__ = "0.1.0"

__all__ = [
    "VAE",
    "BayesianVAE",
    "Bounds",
    "CountVAE",
    "Denoising",
    "Evidence",
    "HierarchicalVAE",
    "History",
    "LatentSummary",
    "Terms",
    "TrainingError",
    "active_units",
    "annealed_log_evidence",
    "batches",
    "bidirectional_bounds",
    "blocks",
    "conditional",
    "decode",
    "elbo",
    "embed",
    "expression",
    "fit",
    "generate",
    "graphs",
    "inspect",
    "interpolate",
    "kl_per_dimension",
    "latent_summary",
    "likelihoods",
    "load",
    "log_evidence",
    "manifold",
    "mutual_information",
    "naive_log_evidence",
    "nets",
    "objectives",
    "posteriors",
    "priors",
    "reciprocal_log_evidence",
    "reconstruct",
    "save",
    "tasks",
]
