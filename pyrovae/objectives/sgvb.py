"""The evidence lower bound by reparameterized draws (stochastic gradient variational Bayes).

ELBO = E_q(z|x)[ log p(x | z) ] - beta * KL( q(z | x) || p(z) )

    SGVB A     both terms by L draws (Kingma & Welling 2014, eq. 6)     Pyro's Trace_ELBO
    SGVB B     the KL in closed form where one is known (eq. 7)         Pyro's TraceMeanField_ELBO
    minibatch  L(X) ~ N / M * sum over the M rows of a minibatch (eq. 8)          `data_size=N`
    free bits  sum_d max(lambda, mean over the minibatch of KL_d) for the KL
               (Kingma et al. 2016, eq. 15)
"""

import math
from collections.abc import Callable, Collection

from torch import Tensor

from pyrovae import programs
from pyrovae.objectives.base import Objective
from pyrovae.objectives.bounds import Bound
from pyrovae.objectives.schedules import Schedule
from pyrovae.programs import Program, Site, Trace, total

__all__ = ["SGVB_A", "SGVB_B", "FreeBits"]

Divergence = Callable[[Site, Site | None], Tensor]


class SGVB_A(Objective):  # noqa: N801 (the paper's name)
    """SGVB estimator A (Kingma & Welling 2014, eq. 6): Pyro's `Trace_ELBO`.

    loss = -( log p(x | z) - beta * (log q(z | x) - log p(z)) ),  z ~ q(z | x), averaged over L
    draws and summed over the rows.

    Loss and gradients equal those of Pyro's class. Unlike it, this one reports the two terms, and
    computes each density once. Arguments and errors are those of `Objective`.

    Example:
        >>> SGVB_A(samples=5, beta=lambda t: min(1, 4 * t)).target
        1.0
    """

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return both terms of the ELBO, summed over the batch and averaged over the L draws."""
        return _terms(*self.draw(model, guide, *batch), programs.sampled_kl, self.samples)

    def validation_objective(self) -> "SGVB_A":
        """Return estimator A with one draw."""
        return SGVB_A()


class SGVB_B(Objective):  # noqa: N801 (the paper's name)
    """SGVB estimator B (Kingma & Welling 2014, eq. 7): Pyro's `TraceMeanField_ELBO`.

    loss = -( log p(x | z) - beta * KL(q(z | x) || p(z)) ), the KL in closed form where one is known
    and by the draw where not.

    Arguments and errors are those of `Objective`. Its variance is usually below that of `SGVB_A`.

    Example:
        >>> SGVB_B(beta=4.0).current_beta
        4.0
    """

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return both terms of the ELBO, summed over the batch and averaged over the L draws."""
        return _terms(*self.draw(model, guide, *batch), programs.analytic_kl, self.samples)

    def validation_objective(self) -> "SGVB_B":
        """Return estimator B with one draw."""
        return SGVB_B()


class FreeBits(Objective):
    """SGVB B with a floor under the KL of each dimension (Kingma et al. 2016, eq. 15).

    loss = -( log p(x | z) - beta * sum_d max(lambda, KL_d) ), where KL_d is the mean over the
    minibatch, times the rows. The floor keeps latents from being given up early in training.

    A site whose KL does not split into dimensions has one floor, D times lambda. A site that all
    rows share, such as the weights of a `BayesianVAE`, has its floors once, scaled as its KL is.

    Args:
        nats: lambda, the KL per dimension that costs nothing.
        samples, beta, annealed, data_size: as in `Objective`.

    Raises:
        ValueError: if `nats` is negative or not finite, or as `Objective` does; in a fit, if the
            guide samples what the model does not.

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
                f"FreeBits: nats is {nats}, expected a finite KL of at least 0 per dimension that "
                "costs nothing, e.g. 0.1"
            )
        self.nats = nats

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return both terms of the ELBO without the floor, and the loss with it."""
        p, q = self.draw(model, guide, *batch)
        terms = _terms(p, q, programs.analytic_kl, self.samples)
        prior = programs.latent_by_name(p)
        floored = [
            self.scaled_kl(name, self._floored(site, prior.get(name), terms))
            for name, site in programs.densities(q).items()
        ]
        return terms._replace(loss=total([-terms.reconstruction, *floored]))

    def validation_objective(self) -> SGVB_B:
        """Return estimator B: the floor belongs to training only."""
        return SGVB_B()

    def check(self, p: Trace, q: Trace, needs_rsample: bool) -> None:
        """Refuse, beside what `Objective` refuses, draws of the guide that the model lacks.

        Raises:
            ValueError: if there is such a site: its term is an entropy and no KL.
        """
        super().check(p, q, needs_rsample)
        prior = programs.latent_by_name(p)
        own = [site["name"] for site in programs.latent(q) if site["name"] not in prior]
        if own:
            raise ValueError(
                f'FreeBits: site "{own[0]}" is sampled in the guide only, as by an autoguide of a '
                "constrained latent, so it has no KL for a floor. Use SGVB_B, or a guide that "
                "samples the latents of the model alone"
            )

    def _floored(self, q: Site, p: Site | None, terms: Bound) -> Tensor:
        kl = terms.kl[q["name"]]
        if q["is_observed"]:  # a factor of the guide
            return kl
        weights = programs.weights_of(q, kl)  # of each KL in the sum over plates
        floor = self.nats * weights.sum() / self.samples
        try:
            by_dimension = weights.unsqueeze(-1) * programs.kl_of_dimensions(q, p)
        except NotImplementedError:
            return kl.clamp(min=floor * q["fn"].event_shape.numel())
        d = by_dimension.shape[-1]
        return (by_dimension.reshape(-1, d).sum(0) / self.samples).clamp(min=floor).sum()


def _terms(p: Trace, q: Trace, divergence: Divergence, samples: int) -> Bound:
    rec = total([programs.log_prob(site).sum() for site in programs.observed(p)])
    prior, posterior = programs.latent_by_name(p), programs.densities(q)
    kl = {name: divergence(site, prior.get(name)).sum() for name, site in posterior.items()}
    if samples == 1:
        return Bound(rec, kl)
    return Bound(rec / samples, {name: term / samples for name, term in kl.items()})
