"""Priors, posteriors and objectives from the words of the command line, for images, arrays and cells alike."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyrovae import objectives, posteriors, priors
from pyrovae.command.options import Objective, Posterior, Prior, Settled

__all__ = ["objective", "posterior", "prior", "some"]

_COMPONENTS = {Prior.MIXTURE: 50, Prior.VAMP: 500}
_CONTEXT = 40  # numbers that every step of an inverse autoregressive flow sees of x
_WIDTH = 320  # of its hidden layer
_OBJECTIVES: dict[
    Objective, type[objectives.SGVB_A | objectives.SGVB_B | objectives.IWAE | objectives.DReG]
] = {
    Objective.SGVB_A: objectives.SGVB_A,
    Objective.SGVB_B: objectives.SGVB_B,
    Objective.IWAE: objectives.IWAE,
    Objective.DREG: objectives.DReG,
}


def posterior(settings: Settled, encoder: Callable[[int], nn.Module]) -> nn.Module:
    """Build q(z | x) on the network that `encoder` makes of the number of its outputs."""
    d = settings.latents
    makers: dict[Posterior, Callable[[], nn.Module]] = {
        Posterior.DIAGONAL_NORMAL: lambda: posteriors.DiagonalNormal(encoder(2 * d)),
        Posterior.FULL_RANK_NORMAL: lambda: posteriors.FullRankNormal(encoder(d * (d + 3) // 2)),
        Posterior.IAF: lambda: posteriors.IAF(
            encoder(2 * d + _CONTEXT), d, context=_CONTEXT, hidden=(max(_WIDTH, d),)
        ),
        Posterior.POINT: lambda: posteriors.Point(encoder(d)),
    }
    return makers[settings.posterior]()


def prior(
    settings: Settled,
    q: nn.Module,
    rows: Callable[[int], Tensor],
    low: float | None = None,
    high: float | None = None,
) -> nn.Module:
    """Build p(z).

    Args:
        settings: Settled settings.
        q: The posterior, which a VampPrior shares.
        rows: K -> as many training rows, as the posterior sees them: where pseudo-inputs start.
        low: Least value of such a row, if there is one.
        high: Largest value.
    """
    d, k = settings.latents, settings.components or _COMPONENTS.get(settings.prior, 1)
    makers: dict[Prior, Callable[[], nn.Module]] = {
        Prior.STANDARD_NORMAL: lambda: priors.StandardNormal(d),
        Prior.MIXTURE: lambda: priors.Mixture(d, k),
        Prior.VAMP: lambda: priors.Vamp(q, rows(k), low=low, high=high),
        Prior.FLOW: lambda: priors.Flow(d, hidden=(max(128, d),)),
        Prior.FLAT: lambda: priors.Flat(d),
    }
    return makers[settings.prior]()


def objective(settings: Settled) -> objectives.Objective:
    """Build the estimator of the bound."""
    beta = (
        objectives.warm_up(settings.warm_up, settings.beta) if settings.warm_up else settings.beta
    )
    return _OBJECTIVES[settings.objective](samples=settings.draws, beta=beta)


def some(x: Tensor, k: int) -> Tensor:
    """Return k rows by chance, fewer where there are no more."""
    return x[torch.randperm(len(x))[:k]]
