"""Variational autoencoders as probabilistic programs, in Pyro.

A prior p(z | c), a posterior q(z | x, c) and a likelihood p(x | z, c) make a graph, a pair of Pyro
programs `model` and `guide`; `fit` trains them by stochastic variational inference.
"""

from pyrovae import graphs, likelihoods, nets, objectives, posteriors, priors, tasks
from pyrovae.command.report import plots
from pyrovae.data import batches, datasets
from pyrovae.distributions import conditional
from pyrovae.evaluation import (
    Bounds,
    Evidence,
    EvidenceWarning,
    LatentSummary,
    Terms,
    active_units,
    annealed_log_evidence,
    baselines,
    bidirectional_bounds,
    elbo,
    kl_per_dimension,
    latent_summary,
    log_evidence,
    mutual_information,
    naive_log_evidence,
    realism,
    reciprocal_log_evidence,
    scores,
)
from pyrovae.files import FileError, History, inspect, load, save
from pyrovae.graphs import VAE, BayesianVAE, CountVAE, Denoising, HierarchicalVAE, Missing, PoseVAE
from pyrovae.likelihoods import expression
from pyrovae.nets import counts as blocks
from pyrovae.tasks import (
    RestorationWarning,
    Restored,
    anomaly_score,
    decode,
    denoise,
    embed,
    generate,
    hidden_log_prob,
    impute,
    interpolate,
    manifold,
    reconstruct,
    super_resolve,
)
from pyrovae.training import TrainingError, fit, hooks

__version__ = "0.2.0"

__all__ = [
    "VAE",
    "BayesianVAE",
    "Bounds",
    "CountVAE",
    "Denoising",
    "Evidence",
    "EvidenceWarning",
    "FileError",
    "HierarchicalVAE",
    "History",
    "LatentSummary",
    "Missing",
    "PoseVAE",
    "RestorationWarning",
    "Restored",
    "Terms",
    "TrainingError",
    "active_units",
    "annealed_log_evidence",
    "anomaly_score",
    "baselines",
    "batches",
    "bidirectional_bounds",
    "blocks",
    "conditional",
    "datasets",
    "decode",
    "denoise",
    "elbo",
    "embed",
    "expression",
    "fit",
    "generate",
    "graphs",
    "hidden_log_prob",
    "hooks",
    "impute",
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
    "plots",
    "posteriors",
    "priors",
    "realism",
    "reciprocal_log_evidence",
    "reconstruct",
    "save",
    "scores",
    "super_resolve",
    "tasks",
]
