"""The log probability of counts and its gradients on a device, for which a step must not wait.

All places are computed alike and in double precision, so that nothing depends on what the counts
are: a GPU has the arithmetic to spare, but stands idle where Python reads a value of it, such as
how many counts are not zero. The formulas are those of `negative_binomial_log_prob.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pyrovae.distributions import small_counts
from pyrovae.distributions.pochhammer import LINEAR, log_pochhammer

__all__ = ["evaluate"]


def evaluate(
    a: Tensor, t: Tensor, g: Tensor | None, x: Tensor, differentiable: bool
) -> list[Tensor]:
    """Return log p(x), and its gradients in a, t (and g), each with shape (*, G).

    Args:
        a: log mu, with shape (*, G).
        t: log theta, with a shape that broadcasts with it.
        g: logit of pi, with shape (*, G); None without a gate.
        x: counts, with a shape that broadcasts with it.
        differentiable: whether gradients are needed.
    """
    dtype = a.dtype
    a, t, x = a.double(), t.double(), x.double()
    theta, ratio = t.exp(), a - t
    d = F.softplus(ratio, threshold=LINEAR)
    log_c, slope = log_pochhammer(x, t, compare=False)
    from_mu = torch.where(x == 0, 0.0, x * (d - ratio))  # of a zero even where log mu is infinite
    out = [torch.where(x < 0, torch.nan, log_c - theta * d - from_mu)]  # such is no count
    if differentiable:
        r = ratio.sigmoid()
        out += [x - (x + theta) * r, theta * (slope - d + r) - x * (1 - r)]
    if g is not None:
        out += [torch.empty_like(out[0])] if differentiable else []
        small_counts.fill_gate(g.double(), x.expand(out[0].shape), out)
    return [each.to(dtype) for each in out]
