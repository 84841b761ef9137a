"""The posterior of a cell's log library size, near the log of its observed total.

q(l | log(1 + x), c) = N( log n + log(f) tanh a,  s^2 ),    n = sum_g x_g,   s = s_max sigmoid b

(a, b) is what the network outputs. A free mean, as in scVI, extrapolates: after few epochs the
inferred size of single cells was seen at 86 times their total.
"""

import math

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from pyrovae.distributions import Conditional, check_network, checked_output

__all__ = ["LibraryNormal"]

_LARGEST_SD = 0.5  # of l; a cell with T transcripts determines l up to about T ** -0.5
_SMALLEST_SD = 1e-2


class LibraryNormal(Conditional):
    """A normal posterior of l whose mean is at most a factor away from the observed total.

    E_q[e^l] is then at most f e^(1/8) times the total, whatever the network outputs.

    Args:
        net: maps log(1 + x), with shape (*, G), and c to two numbers a and b.
        empty: the mean for a cell without counts, such as that of the prior.
        factor: f, above 1.

    Attributes:
        takes_total: tells `CountVAE` to pass the totals, which it has.

    Raises:
        ValueError: if the factor is not above 1.

    Example:
        >>> net = nn.Linear(3, 2)
        >>> q = LibraryNormal(net, factor=2.0)(torch.tensor([[10.0, 0.0, 90.0]]).log1p())
        >>> bool((q.mean.exp() / 100 - 1).abs() < 1)
        True
    """

    takes_total = True

    def __init__(self, net: nn.Module, empty: float = 0.0, factor: float = 2.0) -> None:
        super().__init__()
        check_network(net, "posteriors.LibraryNormal")
        if not factor > 1:
            raise ValueError(f"posteriors.LibraryNormal: factor is {factor}, expected above 1")
        self.net, self.empty, self.factor = net, empty, factor

    def forward(self, h: Tensor, *c: Tensor, total: Tensor | None = None) -> Distribution:
        """Return q(l | h, c), batch shape (*), event shape (1,), for h = log(1 + x).

        The totals n, with shape (*, 1), are computed from h if they are not given.
        """
        a, b = checked_output(self.net(h, *c), "LibraryNormal").chunk(2, -1)
        if total is None:
            total = h.expm1().sum(-1, keepdim=True)
        centre = torch.where(total > 0, total.clamp(min=1).log(), self.empty)
        mean = centre + math.log(self.factor) * a.tanh()
        sd = _SMALLEST_SD + (_LARGEST_SD - _SMALLEST_SD) * b.sigmoid()
        return dist.Normal(mean, sd).to_event(1)
