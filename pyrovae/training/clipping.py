"""Clipping of the gradient's norm, by a fixed bound or by one that follows the norms seen.

g  <-  g min(1, c / |g|)                              (Pascanu et al. 2013, algorithm 1)

"auto":  c = 4 exp(m),   m = moving average of log |g|: the geometric mean of the norms of about the
last hundred steps. It has no unit, so that it serves losses of any size (Seetharaman et al. 2020
clip at a percentile of the norms seen, for the same reason).

Norm, bound and mean stay on the device of the gradient: a step on a GPU does not wait for them.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

__all__ = ["ClipNorm", "Clipping"]

ClipNorm = float | Literal["auto"] | None

_FACTOR = 4.0  # of the geometric mean
_RATE = 0.01  # of its moving average
_FIRST_STEPS = 10  # that are not clipped, since little is known yet


class Clipping:
    """The bound on the gradient's norm.

    Args:
        clip_norm: a number, "auto", or None for no bound.

    Raises:
        ValueError: if it is anything else.
    """

    def __init__(self, clip_norm: ClipNorm) -> None:
        number = isinstance(clip_norm, int | float) and not isinstance(clip_norm, bool)
        if not (clip_norm is None or clip_norm == "auto" or (number and float(clip_norm) > 0)):
            raise ValueError(
                f"fit: clip_norm is {clip_norm!r}, expected a positive bound on the gradient's "
                'norm, "auto" or None'
            )
        self.clip_norm = clip_norm
        self.steps: Tensor | float = 0
        self.mean_log: Tensor | float = 0.0

    def clip(self, parameters: Sequence[Tensor]) -> Tensor:
        """Clip the gradients of the parameters; return their norm before, with shape ()."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = get_total_norm(gradients, foreach=None)
        if self.clip_norm is None:
            return norm
        automatic = self.clip_norm == "auto"
        most = 1.0 if automatic else float(self.clip_norm)
        size = self._relative(norm) if automatic else norm
        within = size <= most
        if norm.device.type != "cpu" or not within:  # the CPU need not wait for the answer
            clip_grads_with_norm_(parameters, most, torch.where(within, 0, size))
        return norm

    def _relative(self, norm: Tensor) -> Tensor:
        """Return a norm divided by its bound, and take it into the mean.

        A gradient of zeros tells nothing, and after one that is not finite the fit ends.
        """
        norm = norm.to(torch.promote_types(norm.dtype, torch.float32))
        steps, mean_log = (_like(number, norm) for number in (self.steps, self.mean_log))
        bound = torch.where(steps < _FIRST_STEPS, math.inf, _FACTOR * mean_log.exp())
        told = (norm > 0) & (norm < math.inf)
        self.steps = steps = steps + told
        rate = steps.clamp(min=1).reciprocal().clamp(min=_RATE)
        next_mean = mean_log + rate * (torch.minimum(norm, bound).log() - mean_log)
        self.mean_log = torch.where(told, next_mean, mean_log)
        return norm / bound

    def state_dict(self) -> dict[str, float]:
        """Return what `load_state_dict` needs."""
        return {"steps": int(self.steps), "mean_log": float(self.mean_log)}

    def load_state_dict(self, state: dict) -> None:
        """Continue from what `state_dict` returned."""
        self.steps, self.mean_log = state["steps"], state["mean_log"]


def _like(number: Tensor | float, norm: Tensor) -> Tensor:
    """Return a number as a tensor beside the norm; it is made there, not copied."""
    return number if isinstance(number, Tensor) else norm.new_full((), number)
