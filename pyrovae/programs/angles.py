"""Means of angles, for which theta and theta + 2 pi are the same.

m = E[exp(i theta)] = (1 - V) exp(i mu),     mu the mean direction, V the circular variance

A mean over draws of other latents, or over the parts of a mixture, is that of m; its direction is
the angle (Mardia & Jupp 2000, section 3.4.2). The mean of the numbers would put it between -3 and 3
at 0, the opposite of both.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MixtureSameFamily

from pyrovae.distributions import is_circle, wrap
from pyrovae.programs.traces import support_of

__all__ = ["direction", "moment", "on_circle"]

_DRAWS = 256  # where the mean direction has no formula
_LEAST = 1e-12  # of the length of m, which has a direction where its length underflows


def on_circle(fn: Any) -> bool:
    """Return whether the values of a distribution are angles."""
    return is_circle(support_of(fn))


def moment(fn: Any) -> Tensor:
    """Return m = E[exp(i theta)] of a distribution of angles, complex, shape (*batch, *event)."""
    if isinstance(fn, MixtureSameFamily):
        parts = moment(fn.component_distribution)
        shares = fn.mixture_distribution.probs
        shares = shares.reshape(*shares.shape, *[1] * len(fn.event_shape))
        return (shares * parts).sum(-1 - len(fn.event_shape))
    try:
        mean = fn.mean
    except (NotImplementedError, AttributeError):
        draws = fn.sample(torch.Size([_DRAWS]))
        return torch.polar(torch.ones_like(draws), draws).mean(0)
    try:
        length = (1 - fn.variance).clamp(min=_LEAST)
    except (NotImplementedError, AttributeError):
        length = torch.ones_like(mean)
    return torch.polar(*torch.broadcast_tensors(length, mean))


def direction(m: Tensor) -> Tensor:
    """Return the angle of m in [-pi, pi)."""
    return wrap(m.angle()).clamp(-math.pi, math.pi)
