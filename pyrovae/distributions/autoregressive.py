"""The transform of an affine autoregressive flow of T steps, z_0 -> z_T.

z' = m + s z,           s = e^a, a clamped to [-5, 3]    plain (Kingma et al. 2016, eq. 10)
z' = s z + (1 - s) m,   s = sigmoid(a)                   gated, numerically stable (eqs. 13, 14)
log |det dz_T / dz_0| = sum_t sum_d log s_td             (eq. 11)

m_d and a_d depend on the dimensions before d only, so each step's Jacobian is triangular. From z_0
to z_T a step is one pass through its network; back it is D passes, each for one dimension.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Transform, constraints
from torch.nn.functional import logsigmoid

from pyrovae.distributions.masked_networks import AutoregressiveNetworks, ConditionedNetwork

__all__ = ["AutoregressiveFlow"]

# Pyro's bounds of a in a plain step: without them e^a overflows sooner or later in training.
_LOG_SCALES = (-5.0, 3.0)


class _Pass(NamedTuple):
    """One pass through the flow in either direction."""

    x: Tensor  # z_0
    y: Tensor  # z_T
    scales: list[Tensor]  # a of each step
    differentiable: bool  # whether gradients flow through it

    @property
    def usable(self) -> bool:
        """Whether the pass serves now: one made under `no_grad` would lose the gradient."""
        return self.differentiable or not torch.is_grad_enabled()


class AutoregressiveFlow(Transform):
    """z_0 -> z_T at a context.

    It remembers its last pass, so the density of a value that it has just produced costs nothing
    more. Make a new one for each distribution: one that holds tensors of the autograd graph cannot
    be copied or saved.

    Args:
        networks: of the T steps.
        h: context, with shape (*, H); None for networks without one.
        gated: use the gated update, else the plain one.

    Example:
        >>> from pyrovae.distributions import AutoregressiveNetworks, step_orders
        >>> flow = AutoregressiveFlow(AutoregressiveNetworks(step_orders(3, 2), (8,)))
        >>> z = torch.randn(5, 3)
        >>> bool((flow.inv(flow(z).clone()) - z).abs().max() < 1e-4)
        True
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True
    autoregressive = True  # Pyro's name for a transform whose inverse takes D passes

    def __init__(
        self, networks: AutoregressiveNetworks, h: Tensor | None = None, gated: bool = False
    ) -> None:
        super().__init__()
        self.steps, self.gated, self.orders = networks.at(h), gated, networks.sequences
        self._last: _Pass | None = None

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return self._forward(x).y

    def _inverse(self, y: Tensor) -> Tensor:
        if self._last is not None and y is self._last.y and self._last.usable:
            return self._last.x
        z, scales = y, []
        for net, order in zip(reversed(self.steps), reversed(self.orders), strict=True):
            z, a = self._invert(net, z, order)
            scales.append(a)
        self._last = _Pass(z, y, scales, torch.is_grad_enabled())
        return z

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |det dy / dx|, with shape (*)."""
        last = self._last
        if last is None or x is not last.x or y is not last.y or not last.usable:
            last = self._forward(x)
        a = torch.cat(last.scales, -1)
        return (logsigmoid(a) if self.gated else a).sum(-1)

    def _forward(self, x: Tensor) -> _Pass:
        z, scales = x, []
        for net in self.steps:
            m, a = net.parameters(z)
            a = a if self.gated else a.clamp(*_LOG_SCALES)
            z = torch.lerp(m, z, a.sigmoid()) if self.gated else torch.addcmul(m, a.exp(), z)
            scales.append(a)
        self._last = _Pass(x, z, scales, torch.is_grad_enabled())
        return self._last

    def _invert(
        self, net: ConditionedNetwork, y: Tensor, order: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Return the z that one step maps to y, and its a, dimension after dimension.

        A dimension that is found adds its row of weights to what enters the first hidden layer.
        """
        first, z, scales = net.first, list(y.unbind(-1)), list(y.unbind(-1))
        for i in order:
            m, a = net.parameters_of(i, first)
            if self.gated:
                z[i] = m + (y[..., i] - m) * (1 + torch.exp(-a))  # 1 / sigmoid(a)
            else:
                a = a.clamp(*_LOG_SCALES)
                z[i] = (y[..., i] - m) * torch.exp(-a)
            scales[i] = a.expand_as(z[i])
            first = first + z[i][..., None] * net.weights[0][i]
        return torch.stack(z, -1), torch.stack(scales, -1)
