"""Gaussian mixture prior: p(z) = sum_k w_k N(z; mu_k, Sigma_k).

p(k | z) = w_k N(z; mu_k, Sigma_k) / p(z)      responsibility of component k (Bishop 2006, eq. 9.13)
"""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.distributions import Conditional, SameFamilyMixture, cholesky_factor

__all__ = ["Mixture", "register_logits"]


class Mixture(Conditional):
    """A mixture of K normals, learned with the model. It does not depend on the context c.

    It starts with the moments of N(0, I): means drawn from N(0, r / (1 + r) I), covariances
    Sigma_k = I / (1 + r), with r such that two means lie `spread` standard deviations of a
    component apart, in any number of dimensions. Components then overlap enough to share
    observations and differ enough to specialize. (Means of variance 1 lie sqrt(2 D) = 9 apart at
    D = 40, and each observation would start in a component of its own.)

    Args:
        d: number of latents D.
        components: K.
        full: give each component a full covariance, by its Cholesky factor; otherwise a diagonal
            one.
        learned_weights: learn w; False keeps w_k = 1 / K.
        spread: root mean square distance of two means at the start, in standard deviations of a
            component.
        seed: of the initial means, drawn from a random stream of their own.

    Raises:
        ValueError: if `d` or `components` is below 1, or `spread` negative.

    Example:
        >>> Mixture(2, components=10).responsibilities(torch.zeros(5, 2)).shape
        torch.Size([5, 10])
    """

    logits: Tensor

    def __init__(
        self,
        d: int,
        components: int,
        *,
        full: bool = False,
        learned_weights: bool = True,
        spread: float = 4.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if d < 1 or components < 1 or spread < 0:
            raise ValueError(
                f"Mixture: d is {d}, components {components}, spread {spread}; expected at least "
                "1, 1 and 0"
            )
        self.d, self.components, self.full = d, components, full
        self.learned_weights, self.spread, self.seed = learned_weights, spread, seed
        r = spread**2 / (2 * d)  # means of variance r s^2 lie sqrt(2 r D) s apart
        start = torch.randn(components, d, generator=torch.Generator().manual_seed(seed))
        self.mu = nn.Parameter(math.sqrt(r / (1 + r)) * start)
        # Of a full covariance: the logarithms of the Cholesky factors' diagonals.
        self.log_sigma = nn.Parameter(torch.full((components, d), -0.5 * math.log1p(r)))
        if full:
            self.lower = nn.Parameter(torch.zeros(components, d * (d - 1) // 2))
        register_logits(self, components, learned_weights)

    def forward(self, *c: Tensor) -> SameFamilyMixture:
        """Return p(z), batch shape (), event shape (D,)."""
        if self.full:
            tril = cholesky_factor(self.log_sigma, self.lower)
            return SameFamilyMixture(self.logits, dist.MultivariateNormal(self.mu, scale_tril=tril))
        normals = dist.Normal(self.mu, self.log_sigma.exp()).to_event(1)
        return SameFamilyMixture(self.logits, normals)

    def responsibilities(self, z: Tensor) -> Tensor:
        """Return p(k | z), the posterior probability of each component, with shape (*, K).

        Args:
            z: latents, with shape (*, D).
        """
        return self().log_joint(z).softmax(-1)


def register_logits(part: nn.Module, components: int, learned: bool) -> None:
    """Give a mixture's module its `logits` of equal weights, as a parameter or a constant."""
    if learned:
        part.logits = nn.Parameter(torch.zeros(components))
    else:
        part.register_buffer("logits", torch.zeros(components), persistent=False)
