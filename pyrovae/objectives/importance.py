"""Bounds by importance weights of each row: w_k = p(x, z_k) / q(z_k | x), z_k ~ q(z | x).

L_K = E[ log (1 / K) sum_k w_k ]                                        (Burda et al. 2016, eq. 8)
d L_K / d phi = E[ sum_k v_k^2 (d log w_k / d z_k) (d z_k / d phi) ],  v_k = w_k / sum_j w_j
                                                                       (Tucker et al. 2019, eq. 8)
    at a weight beta of the KL, (1 - beta) v_k + beta v_k^2 stands in place of v_k^2; so does the
    scale or mask that a handler puts on log q
L_alpha = 1 / (1 - alpha) log E[ w^(1 - alpha) ]                         (Li & Turner 2016, eq. 4)
"""

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.objectives.base import Objective
from pyrovae.objectives.bounds import Bound
from pyrovae.objectives.log_weights import (
    log_model,
    log_weights,
    make_bound,
    with_gradient_of,
)
from pyrovae.objectives.schedules import Schedule
from pyrovae.programs import Program, Site, Trace, log_mean_exp, total

__all__ = ["IWAE", "DReG", "Renyi"]


class IWAE(Objective):
    """The importance weighted bound L_K (Burda et al. 2016, eq. 8); K = 1 is the ELBO of `SGVB_A`.

    loss = -log (1 / K) sum_k w_k,  log w_k = log p(x | z_k) - beta * (log q(z_k | x) - log p(z_k)),
    summed over the rows. The bound is tighter with each sample. A plate over N rows of which M are
    drawn multiplies it by N / M, and not the log weights of a row.

    The history's `elbo` holds L_K, and its `kl` the remainder of the reconstruction. Arguments and
    errors are those of `Objective`, with K for L; a site that is not in a plate over the rows is
    refused.

    Example:
        >>> IWAE(samples=50).samples
        50
    """

    bound_name = "L_K"
    needs_rows = True
    needs_whole_rows = True

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return L_K, summed over the batch, and the loss."""
        p, q = self.draw(model, guide, *batch)
        rec, kl = log_weights(p, q)
        loss = -log_mean_exp(rec - self.total_kl(kl)).sum()
        return make_bound(p, rec, kl, log_mean_exp, loss)

    def validation_objective(self) -> "IWAE":
        """Return the same bound at beta = 1."""
        return IWAE(self.samples)


class DReG(Objective):
    """L_K with the doubly reparameterized gradient for the guide (Tucker et al. 2019, eq. 8).

    It has the bound of `IWAE`, and the same gradient in expectation, but the guide's gradient has
    no score term, so that its signal-to-noise ratio does not fall with K as that of `IWAE` does
    (Rainforth et al. 2018). The model's gradient is that of `IWAE`.

    It needs the guide's density at a z through which no gradient flows back to the draw. For an
    inverse autoregressive flow this takes D passes.

    Arguments and errors are those of `IWAE`.

    Example:
        >>> DReG(samples=50).samples
        50
    """

    bound_name = "L_K"
    needs_rows = True
    needs_whole_rows = True
    stop_gradient = staticmethod(lambda z: z.detach().requires_grad_())
    follows_draws = True

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return L_K, summed over the batch, and the loss."""
        with torch.enable_grad():
            p, q = self.draw(model, guide, *batch)
            rec, kl = log_weights(p, q)
            log_w = rec - self.total_kl(kl)
            v = log_w.detach().softmax(0)  # (K, B)
            latent = programs.latent(q)
            gradients = _gradients(log_w, latent)
            paths = [
                self._along_path(site, gradient, v, q)
                for site, gradient in zip(latent, gradients, strict=True)
            ]
            surrogate = -total([(v * log_model(self, rec, p)).sum(), *paths])
        loss = with_gradient_of(surrogate, -log_mean_exp(log_w).sum())
        return make_bound(p, rec, kl, log_mean_exp, loss)

    def validation_objective(self) -> IWAE:
        """Return the same bound at beta = 1."""
        return IWAE(self.samples)

    def _along_path(self, site: Site, gradient: Tensor, v: Tensor, q: Trace) -> Tensor:
        """Return a term whose gradient is that of the bound through a site's draws."""
        term = gradient * site["drawn"]
        event = len(site["fn"].event_shape)
        term = term.flatten(-event).sum(-1) if event else term
        path = q.layout.per_row(term, site)  # (K, B)
        if programs.is_delta(site):  # no draw, so that no score is replaced by a path
            return (v * path).sum()
        weighted = self.beta_of(site["name"]) * path
        if site["mask"] is not None or not _are_equal(site["scale"], q.scale):
            weight = programs.weights_of(site, term) / q.scale
            weighted = self.beta_of(site["name"]) * q.layout.per_row(weight * term, site)
        return (v * path + (v**2 - v) * weighted).sum()


class Renyi(Objective):
    """The variational Renyi bound (Li & Turner 2016, eq. 4).

    loss = -1 / (1 - alpha) log (1 / K) sum_k w_k^(1 - alpha), summed over the rows. alpha = 1 is
    the ELBO and alpha = 0 is `IWAE`; with alpha < 0 it may exceed log p(x). With finite K the
    estimate is biased.

    Args:
        alpha: order of the divergence, any finite number.
        samples: K, importance samples per observation.
        beta, annealed, data_size: as in `Objective`.

    Raises:
        ValueError: if `alpha` is not finite, or as `IWAE` does.

    Example:
        >>> Renyi(alpha=0.5, samples=10).alpha
        0.5
    """

    bound_name = "L_alpha"
    needs_rows = True
    needs_whole_rows = True

    def __init__(
        self,
        alpha: float,
        samples: int = 10,
        beta: float | Schedule = 1.0,
        annealed: Collection[str] | None = None,
        data_size: int | None = None,
    ) -> None:
        super().__init__(samples, beta, annealed, data_size)
        if not math.isfinite(alpha):
            raise ValueError(f"Renyi: alpha is {alpha}, expected a finite order, e.g. 0.5")
        self.alpha = alpha

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return L_alpha, summed over the batch, and the loss."""
        p, q = self.draw(model, guide, *batch)
        rec, kl = log_weights(p, q)
        loss = -self._of_weights(rec - self.total_kl(kl)).sum()
        return make_bound(p, rec, kl, self._of_weights, loss)

    def validation_objective(self) -> "Renyi":
        """Return the same bound at beta = 1."""
        return Renyi(self.alpha, self.samples)

    def _of_weights(self, log_w: Tensor) -> Tensor:
        power = 1 - self.alpha
        return log_w.mean(0) if power == 0 else log_mean_exp(power * log_w) / power


def _are_equal(a: Any, b: Any) -> bool:
    """Return whether two scales are the same number; tensors are not compared."""
    return not isinstance(a, Tensor) and not isinstance(b, Tensor) and a == b


def _gradients(log_w: Tensor, latent: list[Site]) -> list[Tensor]:
    """Return d log w_k / d z_k for each latent site, through the guide's later draws too."""
    outputs, wanted, found = [log_w], [torch.ones_like(log_w)], list[Tensor]()
    for site in reversed(latent):
        (g,) = torch.autograd.grad(outputs, site["value"], wanted, retain_graph=True)
        found.insert(0, g)
        if site["drawn"].requires_grad:
            outputs, wanted = [*outputs, site["drawn"]], [*wanted, g]
    return found
