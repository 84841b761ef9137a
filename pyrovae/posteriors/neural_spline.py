"""Neural spline flow as a posterior: noise bent by splines, then shifted and scaled.

z_0 = eps ~ N(0, I),   h = h(x)
z_t = g_t(z_{t-1}; h)                        monotonic splines (Durkan et al. 2019)
z = mu(x) + sigma(x) * z_T
log q(z | x) = log N(eps; 0, I) - sum_t log |det dg_t| - sum_d log sigma_d
"""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn
from torch.distributions import AffineTransform

from pyrovae.distributions import Conditional, NeuralSplines, check_network, split_parameters

__all__ = ["NeuralSplineFlow"]


class NeuralSplineFlow(Conditional):
    """q(z | x) by a flow of T steps of monotonic splines.

    A draw and its density take one pass. The density at any other z takes D passes per step, with
    coupling layers two. Needs zuko: `pip install pyrovae[flows]`.

    Args:
        net: maps x (and c) to 2 D + H numbers: mu, log sigma, and the context h of every step.
        d: number of latents D, at least 2.
        steps: T.
        hidden: widths of each step's hidden layers.
        bins: number of bins of each spline.
        context: H, at least 1.
        coupling: use coupling layers instead of autoregressive steps.
        seed: of a random order of the dimensions for each step; None reverses the order from step
            to step. The orders are saved.
        activation: of the hidden layers.

    Raises:
        ImportError: if zuko is not installed.
        ValueError: if a number is too small; when it is called, if the network does not output 2 D
            + H numbers.

    Example:
        >>> q = NeuralSplineFlow(nn.Linear(784, 2 * 20 + 30), 20, context=30)
        >>> q(torch.zeros(5, 784)).rsample().shape
        torch.Size([5, 20])
    """

    def __init__(
        self,
        net: nn.Module,
        d: int,
        *,
        steps: int = 3,
        hidden: Sequence[int] = (64, 64),
        bins: int = 8,
        context: int = 40,
        coupling: bool = False,
        seed: int | None = None,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        check_network(net, "NeuralSplineFlow")
        if context < 1:
            raise ValueError(
                f"NeuralSplineFlow: context is {context}, expected at least 1 number that the "
                "network of the posterior hands to the splines"
            )
        self.splines = NeuralSplines(d, steps, hidden, context, bins, coupling, seed, activation)
        self.net, self.d, self.steps, self.hidden = net, d, steps, tuple(hidden)
        self.bins, self.context, self.coupling = bins, context, coupling
        self.seed, self.activation = seed, activation

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(z | x, c), batch shape (*), event shape (D,)."""
        sizes = [self.d, self.d, self.context]
        meaning = f"mu and log sigma of {self.d} latents and {self.context} of context"
        y = self.net(x, *c)
        mu, log_sigma, h = split_parameters(y, sizes, "NeuralSplineFlow", meaning)
        noise = dist.Normal(torch.zeros_like(mu), torch.ones_like(mu)).to_event(1)
        # Transforms hold the tensors of their last use: each q gets a new one.
        steps = [self.splines.at(h), AffineTransform(mu, log_sigma.exp(), event_dim=1)]
        return dist.TransformedDistribution(noise, steps)
