"""Clipping of the gradient's norm, by a fixed bound or by one that follows the norms seen.

g  <-  g min(1, c / |g|)                              (Pascanu et al. 2013, algorithm 1)

"auto":  c = 4 exp(m),   m = moving average of log |g|: the geometric mean of the norms of about the
last hundred steps. It has no unit, so that it serves losses of any size (Seetharaman et al. 2020
clip at a percentile of the norms seen, for the same reason).
"""

import math
from collections.abc import Sequence
from typing import Literal

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
        self.steps, self.mean_log = 0, 0.0

    def clip(self, parameters: Sequence[Tensor]) -> float:
        """Clip the gradients of the parameters; return their norm before."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = get_total_norm(gradients, foreach=None)
        value = norm.item()
        if self.clip_norm is None or not 0 < value < math.inf:
            return value
        bound = self._follow(value) if self.clip_norm == "auto" else float(self.clip_norm)
        if value > bound:
            clip_grads_with_norm_(parameters, bound, norm)
        return value

    def _follow(self, norm: float) -> float:
        """Return the bound for a gradient, and take its norm into the mean."""
        first = self.steps < _FIRST_STEPS
        bound = math.inf if first else _FACTOR * math.exp(self.mean_log)
        self.steps += 1
        rate = max(1 / self.steps, _RATE)
        self.mean_log += rate * (math.log(min(norm, bound)) - self.mean_log)
        return bound

    def state_dict(self) -> dict[str, float]:
        """Return what `load_state_dict` needs."""
        return {"steps": self.steps, "mean_log": self.mean_log}

    def load_state_dict(self, state: dict) -> None:
        """Continue from what `state_dict` returned."""
        self.steps, self.mean_log = state["steps"], state["mean_log"]
