"""The likelihood that describes the values of the data best, judged before any training.

Of the likelihoods that could stand for such values, that one is chosen whose density of the
training rows is the largest by more than a hundredth of a nat per value; else the first, which is
the usual one. The means are those of the columns for counts. Values in [0, 1] have as means their
reconstructions by as many principal components as the model has latents: how they scatter around
them tells grey values in between from black and white.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrovae import distributions
from pyrovae.command.choices import Likelihood
from pyrovae.command.images import floors
from pyrovae.command.images.components import Components
from pyrovae.data import Dataset, Kind, spread

__all__ = ["Chosen", "choose_likelihood", "continuous_bernoulli_logit"]

_ROWS = 500  # looked at, for time
_PER_VALUE = 0.01  # nats, below which the usual likelihood stays
_ROWS_PER_COMPONENT = 10  # fewer would be reconstructed too well
_WORDS = {
    Kind.BINARY: "the values are 0 and 1",
    Kind.LEVELS: "the values are whole numbers from 0 to 255",
    Kind.REAL: "the values are real numbers",
}


class Chosen(NamedTuple):
    """A likelihood, and why it was chosen."""

    likelihood: Likelihood
    why: str


def choose_likelihood(data: Dataset, latents: int) -> Chosen:
    """Return the likelihood that fits the values of the training rows best.

    Args:
        data: Training rows.
        latents: Number of latents of the model.
    """
    names = {likelihood.class_name: likelihood for likelihood in Likelihood}
    first = names[data.likelihoods[0].name]
    rivals = _RIVALS.get(data.kind, {})
    if data.total_count is not None or not rivals:
        return Chosen(first, _WORDS.get(data.kind, f"the values are {data.kind.value}"))
    x = data.x[spread(len(data.x), _ROWS).numpy()]
    x = x.reshape(len(x), -1).astype(np.float64)
    means = np.broadcast_to(x.mean(0), x.shape)
    if data.kind is Kind.UNIT:
        means = Components(x).project(x, min(latents, len(x) // _ROWS_PER_COMPONENT))
    values = {name: log_p(x, means).mean() * x.shape[1] for name, log_p in rivals.items()}
    best = max(values, key=lambda name: values[name])
    if values[best] - values[first] < _PER_VALUE * x.shape[1]:
        best = first
    figures = ", ".join(f"{name.value} {value:.1f}" for name, value in values.items())
    return Chosen(
        best,
        f"of what fits {data.kind.value} it gives the training rows the largest density before "
        f"any training, or nearly: {figures} nats per row",
    )


# ------------------------------------------------------------------ log p of each value of each row
def continuous_bernoulli_logit(mean: np.ndarray) -> np.ndarray:
    """Return the logits of continuous Bernoulli distributions with those means in (0, 1)."""
    far = np.geomspace(0.01, 1000, 2000)
    logits = torch.from_numpy(np.concatenate([-far[::-1], [0.0], far]))
    means = distributions.ContinuousBernoulli(logits).mean.numpy()
    return np.interp(mean, means, logits.numpy())


def _log_normal(x: np.ndarray, means: np.ndarray) -> np.ndarray:
    spread_of_columns = x.std(0)
    unit = np.where(spread_of_columns > 0, spread_of_columns, 1.0)
    least = floors.of_columns(x / unit) * unit
    sigma = np.maximum((x - means).std(0), least)
    return -0.5 * np.square((x - means) / sigma) - np.log(sigma) - 0.5 * np.log(2 * np.pi)


def _log_continuous_bernoulli(x: np.ndarray, means: np.ndarray) -> np.ndarray:
    logits = continuous_bernoulli_logit(means.clip(1 / 255, 1 - 1 / 255))
    p = distributions.ContinuousBernoulli(torch.from_numpy(logits))
    return p.log_prob(torch.from_numpy(x)).numpy()


def _rates(x: np.ndarray, means: np.ndarray) -> Tensor:
    """Return the means of counts, made positive."""
    return torch.from_numpy(np.maximum(means, 0.1 * x.mean(0) + 0.5 / len(x)))


def _log_poisson(x: np.ndarray, means: np.ndarray) -> np.ndarray:
    return distributions.LogPoisson(_rates(x, means).log()).log_prob(torch.from_numpy(x)).numpy()


def _log_negative_binomial(x: np.ndarray, means: np.ndarray) -> np.ndarray:
    rates, counts = _rates(x, means), torch.from_numpy(x)
    excess = ((counts - rates).square() - rates).mean(0) / rates.square().mean(0)
    theta = 1 / excess.clamp(1e-4, 1e4)
    p = distributions.NegativeBinomial.from_logs(rates.log(), theta.log())
    return p.log_prob(counts).numpy()


LogP = Callable[[np.ndarray, np.ndarray], np.ndarray]
_RIVALS: dict[Kind, dict[Likelihood, LogP]] = {
    Kind.UNIT: {
        Likelihood.CONTINUOUS_BERNOULLI: _log_continuous_bernoulli,
        Likelihood.GAUSSIAN: _log_normal,
    },
    Kind.COUNTS: {
        Likelihood.POISSON: _log_poisson,
        Likelihood.NEGATIVE_BINOMIAL: _log_negative_binomial,
        Likelihood.GAUSSIAN: _log_normal,
    },
}
