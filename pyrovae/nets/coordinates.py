"""A network of coordinates: an image as a function of the place, given z (Bepler et al. 2019).

f(u, z) = net( W_u phi(u) + W_z (z, c) + b ),     u = (right, up), the place of a pixel
phi(u) = u,  or  (sin 2 pi F u, cos 2 pi F u),  F_ij ~ N(0, s^2)      (Tancik et al. 2020, eq. 5)
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyrovae.nets.batching import Activation, Network, checked_activation, concatenated

__all__ = ["CoordinateDecoder"]


class CoordinateDecoder(Network):
    """Fully connected network from z and places to the values of an image at these places.

    Args:
        features_in: features of z; 0 for one image without z.
        shape_out: (C, H, W) of the training images. A likelihood with P parameters per value needs
            P C channels here. Places of another grid give an image of that grid.
        hidden: widths of the hidden layers.
        activation: a class of `torch.nn`, constructed without arguments.
        frequencies: number of random Fourier features, for fine detail; 0 reads the places as they
            are.
        frequency_scale: s, in cycles per unit of u.
        context: total number of features of the further inputs c, concatenated to z.

    Example:
        >>> net = CoordinateDecoder(2, (1, 28, 28), [32, 32])
        >>> places = torch.zeros(5, 14, 20, 2)
        >>> net(torch.zeros(5, 2), places).shape
        torch.Size([5, 1, 14, 20])
    """

    def __init__(
        self,
        features_in: int,
        shape_out: Sequence[int],
        hidden: Sequence[int] = (500, 500),
        activation: Activation = nn.Tanh,
        frequencies: int = 0,
        frequency_scale: float = 1.0,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.features_in, self.shape_out = features_in, tuple(shape_out)
        self.hidden, self.context = list(hidden), context
        self.activation = checked_activation(activation, self)
        self.frequencies, self.frequency_scale = frequencies, frequency_scale
        self.shape_in = (features_in,)
        self.register_buffer("waves", frequency_scale * torch.randn(2, frequencies))
        self.of_place = nn.Linear(2 * frequencies or 2, hidden[0])
        of_latent = features_in + context
        self.of_latent = nn.Linear(of_latent, hidden[0], bias=False) if of_latent else None
        layers: list[nn.Module] = [activation()]
        for before, after in pairwise(hidden):
            layers += [nn.Linear(before, after), activation()]
        layers += [nn.Linear(hidden[-1], shape_out[0])]
        self.layers = nn.Sequential(*layers)

    waves: Tensor

    def forward(self, z: Tensor, places: Tensor, *c: Tensor) -> Tensor:
        """Return f with shape (*, C, H, W), for z (*, D), places (*, H, W, 2) and c (*, C_i).

        Raises:
            ValueError: if z, c or the places have not these features.
        """
        if places.shape[-1] != 2 or places.dim() < 3:
            raise ValueError(
                f"CoordinateDecoder: the places have shape {tuple(places.shape)}, expected "
                "(*, H, W, 2): right and up of every pixel"
            )
        inputs = self.checked([z, *c])
        h = self.of_place(self._features(places.to(self.of_place.weight)))
        if self.of_latent is not None:
            h = h + self.of_latent(concatenated(inputs))[..., None, None, :]
        return self.layers(h).movedim(-1, -3)

    def _features(self, places: Tensor) -> Tensor:
        if not self.frequencies:
            return places
        phase = 2 * math.pi * (places @ self.waves)
        return torch.cat([phase.sin(), phase.cos()], -1)
