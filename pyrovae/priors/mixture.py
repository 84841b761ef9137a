"""A prior with clusters: p(z) = sum_k w_k N(z; mu_k, Sigma_k).

p(k | z) = w_k N(z; mu_k, Sigma_k) / p(z)      which cluster a code belongs to
"""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.conditional import Conditional
from pyrovae.distributions import MixtureOf

__all__ = ["Mixture"]

_APART = 4.0  # standard deviations of a component between two means, at the start


class Mixture(Conditional):
    """p(z) = sum_k w_k N(z; mu_k, Sigma_k) with learned means and covariances. The context is not looked at.

    It starts with the moments of N(0, I) (mean 0, covariance I on average): means drawn from N(0, r / (1 + r) I) and
    Sigma_k = I / (1 + r) with r = 8 / D, which sets two means four standard deviations apart in any dimension: near enough to
    overlap, far enough to part.

    Args:
        d: number of latents D.
        components: K.
        learned_weights: learn the weights w, which start equal; False keeps them equal.
        full: full covariances Sigma_k = L_k L_k^T; False for diagonal ones.
        seed: of the first means, drawn from a stream of their own.

    Raises:
        ValueError: if `d` or `components` is below 1.

    Example:
        >>> p = Mixture(2, 10)
        >>> p.responsibilities(torch.zeros(5, 2)).shape
        torch.Size([5, 10])
    """

    logits: Tensor

    def __init__(self, d: int, components: int, *, learned_weights: bool = True, full: bool = False, seed: int = 0) -> None:
        super().__init__()
        if d < 1 or components < 1:
            raise ValueError(f"Mixture: d is {d} and components {components}, expected at least 1 of each")
        self.d, self.components, self.learned_weights, self.full, self.seed = d, components, learned_weights, full, seed
        spread = _APART**2 / (2 * d)  # r: two means of variance r are 2 r D apart, squared
        means = torch.randn(components, d, generator=torch.Generator().manual_seed(seed)) * math.sqrt(spread / (1 + spread))
        self.mu = nn.Parameter(means)
        self.log_sigma = nn.Parameter(torch.full((components, d), -0.5 * math.log(1 + spread)))  # of full ones, L's diagonal
        if full and d > 1:
            self.lower = nn.Parameter(torch.zeros(components, d * (d - 1) // 2))
        if learned_weights:
            self.logits = nn.Parameter(torch.zeros(components))
        else:
            self.register_buffer("logits", torch.zeros(components), persistent=False)

    def forward(self, *c: Tensor) -> MixtureOf:
        """Return p(z), batch shape (), event shape (D,)."""
        if not self.full:
            return MixtureOf(self.logits, dist.Normal(self.mu, self.log_sigma.exp()).to_event(1))
        return MixtureOf(self.logits, dist.MultivariateNormal(self.mu, scale_tril=self._tril()))

    def responsibilities(self, z: Tensor, *c: Tensor) -> Tensor:
        """Return p(k | z) with shape (*, K), for z with shape (*, D) (Bishop 2006, eq. 9.13)."""
        return self(*c).log_joint(z).softmax(-1)

    def _tril(self) -> Tensor:
        """Return L, with shape (K, D, D)."""
        tril = torch.diag_embed(self.log_sigma.exp())
        if self.d == 1:
            return tril
        row, column = torch.tril_indices(self.d, self.d, -1, device=tril.device)
        return tril.index_put((torch.arange(self.components, device=tril.device)[:, None], row, column), self.lower)
