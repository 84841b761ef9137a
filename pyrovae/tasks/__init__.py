"""What a fitted graph is used for: embed, generate, denoise, impute, find anomalies.

Every task runs the graph's `model` and `guide` under `eval()` and without gradients, and changes no
weights. It serves any graph: `site` names a latent where there are several, `observed` an observed
site (else a dict of all is returned), and `like` gives rows of x to a model that reads them.
"""

from pyrovae.tasks.anomaly import anomaly_score
from pyrovae.tasks.decoding import decode, reconstruct
from pyrovae.tasks.denoising import denoise
from pyrovae.tasks.embedding import embed
from pyrovae.tasks.generating import generate
from pyrovae.tasks.imputing import hidden_log_prob, impute
from pyrovae.tasks.paths import interpolate, linear, manifold, spherical
from pyrovae.tasks.restoring import RestorationWarning, Restored
from pyrovae.tasks.super_resolving import super_resolve

__all__ = [
    "RestorationWarning",
    "Restored",
    "anomaly_score",
    "decode",
    "denoise",
    "embed",
    "generate",
    "hidden_log_prob",
    "impute",
    "interpolate",
    "linear",
    "manifold",
    "reconstruct",
    "spherical",
    "super_resolve",
]
