"""What a fitted graph is for: embed, decode, reconstruct, generate, interpolate."""

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
