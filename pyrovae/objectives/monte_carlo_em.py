"""Monte Carlo EM: the E-step draws from the posterior itself, the M-step climbs the joint density at the draws.

E-step   z ~ p(z | x) by Hamiltonian Monte Carlo, started at z ~ q(z | x)
M-step   theta <- theta + eta grad log p(x, z)                              (Kingma & Welling 2014, section 5 and appendix E)
"""

import math
from typing import Any

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.objectives.base import Bound, Objective
from pyrovae.objectives.log_weights import log_latent, log_weights, of_model, report
from pyrovae.objectives.sgvb import SGVB_A
from pyrovae.programs import Program, Trace, hmc, total

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
        ValueError: if `acceptance` is not in (0, 1), or as `Objective` and `hmc.sample` do; when it runs, if a latent has no density,
            is shared by the rows, or has another support in the guide than in the model.

    Example:
        >>> MonteCarloEM(leapfrog=5).leapfrog
        5
    """

    reports = "log p(x, z) - log q(z | x)"
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
            raise ValueError(
                f"MonteCarloEM: {got}, expected an acceptance in (0, 1), e.g. 0.9, and at least one step of each kind"
            )
        self.steps, self.leapfrog, self.step_size, self.acceptance = (
            steps,
            leapfrog,
            step_size,
            acceptance,
        )

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

    def _get_trace(
        self, model: Program, guide: Program, args: tuple, kwargs: dict
    ) -> tuple[Trace, Trace]:
        p, q = programs.run(model, guide, *args, cut=torch.Tensor.detach)
        latent = programs.sites(q, observed=False)
        _check_chains(p, q)
        shapes = {
            site["name"]: site["value"].shape for site in latent
        }  # with an axis of length one for each plate inside a row
        lead = (self.samples, len(args[0])) if self.samples > 1 else (len(args[0]),)
        start = {
            site["name"]: site["value"].reshape(*lead, *site["fn"].event_shape) for site in latent
        }

        def at(values: dict[str, Tensor]) -> Trace:
            return Trace(
                {name: {"value": value.reshape(shapes[name])} for name, value in values.items()}
            )

        def log_joint(values: dict[str, Tensor]) -> Tensor:
            trace = programs.record(model, *args, given=at(values))
            every = programs.sites(trace, observed=False) + programs.sites(trace, observed=True)
            f = total(
                programs.per_row(programs.log_prob(site), site, len(args[0])) for site in every
            )
            return f if self.samples > 1 else f[0]

        ends, accepted = hmc.sample(
            log_joint,
            start,
            steps=self.steps,
            leapfrog=self.leapfrog,
            step_size=self.step_size,
            supports={name: p[name]["fn"].support for name in start},
        )
        self.step_size *= math.exp(_GAIN * (accepted.mean().item() - self.acceptance))
        given = at(ends)
        return programs.record(model, *args, given=given), programs.record(
            guide, *args, given=given
        )


def _check_chains(p: Trace, q: Trace) -> None:
    """Refuse latents that a chain cannot move from the guide to the posterior: a ValueError."""
    programs.check_sites(p, q, needs_rsample=False)
    for site in programs.sites(q, observed=False):
        name = site["name"]
        if name not in p:
            raise ValueError(
                f'site "{name}": drawn in the guide alone, so there is no posterior of it. MonteCarloEM needs it in the model'
            )
        programs.check_density(p[name])
        programs.check_density(site)
        supports = p[name]["fn"].support, site["fn"].support
        if not hmc.same_support(*supports, site["value"], name):
            raise ValueError(
                f'site "{name}": the prior lives on {supports[0]}, the guide on {supports[1]}, which cannot learn the chains\' ends. '
                "Use a posterior over the prior's support"
            )
