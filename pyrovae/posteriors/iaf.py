"""Inverse autoregressive flow: a draw of a diagonal normal, transformed in T autoregressive steps.

z_0 = mu(x) + sigma(x) * eps,   eps ~ N(0, I),   h = h(x)
z_t = m_t + s_t * z_{t-1},  s_t = e^a_t                         plain (Kingma et al. 2016, eq. 10)
z_t = s_t * z_{t-1} + (1 - s_t) * m_t,  s_t = sigmoid(a_t)      gated, stable (eqs. 13 and 14)
log q(z_T | x) = log N(z_0; mu, sigma^2) - sum_t sum_d log s_td      (eq. 11)

m_t and a_t are outputs of an autoregressive network of z_{t-1} and h: those of dimension d depend
on the dimensions before d only.
"""

from collections.abc import Sequence

import pyro.distributions as dist
from pyro.distributions import Distribution
from torch import Tensor, nn

from pyrovae.distributions import (
    AutoregressiveFlow,
    AutoregressiveNetworks,
    Conditional,
    check_network,
    split_parameters,
    step_orders,
)

__all__ = ["IAF"]


class IAF(Conditional):
    """q(z | x) by an inverse autoregressive flow of T steps (Kingma et al. 2016, algorithm 1).

    A draw and its density take one pass. The density at any other z takes D passes per step.

    Args:
        net: maps x (and c) to 2 D + H numbers: mu, log sigma, and the context h of every step.
        d: number of latents D. With D = 1 nothing is autoregressive, and q(z | x) stays normal.
        steps: T.
        hidden: widths of each step's hidden layers, at least D each.
        context: H, at least 1.
        gated: use the gated update, whose gates start open (at 0.88); False uses the plain one,
            with a_t clamped to [-5, 3].
        seed: of a random order of the dimensions for each step; None reverses the order from step
            to step. The orders are saved.
        activation: of the hidden layers.

    Raises:
        ValueError: if a number is too small; when it is called, if the network does not output 2 D
            + H numbers.

    Example:
        >>> import torch
        >>> q = IAF(nn.Linear(784, 2 * 20 + 30), 20, context=30, hidden=(64,))
        >>> q(torch.zeros(5, 784)).rsample().shape
        torch.Size([5, 20])
    """

    def __init__(
        self,
        net: nn.Module,
        d: int,
        *,
        steps: int = 4,
        hidden: Sequence[int] = (320,),
        context: int = 40,
        gated: bool = True,
        seed: int | None = None,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        check_network(net, "IAF")
        if d < 1 or steps < 1 or context < 1 or not hidden or min(hidden) < d:
            raise ValueError(
                f"IAF: d is {d}, steps {steps}, hidden {tuple(hidden)}, context {context}; "
                "expected at least 1 latent, 1 step, 1 number of context, and hidden layers at "
                "least as wide as d: one unit for each place in the order"
            )
        self.net, self.d, self.steps, self.hidden = net, d, steps, tuple(hidden)
        self.context, self.gated, self.seed, self.activation = context, gated, seed, activation
        self.networks = AutoregressiveNetworks(
            step_orders(d, steps, seed), self.hidden, context, gated, activation
        )

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(z | x, c), batch shape (*), event shape (D,)."""
        sizes = [self.d, self.d, self.context]
        meaning = f"mu and log sigma of {self.d} latents and {self.context} of context"
        mu, log_sigma, h = split_parameters(self.net(x, *c), sizes, "IAF", meaning)
        # A flow holds the tensors of its last use: each q gets a new one.
        flow = AutoregressiveFlow(self.networks, h, self.gated)
        return dist.TransformedDistribution(dist.Normal(mu, log_sigma.exp()).to_event(1), [flow])
