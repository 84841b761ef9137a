"""Model and guide each by a loss of its own: awake by weighted draws of the guide, asleep by draws of the model.

wake, the model    -sum_k v_k log p(x, z_k)      z_k ~ q(z | x),  v_k = w_k / sum_j w_j
wake, the guide    -sum_k v_k log q(z_k | x)     z_k ~ q(z | x)                     (Bornschein & Bengio 2015, eqs. 6 and 8)
sleep, the guide   -log q(z | x)                 z ~ p(z), x ~ p(x | z)             (Hinton, Dayan, Frey & Neal 1995)

The guide is drawn to the posterior by KL(p(z | x) || q(z | x)), not by the KL(q || p) of the ELBO: there is no one bound that both climb.
"""

from collections.abc import Collection

import torch
from pyro import poutine
from torch import Tensor

from pyrovae import programs
from pyrovae.objectives.base import Bound, Objective
from pyrovae.objectives.importance import IWAE
from pyrovae.objectives.log_weights import (
    log_latent,
    log_mean_exp,
    log_weights,
    of_model,
    report,
    weighed,
)
from pyrovae.objectives.schedules import Schedule
from pyrovae.objectives.sgvb import SGVB_A
from pyrovae.programs import Program, total

__all__ = ["ReweightedWakeSleep", "WakeSleep"]


class ReweightedWakeSleep(Objective):
    """Reweighted wake-sleep (Bornschein & Bengio 2015): the model climbs L_K, the guide fits the posterior by weighted draws.

    The posterior may be discrete. The history's `elbo` holds L_K, as under `IWAE`; its `loss` is the two losses' sum.

    Args:
        samples: K, draws a row.
        sleep: share of the guide's loss that comes from the sleep phase, in [0, 1]; 0 is the wake phase alone.
        beta, annealed, data_size: as in `Objective`.

    Raises:
        ValueError: if `sleep` is not in [0, 1], or as `IWAE` does.

    Example:
        >>> ReweightedWakeSleep(samples=10, sleep=0.5).sleep
        0.5
    """

    reports = "L_K"
    needs_rsample = False
    cut = staticmethod(torch.Tensor.detach)

    def __init__(
        self,
        samples: int = 10,
        sleep: float = 0.0,
        beta: float | Schedule = 1.0,
        annealed: Collection[str] | None = None,
        data_size: int | None = None,
    ) -> None:
        super().__init__(samples, beta, annealed, data_size)
        if not 0 <= sleep <= 1:
            raise ValueError(
                f"ReweightedWakeSleep: sleep is {sleep}, expected a share of the guide's loss in [0, 1]"
            )
        self.sleep = sleep

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return L_K, summed over the batch, and the sum of the phases' losses."""
        p, q = self.draw(model, guide, *batch)
        rows = len(batch[0])
        rec, kl = log_weights(p, q, rows)
        v = (rec - weighed(self, kl)).detach().softmax(0)  # (K, B)
        loss = -(v * of_model(self, rec, p, rows)).sum()
        if self.sleep < 1:
            loss = loss - (1 - self.sleep) * (v * total(log_latent(q, rows).values())).sum()
        if self.sleep > 0:
            loss = loss - self.sleep * _dream(model, guide, *batch)
        return report(rec, kl, log_mean_exp, loss)

    def judge(self) -> IWAE:
        """Return L_K at beta = 1."""
        return IWAE(self.samples)


class WakeSleep(Objective):
    """The wake-sleep algorithm (Hinton, Dayan, Frey & Neal 1995), to which AEVB compares itself (section 5).

    loss = -log p(x, z) at z ~ q(z | x), for the model, - log q(z' | x') at z', x' ~ p(z, x), for the guide, summed over the rows.

    Reported is the ELBO. Arguments and errors are those of `Objective`.

    Example:
        >>> WakeSleep().needs_rsample
        False
    """

    needs_rsample = False
    cut = staticmethod(torch.Tensor.detach)

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return the ELBO, summed over the batch, and the sum of both phases' losses."""
        p, q = self.draw(model, guide, *batch)
        rec, kl = log_weights(p, q, len(batch[0]))
        wake = -of_model(self, rec, p, len(batch[0])).mean(0).sum()
        return report(rec, kl, lambda log_w: log_w.mean(0), wake - _dream(model, guide, *batch))

    def judge(self) -> SGVB_A:
        """Return the ELBO by one draw."""
        return SGVB_A()


def _dream(model: Program, guide: Program, *batch: Tensor) -> Tensor:
    """Return the sum of log q(z | x) over rows that the model draws, a number of them as in the batch, at its context."""
    with torch.no_grad():
        p = programs.record(poutine.uncondition(model), *batch)
    x = programs.simulated(p)["value"]
    return total(
        log_latent(programs.record(guide, x, *batch[1:], given=p), len(batch[0])).values()
    ).sum()
