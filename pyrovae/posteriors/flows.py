"""The inverse autoregressive flow: a diagonal normal's draw, bent step by step, each dimension by those before it.

z_0 = mu(x) + sigma(x) * eps,   eps ~ N(0, I),   h = h(x)
z_t = m_t + s_t * z_{t-1}                                     plain (Kingma et al. 2016, eq. 10)
z_t = g_t * z_{t-1} + (1 - g_t) * m_t,  g_t = sigmoid(.)      gated, numerically stable (eqs. 13 and 14)
log q(z_T | x) = log N(z_0; mu, sigma^2) - sum_t sum_d log s_td      (eq. 11)

m_t, s_t and g_t come from an autoregressive network of z_{t-1} and h: those of dimension d depend on the dimensions before d only.
"""

from collections.abc import Sequence

import pyro.distributions as dist
from pyro.distributions import Distribution
from pyro.distributions.transforms import ConditionalAffineAutoregressive
from pyro.nn import ConditionalAutoRegressiveNN
from torch import Tensor, nn

from pyrovae.conditional import Conditional
from pyrovae.distributions.flows import orders
from pyrovae.posteriors.outputs import cut

__all__ = ["IAF"]


class IAF(Conditional):
    """q(z | x) by an inverse autoregressive flow of T steps (Kingma et al. 2016, algorithm 1), by Pyro's transforms.

    A draw and its own density take one pass; the density at any other z is solved for, one dimension after the other.

    Args:
        net: maps x (and c) to 2 D + H numbers: mu, log sigma, and the context h that every step sees.
        d: number of latents D, at least 2.
        steps: T.
        hidden: widths of each step's hidden layers, at least D each.
        context: H, at least 1.
        gated: use the gated update, which starts near the identity; False uses the plain one, log s clipped to [-5, 3].
        seed: of a random order of the dimensions for each step; None reverses them between steps. The orders are saved.

    Raises:
        ValueError: if a number is too small, or the network puts out another number than 2 D + H.

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
    ) -> None:
        super().__init__()
        if d < 2 or steps < 1 or context < 1 or not hidden or min(hidden) < d:
            raise ValueError(
                f"IAF: d is {d}, steps {steps}, hidden {tuple(hidden)}, context {context}; expected at least 2 latents (of one there is "
                "no autoregression: use DiagonalNormal), 1 step, hidden layers as wide as d at least, and 1 number of context"
            )
        self.net, self.d, self.steps, self.hidden = net, d, steps, tuple(hidden)
        self.context, self.gated, self.seed = context, gated, seed
        self.networks = nn.ModuleList(
            ConditionalAutoRegressiveNN(d, context, list(hidden), permutation=order)  # type: ignore[arg-type]
            for order in orders(d, steps, seed)
        )

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(z | x, c), batch shape (*), event shape (D,)."""
        sizes = [self.d, self.d, self.context]
        mu, log_sigma, h = cut(self.net(x, *c), sizes, "IAF", f"mu and log sigma of {self.d} latents and {self.context} of context")
        base = dist.Normal(mu, log_sigma.exp()).to_event(1)
        # Transforms hold the tensors of their last use. New ones for each q leave nothing behind that a copy or a file stumbles over.
        steps = [ConditionalAffineAutoregressive(net, stable=self.gated).condition(h) for net in self.networks]
        return dist.TransformedDistribution(base, steps)
