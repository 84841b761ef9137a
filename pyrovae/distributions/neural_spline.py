"""The transform of a neural spline flow of T steps, z_0 -> z_T, by zuko's splines.

z_td = g_td(z_{t-1, d}),    log |det dz_T / dz_0| = sum_t sum_d log g_td'(z_{t-1, d})

g_td increases: a rational-quadratic spline on [-5, 5], the identity outside (Durkan et al. 2019).
Its knots are outputs of a network of the context h and of dimensions of z_{t-1}: those before d in
the order of step t, or with coupling layers a first half that stays as it is. From z_0 to z_T a
step is one pass through its network; back it is D passes, with coupling layers two.

zuko (https://zuko.readthedocs.io) is an optional dependency, imported with the first flow.
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints

from pyrovae.distributions.masked_networks import step_orders

__all__ = ["NeuralSplines"]


class NeuralSplines(nn.Module):
    """The networks of the T steps of a neural spline flow.

    Args:
        d: number of dimensions D, at least 2.
        steps: T.
        hidden: widths of each network's hidden layers.
        context: H, the number of values in the context; 0 for networks of z alone.
        bins: number of bins of each spline.
        coupling: use coupling layers instead of autoregressive steps.
        seed: of a random order of the dimensions for each step; None reverses the order from step
            to step.
        activation: of the hidden layers.

    Raises:
        ImportError: if zuko is not installed.
        ValueError: if a number is too small.
    """

    def __init__(
        self,
        d: int,
        steps: int,
        hidden: Sequence[int],
        context: int = 0,
        bins: int = 8,
        coupling: bool = False,
        seed: int | None = None,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        if d < 2 or steps < 1 or bins < 2 or context < 0 or not hidden or min(hidden) < 1:
            raise ValueError(
                f"NeuralSplineFlow: d is {d}, steps {steps}, hidden {tuple(hidden)}, bins {bins}, "
                f"context {context}; expected at least 2 latents, 1 step, 1 hidden unit, 2 bins"
            )
        zuko = _zuko()
        self.coupling = coupling
        self.steps = nn.ModuleList(
            zuko.flows.MaskedAutoregressiveTransform(
                features=d,
                context=context,
                passes=2 if coupling else d,
                order=order.argsort(),
                univariate=partial(zuko.transforms.MonotonicRQSTransform, slope=1e-3),
                shapes=[(bins,), (bins,), (bins - 1,)],
                hidden_features=tuple(hidden),
                activation=activation,
            )
            for order in step_orders(d, steps, seed)
        )

    def at(self, h: Tensor | None = None) -> Transform:
        """Return the transform z_0 -> z_T at a context with shape (*, H)."""
        return _SplineFlow([step(h) for step in self.steps], slow=not self.coupling)


class _Pass(NamedTuple):
    """One pass through the flow in either direction."""

    x: Tensor  # z_0
    y: Tensor  # z_T
    log_det: Tensor
    differentiable: bool  # whether gradients flow through it


class _SplineFlow(Transform):
    """z_0 -> z_T at a context; the density of a value that it has just produced costs no pass."""

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, steps: Sequence[Any], slow: bool) -> None:
        super().__init__()
        self.steps, self.autoregressive = steps, slow  # Pyro's name: its inverse takes D passes
        self._last: _Pass | None = None

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return self._forward(x).y

    def _inverse(self, y: Tensor) -> Tensor:
        if self._last is not None and y is self._last.y and self._usable(self._last):
            return self._last.x
        for step in reversed(self.steps):
            y = step.inv(y)
        return y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log |det dy / dx|, with shape (*)."""
        last = self._last
        if last is None or x is not last.x or y is not last.y or not self._usable(last):
            last = self._forward(x)
        return last.log_det

    def _forward(self, x: Tensor) -> _Pass:
        y, log_dets = x, []
        for step in self.steps:
            y, log_det = step.call_and_ladj(y)
            log_dets.append(log_det)
        self._last = _Pass(x, y, torch.stack(log_dets).sum(0), torch.is_grad_enabled())
        return self._last

    @staticmethod
    def _usable(last: _Pass) -> bool:
        return last.differentiable or not torch.is_grad_enabled()


def _zuko() -> Any:
    """Return the package zuko, without the changes to torch's defaults that its import makes.

    It turns the validation of all distributions off, and gives them empty constraints. Its own
    distributions, which state none, keep the latter.

    Raises:
        ImportError: if it is not installed.
    """
    first = "zuko" not in sys.modules
    defaults = {key: vars(Distribution)[key] for key in ("_validate_args", "arg_constraints")}
    try:
        import zuko
    except ImportError as error:
        raise ImportError(
            "NeuralSplineFlow needs zuko, which is not installed: pip install pyrovae[flows]"
        ) from error
    if first:
        for name in zuko.distributions.__all__:
            cls = getattr(zuko.distributions, name)
            cls.arg_constraints = cls.arg_constraints
        for key, value in defaults.items():
            setattr(Distribution, key, value)
    return zuko
