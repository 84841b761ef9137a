"""A prior by a normalizing flow, run so that its density is the fast side: e = f(z) is a standard normal's draw.

log p(z) = log N(f(z); 0, I) + log |det df/dz|,   f = f_T o ... o f_1
f_t(z)_i = m_ti + s_ti z_i      m_ti, s_ti from the dimensions before i   (autoregressive, Papamakarios et al. 2017, eqs. 2 to 4)
                                or from the half that stays as it is      (coupling, Dinh et al. 2017, eqs. 4 and 5)
"""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from pyro.distributions.transforms import AffineCoupling, Permute
from pyro.nn import AutoRegressiveNN, DenseNN
from torch import Tensor, nn

from pyrovae.conditional import Conditional
from pyrovae.distributions import UnitNormal
from pyrovae.distributions.flows import Autoregressive, orders

__all__ = ["Flow"]

_FIRST = 0.01  # of the last layers' usual weights, at the start: f is near the identity, and gradients reach the layers below


class Flow(Conditional):
    """p(z) by T affine steps, by Pyro's transforms; it starts near N(0, I). The context is not looked at.

    Autoregressive steps are the richer ones: the density takes one pass each, a draw takes D (solved for, one dimension after the
    other). Coupling steps take one pass either way.

    Args:
        d: number of latents D, at least 2.
        steps: T.
        hidden: widths of each step's hidden layers; at least D each for autoregressive steps.
        coupling: coupling steps instead of autoregressive ones.
        seed: of a random order of the dimensions for each step; None reverses them between steps. The orders are saved.

    Raises:
        ValueError: if a number is too small.

    Example:
        >>> Flow(2, hidden=(8,))().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    loc: Tensor
    scale: Tensor
    order: Tensor

    def __init__(
        self, d: int, steps: int = 4, hidden: Sequence[int] = (320,), coupling: bool = False, seed: int | None = None
    ) -> None:
        super().__init__()
        if d < 2 or steps < 1 or not hidden or min(hidden) < (1 if coupling else d):
            raise ValueError(
                f"Flow: d is {d}, steps {steps}, hidden {tuple(hidden)}; expected at least 2 latents (of one no step depends on another: "
                "use Mixture), 1 step, and autoregressive steps' hidden layers as wide as d at least"
            )
        self.d, self.steps, self.hidden, self.coupling, self.seed = d, steps, tuple(hidden), coupling, seed
        self.register_buffer("loc", torch.zeros(d), persistent=False)
        self.register_buffer("scale", torch.ones(d), persistent=False)
        self.register_buffer("order", torch.stack(orders(d, steps, seed)))  # (T, D)
        self.networks = nn.ModuleList(self._network(order) for order in self.order)

    def forward(self, *c: Tensor) -> Distribution:
        """Return p(z), batch shape (), event shape (D,)."""
        base = UnitNormal(self.loc, self.scale).to_event(1)
        return dist.TransformedDistribution(base, [step.inv for step in reversed(self._steps())])

    def _network(self, order: Tensor) -> nn.Module:
        if self.coupling:
            kept = self.d // 2
            net: Any = DenseNN(kept, list(self.hidden), [self.d - kept] * 2)
        else:
            net = AutoRegressiveNN(self.d, list(self.hidden), permutation=order)  # type: ignore[arg-type]
        with torch.no_grad():
            net.layers[-1].weight.mul_(_FIRST)
            net.layers[-1].bias.zero_()
        return net

    def _steps(self) -> list[Any]:
        """Return f_1, ..., f_T. Transforms hold the tensors of their last use, so each p(z) gets new ones."""
        if not self.coupling:
            return [Autoregressive(net) for net in self.networks]
        steps = []
        for order, net in zip(self.order, self.networks, strict=True):
            turn = Permute(order)
            steps += [turn, AffineCoupling(self.d // 2, net), turn.inv]  # back again: an order is one of the dimensions of z
        return steps
