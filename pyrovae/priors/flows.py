"""A flow prior: a standard normal, bent until it has the shape of the aggregate posterior.

z = T_1(... T_S(eps)),  eps ~ N(0, I)
log p(z) = log N(eps; 0, I) - sum_s log |det dT_s|      (Chen et al. 2017: with such a prior a VAE's decoder can leave more to z)

Training asks for the density of given z, so an autoregressive step is taken in the direction in which that is one pass (Papamakarios
et al. 2017) and a draw takes D; coupling layers take one pass either way (Dinh et al. 2017) and bend less in each.
"""

from collections.abc import Sequence
from typing import Any, cast

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from pyro.distributions.transforms import AffineCoupling, Permute
from pyro.nn import AutoRegressiveNN, DenseNN
from torch import Tensor, nn

from pyrovae.distributions import Autoregressive, Conditional, UnitNormal, orders

__all__ = ["Flow"]

_START = 0.01  # of the last layers' usual size: the flow starts near the identity, and gradients reach all of it


class Flow(Conditional):
    """p(z) by a flow of S affine steps, by Pyro's transforms. The context c is not looked at.

    Args:
        d: number of latents D, at least 2.
        steps: S.
        hidden: widths of each step's hidden layers; of an autoregressive step at least D each.
        coupling: coupling layers, quick to draw from, instead of autoregressive steps.
        seed: of a random order of the dimensions for each step; None reverses them between steps. The orders are saved.

    Raises:
        ValueError: if a number is too small.

    Example:
        >>> Flow(2, steps=2, hidden=(16,))().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        d: int,
        steps: int = 4,
        hidden: Sequence[int] = (128,),
        *,
        coupling: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        if d < 2 or steps < 1 or not hidden or min(hidden) < (1 if coupling else d):
            raise ValueError(
                f"Flow: d is {d}, steps {steps}, hidden {tuple(hidden)}; expected at least 2 latents (for one use Mixture), 1 step, and "
                "hidden layers as wide as d at least"
            )
        self.d, self.steps, self.hidden, self.coupling, self.seed = (
            d,
            steps,
            tuple(hidden),
            coupling,
            seed,
        )
        self.register_buffer("loc", torch.zeros(d), persistent=False)
        self.register_buffer("scale", torch.ones(d), persistent=False)
        self.register_buffer("orders", torch.stack(orders(d, steps, seed)))  # (S, D)
        self.networks = nn.ModuleList(self._network(order) for order in self.orders)

    orders: Tensor

    def _network(self, order: Tensor) -> nn.Module:
        half, widths = self.d // 2, list(self.hidden)
        rest, own_order = self.d - half, cast(torch.LongTensor, order.clone())
        net: Any = (
            DenseNN(half, widths, [rest, rest])
            if self.coupling
            else AutoRegressiveNN(self.d, widths, permutation=own_order)
        )
        with torch.no_grad():
            for parameter in net.layers[-1].parameters():
                parameter *= _START
        return net

    def forward(self, *c: Tensor) -> Distribution:
        """Return p(z), batch shape (), event shape (D,)."""
        base = UnitNormal(self.loc, self.scale).to_event(1)
        # Transforms hold the tensors of their last use: new ones for each p, as in `posteriors.IAF`.
        return dist.TransformedDistribution(
            base,
            [
                step
                for pair in zip(self.networks, self.orders, strict=True)
                for step in self._step(*pair)
            ],
        )

    def _step(self, net: nn.Module, order: Tensor) -> list[Any]:
        if not self.coupling:
            return [Autoregressive(net).inv]
        turn = Permute(order)
        return [
            turn,
            AffineCoupling(self.d // 2, net),
            turn.inv,
        ]  # and back: an order is one of the dimensions of z
