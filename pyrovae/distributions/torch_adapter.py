"""Distributions of torch and zuko as Pyro's.

A Pyro distribution is one of torch's that can also be called for a draw, masked and broadcast. So
the class of the distribution gets a subclass with these methods, and the distribution is copied
into it: formulas for means and KL divergences, which go by classes, still hold.
"""

import copy
from functools import cache
from typing import Any

import torch
from pyro.distributions import Distribution, TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Size, Tensor
from torch.distributions import Independent
from torch.distributions.constraints import Constraint

__all__ = ["as_pyro"]

_ONE = Size()  # sample_shape of one draw


def as_pyro(p: Any, support: Constraint | None = None) -> Any:
    """Return a distribution of torch's as one of Pyro's; one of Pyro's as it is.

    Args:
        p: the distribution.
        support: the values that have a density, for a distribution that does not state them.
    """
    if isinstance(p, Distribution) and support is None:
        return p
    new: Any = _plain(p)
    if isinstance(new, Independent):
        new.base_dist = as_pyro(new.base_dist)
    cls: Any = type(new)
    new.__class__ = _subclass(cls)
    new._given_support = support
    return new


class _AsPyro:
    """What the subclass overrides: the support, and draws whose density is known at once."""

    _given_support: Constraint | None = None
    _last: Any = (None, None)  # a draw, and its log density

    @property
    def support(self: Any) -> Any:
        """The values that have a density."""
        if self._given_support is not None:
            return self._given_support
        try:
            return super().support  # type: ignore[misc]
        except NotImplementedError:
            if hasattr(self, "transform"):  # of zuko's flows it maps values to noise
                return self.transform.domain
            raise

    def expand(self: Any, batch_shape: Size, _instance: Any = None) -> Any:
        """Return the same distribution with a larger batch shape."""
        return as_pyro(_plain(self).expand(torch.Size(batch_shape)), self._given_support)

    def rsample(self: Any, sample_shape: Size = _ONE) -> Tensor:
        """Draw with gradients; of a flow, the density is computed in the same pass."""
        if not hasattr(self, "rsample_and_log_prob"):
            return super().rsample(sample_shape)  # type: ignore[misc]
        value, log_prob = self.rsample_and_log_prob(sample_shape)
        self._last = value, log_prob
        return value

    def log_prob(self: Any, value: Tensor) -> Tensor:
        """Return log p(value), with shape (*)."""
        drawn, log_prob = self._last
        if value is drawn and (log_prob.requires_grad or not torch.is_grad_enabled()):
            return log_prob
        return super().log_prob(value)  # type: ignore[misc]


def _plain(p: Any) -> Any:
    """Return a copy of a distribution, of torch's own class."""
    new = copy.copy(p)
    if isinstance(p, _AsPyro):
        new.__class__ = type(p).__mro__[2]
        for name in ("_last", "_given_support"):
            new.__dict__.pop(name, None)
    return new


@cache
def _subclass(cls: Any) -> Any:
    """Return a class of the same name that is Pyro's too."""
    if issubclass(cls, _AsPyro):
        return cls
    mixin = () if issubclass(cls, TorchDistribution) else (TorchDistributionMixin,)
    return type(cls.__name__, (_AsPyro, cls, *mixin), {"__module__": __name__})
