"""What every objective is: a bound on the evidence, its terms, and a loss whose gradient trains model and guide."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch
from pyro.infer import Trace_ELBO
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyrovae import programs
from pyrovae.objectives.schedules import Schedule
from pyrovae.programs import Program, Trace, total

__all__ = ["Bound", "Objective"]


class Bound(NamedTuple):
    """The terms of a bound in nats, summed over the rows: bound = reconstruction - sum of kl over the latent sites.

    Attributes:
        reconstruction: log p(x | z), averaged over the draws.
        kl: by latent site, unweighted. Where a bound has no such terms, one entry holds reconstruction - bound.
        loss: what is minimized, where it is not the weighted sum of these terms.
    """

    reconstruction: Tensor
    kl: dict[str, Tensor]
    loss: Tensor | None = None

    def numbers(self) -> tuple[float, float]:
        """Return reconstruction and KL, summed over the latent sites, as numbers."""
        return self.reconstruction.item(), sum(kl.item() for kl in self.kl.values())


class Objective(Trace_ELBO, ABC):
    """A bound and how its gradient is estimated. As in Pyro, one object belongs to one model.

    A concrete objective writes `bound`; where its loss is not the weighted ELBO it also puts that loss into the `Bound`.

    Args:
        samples: draws of z for each row of data, as one vectorized run.
        beta: weight of the KL terms (Higgins et al. 2017), a number or a schedule such as `warm_up(0.25)`; at t = 1 the target.
            `pyrovae.fit` walks the schedule; beside Pyro's own SVI call `objective.at(t)` before a step.
        annealed: names of the latent sites that beta weighs; None for all.
        data_size: N. If given, a minibatch of M rows stands for the whole data and the loss is scaled by N / M (AEVB, eq. 8).

    Raises:
        ValueError: if `samples` is below 1, or the weight at the end of the schedule is negative or not finite.
    """

    reports = "ELBO"  # what the reported bound is
    needs_rsample = True  # whether gradients pass through the guide's draws
    cut: Callable[[Tensor], Tensor] | None = None  # what replaces a draw where they do not

    def __init__(
        self,
        samples: int = 1,
        beta: float | Schedule = 1.0,
        annealed: Collection[str] | None = None,
        data_size: int | None = None,
    ) -> None:
        if samples < 1:
            raise ValueError(
                f"{type(self).__name__}: samples is {samples}, expected at least one draw of z a row"
            )
        super().__init__(num_particles=samples, vectorize_particles=samples > 1)
        self.samples, self.beta, self.annealed, self.data_size = samples, beta, annealed, data_size
        if isinstance(annealed, str):
            raise ValueError(
                f"{type(self).__name__}: annealed is {annealed!r}, expected a collection of names, e.g. {{{annealed!r}}}"
            )
        if not (0 <= self.target < math.inf):
            raise ValueError(
                f"{type(self).__name__}: beta ends at {self.target}, expected a finite weight of at least 0"
            )
        self.weight = self.target

    @abstractmethod
    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return the terms of the bound at beta = 1, summed over the batch and averaged over the draws."""

    @abstractmethod
    def judge(self) -> "Objective":
        """Return the estimator, at beta = 1, by which held-out data judges what this objective trained."""

    @property
    def target(self) -> float:
        """The weight of the KL at the end of training."""
        return float(self.beta(1.0) if callable(self.beta) else self.beta)

    def at(self, t: float) -> float:
        """Set and return the weight for the fraction t of the planned steps."""
        self.weight = float(self.beta(t)) if callable(self.beta) else float(self.beta)
        return self.weight

    def weighted(self, bound: Bound, rows: int) -> Tensor:
        """Return the loss of a minibatch of so many rows, -(reconstruction - beta * KL) or its own, scaled by N / M if N is known."""
        loss = bound.loss
        if loss is None:
            loss = total(
                [-bound.reconstruction, *(self.weigh(name, kl) for name, kl in bound.kl.items())]
            )
        return loss if self.data_size is None else loss * (self.data_size / rows)

    def weigh(self, name: str, kl: Tensor) -> Tensor:
        """Return a latent site's KL times its present weight."""
        beta = self.weight_of(name)
        return kl if beta == 1 else kl * beta

    def weight_of(self, name: str) -> float:
        """Return the present weight of a latent site's KL."""
        return self.weight if self.annealed is None or name in self.annealed else 1.0

    def state(self) -> dict[str, Any]:
        """Return what the objective has learned in training, for a checkpoint: tensors and plain values; most learn nothing."""
        return {}

    def put(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""

    # ------------------------------------------------------------------------------------------------ Pyro's interface
    def differentiable_loss(self, model: Program, guide: Program, *batch: Tensor) -> Tensor:
        """Return the loss, a sum over the rows as Pyro's are, as a tensor to differentiate."""
        return self.weighted(self.bound(model, guide, *batch), len(batch[0]))

    def loss(self, model: Program, guide: Program, *batch: Tensor) -> float:
        """Return the loss as a number."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *batch).item()

    def loss_and_grads(self, model: Program, guide: Program, *batch: Tensor) -> float:
        """Add the gradients of the loss to the parameters' and return the loss as a number."""
        loss = self.differentiable_loss(model, guide, *batch)
        if loss.requires_grad:
            loss.backward()
        return loss.item()

    def draw(self, model: Program, guide: Program, *batch: Tensor) -> tuple[Trace, Trace]:
        """Return one run of both programs with all L draws in it (model's trace, guide's trace), checked if Pyro's validation is on."""
        p, q = next(self._get_traces(model, guide, batch, {}))
        if is_validation_enabled():
            self.check(p, q, self.needs_rsample and torch.is_grad_enabled())
        return p, q

    def check(self, p: Trace, q: Trace, needs_rsample: bool) -> None:
        """Refuse a pair of programs for which the bound, or its gradient, would be wrong.

        Raises:
            ValueError: see `traces.check_sites`, or if `annealed` names no latent.
        """
        programs.check_sites(p, q, needs_rsample)
        names = [site["name"] for site in programs.sites(q, observed=False)]
        unknown = sorted(set(self.annealed or ()).difference(names))
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: annealed names {unknown}, but the guide's latents are {names}"
            )

    def _get_trace(
        self, model: Program, guide: Program, args: tuple, kwargs: dict
    ) -> tuple[Trace, Trace]:
        return programs.run(model, guide, *args, cut=type(self).cut)

    def _guess_max_plate_nesting(self, *run: Any) -> None:
        log = logging.getLogger("pyro.infer.elbo")
        level = log.level
        log.setLevel(logging.WARNING)  # nobody asked how deep plates nest
        try:
            super()._guess_max_plate_nesting(*run)
        finally:
            log.setLevel(level)
