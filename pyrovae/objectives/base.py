"""What every objective is: a bound on the evidence, and a loss whose gradient trains both programs.

bound = reconstruction - sum over latent sites of KL,    loss = -(reconstruction - beta * KL)
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyrovae import programs
from pyrovae.distributions import whole_number
from pyrovae.objectives.bounds import Bound
from pyrovae.objectives.checks import check_resolved, check_trained
from pyrovae.objectives.schedules import Schedule
from pyrovae.programs import Layout, Program, StopGradient, Trace, total

__all__ = ["Objective"]


class Objective(ELBO, ABC):
    """A bound and an estimator of its gradient, which `pyrovae.fit` and Pyro's `SVI` take.

    A concrete objective writes `bound`. If its loss is not the weighted sum of the bound's terms,
    it also puts the loss into the `Bound`.

    Args:
        samples: draws of z for each observation, made in one run.
        beta: weight of the KL terms (Higgins et al. 2017), a number or a schedule such as
            `warm_up(0.25)`, whose target is its value at t = 1. `pyrovae.fit` follows the schedule;
            with Pyro's own SVI, call `objective.at(t)` before a step.
        annealed: names of the latent sites that beta weighs; None for all.
        data_size: N. If given, a minibatch of M rows stands for all data and the loss is scaled by
            N / M (AEVB, eq. 8); latents that all rows share need a scale of M / N beside it.

    Raises:
        ValueError: if `samples` is below 1, `annealed` is one string, or the weight at the end of
            the schedule is negative or not finite.
    """

    bound_name = "ELBO"  # of the bound that is reported
    needs_rows = False  # whether the bound is a function of terms per observation
    needs_whole_rows = False  # whether they may be of no random part of the observation
    needs_param_sites = False  # whether the parameters must be visible to Pyro's handlers
    runs_forwards = False  # whether the model is also run with nothing observed
    stop_gradient: StopGradient | None = None  # replaces each draw where gradients do not pass
    follows_draws = False  # whether it adds the gradient through draws by itself even so

    parameters: Sequence[Tensor] = ()  # that training moves; set by `pyrovae.fit`
    _programs: tuple[Program, Program] | None = None
    _layout = Layout(0)
    _runs = 0
    _factor: Any = 1.0  # N / M of the last minibatch

    def __init__(
        self,
        samples: int = 1,
        beta: float | Schedule = 1.0,
        annealed: Collection[str] | None = None,
        data_size: int | None = None,
    ) -> None:
        name = type(self).__name__
        samples = whole_number(samples, f"{name}: samples")
        super().__init__(num_particles=samples)
        self.samples, self.beta, self.annealed = samples, beta, annealed
        self.data_size = data_size
        if isinstance(annealed, str):
            raise ValueError(
                f"{name}: annealed is {annealed!r}, expected a collection of names, "
                f"e.g. {{{annealed!r}}}"
            )
        if not (0 <= self.target < math.inf):
            raise ValueError(
                f"{name}: beta ends at {self.target}, expected a finite weight of at least 0"
            )
        self.current_beta = self.target

    @abstractmethod
    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return the terms of the bound at beta = 1, summed over rows and averaged over draws."""

    @abstractmethod
    def validation_objective(self) -> "Objective":
        """Return the estimator, at beta = 1, that evaluates held-out data during training."""

    @property
    def needs_rsample(self) -> bool:
        """Whether gradients pass through the guide's draws."""
        return self.stop_gradient is None or self.follows_draws

    # ------------------------------------------------------------------------ the weight of the KL
    @property
    def target(self) -> float:
        """The weight of the KL at the end of training."""
        return self._beta_at(1.0)

    def at(self, t: float) -> float:
        """Set and return the KL's weight for the fraction t of the planned steps, 0 to 1.

        `pyrovae.fit` calls it before each step; a loop of one's own does the same (see
        `differentiable_loss`). A number as beta stays as it is.
        """
        self.current_beta = self._beta_at(t)
        return self.current_beta

    def _beta_at(self, t: float) -> float:
        beta = self.beta(t) if callable(self.beta) else self.beta
        try:
            return float(beta)
        except TypeError:
            raise TypeError(
                f"{type(self).__name__}: beta is {beta!r} at t = {t:g}, expected a number, or a "
                "schedule that returns one, such as objectives.warm_up(0.25)"
            ) from None

    def anneals(self, site: str) -> bool:
        """Whether beta weighs the KL of a latent site."""
        return self.annealed is None or site in self.annealed

    def beta_of(self, site: str) -> float:
        """Return the present weight of a latent site's KL."""
        return self.current_beta if self.anneals(site) else 1.0

    def scaled_kl(self, site: str, kl: Tensor) -> Tensor:
        """Return a latent site's KL times its present weight."""
        beta = self.beta_of(site)
        return kl if isinstance(beta, float) and beta == 1 else kl * beta

    def total_kl(self, kl: dict[str, Tensor]) -> Tensor:
        """Return the sum over the latent sites of their KL times its present weight."""
        return total([self.scaled_kl(site, term) for site, term in kl.items()])

    # ------------------------------------------------------------------------------------- the loss
    def loss_of(self, bound: Bound, rows: int) -> Tensor:
        """Return the loss of a minibatch of M rows, a sum over them, times N / M if N is known."""
        loss = bound.loss
        if loss is None:
            kl = [self.scaled_kl(site, term) for site, term in bound.kl.items()]
            loss = total([-bound.reconstruction, *kl])
        return loss if self.data_size is None else loss * (self.data_size / rows)

    def backward(self, model: Program, guide: Program, *batch: Tensor) -> tuple[Tensor, Bound]:
        """Add the gradient of the mean loss per observation to the parameters'.

        The mean, so that Adam's eps, weight decay and clipping mean the same at every batch size.

        Returns:
            The mean loss, and the bound: tensors, so that nothing waits for a device.
        """
        rows = len(batch[0])
        bound = self.bound_of_rows(model, guide, *batch)
        loss = self.loss_of(bound, rows) / (self.data_size or rows)
        if not loss.requires_grad:
            raise ValueError(
                f"{type(self).__name__}: the loss depends on no parameter, so nothing would be "
                "trained. Let the distributions of model or guide be computed by the graph's "
                "networks, outside torch.no_grad() and without detach()"
            )
        loss.backward()
        return loss, bound

    def bound_of_rows(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return the bound of the minibatch's own rows.

        A plate over N rows of which these M are drawn multiplies `bound` by N / M, so that it
        stands for all N; this is without the factor.
        """
        bound = self.bound(model, guide, *batch)
        return bound if self._factor == 1 else bound.times(1 / self._factor)

    def state_dict(self) -> dict[str, Any]:
        """Return what the objective has learned in training; most learn nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""

    # ---------------------------------------------------------------------------- Pyro's interface
    def differentiable_loss(self, model: Program, guide: Program, *batch: Tensor) -> Tensor:
        """Return the loss, a sum over the rows as Pyro's are, to be differentiated.

        With `at` it is the way to a training loop of one's own: any loader, optimizer, precision,
        accumulation of gradients, or several processes. Divide by the number of rows, so that the
        optimizer's settings mean the same at every batch size. Two contexts make a step faster:
        `pyro.validation_enabled(False)`, after a first step with it on, and
        `pyrovae.programs.parameters_held(graph)`, which `torch.compile` of a loss needs too; under
        them Pyro checks nothing and sees no parameters, so it is the loop that must hold them.

        Example:
            >>> import pyrovae as pv
            >>> from torch.utils.data import DataLoader, TensorDataset
            >>> q = pv.posteriors.DiagonalNormal(nn.Linear(6, 4))
            >>> p = pv.likelihoods.Bernoulli(nn.Linear(2, 6))
            >>> vae = pv.VAE(pv.priors.StandardNormal(2), q, p)
            >>> loader = DataLoader(TensorDataset(torch.rand(64, 6).round()), batch_size=16)
            >>> objective = pv.objectives.SGVB_B(beta=pv.objectives.warm_up(0.5))
            >>> adam = torch.optim.Adam(vae.parameters(), lr=1e-3)
            >>> for step, (x,) in enumerate(loader):
            ...     beta = objective.at(step / (len(loader) - 1))
            ...     loss = objective.differentiable_loss(vae.model, vae.guide, x) / len(x)
            ...     (loss / 2).backward()  # the mean gradient of two minibatches is one step
            ...     if step % 2 == 1:
            ...         adam.step()
            ...         adam.zero_grad()
            >>> beta, bool(loss.isfinite())
            (1.0, True)
        """
        return self.loss_of(self.bound(model, guide, *batch), len(batch[0]))

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

    def _get_trace(
        self, model: Program, guide: Program, args: tuple, kwargs: dict
    ) -> tuple[Trace, Trace]:
        return self.draw(model, guide, *args)

    # --------------------------------------------------------------------------------------- draws
    def draw(self, model: Program, guide: Program, *batch: Tensor) -> tuple[Trace, Trace]:
        """Run both programs once with all draws, and return the traces (model's, guide's).

        While Pyro's validation is on, the programs are checked (see `check`).
        """
        layout = self.layout(model, guide, *batch)
        stop = type(self).stop_gradient
        p, q = programs.run(model, guide, *batch, layout=layout, stop_gradient=stop)
        self._factor = programs.factor_of_rows(p)
        if is_validation_enabled():
            self.check(p, q, self.needs_rsample and torch.is_grad_enabled())
        if self.needs_whole_rows:
            programs.check_whole_rows(p, q)
        if stop is not None and torch.is_grad_enabled():
            check_trained(q, type(self).__name__, self.follows_draws)
        if self.needs_rows:
            p.scale = q.scale = programs.common_scale(p, q)
        return p, q

    def layout(self, model: Program, guide: Program, *batch: Tensor) -> Layout:
        """Return how the draws lie in a run.

        It is found out at the first run of a pair of programs, and again after 1, 2, 4, 8, ...
        runs: at its first weights a network may not yet show that it mixes rows.

        Raises:
            ValueError: if the draws can only be made by separate runs, or overflow.
        """
        if self.samples == 1 and not self.needs_rows:
            return Layout(len(batch[0]))
        if self._programs != (model, guide):
            self._programs, self._runs = (model, guide), 0
        if self._runs & (self._runs - 1) == 0:  # 0 or a power of two
            self._layout = programs.find_layout(model, guide, *batch, draws=self.samples)
            if self.runs_forwards:
                programs.check_forwards(model, *batch)
        self._runs += 1
        if self._layout.separate:
            p, q = programs.run(model, guide, *batch)
            if self.needs_whole_rows:
                programs.check_whole_rows(p, q)
            check_resolved(p, q)
            raise ValueError(
                f"{type(self).__name__}: samples is {self.samples}, but the networks do not take "
                "further batch dimensions, and repeated rows would change the densities: a latent "
                "is shared by all rows, or a scale or sum depends on their number. Use samples=1, "
                "or networks that take any batch dimensions (pyrovae.nets.AnyLeading)"
            )
        return self._layout._replace(rows=len(batch[0]))

    def check(self, p: Trace, q: Trace, needs_rsample: bool) -> None:
        """Refuse a pair of programs for which the bound, or its gradient, would be wrong.

        Raises:
            ValueError: see `programs.check_sites`, or if `annealed` names no latent.
        """
        programs.check_sites(p, q, needs_rsample)
        names = [site["name"] for site in programs.latent(q)]
        unknown = sorted(set(self.annealed or ()).difference(names))
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: annealed names {unknown}, but the guide's latents are "
                f"{names}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the programs out of copies: a copy would copy their graph."""
        return {key: value for key, value in vars(self).items() if key != "_programs"}
