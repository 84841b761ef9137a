"""The evidence lower bound and its estimators.

ELBO = E_q(z|x)[ log p(x | z) ] - beta * KL( q(z | x) || p(z) )

    SGVB A     both terms by L draws (Kingma & Welling 2014, eq. 6)            `SGVB_A`, Pyro's Trace_ELBO
    SGVB B     the KL in closed form where one is known (eq. 7)                `SGVB_B`, Pyro's TraceMeanField_ELBO
    minibatch  L(X) ~ N / M * sum over the M rows of a minibatch (eq. 8)       `data_size=N`

A schedule for beta is a plain function of t, the fraction of the planned steps that is done (0 at the first step, 1 at the
last), so that a short run ends at the same weight as a long one.
"""

import math
from collections.abc import Callable, Collection
from functools import reduce
from typing import NamedTuple

import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from pyrovae import traces
from pyrovae.traces import Program, Trace

__all__ = ["SGVB_A", "SGVB_B", "Bound", "Schedule", "cyclical", "warm_up"]

Schedule = Callable[[float], float]


class Bound(NamedTuple):
    """The terms of an ELBO, unweighted, in nats: ELBO = reconstruction - sum of kl over the latent sites."""

    reconstruction: Tensor
    kl: dict[str, Tensor]

    def numbers(self) -> tuple[float, float]:
        """Return reconstruction and KL, summed over the latent sites, as numbers."""
        return self.reconstruction.item(), sum(kl.item() for kl in self.kl.values())


def warm_up(fraction: float, target: float = 1.0) -> Schedule:
    """Return the schedule t -> target * min(1, t / fraction): linear over the first `fraction` of the steps (Bowman et al. 2016).

    Args:
        fraction: share of the planned steps, in (0, 1].
        target: the weight at which it ends.

    Raises:
        ValueError: if `fraction` is not in (0, 1].

    Example:
        >>> beta = warm_up(0.25)
        >>> [beta(t) for t in (0.0, 0.125, 0.25, 1.0)]
        [0.0, 0.5, 1.0, 1.0]
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"warm_up: fraction is {fraction}, expected a share of the planned steps in (0, 1], e.g. 0.25")
    return lambda t: target * min(1.0, t / fraction)


def cyclical(cycles: int, fraction: float = 0.5, target: float = 1.0) -> Schedule:
    """Return a schedule that warms up `cycles` times, each over the first `fraction` of its cycle (Fu et al. 2019, eq. 6).

    Args:
        cycles: how often it starts again at 0.
        fraction: share of each cycle over which the weight rises, in (0, 1].
        target: the weight at which each cycle, and so the whole, ends.

    Raises:
        ValueError: if `cycles` is below 1 or `fraction` not in (0, 1].
    """
    if cycles < 1:
        raise ValueError(f"cyclical: cycles is {cycles}, expected at least 1")
    ramp = warm_up(fraction, target)
    return lambda t: target if t >= 1 else ramp(math.modf(t * cycles)[0])


class SGVB_A(Trace_ELBO):  # noqa: N801 (the paper's name)
    """Stochastic gradient variational Bayes, estimator A (Kingma & Welling 2014, eq. 6): Pyro's `Trace_ELBO`.

    loss = -( log p(x | z) - beta * (log q(z | x) - log p(z)) ),  z ~ q(z | x), averaged over L draws, summed over the rows.

    It differs from Pyro's class in what it reports (the two terms) and in what it leaves out (nothing is computed twice);
    loss and gradients are equal to Pyro's. As in Pyro, one object belongs to one model.

    Args:
        samples: L, draws of z for each row of data, as one vectorized run.
        beta: weight of the KL terms (Higgins et al. 2017), a number or a schedule such as `warm_up(0.25)`; at t = 1 the target.
        annealed: names of the latent sites that beta weighs; None for all.
        data_size: N. If given, a minibatch of M rows stands for the whole data and the loss is scaled by N / M (eq. 8).

    Raises:
        ValueError: if `samples` is below 1, or the weight at the end of the schedule is negative or not finite.

    Example:
        >>> SGVB_A(samples=5, beta=warm_up(0.25)).target
        1.0
    """

    divergence = staticmethod(traces.sampled_kl)

    def __init__(
        self,
        samples: int = 1,
        beta: float | Schedule = 1.0,
        annealed: Collection[str] | None = None,
        data_size: int | None = None,
    ) -> None:
        if samples < 1:
            raise ValueError(f"{type(self).__name__}: samples is {samples}, expected at least one draw of z a row")
        super().__init__(num_particles=samples, vectorize_particles=samples > 1)
        self.samples, self.beta, self.annealed, self.data_size = samples, beta, annealed, data_size
        if not (0 <= self.target < math.inf):
            raise ValueError(f"{type(self).__name__}: beta ends at {self.target}, expected a finite weight of at least 0")
        self.weight = self.target

    @property
    def target(self) -> float:
        """The weight of the KL at the end of training."""
        return float(self.beta(1.0) if callable(self.beta) else self.beta)

    def at(self, t: float) -> float:
        """Set and return the weight for the fraction t of the planned steps."""
        self.weight = float(self.beta(t)) if callable(self.beta) else float(self.beta)
        return self.weight

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return both terms of the ELBO at beta = 1, summed over the batch and averaged over the L draws."""
        p, q = next(self._get_traces(model, guide, batch, {}))
        latent = {site["name"]: site for site in traces.sites(p, observed=False)}
        rec = reduce(torch.add, [traces.log_prob(site).sum() for site in traces.sites(p, observed=True)])
        kl = {site["name"]: self.divergence(site, latent.get(site["name"])).sum() for site in traces.sites(q, observed=False)}
        if self.samples == 1:
            return Bound(rec, kl)
        return Bound(rec / self.samples, {name: term / self.samples for name, term in kl.items()})

    def weighted(self, bound: Bound, rows: int) -> Tensor:
        """Return the loss -(reconstruction - beta * KL) of a minibatch of so many rows, scaled by N / M if N is known."""
        terms = [kl * self.weight if self._weighs(name) else kl for name, kl in bound.kl.items()]
        loss = reduce(torch.add, terms) - bound.reconstruction if terms else -bound.reconstruction
        return loss if self.data_size is None else loss * (self.data_size / rows)

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

    def _weighs(self, name: str) -> bool:
        return self.weight != 1 and (self.annealed is None or name in self.annealed)

    def _get_trace(self, model: Program, guide: Program, args: tuple, kwargs: dict) -> tuple[Trace, Trace]:
        return traces.run(model, guide, *args)


class SGVB_B(SGVB_A):  # noqa: N801 (the paper's name)
    """Stochastic gradient variational Bayes, estimator B (Kingma & Welling 2014, eq. 7): Pyro's `TraceMeanField_ELBO`.

    loss = -( log p(x | z) - beta * KL(q(z | x) || p(z)) ),  the KL in closed form where one is known and by the draw where not.

    Arguments, errors and reports are those of `SGVB_A`. Its variance is usually the smaller one.

    Example:
        >>> SGVB_B(beta=4.0).weight
        4.0
    """

    divergence = staticmethod(traces.analytic_kl)
