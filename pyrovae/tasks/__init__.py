"""What a fitted graph is used for: embed, decode, reconstruct, generate, interpolate.

Every task runs the graph's `model` and `guide` under `eval()` and without gradients, and changes no
weights. The observed site of the model is "x"; the latent site is "z" unless `site` names another.
"""

from pyrovae.tasks.decoding import (
    decode,
    embed,
    generate,
    interpolate,
    linear,
    manifold,
    reconstruct,
    spherical,
)

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
