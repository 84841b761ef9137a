"""The ELBO by the score function, which needs no reparameterized draw.

d E_q[f(z)] / d phi = E_q[ (f(z) - b) d log q(z | x) / d phi ]
f = log p(x | z) - beta * (log q(z | x) - log p(z))

The baseline b does not depend on z and so does not change the expectation (Paisley, Blei & Jordan
2012; Williams 1992). Without one this is the estimator of high variance that AEVB starts from.
"""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from pyrovae.objectives.base import Objective
from pyrovae.objectives.bounds import Bound
from pyrovae.objectives.log_weights import log_drawn, log_model, log_weights, with_gradient_of
from pyrovae.objectives.schedules import Schedule
from pyrovae.objectives.sgvb import SGVB_A
from pyrovae.programs import Program

__all__ = ["LeaveOneOut", "RunningMean", "ScoreFunction"]

Baseline = Callable[[Tensor], Tensor]  # f, shape (L, B) -> b, broadcastable to it


class RunningMean:
    """Baseline b = exponential moving average of f over past minibatches (Williams 1992).

    Args:
        decay: weight of the old average after a minibatch, in [0, 1).

    Raises:
        ValueError: if `decay` is not in [0, 1).

    Example:
        >>> baseline = RunningMean(0.5)
        >>> [float(baseline(torch.full((1, 3), f))) for f in (4.0, 0.0, 0.0)]
        [0.0, 4.0, 2.0]
    """

    value: Tensor | None

    def __init__(self, decay: float = 0.9) -> None:
        if not 0 <= decay < 1:
            raise ValueError(
                f"RunningMean: decay is {decay}, expected a fraction in [0, 1), e.g. 0.9"
            )
        self.decay, self.value = decay, None

    def __call__(self, f: Tensor) -> Tensor:
        """Return b from the minibatches before this one, and update the average with this one."""
        mean, before = f.detach().mean(), self.value
        self.value = mean if before is None else self.decay * before + (1 - self.decay) * mean
        return torch.zeros_like(mean) if before is None else before


class LeaveOneOut:
    """Baseline b_l = the mean of f over the other L - 1 draws of the same observation.

    Source: Salimans & Knowles 2014; Mnih & Rezende 2016.

    Example:
        >>> LeaveOneOut()(torch.tensor([[1.0], [2.0], [6.0]])).flatten().tolist()
        [4.0, 3.5, 1.5]
    """

    def __call__(self, f: Tensor) -> Tensor:
        """Return b, shape (L, B).

        Raises:
            ValueError: if there is one draw per observation, so that there are no others.
        """
        if len(f) < 2:
            raise ValueError(
                "LeaveOneOut: there is one draw per observation, expected at least two: "
                "ScoreFunction(samples=2, ...)"
            )
        return (f.sum(0) - f) / (len(f) - 1)


class ScoreFunction(Objective):
    """The ELBO with the score function gradient for the guide; the posterior may be discrete.

    The loss has the value -f, summed over the rows and averaged over the L draws. Its gradient is
    that of -(f - b) log q(z | x) for the guide, and of -(log p(x | z) + beta log p(z)) for the
    model.

    Args:
        samples: L, draws of z per observation.
        baseline: f, shape (L, B) -> b, such as `RunningMean()` or `LeaveOneOut()`; None for b = 0.
        beta, annealed, data_size: as in `Objective`.

    Raises:
        TypeError: if the baseline is no function.
        ValueError: as `Objective`, and when it runs, if a site is not in a plate over the rows.

    Example:
        >>> ScoreFunction(samples=2, baseline=LeaveOneOut()).samples
        2
    """

    needs_rows = True
    stop_gradient = staticmethod(torch.Tensor.detach)

    def __init__(
        self,
        samples: int = 1,
        baseline: Baseline | None = None,
        *,
        beta: float | Schedule = 1.0,
        annealed: Collection[str] | None = None,
        data_size: int | None = None,
    ) -> None:
        super().__init__(samples, beta, annealed, data_size)
        if baseline is not None and not callable(baseline):
            raise TypeError(
                f"ScoreFunction: baseline is {baseline!r}, expected a function of f such as "
                "LeaveOneOut()"
            )
        if isinstance(baseline, LeaveOneOut) and samples < 2:
            raise ValueError(
                f"ScoreFunction: samples is {samples}, expected at least 2: LeaveOneOut compares "
                "the draws of an observation"
            )
        self.baseline = baseline

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return both terms of the ELBO, and the loss with the score function's gradient."""
        p, q = self.draw(model, guide, *batch)
        rec, kl = log_weights(p, q)
        f = (rec - self.total_kl(kl)).detach()  # (L, B)
        b = self.baseline(f) if self.baseline else 0.0
        # The gradient of log q inside f has expectation 0 and is left out; the rest is the model's.
        score = (f - b) * log_drawn(q)
        surrogate = -(score + log_model(self, rec, p)).sum()
        loss = with_gradient_of(surrogate / self.samples, -f.sum() / self.samples)
        kl = {name: _mean(term) for name, term in kl.items()}
        return Bound(_mean(rec), kl, loss).times(p.scale)

    def validation_objective(self) -> SGVB_A:
        """Return the ELBO by one draw."""
        return SGVB_A()

    def state_dict(self) -> dict[str, Any]:
        """Return the moving average, if that is the baseline."""
        if isinstance(self.baseline, RunningMean):
            return {"running mean": self.baseline.value}
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        if isinstance(self.baseline, RunningMean):
            self.baseline.value = state.get("running mean")


def _mean(term: Tensor) -> Tensor:
    return term.detach().mean(0).sum()
