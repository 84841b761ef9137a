"""Monte Carlo EM: the E-step draws from the posterior itself, the M-step climbs the joint density at the draws.

E-step   z ~ p(z | x) by Hamiltonian Monte Carlo, started at z ~ q(z | x)
M-step   theta <- theta + eta grad log p(x, z)                              (Kingma & Welling 2014, section 5 and appendix E)
"""

import math
from typing import Any

import torch
from torch import Tensor

from pyrovae import hmc, traces
from pyrovae.objectives.base import Bound, Objective, total
from pyrovae.objectives.sgvb import SGVB_A
from pyrovae.objectives.weights import log_latent, log_weights, of_model, report
from pyrovae.traces import Program, Trace

__all__ = ["MonteCarloEM"]

_GAIN = 0.1  # how fast log step size follows the acceptance


class MonteCarloEM(Objective):
    """Monte Carlo EM, AEVB's second competitor; it needs a chain for every row of every minibatch, and so does not scale.

    loss = -log p(x, z) - log q(z | x) at the chains' ends, summed over the rows. The second term trains the guide by maximum
    likelihood, so that chains start near the posterior and the graph can be evaluated; the model never sees it.

    The history's `elbo` is the mean of log p(x, z) - log q(z | x) over posterior draws, which lies *above* log p(x); validation
    is by the ELBO.

    Args:
        steps: transitions a chain makes, at least 1.
        leapfrog: leapfrog steps a transition; the paper's 10.
        step_size: where the common step size starts; it follows the acceptance.
        acceptance: mean acceptance to reach; the paper's 0.9.
        samples: chains a row.
        data_size: as in `Objective`.

    Raises:
        ValueError: if `acceptance` is not in (0, 1), or as `Objective` and `hmc.sample` do.

    Example:
        >>> MonteCarloEM(leapfrog=5).leapfrog
        5
    """

    needs_rsample = False

    def __init__(
        self,
        steps: int = 1,
        leapfrog: int = 10,
        step_size: float = 0.1,
        acceptance: float = 0.9,
        samples: int = 1,
        data_size: int | None = None,
    ) -> None:
        super().__init__(samples, data_size=data_size)
        if not 0 < acceptance < 1 or steps < 1 or leapfrog < 1:
            got = f"acceptance is {acceptance}, steps {steps}, leapfrog {leapfrog}"
            raise ValueError(f"MonteCarloEM: {got}, expected an acceptance in (0, 1), e.g. 0.9, and at least one step of each kind")
        self.steps, self.leapfrog, self.step_size, self.acceptance = steps, leapfrog, step_size, acceptance

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return the mean of log p(x, z) - log q(z | x) over the chains, and the loss of both programs."""
        p, q = self.draw(model, guide, *batch)
        rows = len(batch[0])
        rec, kl = log_weights(p, q, rows)
        joint = of_model(self, rec, p, rows) + total(log_latent(q, rows).values())
        return report(rec, kl, lambda log_w: log_w.mean(0), -joint.mean(0).sum())

    def judge(self) -> SGVB_A:
        """Return the ELBO by one draw."""
        return SGVB_A()

    def state(self) -> dict[str, Any]:
        """Return the step size that the acceptance has led to."""
        return {"step size": self.step_size}

    def put(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.step_size = state.get("step size", self.step_size)

    def _get_trace(self, model: Program, guide: Program, args: tuple, kwargs: dict) -> tuple[Trace, Trace]:
        start = traces.record(guide, *args, cut=torch.Tensor.detach)
        sites = {site["name"]: site for site in traces.sites(start, observed=False)}

        def log_joint(values: dict[str, Tensor]) -> Tensor:
            p = traces.record(model, *args, given=_at(values))
            return total([traces.log_prob(site) for site in p.values()])

        ends, accepted = hmc.sample(
            log_joint,
            {name: site["value"] for name, site in sites.items()},
            steps=self.steps,
            leapfrog=self.leapfrog,
            step_size=self.step_size,
            supports={name: site["fn"].support for name, site in sites.items()},
        )
        self.step_size *= math.exp(_GAIN * (accepted.mean().item() - self.acceptance))
        given = _at(ends)
        return traces.record(model, *args, given=given), traces.record(guide, *args, given=given)


def _at(values: dict[str, Any]) -> Trace:
    return Trace({name: {"value": value} for name, value in values.items()})
