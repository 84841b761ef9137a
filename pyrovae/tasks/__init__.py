"""What a fitted graph is used for: embed, decode, reconstruct, generate, interpolate.

Every task runs the graph's `model` and `guide` under `eval()` and without gradients, and changes no
weights. It serves any graph: `site` names a latent where there are several, `observed` an observed
site (else a dict of all is returned), and `like` gives rows of x to a model that reads them.
"""

from pyrovae.tasks.decoding import decode, generate, reconstruct
from pyrovae.tasks.embedding import embed
from pyrovae.tasks.paths import interpolate, linear, manifold, spherical

__all__ = [
    "decode",
    "embed",
    "generate",
    "interpolate",
    "linear",
    "manifold",
    "reconstruct",
    "spherical",
]
