"""Monte Carlo EM: the E-step draws from the posterior, the M-step maximizes the joint density.

E-step   z ~ p(z | x) by Hamiltonian Monte Carlo, started at z ~ q(z | x)
M-step   theta <- theta + eta grad log p(x, z)      (Kingma & Welling 2014, section 5, appendix E)
"""

import math
from typing import Any

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.objectives.base import Objective
from pyrovae.objectives.bounds import Bound
from pyrovae.objectives.log_weights import (
    log_guide,
    log_joint,
    log_model,
    log_weights,
    make_bound,
)
from pyrovae.objectives.sgvb import SGVB_A
from pyrovae.programs import Program, Trace, hmc

__all__ = ["MonteCarloEM"]

_GAIN = 0.1  # of the log step size, for each step of training


class MonteCarloEM(Objective):
    """Monte Carlo EM, the second method that AEVB compares itself with.

    It needs a Markov chain for every observation of every minibatch, and so does not scale.

    loss = -log p(x, z) - log q(z | x) at the chains' ends, summed over the rows. The second term
    trains the guide by maximum likelihood, so that chains start near the posterior and the graph
    can be evaluated; it does not affect the model.

    The history's `elbo` is the mean of log p(x, z) - log q(z | x) over draws of the posterior,
    which lies *above* log p(x); validation uses the ELBO.

    Args:
        steps: transitions of a chain, at least 1.
        leapfrog: leapfrog steps per transition; the paper's 10.
        step_size: the first step size, common to all chains; it is adapted to the acceptance.
        acceptance: target of the mean acceptance; the paper's 0.9.
        samples: chains per observation.
        data_size: as in `Objective`.

    Raises:
        ValueError: if `acceptance` is not in (0, 1), or as `Objective` and `hmc.sample` do; when it
            runs, if a latent has no density, is shared by the rows, or has another support in the
            guide than in the model.

    Example:
        >>> MonteCarloEM(leapfrog=5).leapfrog
        5
    """

    bound_name = "log p(x, z) - log q(z | x)"
    needs_rows = True
    needs_whole_rows = True
    stop_gradient = staticmethod(torch.Tensor.detach)

    def __init__(
        self,
        steps: int = 1,
        *,
        leapfrog: int = 10,
        step_size: float = 0.1,
        acceptance: float = 0.9,
        samples: int = 1,
        data_size: int | None = None,
    ) -> None:
        super().__init__(samples, data_size=data_size)
        if not 0 < acceptance < 1 or steps < 1 or leapfrog < 1:
            raise ValueError(
                f"MonteCarloEM: acceptance is {acceptance}, steps {steps}, leapfrog {leapfrog}, "
                "expected an acceptance in (0, 1), e.g. 0.9, and at least one step of each kind"
            )
        self.steps, self.leapfrog = steps, leapfrog
        self.step_size, self.acceptance = step_size, acceptance

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return the mean of log p(x, z) - log q(z | x), and the loss of both programs."""
        p, q = self.draw(model, guide, *batch)
        rec, kl = log_weights(p, q)
        joint = log_model(self, rec, p) + log_guide(q)
        loss = -joint.mean(0).sum()
        return make_bound(p, rec, kl, lambda log_w: log_w.mean(0), loss)

    def validation_objective(self) -> SGVB_A:
        """Return the ELBO by one draw."""
        return SGVB_A()

    def state_dict(self) -> dict[str, Any]:
        """Return the step size that the acceptance has led to."""
        return {"step size": self.step_size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.step_size = state.get("step size", self.step_size)

    def draw(self, model: Program, guide: Program, *batch: Tensor) -> tuple[Trace, Trace]:
        """Run the chains from the guide's draws, and return both programs' traces at their ends."""
        p, q = super().draw(model, guide, *batch)
        _check_chains(p, q)
        layout, latent = q.layout, programs.latent_by_name(q)
        start = {name: layout.by_row(site["value"], site) for name, site in latent.items()}

        def trace_at(z: dict[str, Tensor]) -> Trace:
            as_sites = {name: layout.as_site(value, latent[name]) for name, value in z.items()}
            return Trace({name: {"value": value} for name, value in as_sites.items()})

        def log_f(z: dict[str, Tensor]) -> Tensor:  # (K, B)
            trace = programs.record(model, *batch, given=trace_at(z), layout=layout)
            trace.scale = p.scale
            return log_joint(trace)

        supports = {name: programs.support_of(p[name]["fn"], q[name]["fn"]) for name in start}
        ends, accepted = hmc.sample(
            log_f,
            start,
            steps=self.steps,
            leapfrog=self.leapfrog,
            step_size=self.step_size,
            supports=supports,
        )
        self.step_size *= math.exp(_GAIN * (accepted.mean().item() - self.acceptance))
        given = trace_at(ends)
        last_p = programs.record(model, *batch, given=given, layout=layout)
        last_q = programs.record(guide, *batch, given=given, layout=layout)
        last_p.scale = last_q.scale = p.scale
        return last_p, last_q


def _check_chains(p: Trace, q: Trace) -> None:
    """Refuse latents that a chain cannot move from the guide to the posterior: a ValueError."""
    programs.check_sites(p, q, needs_rsample=False)
    for name, site in programs.latent_by_name(q).items():
        if name not in p:
            raise ValueError(
                f'site "{name}": sampled in the guide only, so it has no posterior. MonteCarloEM '
                "needs it in the model"
            )
        programs.check_density(p[name])
        programs.check_density(site)
        fns = p[name]["fn"], site["fn"]
        of_model, of_guide = (programs.support_of(*order) for order in (fns, fns[::-1]))
        if not hmc.same_support(of_model, of_guide, site["value"], name):
            raise ValueError(
                f'site "{name}": the prior has the support {of_model}, the guide {of_guide}, which '
                "cannot learn the chains' ends. Use a posterior with the prior's support"
            )
