"""A mixture of diagonal normals whose draws are differentiable in all its parameters.

q(z) = sum_k w_k N(z; mu_k, diag sigma_k^2)
F_i = sum_k w_ki Phi((z_i - mu_ki) / sigma_ki)           P(z_i or less | z_1 .. z_{i-1})
      w_ki ~ w_k prod_{j<i} N(z_j; mu_kj, sigma_kj^2)
(I + A) dz = -(1 / p) dF                                 p_i = dF_i / dz_i
      A_ij = (1 / p_i) dF_i / dz_j for j < i

Each F_i of a draw is uniform whatever the parameters are. Holding it fixed gives the derivative of
z: implicit gradients (Figurnov et al. 2018, eq. 5), one dimension after the other (Graves 2016).
"""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.special import ndtr

__all__ = ["PathwiseMixture"]


class PathwiseMixture(dist.MixtureOfDiagNormals):
    """Pyro's mixture with a mean, and with correct gradients of its draws in the weights' logits.

    Pyro's own gradient in the logits is not that of the expectation: it moves mass along the line
    between two means as if both components were at 0 across that line and had standard deviation 1.
    Nor can Pyro's class draw a sample shape from a batch.

    Args:
        locs: mu, with shape (*, K, D).
        coord_scale: sigma, with shape (*, K, D).
        component_logits: of the weights, with shape (*, K).

    Example:
        >>> q = PathwiseMixture(torch.zeros(3, 2), torch.ones(3, 2), torch.zeros(3))
        >>> q.rsample((4,)).shape
        torch.Size([4, 2])
    """

    @property
    def mean(self) -> Tensor:
        """E[z] = sum_k w_k mu_k, with shape (*, D)."""
        return (self.probs[..., None] * self.locs).sum(-2)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw k ~ w and z ~ N(mu_k, diag sigma_k^2), with shape (*sample_shape, *, D)."""
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            k = self.categorical.sample(sample_shape)[..., None, None]
            k = k.expand(*shape[:-1], 1, shape[-1])
            every = (t.expand(*shape[:-1], *t.shape[-2:]) for t in (self.locs, self.coord_scale))
            mu, sigma = (t.gather(-2, k).squeeze(-2) for t in every)
            return torch.normal(mu, sigma)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw z, with shape (*sample_shape, *, D), differentiable in every parameter."""
        z = self.sample(sample_shape)
        e = (z.unsqueeze(-2) - self.locs) / self.coord_scale  # (..., K, D)
        log_q = -0.5 * e.square() - self.coord_scale.log()  # of each factor, up to a constant
        w = (self.categorical.logits[..., None] + log_q.cumsum(-1) - log_q).softmax(-2)
        phi = ndtr(e)
        f = (w * phi).sum(-2)  # (..., D)
        with torch.no_grad():
            p = (w * log_q.exp()).sum(-2) * (0.5 / torch.pi) ** 0.5
            a = (w * (phi - f.unsqueeze(-2)) / p.unsqueeze(-2)).mT @ (-e / self.coord_scale)
            lower = a.tril(-1) + torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        # Zero in value: only its gradient, (I + A)^-1 dF / p, counts.
        step = torch.linalg.solve_triangular(lower, ((f - f.detach()) / p)[..., None], upper=False)
        return z - step.squeeze(-1)
