"""Evidence of each row from its K importance weights, with errors that say when not to trust it.

log p(x) ~ log (1 / K) sum_k w_k
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.evaluation import pareto

__all__ = ["LEAST_SHARE", "Evidence", "EvidenceWarning", "Weights", "joined", "warn_if_unreliable"]

_LARGEST_K = 0.7  # Vehtari et al. 2024, section 3.2
_LEAST_SIZE = 10  # effective draws, below which an error estimated from them means little
LEAST_SHARE = 1 / 8  # of few draws that must be effective
_NEGLIGIBLE = 0.1  # nats: whatever its tail, a standard error below it needs no warning
_MANY = 0.1  # fraction of the rows


class EvidenceWarning(UserWarning):
    """The evidence of many rows is uncertain by more than its standard error can show."""


class _Estimates(NamedTuple):
    log_p: Tensor
    standard_error: Tensor
    effective_sample_size: Tensor


class Evidence(_Estimates):
    """An estimate of log p(x): three tensors with shape (B,), to unpack or by name, and more.

    Attributes:
        log_p: log (1 / K) sum_k w_k, in nats; its expectation is at most log p(x) (Burda et al.
            2016, theorem 1).
        standard_error: of log_p: the relative standard error of the mean weight (the delta method),
            or the standard deviation over replicates with the fitted tail of the weights if that is
            larger. It holds up to a k-hat of 0.7. NaN for one draw.
        effective_sample_size: (sum w)^2 / sum w^2, between 1 and K. Near 1 a single draw dominates,
            and neither of the other figures can be trusted.
        pareto_k: k-hat, how heavy the tail of the weights is. Above 0.7 no practical number of
            draws suffices: the guide is too far from the posterior, log_p is likely too low, and
            the standard error too small (Vehtari et al. 2024). NaN with fewer than 21 draws, which
            show no tail.

    Example:
        >>> evidence = Evidence(torch.tensor([-3.0, -5.0]), torch.full((2,), 0.1), torch.ones(2))
        >>> log_p, error, size = evidence
        >>> evidence.mean, round(evidence.mean_monte_carlo_error, 3)
        (-4.0, 0.071)
    """

    pareto_k: Tensor

    def __new__(
        cls,
        log_p: Tensor,
        standard_error: Tensor,
        effective_sample_size: Tensor,
        pareto_k: Tensor | None = None,
    ) -> "Evidence":
        """Return the three estimates as a tuple with the further attributes."""
        self = super().__new__(cls, log_p, standard_error, effective_sample_size)
        self.pareto_k = torch.full_like(log_p, math.nan) if pareto_k is None else pareto_k
        return self

    @classmethod
    def _make(cls, iterable: Iterable[Tensor]) -> "Evidence":  # by which `_replace` copies
        return cls(*iterable)

    @property
    def mean(self) -> float:
        """Mean of log_p over the rows, in nats per observation."""
        return self.log_p.mean().item()

    @property
    def mean_monte_carlo_error(self) -> float:
        """Standard error of `mean` for these very rows: another seed would move it by so much.

        sqrt(sum_i s_i^2) / B, where s_i is the standard error of row i; rows have draws of their
        own.
        """
        return self.standard_error.square().sum().sqrt().item() / len(self.log_p)

    @property
    def mean_standard_error(self) -> float:
        """Standard error of `mean` for the population of which the rows are a random sample.

        The standard deviation of log_p over the rows, divided by sqrt(B). The spread of log_p holds
        the Monte Carlo noise too, so this includes `mean_monte_carlo_error`. NaN for one row.
        """
        rows = len(self.log_p)
        return self.log_p.std().item() / math.sqrt(rows) if rows > 1 else math.nan

    def __repr__(self) -> str:
        sizes, k = self.effective_sample_size, self.pareto_k[~self.pareto_k.isnan()]
        largest = f"{k.max().item():.2f}" if len(k) else "unknown"
        return (
            f"Evidence of {len(self.log_p)} rows: mean log_p {self.mean:.3f} nats, standard error "
            f"{self.mean_standard_error:.3f} over rows and {self.mean_monte_carlo_error:.3f} by "
            f"Monte Carlo alone; least effective sample size {sizes.min().item():.1f}, largest "
            f"Pareto k-hat {largest}"
        )


class Weights:
    """What K importance weights of each row are summed up to, without keeping them all.

    Args:
        rows: B.
        samples: K.
    """

    def __init__(self, rows: int, samples: int) -> None:
        self.samples, self._size = samples, pareto.tail_size(samples)
        self._log_sums = torch.full((2, rows), -math.inf, dtype=torch.float64)
        self._top = torch.empty(0, rows, dtype=torch.float64)

    def add(self, log_w: Tensor) -> None:
        """Take in further log weights, shape (k, B)."""
        log_w = log_w.double().cpu()
        sums = torch.stack([log_w.logsumexp(0), (2 * log_w).logsumexp(0)])
        self._log_sums = torch.logaddexp(self._log_sums, sums)
        if self._size:
            both = torch.cat([self._top, log_w])
            self._top = both.topk(min(len(both), self._size + 1), dim=0).values

    def evidence(self) -> Evidence:
        """Return the evidence once all K have been taken in."""
        log_sum, log_squares = self._log_sums
        size = (2 * log_sum - log_squares).exp()
        error = ((self.samples / size - 1).clamp(min=0) / max(1, self.samples - 1)).sqrt()
        log_p = log_sum - math.log(self.samples)
        if self.samples == 1:
            error = torch.full_like(error, math.nan)
        if not self._size:
            return Evidence(log_p, error, size)
        k, tail_error = self._tail()
        return Evidence(log_p, torch.maximum(error, tail_error.nan_to_num(0.0)), size, k)

    def _tail(self) -> tuple[Tensor, Tensor]:
        largest = self._top[0]
        top = (self._top - largest).exp()  # every weight is divided by the largest of its row
        total, squares = (self._log_sums - torch.stack([largest, 2 * largest])).exp()
        k, sigma = pareto.fitted_tail((top[:-1] - top[-1]).flip(0))
        body = (total - top[:-1].sum(0)).clamp(min=0)
        body_squares = (squares - top[:-1].square().sum(0)).clamp(min=0)
        return k, pareto.standard_error(top, k, sigma, body, body_squares, self.samples)


def joined(pieces: Sequence[Evidence]) -> Evidence:
    """Return the evidence of all rows from that of parts of them."""
    log_p, error, size = (torch.cat(part) for part in zip(*pieces, strict=True))
    return Evidence(log_p, error, size, torch.cat([piece.pareto_k for piece in pieces]))


def warn_if_unreliable(
    evidence: Evidence, samples: int, name: str, least_share: float = LEAST_SHARE
) -> None:
    """Warn with an `EvidenceWarning` if more than a tenth of the rows cannot be trusted.

    Such a row has a k-hat above 0.7 and a standard error above 0.1 nats, or fewer than ten
    effective draws (of few draws, less than a share of them, one in eight).
    """
    least = min(_LEAST_SIZE, least_share * samples)
    heavy = (evidence.pareto_k > _LARGEST_K) & (evidence.standard_error > _NEGLIGIBLE)
    few = evidence.effective_sample_size < least
    bad, rows = int((heavy | few).sum()), len(evidence.log_p)
    if bad <= _MANY * rows:
        return
    warnings.warn(
        f"{name}: in {bad} of {rows} rows the weights of samples={samples} draws have a heavy tail "
        f"(Pareto k-hat above {_LARGEST_K}: {int(heavy.sum())} rows) or few effective draws (below "
        f"{least:.3g}: {int(few.sum())} rows). "
        "Neither log_p nor its standard_error can be relied on there. Take more samples, train the "
        "guide further or with objectives.IWAE, or use annealed_log_evidence, with more "
        "temperatures",
        EvidenceWarning,
        stacklevel=programs.level_of_user(),
    )
