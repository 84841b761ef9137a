"""Priors and posteriors from the words of the command line, for any kind of data."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from pyrovae import posteriors, priors
from pyrovae.command.choices import Posterior, Precision, Prior
from pyrovae.command.settings import Settings

__all__ = [
    "MAP_SIZE",
    "PRECISIONS",
    "build_posterior",
    "build_prior",
    "random_rows",
    "usable_device",
]

MAP_SIZE = 3  # of maps of latents, as in Wang et al. 2019
PRECISIONS: dict[Precision | None, Literal["bf16", "tf32"] | None] = {
    None: None,
    Precision.BF16: "bf16",
    Precision.TF32: "tf32",
}

_LEAST_VARIANCE = 1e-8  # of a latent: for a row far off, e^(2 log sigma) may be 0 in float32
_COMPONENTS = {Prior.MIXTURE: 50, Prior.VAMP: 500}
_IAF_CONTEXT = 40  # features of x that every step of an inverse autoregressive flow sees
_IAF_WIDTH = 320  # of its hidden layer


def build_posterior(settings: Settings, encoder: Callable[[int], nn.Module]) -> nn.Module:
    """Build q(z | x).

    Args:
        settings: Of the run.
        encoder: Makes the network from x, given the number of its outputs.
    """
    d = settings.latents
    makers: dict[Posterior, Callable[[], nn.Module]] = {
        Posterior.DIAGONAL_NORMAL: lambda: posteriors.DiagonalNormal(
            encoder(2 * d), _LEAST_VARIANCE
        ),
        Posterior.FULL_RANK_NORMAL: lambda: posteriors.FullRankNormal(encoder(d * (d + 3) // 2)),
        Posterior.IAF: lambda: posteriors.IAF(
            encoder(2 * d + _IAF_CONTEXT), d, context=_IAF_CONTEXT, hidden=(max(_IAF_WIDTH, d),)
        ),
        Posterior.MATRIX_NORMAL: lambda: _matrix_normal(d // MAP_SIZE**2, encoder),
        Posterior.POINT: lambda: posteriors.Point(encoder(d)),
    }
    return makers[settings.posterior]()


def _matrix_normal(maps: int, encoder: Callable[[int], nn.Module]) -> nn.Module:
    numbers = posteriors.MatrixNormal.parameters_of(maps, MAP_SIZE)
    return posteriors.MatrixNormal(encoder(numbers), maps, MAP_SIZE)


def build_prior(
    settings: Settings,
    posterior: nn.Module,
    rows: Callable[[int], Tensor],
    low: float | None = None,
    high: float | None = None,
) -> nn.Module:
    """Build p(z).

    Args:
        settings: Of the run.
        posterior: q(z | x), which a VampPrior shares.
        rows: Returns K training rows, as the posterior sees them: the first pseudo-inputs of a
            VampPrior.
        low: Least value of such a row, if there is one.
        high: Largest value.
    """
    d, k = settings.latents, settings.components or _COMPONENTS.get(settings.prior, 1)
    makers: dict[Prior, Callable[[], nn.Module]] = {
        Prior.STANDARD_NORMAL: lambda: priors.StandardNormal(d),
        Prior.MIXTURE: lambda: priors.Mixture(d, k),
        Prior.VAMP: lambda: priors.Vamp(posterior, rows(k), low=low, high=high),
        Prior.FLOW: lambda: priors.Flow(d, hidden=(max(128, d),)),
        Prior.FLAT: lambda: priors.Flat(d),
    }
    return makers[settings.prior]()


def random_rows(x: Tensor, k: int) -> Tensor:
    """Return k rows at random, fewer where there are no more."""
    return x[torch.randperm(len(x))[:k]]


def usable_device(name: str) -> torch.device:
    """Return the device of that name.

    Raises:
        ValueError: It cannot be used here.
    """
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--device {name} cannot be used ({reason}); choose cpu, cuda or cuda:0"
        ) from error
    return torch.device(name)
