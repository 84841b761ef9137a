"""A distribution of one value as a sum over points: of all its levels, or by quadrature.

E[f(x)] = sum_k w_k f(x_k),   w_k = p(x_k)           a discrete distribution with bounds
E[f(x)] ~ sum_k w_k f(x_k),   w_k = g_k p(x_k)       a density on [0, 1], Gauss-Legendre weights g_k
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from pyro.distributions import constraints
from torch import Tensor

__all__ = ["Points", "expected", "levels", "moments", "points"]

_MOST = 1024  # levels
_DRAWS = 256  # for a mean without a formula
_NODES = 64  # of the quadrature: exact for polynomials up to degree 127


class Points(NamedTuple):
    """Points x_k and log w_k of a distribution with batch shape (*).

    Attributes:
        values: x_k, with shape (K, 1, ..., 1).
        log_mass: log w_k, with shape (K, *).
    """

    values: Tensor
    log_mass: Tensor

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean and variance, with shape (*) each."""
        mass = self.log_mass.softmax(0)
        mean = (mass * self.values).sum(0)
        return mean, (mass * (self.values - mean).square()).sum(0)


def levels(p: Any) -> Points | None:
    """Return all levels of a discrete distribution with bounds, None of any other.

    Args:
        p: a distribution of single values, with batch shape (*) and event shape ().

    Example:
        >>> from pyro.distributions import Bernoulli
        >>> levels(Bernoulli(torch.full((3,), 0.25))).log_mass.exp()
        tensor([[0.7500, 0.7500, 0.7500],
                [0.2500, 0.2500, 0.2500]])
    """
    bounds = _bounds(p)
    if bounds is None or bounds[1] - bounds[0] >= _MOST:
        return None
    like = p.mean  # of its type and device; NaN for classes
    values = torch.arange(bounds[0], bounds[1] + 1, dtype=like.dtype, device=like.device)
    return _at(p, values, 0.0)


def points(p: Any) -> Points | None:
    """Return the levels of a discrete distribution, the nodes of a density on [0, 1], or None."""
    found = levels(p)
    if found is not None or _support(p) is not constraints.unit_interval:
        return found
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(_NODES))
    like = p.mean
    values = ((nodes + 1) / 2).to(like.device, like.dtype)
    return _at(p, values, (weights / 2).log().to(like.device, like.dtype))


def expected(p: Any) -> Tensor:
    """Return the mean of a distribution of single values, with shape (*); of draws, if need be.

    Of classes without an order it is the mean of their numbers.
    """
    try:
        mean = p.mean
        if not mean.isnan().any():
            return mean
    except (NotImplementedError, AttributeError):
        pass
    found = points(p)
    return p.sample(torch.Size([_DRAWS])).mean(0) if found is None else found.moments()[0]


def moments(p: Any) -> tuple[Tensor, Tensor]:
    """Return mean and variance of a distribution of single values, with shape (*) each.

    Raises:
        NotImplementedError: if neither has a formula, nor can be summed.
    """
    try:
        mean, variance = p.mean, p.variance
        if not (mean.isnan().any() or variance.isnan().any()):
            return mean, variance
    except (NotImplementedError, AttributeError):
        pass
    found = points(p)
    if found is None:
        raise NotImplementedError
    return found.moments()


def _at(p: Any, values: Tensor, log_weight: Tensor | float) -> Points:
    values = values.reshape(-1, *[1] * len(p.batch_shape))
    if isinstance(log_weight, Tensor):
        log_weight = log_weight.reshape(values.shape)
    shape = (len(values), *p.batch_shape)
    return Points(values, p.log_prob(values.expand(shape)) + log_weight)


def _bounds(p: Any) -> tuple[int, int] | None:
    support = _support(p)
    if support is constraints.boolean:
        return 0, 1
    if isinstance(support, torch.distributions.constraints.integer_interval):
        low, high = (torch.as_tensor(edge) for edge in (support.lower_bound, support.upper_bound))
        return int(low.min()), int(high.max())
    return None


def _support(p: Any) -> Any:
    try:
        return p.support
    except (NotImplementedError, AttributeError):
        return None
