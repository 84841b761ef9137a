"""The evidence lower bound by reparameterized draws (stochastic gradient variational Bayes).

ELBO = E_q(z|x)[ log p(x | z) ] - beta * KL( q(z | x) || p(z) )

    SGVB A     both terms by L draws (Kingma & Welling 2014, eq. 6)            Pyro's Trace_ELBO
    SGVB B     the KL in closed form where one is known (eq. 7)                Pyro's TraceMeanField_ELBO
    minibatch  L(X) ~ N / M * sum over the M rows of a minibatch (eq. 8)       `data_size=N`
    free bits  sum_d max(lambda, mean over the minibatch of KL_d) for the KL   (Kingma et al. 2016, eq. 15)
"""

import math
from collections.abc import Callable, Collection

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyrovae import programs
from pyrovae.objectives.base import Bound, Objective
from pyrovae.objectives.schedules import Schedule
from pyrovae.programs import Program, Site, Trace, total

__all__ = ["SGVB_A", "SGVB_B", "FreeBits"]

Divergence = Callable[[Site, Site | None], Tensor]


class SGVB_A(Objective):  # noqa: N801 (the paper's name)
    """Stochastic gradient variational Bayes, estimator A (Kingma & Welling 2014, eq. 6): Pyro's `Trace_ELBO`.

    loss = -( log p(x | z) - beta * (log q(z | x) - log p(z)) ),  z ~ q(z | x), averaged over L draws, summed over the rows.

    It differs from Pyro's class in what it reports (the two terms) and in what it leaves out (nothing is computed twice);
    loss and gradients are equal to Pyro's. Arguments and errors are those of `Objective`.

    Example:
        >>> SGVB_A(samples=5, beta=lambda t: min(1, 4 * t)).target
        1.0
    """

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return both terms of the ELBO, summed over the batch and averaged over the L draws."""
        return _terms(*self.draw(model, guide, *batch), programs.sampled_kl, self.samples)

    def judge(self) -> "SGVB_A":
        """Return estimator A by one draw."""
        return SGVB_A()


class SGVB_B(Objective):  # noqa: N801 (the paper's name)
    """Stochastic gradient variational Bayes, estimator B (Kingma & Welling 2014, eq. 7): Pyro's `TraceMeanField_ELBO`.

    loss = -( log p(x | z) - beta * KL(q(z | x) || p(z)) ),  the KL in closed form where one is known and by the draw where not.

    Arguments and errors are those of `Objective`. Its variance is usually smaller than that of `SGVB_A`.

    Example:
        >>> SGVB_B(beta=4.0).weight
        4.0
    """

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return both terms of the ELBO, summed over the batch and averaged over the L draws."""
        return _terms(*self.draw(model, guide, *batch), programs.analytic_kl, self.samples)

    def judge(self) -> "SGVB_B":
        """Return estimator B by one draw."""
        return SGVB_B()


class FreeBits(Objective):
    """SGVB B with a floor under the KL of each dimension, so that no latent is given up early (Kingma et al. 2016, eq. 15).

    loss = -( log p(x | z) - beta * sum_d max(lambda, KL_d) ),  KL_d the mean over the minibatch, times the rows.

    A site whose KL does not split into dimensions has one floor, D times lambda; one that all rows share, as the weights of a
    `BayesianVAE`, has its floors once, scaled as its KL is.

    Args:
        nats: lambda, the KL of a dimension that costs nothing.
        samples, beta, annealed, data_size: as in `Objective`.

    Raises:
        ValueError: if `nats` is negative or not finite, or as `Objective` does.

    Example:
        >>> FreeBits(nats=0.1).nats
        0.1
    """

    def __init__(
        self,
        nats: float,
        samples: int = 1,
        beta: float | Schedule = 1.0,
        annealed: Collection[str] | None = None,
        data_size: int | None = None,
    ) -> None:
        super().__init__(samples, beta, annealed, data_size)
        if not 0 <= nats < math.inf:
            raise ValueError(
                f"FreeBits: nats is {nats}, expected a finite KL of at least 0 that a dimension has free, e.g. 0.1"
            )
        self.nats = nats

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return both terms of the ELBO without the floor, and the loss with it."""
        p, q = self.draw(model, guide, *batch)
        terms = _terms(p, q, programs.analytic_kl, self.samples)
        prior = _latent(p)
        floored = [
            self.weigh(name, self._floored(site, prior.get(name), terms.kl[name]))
            for name, site in _latent(q).items()
        ]
        return terms._replace(loss=total([-terms.reconstruction, *floored]))

    def judge(self) -> SGVB_B:
        """Return estimator B: held-out data knows no free bits."""
        return SGVB_B()

    def _floored(self, q: Site, p: Site | None, kl: Tensor) -> Tensor:
        weights = scale_and_mask(
            kl.new_ones(q["fn"].batch_shape), q["scale"], q["mask"]
        )  # of each KL in the sum over plates
        floor = (self.nats * weights.sum() / self.samples).item()
        try:
            each = weights.unsqueeze(-1) * _kl_of_dimensions(q, p)
        except NotImplementedError:
            return kl.clamp(min=floor * q["fn"].event_shape.numel())
        return (each.flatten(0, -2).sum(0) / self.samples).clamp(min=floor).sum()


def _terms(p: Trace, q: Trace, divergence: Divergence, samples: int) -> Bound:
    prior = _latent(p)
    rec = total([programs.log_prob(site).sum() for site in programs.sites(p, observed=True)])
    kl = {name: divergence(site, prior.get(name)).sum() for name, site in _latent(q).items()}
    if samples == 1:
        return Bound(rec, kl)
    return Bound(rec / samples, {name: term / samples for name, term in kl.items()})


def _latent(trace: Trace) -> dict[str, Site]:
    return {site["name"]: site for site in programs.sites(trace, observed=False)}


def _kl_of_dimensions(q: Site, p: Site | None) -> Tensor:
    """Return KL(q_d || p_d) with shape (..., B, D), for distributions that are independent over their last axis."""
    try:
        a, b = q["fn"].base_dist, p["fn"].base_dist if p else None
    except AttributeError:
        raise NotImplementedError from None
    if q.get("entangled"):  # its prior sees what is drawn after it
        raise NotImplementedError
    if (
        b is None
        or q["fn"].batch_shape + q["fn"].event_shape != a.batch_shape
        or len(q["fn"].event_shape) != 1
    ):
        raise NotImplementedError
    return torch.atleast_2d(programs.kl_divergence(a, b))
