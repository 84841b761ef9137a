"""Neural spline flow as a prior (Durkan et al. 2019): an invertible map from z to N(0, I) noise.

eps = g_T(... g_1(z)),  eps ~ N(0, I)
log p(z) = log N(eps; 0, I) + sum_t log |det dg_t|
"""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from pyrovae.distributions import Conditional, NeuralSplines, UnitNormal

__all__ = ["NeuralSplineFlow"]


class NeuralSplineFlow(Conditional):
    """p(z | c) by a flow of T steps of monotonic splines, more expressive than `Flow`.

    The density of a given z takes one pass, a draw D passes, with coupling layers two. Splines bend
    [-5, 5] in each dimension; farther out the prior is normal. Needs zuko: `pip install
    pyrovae[flows]`.

    Args:
        d: number of latents D, at least 2.
        steps: T.
        hidden: widths of each step's hidden layers.
        bins: number of bins of each spline.
        context: total number of features of the context c; 0 for a prior that ignores it.
        coupling: use coupling layers, fast to sample from, instead of autoregressive steps.
        seed: of a random order of the dimensions for each step; None reverses the order from step
            to step. The orders are saved.
        activation: of the hidden layers.

    Raises:
        ImportError: if zuko is not installed.
        ValueError: if a number is too small.

    Example:
        >>> NeuralSplineFlow(2, hidden=(16,))().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        d: int,
        steps: int = 3,
        hidden: Sequence[int] = (64, 64),
        *,
        bins: int = 8,
        context: int = 0,
        coupling: bool = False,
        seed: int | None = None,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.splines = NeuralSplines(d, steps, hidden, context, bins, coupling, seed, activation)
        self.d, self.steps, self.hidden, self.bins = d, steps, tuple(hidden), bins
        self.context, self.coupling, self.seed = context, coupling, seed
        self.activation = activation
        self.register_buffer("loc", torch.zeros(d), persistent=False)
        self.register_buffer("scale", torch.ones(d), persistent=False)

    def forward(self, *c: Tensor) -> Distribution:
        """Return p(z | c), event shape (D,); batch shape (*) for a context (*, C), else ()."""
        h = torch.cat(c, -1) if self.context else None
        lead = () if h is None else h.shape[:-1]
        noise = UnitNormal(self.loc, self.scale).expand((*lead, self.d)).to_event(1)
        # Transforms hold the tensors of their last use: each p gets a new one.
        return dist.TransformedDistribution(noise, [self.splines.at(h).inv])
