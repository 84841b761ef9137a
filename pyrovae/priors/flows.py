"""Normalizing-flow prior: an invertible transformation of N(0, I).

eps = A_S(... A_1(z)),  eps ~ N(0, I)
log p(z) = log N(eps; 0, I) + sum_s log |det dA_s|       (Chen et al. 2017)

Training needs the density of given z, so an autoregressive step A_s is taken in the direction in
which that is one pass, and a draw takes D (Papamakarios et al. 2017). A coupling layer takes one
pass in both directions and is less expressive (Dinh et al. 2017).
"""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from pyro.distributions.transforms import AffineCoupling, Permute
from pyro.nn import DenseNN
from torch import Tensor, nn

from pyrovae.distributions import (
    AutoregressiveFlow,
    AutoregressiveNetworks,
    Conditional,
    UnitNormal,
    step_orders,
)

__all__ = ["Flow"]

# Factor of the last layers' initial weights: the flow starts near the identity, and gradients reach
# all of it.
_START = 0.01


class Flow(Conditional):
    """p(z) by a flow of S affine steps. It does not depend on the context c.

    Args:
        d: number of latents D, at least 2.
        steps: S.
        hidden: widths of each step's hidden layers; of an autoregressive step at least D each.
        coupling: use coupling layers, fast to sample from, instead of autoregressive steps.
        seed: of a random order of the dimensions for each step; None reverses the order from step
            to step. The orders are saved.

    Raises:
        ValueError: if a number is too small.

    Example:
        >>> Flow(2, steps=2, hidden=(16,))().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    loc: Tensor
    scale: Tensor
    orders: Tensor  # of coupling layers; autoregressive networks hold their own
    networks: Any

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
                f"Flow: d is {d}, steps {steps}, hidden {tuple(hidden)}; expected at least 2 "
                "latents (for one use Mixture), 1 step, and hidden layers at least as wide as d"
            )
        self.d, self.steps, self.hidden = d, steps, tuple(hidden)
        self.coupling, self.seed = coupling, seed
        self.register_buffer("loc", torch.zeros(d), persistent=False)
        self.register_buffer("scale", torch.ones(d), persistent=False)
        orders = step_orders(d, steps, seed)
        if coupling:
            self.register_buffer("orders", orders)
            self.networks = nn.ModuleList(self._coupling_network() for _ in range(steps))
        else:
            self.networks = AutoregressiveNetworks(orders, self.hidden)
            self._start_near_identity([self.networks.weights[-1], self.networks.biases[-1]])
            self.register_load_state_dict_pre_hook(_read_version_0_1_0)

    def forward(self, *c: Tensor) -> Distribution:
        """Return p(z), batch shape (), event shape (D,)."""
        noise = UnitNormal(self.loc, self.scale).to_event(1)
        # Transforms hold the tensors of their last use: each p gets new ones.
        if self.coupling:
            return dist.TransformedDistribution(noise, self._coupling_layers())
        return dist.TransformedDistribution(noise, [AutoregressiveFlow(self.networks).inv])

    def _coupling_network(self) -> DenseNN:
        half = self.d // 2
        net = DenseNN(half, list(self.hidden), [self.d - half] * 2)
        *_, last = (module for module in net.modules() if isinstance(module, nn.Linear))
        self._start_near_identity(last.parameters())
        return net

    def _coupling_layers(self) -> list[Any]:
        """Return the coupling layer of each step, between a permutation and its inverse."""
        layers = []
        for net, order in zip(self.networks, self.orders, strict=True):
            permute = Permute(order)
            layers += [permute, AffineCoupling(self.d // 2, net), permute.inv]
        return layers

    @staticmethod
    def _start_near_identity(last_layer: Any) -> None:
        with torch.no_grad():
            for parameter in last_layer:
                parameter *= _START


def _read_version_0_1_0(flow: Flow, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Rename the tensors of an autoregressive flow that version 0.1.0 saved.

    It held one of Pyro's networks for each step, in the order from noise to z, and the weights of a
    layer as (out, in). Masks and permutations follow from the orders.
    """
    nets = [f"{prefix}networks.{step}." for step in reversed(range(flow.steps))]
    layers = range(len(flow.hidden) + 1)
    if f"{nets[0]}layers.{layers[-1]}.weight" not in state:
        return
    renamed = {f"{prefix}networks.orders": state.pop(f"{prefix}orders").flip(0)}
    for i in layers:
        weights = [state[f"{net}layers.{i}.weight"].T for net in nets]
        biases = [state[f"{net}layers.{i}.bias"] for net in nets]
        name = f"biases.{i - 1}" if i else "first_bias"
        renamed[f"{prefix}networks.weights.{i}"] = torch.stack(weights)
        renamed[f"{prefix}networks.{name}"] = torch.stack(biases)
    for key in [key for key in state if key.startswith(tuple(nets))]:
        del state[key]
    state |= renamed
