"""Wake-sleep algorithms: model and guide are each trained by a loss of their own.

wake, the model    -sum_k v_k log p(x, z_k)      z_k ~ q(z | x),  v_k = w_k / sum_j w_j
wake, the guide    -sum_k v_k log q(z_k | x)     z_k ~ q(z | x)
                                                        (Bornschein & Bengio 2015, eqs. 6 and 8)
sleep, the guide   -log q(z | x)                 z ~ p(z), x ~ p(x | z)
                                                        (Hinton, Dayan, Frey & Neal 1995)

The guide minimizes KL(p(z | x) || q(z | x)) and not the KL(q || p) of the ELBO, so there is no
single bound that both losses optimize.
"""

from collections.abc import Collection

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.objectives.base import Objective
from pyrovae.objectives.bounds import Bound
from pyrovae.objectives.importance import IWAE
from pyrovae.objectives.log_weights import (
    log_guide,
    log_model,
    log_weights,
    make_bound,
)
from pyrovae.objectives.schedules import Schedule
from pyrovae.objectives.sgvb import SGVB_A
from pyrovae.programs import Program, Trace, log_mean_exp

__all__ = ["ReweightedWakeSleep", "WakeSleep"]


class ReweightedWakeSleep(Objective):
    """Reweighted wake-sleep (Bornschein & Bengio 2015).

    The model maximizes L_K; the guide fits the posterior by weighted draws, and may be discrete.
    The history's `elbo` holds L_K, as under `IWAE`, and its `loss` the sum of both losses.

    Args:
        samples: K, draws per observation.
        sleep: fraction of the guide's loss that comes from the sleep phase, in [0, 1]; 0 is the
            wake phase alone.
        beta, annealed, data_size: as in `Objective`.

    Raises:
        ValueError: if `sleep` is not in [0, 1], or as `IWAE` does.

    Example:
        >>> ReweightedWakeSleep(samples=10, sleep=0.5).sleep
        0.5
    """

    bound_name = "L_K"
    needs_rows = True
    needs_whole_rows = True
    stop_gradient = staticmethod(torch.Tensor.detach)

    def __init__(
        self,
        samples: int = 10,
        sleep: float = 0.0,
        *,
        beta: float | Schedule = 1.0,
        annealed: Collection[str] | None = None,
        data_size: int | None = None,
    ) -> None:
        super().__init__(samples, beta, annealed, data_size)
        if not 0 <= sleep <= 1:
            raise ValueError(
                f"ReweightedWakeSleep: sleep is {sleep}, expected a fraction of the guide's loss "
                "in [0, 1]"
            )
        self.sleep, self.runs_forwards = sleep, sleep > 0

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return L_K, summed over the batch, and the sum of the phases' losses."""
        p, q = self.draw(model, guide, *batch)
        rec, kl = log_weights(p, q)
        v = (rec - self.total_kl(kl)).detach().softmax(0)  # (K, B)
        loss = -(v * log_model(self, rec, p)).sum()
        if self.sleep < 1:
            loss = loss - (1 - self.sleep) * (v * log_guide(q)).sum()
        if self.sleep > 0:
            loss = loss - self.sleep * _sleep_phase(model, guide, batch, p)
        return make_bound(p, rec, kl, log_mean_exp, loss)

    def validation_objective(self) -> IWAE:
        """Return L_K at beta = 1."""
        return IWAE(self.samples)


class WakeSleep(Objective):
    """The wake-sleep algorithm (Hinton, Dayan, Frey & Neal 1995), which AEVB compares itself with.

    loss = -log p(x, z) at z ~ q(z | x), for the model, - log q(z' | x') at z', x' ~ p(z, x), for
    the guide, summed over the rows.

    The ELBO is reported. Arguments and errors are those of `Objective`.

    Example:
        >>> WakeSleep().needs_rsample
        False
    """

    needs_rows = True
    runs_forwards = True
    stop_gradient = staticmethod(torch.Tensor.detach)

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return the ELBO, summed over the batch, and the sum of both phases' losses."""
        p, q = self.draw(model, guide, *batch)
        rec, kl = log_weights(p, q)
        wake = -log_model(self, rec, p).mean(0).sum()
        loss = wake - _sleep_phase(model, guide, batch, p)
        return make_bound(p, rec, kl, lambda log_w: log_w.mean(0), loss)

    def validation_objective(self) -> SGVB_A:
        """Return the ELBO by one draw."""
        return SGVB_A()


def _sleep_phase(model: Program, guide: Program, batch: tuple[Tensor, ...], p: Trace) -> Tensor:
    """Return the sum of log q(z | x) over as many rows drawn from the model as the batch has."""
    with torch.no_grad():
        x, z = programs.simulate(model, *batch)
    drawn = Trace({site["name"]: site for site in z})
    alone = p.layout._replace(draws=1, depth=None)
    rows = alone.rows_first(x["value"], x)
    q = programs.record(guide, rows, *batch[1:], given=drawn, layout=alone)
    q.scale = p.scale
    return log_guide(q).sum()
