"""Pyro's own ELBOs as objectives."""

import copy
from typing import Any

import torch
from torch import Tensor

from pyrovae.objectives.base import Bound, Objective
from pyrovae.objectives.sgvb import SGVB_B
from pyrovae.programs import Program, Trace

__all__ = ["PyroELBO", "as_objective"]


class PyroELBO(Objective):
    """An ELBO of Pyro's, such as `TraceGraph_ELBO` or `RenyiELBO`, as an objective.

    It reports its loss only: the terms of the bound are NaN in the history, and validation takes
    the loss for the negative ELBO.

    Args:
        elbo: an object with Pyro's methods `loss` and `loss_and_grads`.
    """

    needs_param_sites = True

    def __init__(self, elbo: Any) -> None:
        super().__init__()
        self.elbo = elbo

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return the negative loss as the reconstruction, without a KL."""
        loss = _sum_of_phases(self.elbo.loss(model, guide, *batch))
        return Bound(torch.tensor(-loss), {})

    def backward(self, model: Program, guide: Program, *batch: Tensor) -> tuple[float, Bound]:
        """Add the gradient of the mean loss per observation; the bound's terms are NaN."""
        loss = _sum_of_phases(self.elbo.loss_and_grads(model, guide, *batch))
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not gradients:
            raise ValueError(
                f"{type(self.elbo).__name__} found no parameter in the programs, so nothing would "
                'be trained: call pyro.module("a name of its own", network) in model and guide'
            )
        for gradient in gradients:
            gradient /= len(batch[0])
        nan = torch.tensor(torch.nan)
        return loss / len(batch[0]), Bound(nan, {"remainder": nan})

    def validation_objective(self) -> "PyroELBO":
        """Return the same objective."""
        return self

    def check(self, p: Trace, q: Trace, needs_rsample: bool) -> None:
        """Leave the checks to Pyro's class."""


def as_objective(objective: Any) -> Objective:
    """Return what `pyrovae.fit` minimizes: a copy of an objective, or of an ELBO of Pyro's.

    A copy, so that the caller's object learns nothing; None is `SGVB_B()`.

    Raises:
        TypeError: if it is neither.
    """
    if objective is None:
        return SGVB_B()
    if isinstance(objective, Objective):
        return copy.deepcopy(objective)
    if all(callable(getattr(objective, name, None)) for name in ("loss", "loss_and_grads")):
        return PyroELBO(copy.deepcopy(objective))
    raise TypeError(
        f"objective: got {objective!r}, expected one of pyrovae.objectives, such as SGVB_B(), or "
        "an ELBO of Pyro's, such as pyro.infer.Trace_ELBO()"
    )


def _sum_of_phases(loss: Any) -> float:
    """Return a loss as a number; reweighted wake-sleep's is a pair."""
    return float(sum(loss) if isinstance(loss, tuple) else loss)
