"""Evidence of a fitted graph, what its latents hold, and scores of what it restores."""

from pyrovae.evaluation import baselines, realism, scores
from pyrovae.evaluation.annealing import Bounds, annealed_log_evidence, bidirectional_bounds
from pyrovae.evaluation.checking import check_densities, checked_batches
from pyrovae.evaluation.evidence import Evidence, EvidenceWarning
from pyrovae.evaluation.importance import Terms, elbo, log_evidence, naive_log_evidence
from pyrovae.evaluation.latents import (
    LatentSummary,
    active_units,
    kl_per_dimension,
    latent_summary,
    mutual_information,
)
from pyrovae.evaluation.reciprocal import reciprocal_log_evidence

__all__ = [
    "Bounds",
    "Evidence",
    "EvidenceWarning",
    "LatentSummary",
    "Terms",
    "active_units",
    "annealed_log_evidence",
    "baselines",
    "bidirectional_bounds",
    "check_densities",
    "checked_batches",
    "elbo",
    "kl_per_dimension",
    "latent_summary",
    "log_evidence",
    "mutual_information",
    "naive_log_evidence",
    "realism",
    "reciprocal_log_evidence",
    "scores",
]
