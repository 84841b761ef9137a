"""A mixture of K distributions of one family: log p(z) = log sum_k w_k p_k(z).

For diagonal normals that all observations share, the N x K log densities log p_k(z_n) are one
matrix product, much faster than N x K x D differences:

sum_d (z_d - mu_kd)^2 / s_kd^2 = sum_d z_d^2 / s_kd^2 - 2 sum_d z_d mu_kd / s_kd^2 + sum_d mu_kd^2
/ s_kd^2

For full covariances L_k L_k^T they are products with each L_k^-1, faster than N x K triangular
solves.
"""

import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, constraints

__all__ = ["SameFamilyMixture"]

_BLOCK = 1 << 22  # numbers in a block of the N x K x D differences, where no gradient is taken


class SameFamilyMixture(TorchDistribution):
    """p(z) = sum_k w_k p_k(z), batch shape (*) for components with batch shape (*, K).

    torch's `MixtureSameFamily` samples every component for each draw, leaves broadcasting to the
    components (a conditioned flow does not broadcast), and holds N x K x D numbers at once, which
    do not fit in memory for many pseudo-inputs.

    Args:
        logits: of the weights, with shape (K,).
        components: p_k(z), batch shape (*, K).

    Raises:
        ValueError: if the logits are not K numbers.

    Example:
        >>> p = SameFamilyMixture(torch.zeros(3), dist.Normal(torch.zeros(3, 2), 1.0).to_event(1))
        >>> p.batch_shape, p.event_shape
        (torch.Size([]), torch.Size([2]))
    """

    arg_constraints: dict[str, Any] = {"logits": constraints.real_vector}  # noqa: RUF012

    def __init__(self, logits: Tensor, components: Any, validate_args: bool | None = None) -> None:
        if logits.shape != components.batch_shape[-1:]:
            raise ValueError(
                f"SameFamilyMixture: logits have shape {tuple(logits.shape)} and the components "
                f"batch shape {tuple(components.batch_shape)}, expected (K,) and (*, K). Weights "
                "that differ by row have torch's MixtureSameFamily"
            )
        self.logits, self.components = logits.log_softmax(-1), components
        super().__init__(
            components.batch_shape[:-1], components.event_shape, validate_args=validate_args
        )

    @property
    def support(self) -> Any:
        """The components' support."""
        return self.components.support

    @property
    def mean(self) -> Tensor:
        """E[z] = sum_k w_k E_k[z], with shape (*, *event)."""
        weights = self.logits.exp().reshape(-1, *[1] * len(self.event_shape))
        return (weights * self.components.mean).sum(-1 - len(self.event_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(z), with shape (*)."""
        if self._validate_args:
            self._validate_sample(value)
        return self.log_joint(value).logsumexp(-1)

    def log_joint(self, value: Tensor) -> Tensor:
        """Return log w_k + log p_k(z), with shape (*, K)."""
        if self._shared and self._diagonal:
            return self.logits + _diagonal_log_probs(value, self.components.base_dist)
        lead = value.shape[: value.dim() - len(self.event_shape)]
        if torch.is_grad_enabled() or len(lead) <= len(self.batch_shape):
            return self.logits + self._log_probs(value)
        rows = np.broadcast_shapes(lead, self.batch_shape)[1:]
        size = len(self.logits) * math.prod(rows) * math.prod(self.event_shape)
        blocks = value.split(max(1, _BLOCK // size))
        return self.logits + torch.cat([self._log_probs(block) for block in blocks])

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Draw k ~ w and z ~ p_k, with shape (*sample_shape, *, *event)."""
        with torch.no_grad():
            sample_shape = torch.Size(sample_shape)
            k = dist.Categorical(logits=self.logits).expand(self.batch_shape).sample(sample_shape)
            if self._diagonal:
                base = self.components.base_dist
                return torch.normal(self._take(base.loc, k), self._take(base.scale, k))
            # Expanded, and not sample(sample_shape), which Pyro's mixtures do not support.
            every = self.components.expand((*k.shape, len(self.logits))).sample()
            return self._take(every, k)

    @property
    def _shared(self) -> bool:
        """Whether all observations share the components."""
        return len(self.components.batch_shape) == 1

    @property
    def _diagonal(self) -> bool:
        """Whether the components are diagonal normals over vectors."""
        components = self.components
        return (
            isinstance(components, Independent)
            and isinstance(components.base_dist, Normal)
            and len(self.event_shape) == 1
        )

    def _log_probs(self, value: Tensor) -> Tensor:
        """Return log p_k(z), with shape (*, K).

        The value is expanded here, because a flow's context does not broadcast by itself.
        """
        if self._shared and isinstance(self.components, MultivariateNormal):
            return _full_log_probs(value, self.components)
        lead = value.shape[: value.dim() - len(self.event_shape)]
        rows = np.broadcast_shapes(lead, self.batch_shape)
        value = value.expand(*rows, *self.event_shape).unsqueeze(len(rows))
        return self.components.log_prob(value.expand(*rows, len(self.logits), *self.event_shape))

    def _take(self, values: Tensor, k: Tensor) -> Tensor:
        """Return the k-th of values with shape (*, K, *event), for k with shape (*)."""
        ones = [1] * len(self.event_shape)
        values = values.expand(*k.shape, len(self.logits), *self.event_shape)
        index = k.reshape(*k.shape, 1, *ones).expand(*k.shape, 1, *self.event_shape)
        return values.gather(k.dim(), index).squeeze(k.dim())


def _diagonal_log_probs(z: Tensor, normals: Any) -> Tensor:
    """Return log N(z_n; mu_k, diag s_k^2), with shape (*, K), for normals with shape (K, D).

    Coordinates are relative to the mean of the means, and in double precision: large squares cancel
    where components are narrow, or far from the origin.
    """
    loc, scale = normals.loc.double(), normals.scale.double()
    centre = loc.detach().mean(0)
    x, mu, precision = z.double() - centre, loc - centre, scale.square().reciprocal()
    constant = (mu.square() * precision + 2 * scale.log()).sum(-1)  # (K,)
    constant = constant + loc.shape[-1] * math.log(2 * math.pi)
    squares = torch.cat([x.square(), x], -1) @ torch.cat([precision, -2 * precision * mu], -1).T
    return (-0.5 * (squares + constant)).to(z.dtype)


def _full_log_probs(z: Tensor, normals: Any) -> Tensor:
    """Return log N(z_n; mu_k, L_k L_k^T), with shape (*, K), for normals with shape (K, D).

    Differences are taken before squares here, so single precision suffices.
    """
    loc, tril = normals.loc, normals.scale_tril
    centre, d = loc.detach().mean(0), loc.shape[-1]
    identity = torch.eye(d, dtype=tril.dtype, device=tril.device)
    inverse = torch.linalg.solve_triangular(tril, identity, upper=False)  # (K, D, D)
    x = (z - centre).reshape(-1, d).T.expand(len(loc), d, -1)
    y = torch.baddbmm(inverse @ (centre - loc).unsqueeze(-1), inverse, x)  # (K, D, N)
    log_det = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # (K,)
    constant = log_det + 0.5 * d * math.log(2 * math.pi)
    return (-0.5 * y.square().sum(1).T - constant).reshape(*z.shape[:-1], len(loc))
