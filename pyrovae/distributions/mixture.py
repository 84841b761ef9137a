"""A mixture of K distributions of one family: log p(z) = log sum_k w_k p_k(z).

For diagonal normals that all rows share, the N x K table of log p_k(z_n) is one matrix product, which is many times faster than
N x K x D differences:

sum_d (z_d - mu_kd)^2 / s_kd^2  =  sum_d z_d^2 / s_kd^2  -  2 sum_d z_d mu_kd / s_kd^2  +  sum_d mu_kd^2 / s_kd^2

For full covariances L_k L_k^T, it is a product with each L_k^-1, a quarter of the time of N x K triangular solves.
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, constraints

__all__ = ["MixtureOf"]

_AT_ONCE = 1 << 22  # numbers of a block of the N x K x D table, where no gradient is taken


class MixtureOf(TorchDistribution):
    """sum_k w_k p_k(z), batch shape (*) for components with batch shape (*, K).

    torch's `MixtureSameFamily` draws all components for each draw, leaves it to a component to broadcast (a conditioned flow does
    not), and holds N x K x D numbers of which memory has not enough for many pseudo-inputs.

    Args:
        logits: of the weights, with shape (K,).
        components: p_k(z), batch shape (*, K).

    Example:
        >>> p = MixtureOf(torch.zeros(3), dist.Normal(torch.zeros(3, 2), 1.0).to_event(1))
        >>> p.batch_shape, p.event_shape
        (torch.Size([]), torch.Size([2]))
    """

    arg_constraints: dict[str, Any] = {"logits": constraints.real_vector}  # noqa: RUF012 (torch's own form)

    def __init__(self, logits: Tensor, components: Any, validate_args: bool | None = None) -> None:
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
        """Log p(z), with shape (*)."""
        if self._validate_args:
            self._validate_sample(value)
        return self.log_joint(value).logsumexp(-1)

    def log_joint(self, value: Tensor) -> Tensor:
        """Log w_k + log p_k(z), with shape (*, K)."""
        if self._normal and len(self.components.batch_shape) == 1:
            return self.logits + _table(value, self.components.base_dist)
        rows = value.shape[: value.dim() - len(self.event_shape)]
        if torch.is_grad_enabled() or len(rows) <= len(self.batch_shape):
            return self.logits + self._each(value)
        pairs = len(self.logits) * math.prod(
            torch.broadcast_shapes(rows, self.batch_shape)[1:]
        )  # of one row of the first axis
        pieces = value.split(max(1, _AT_ONCE // (pairs * math.prod(self.event_shape))))
        return self.logits + torch.cat([self._each(piece) for piece in pieces])

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 (torch's signature)
        """Draw k ~ w and z ~ p_k, with shape (*sample_shape, *, *event)."""
        with torch.no_grad():
            sample_shape = torch.Size(sample_shape)
            k = dist.Categorical(logits=self.logits).expand(self.batch_shape).sample(sample_shape)
            if self._normal:
                base = self.components.base_dist
                return torch.normal(self._chosen(base.loc, k), self._chosen(base.scale, k))
            every = self.components.expand(
                (*k.shape, len(self.logits))
            )  # not sample(sample_shape), which Pyro's mixture cannot
            return self._chosen(every.sample(), k)

    @property
    def _normal(self) -> bool:
        """Whether the components are normals that are independent over one axis."""
        parts = self.components
        return (
            isinstance(parts, Independent)
            and isinstance(parts.base_dist, Normal)
            and len(self.event_shape) == 1
        )

    def _each(self, value: Tensor) -> Tensor:
        """Return log p_k(z), with shape (*, K); z is expanded by hand, for a flow's context does not broadcast by itself."""
        if (
            isinstance(self.components, MultivariateNormal)
            and len(self.components.batch_shape) == 1
        ):
            return _full_table(value, self.components)
        rows = torch.broadcast_shapes(
            value.shape[: value.dim() - len(self.event_shape)], self.batch_shape
        )
        value = value.expand(*rows, *self.event_shape).unsqueeze(len(rows))
        return self.components.log_prob(value.expand(*rows, len(self.logits), *self.event_shape))

    def _chosen(self, values: Tensor, k: Tensor) -> Tensor:
        """Return each row's k-th of values with shape (*, K, *event), for k with shape (*)."""
        axes = [1] * len(self.event_shape)
        values = values.expand(*k.shape, len(self.logits), *self.event_shape)
        index = k.reshape(*k.shape, 1, *axes).expand(*k.shape, 1, *self.event_shape)
        return values.gather(k.dim(), index).squeeze(k.dim())


def _table(z: Tensor, normals: Any) -> Tensor:
    """Return log N(z_n; mu_k, diag s_k^2), with shape (*, K), for normals with shape (K, D).

    Everything is measured from the mean of the means, and in double precision: where components are narrow, or far from the origin,
    large squares cancel.
    """
    loc, scale = normals.loc.double(), normals.scale.double()
    centre = loc.detach().mean(0)
    x, mu, precision = z.double() - centre, loc - centre, scale.square().reciprocal()
    constant = (mu.square() * precision + 2 * scale.log()).sum(-1) + loc.shape[-1] * math.log(
        2 * math.pi
    )  # (K,)
    squares = torch.cat([x.square(), x], -1) @ torch.cat([precision, -2 * precision * mu], -1).T
    return (-0.5 * (squares + constant)).to(z.dtype)


def _full_table(z: Tensor, normals: Any) -> Tensor:
    """Return log N(z_n; mu_k, L_k L_k^T), with shape (*, K), for normals with shape (K, D); here differences come before squares."""
    loc, tril = normals.loc, normals.scale_tril
    centre, d = loc.detach().mean(0), loc.shape[-1]
    inverse = torch.linalg.solve_triangular(
        tril, torch.eye(d, dtype=tril.dtype, device=tril.device), upper=False
    )  # (K, D, D)
    x = (z - centre).reshape(-1, d).T.expand(len(loc), d, -1)
    y = torch.baddbmm(inverse @ (centre - loc).unsqueeze(-1), inverse, x)  # (K, D, N)
    constant = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * d * math.log(
        2 * math.pi
    )  # (K,)
    return (-0.5 * y.square().sum(1).T - constant).reshape(*z.shape[:-1], len(loc))
