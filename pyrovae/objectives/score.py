"""The ELBO by the score function, which needs no reparameterized draw: the high-variance estimator that AEVB set out from.

d E_q[f(z)] / d phi = E_q[ (f(z) - b) d log q(z | x) / d phi ],  f = log p(x | z) - beta * (log q(z | x) - log p(z))

The baseline b does not depend on z and so leaves the expectation alone (Paisley, Blei & Jordan 2012; Williams 1992).
"""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from pyrovae.objectives.base import Bound, Objective
from pyrovae.objectives.log_weights import (
    log_latent,
    log_weights,
    of_model,
    weighed,
    with_gradient_of,
)
from pyrovae.objectives.schedules import Schedule
from pyrovae.objectives.sgvb import SGVB_A
from pyrovae.programs import Program, total

__all__ = ["LeaveOneOut", "RunningMean", "ScoreFunction"]

Baseline = Callable[
    [Tensor], Tensor
]  # f with shape (L, B) -> what is taken from it, broadcastable to it


class RunningMean:
    """Baseline b = the mean of f over the rows of past minibatches, forgotten exponentially (Williams 1992).

    Args:
        decay: share of the old value that one minibatch leaves, in [0, 1).

    Raises:
        ValueError: if `decay` is not in [0, 1).

    Example:
        >>> baseline = RunningMean(0.5)
        >>> [float(baseline(torch.full((1, 3), f))) for f in (4.0, 0.0, 0.0)]
        [0.0, 4.0, 2.0]
    """

    def __init__(self, decay: float = 0.9) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"RunningMean: decay is {decay}, expected a share in [0, 1), e.g. 0.9")
        self.decay, self.value = decay, None

    value: Tensor | None

    def __call__(self, f: Tensor) -> Tensor:
        """Return b from the minibatches before this one, and take this one in."""
        mean, before = f.detach().mean(), self.value
        self.value = mean if before is None else self.decay * before + (1 - self.decay) * mean
        return torch.zeros_like(mean) if before is None else before


class LeaveOneOut:
    """Baseline b_l = the mean of f over the row's other L - 1 draws (Salimans & Knowles 2014; Mnih & Rezende 2016).

    Example:
        >>> LeaveOneOut()(torch.tensor([[1.0], [2.0], [6.0]])).flatten().tolist()
        [4.0, 3.5, 1.5]
    """

    def __call__(self, f: Tensor) -> Tensor:
        """Return b with shape (L, B).

        Raises:
            ValueError: if there is one draw a row: it has no others.
        """
        if len(f) < 2:
            raise ValueError(
                "LeaveOneOut: there is one draw a row, expected at least two: ScoreFunction(samples=2, ...)"
            )
        return (f.sum(0) - f) / (len(f) - 1)


class ScoreFunction(Objective):
    """The ELBO whose gradient for the guide is the score function's; the posterior may be discrete.

    loss has the value -f, summed over the rows and averaged over the L draws; its gradient is that of -(f - b) log q(z | x) for
    the guide and of -(log p(x | z) + beta log p(z)) for the model.

    Args:
        samples: L, draws of z a row.
        baseline: f with shape (L, B) -> b, such as `RunningMean()` or `LeaveOneOut()`; None for b = 0.
        beta, annealed, data_size: as in `Objective`.

    Raises:
        ValueError: as `Objective`; when it runs, if a site is not in a plate over the rows.

    Example:
        >>> ScoreFunction(samples=2, baseline=LeaveOneOut()).samples
        2
    """

    needs_rsample = False
    cut = staticmethod(torch.Tensor.detach)

    def __init__(
        self,
        samples: int = 1,
        baseline: Baseline | None = None,
        beta: float | Schedule = 1.0,
        annealed: Collection[str] | None = None,
        data_size: int | None = None,
    ) -> None:
        super().__init__(samples, beta, annealed, data_size)
        if isinstance(baseline, LeaveOneOut) and samples < 2:
            raise ValueError(
                f"ScoreFunction: samples is {samples}, expected at least 2: LeaveOneOut compares a row's draws"
            )
        self.baseline = baseline

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return both terms of the ELBO, and the loss with the score function's gradient."""
        p, q = self.draw(model, guide, *batch)
        rows = len(batch[0])
        rec, kl = log_weights(p, q, rows)
        f = (rec - weighed(self, kl)).detach()  # (L, B)
        b = self.baseline(f) if self.baseline else 0.0
        # Inside f the gradient of log q has expectation 0 and is left out: what remains there is the model's.
        surrogate = -(
            (f - b) * total(log_latent(q, rows).values()) + of_model(self, rec, p, rows)
        ).sum()
        loss = with_gradient_of(surrogate / self.samples, -f.sum() / self.samples)
        return Bound(_mean(rec), {name: _mean(term) for name, term in kl.items()}, loss)

    def judge(self) -> SGVB_A:
        """Return the ELBO by one draw."""
        return SGVB_A()

    def state(self) -> dict[str, Any]:
        """Return the running mean, if that is the baseline."""
        return (
            {"running mean": self.baseline.value} if isinstance(self.baseline, RunningMean) else {}
        )

    def put(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        if isinstance(self.baseline, RunningMean):
            self.baseline.value = state.get("running mean")


def _mean(term: Tensor) -> Tensor:
    return term.detach().mean(0).sum()
