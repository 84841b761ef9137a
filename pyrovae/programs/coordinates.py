"""Unconstrained coordinates: sample sites with their supports as one vector per chain.

z = T(u),   log f(u) = log f(z) + log |det dz/du|
theta = wrap(u)                    an angle, of a chain that goes round: log f(u) has period 2 pi
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.transforms import Transform, biject_to
from torch import Tensor

from pyrovae.distributions import CIRCLE, is_circle, widened, wrap

__all__ = ["Coordinates", "same_support", "transform_to_support"]

Supports = Mapping[str, Any]
_MIXTURE = torch.distributions.constraints.MixtureSameFamilyConstraint
_DISCRETE = 'site "{}" is discrete, expected continuous latents: there is no gradient. Sum it out'


class Coordinates:
    """Sites with their supports as one vector u in R^D per chain.

    z = T(u),   log f(u) = log f(z) + log |det dz/du|

    Args:
        values: of each site, with shape (*, *event).
        supports: the constraint of each site that has one; a site without one has all of R^n. A
            support must not depend on other sites.
        lead: number of batch dimensions (*).
        periodic: whether u of an angle is any of theta + 2 pi k, as a chain needs it that is not to
            stop at -pi and pi; log f(u) is then no density over R. Otherwise T is a bijection of R
            and (-pi, pi).

    Raises:
        ValueError: if a site is discrete, a support belongs to no site, or no bijection to it is
            known.

    Example:
        >>> z = {"rate": torch.tensor([[2.0], [3.0]]), "mean": torch.zeros(2, 4)}
        >>> Coordinates(z, {"rate": constraints.positive}, 1).vector(z).shape
        torch.Size([2, 5])
    """

    def __init__(
        self, values: Mapping[str, Tensor], supports: Supports, lead: int, periodic: bool = False
    ) -> None:
        _check_sites(values, supports)
        self.lead = lead
        every = {name: supports.get(name, constraints.real) for name in values}
        self._round = {name for name in every if periodic and is_circle(every[name])}
        self.transforms = {
            name: _Wrapped() if name in self._round else transform_to_support(support, name)
            for name, support in every.items()
        }
        self.types = {name: value.dtype for name, value in values.items()}
        self.shapes = {
            name: self.transforms[name].inv(value).shape[lead:] for name, value in values.items()
        }

    @property
    def angles(self) -> Tensor:
        """Which elements of u are angles that go round, with shape (D,)."""
        counts = [(name in self._round, shape.numel()) for name, shape in self.shapes.items()]
        return torch.tensor([is_angle for is_angle, count in counts for _ in range(count)])

    def vector(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return u, with shape (*, D), in single precision at least."""
        free = [transform.inv(values[name]) for name, transform in self.transforms.items()]
        parts = [widened(part).reshape(*part.shape[: self.lead], -1) for part in free]
        return torch.cat(parts, -1)

    def sites(self, u: Tensor) -> dict[str, Tensor]:
        """Return the sites' values at u."""
        free = self._free(u).items()
        return {name: self.transforms[name](part).to(self.types[name]) for name, part in free}

    def log_det(self, u: Tensor) -> Tensor:
        """Return log |det dz/du|, with shape (*)."""
        total = u.new_zeros(u.shape[:-1])
        for name, part in self._free(u).items():
            term = self.transforms[name].log_abs_det_jacobian(part, self.transforms[name](part))
            total = total + term.reshape(*u.shape[:-1], -1).sum(-1)
        return total

    def _free(self, u: Tensor) -> dict[str, Tensor]:
        parts = u.split([shape.numel() for shape in self.shapes.values()], -1)
        return {
            name: part.reshape(*u.shape[:-1], *self.shapes[name])
            for name, part in zip(self.shapes, parts, strict=True)
        }


class _Wrapped(Transform):
    """theta = wrap(u), whose inverse takes u = theta of all theta + 2 pi k."""

    domain, codomain = constraints.real, CIRCLE

    def _call(self, x: Tensor) -> Tensor:
        return wrap(x).clamp(-math.pi, math.pi)  # far out, rounding may lead past the ends

    def _inverse(self, y: Tensor) -> Tensor:
        return y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(x)


def transform_to_support(support: Any, site: str) -> Any:
    """Return the bijection T from R^n to a support; a mixture's is that of its components.

    Raises:
        ValueError: if none is known, as for a discrete support.
    """
    try:
        if support.is_discrete:
            raise ValueError(_DISCRETE.format(site))
        return biject_to(support.base_constraint if isinstance(support, _MIXTURE) else support)
    except NotImplementedError:
        raise ValueError(
            f'site "{site}" has the support {support}, to which no bijection from R^n is '
            "known; register one with pyro.distributions.transforms.biject_to"
        ) from None


def same_support(a: Any, b: Any, z: Tensor, site: str) -> bool:
    """Return whether two supports are the same, by the values of their bijections at a z in `b`.

    Errors are those of `transform_to_support`.
    """
    first, second = (transform_to_support(support, site) for support in (a, b))
    u = second.inv(z)
    return first.codomain.event_dim == second.codomain.event_dim and torch.allclose(
        first(u), second(u), equal_nan=True
    )


def _check_sites(values: Mapping[str, Tensor], supports: Supports) -> None:
    for name, value in values.items():
        if not value.is_floating_point():
            raise ValueError(_DISCRETE.format(name))
    unknown = sorted(set(supports) - set(values))
    if unknown:
        raise ValueError(
            f"supports are given for {unknown}, which are not sites; the sites are {sorted(values)}"
        )
