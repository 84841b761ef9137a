"""The tail of importance weights: its Pareto k-hat, and a standard error that allows for it.

w - u | w > u  ~  generalized Pareto(k, sigma)     u: the largest weight below the M largest
P(w > y) ~ y^(-1 / k)                              the variance of w is infinite for k >= 1 / 2

The sample variance of K weights misses what lies beyond the largest of them, and so the delta
method gives too small an error where the tail is heavy. The standard error here is that of a
semiparametric bootstrap: of log (1 / K) sum_k w_k over replicates whose M largest weights are drawn
from the fitted tail.  (Vehtari, Simpson, Gelman, Yao & Gabry 2024; Zhang & Stephens 2009)
"""

import math

import torch
from torch import Tensor

__all__ = ["fitted_tail", "standard_error", "tail_size"]

_LEAST_TAIL = 5  # weights that a tail is fitted to
_PRIOR_K, _PRIOR_SIZE = 0.5, 10  # k-hat's prior: as ten weights of a tail with k = 1 / 2
_REPLICATES = 100  # the standard error has a relative error of 7 %
_NO_TAIL = 1e-9  # spread of the tail, relative to the largest weight, that is rounding
_LARGEST_K = 1.0  # where the mean of a tail becomes infinite


def tail_size(samples: int) -> int:
    """Return M = ceil(min(K / 5, 3 sqrt(K))), and 0 below 21 draws, where no tail can be fitted."""
    size = math.ceil(min(samples / 5, 3 * math.sqrt(samples)))
    return size if size >= _LEAST_TAIL else 0


def fitted_tail(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Return k-hat and sigma of the generalized Pareto distribution of w - u, shape (B,) each.

    k-hat is 0 where the weights of the tail are equal. Source: Zhang & Stephens 2009, with the
    weak prior of Vehtari et al. 2024, appendix C.

    Args:
        excess: w - u of the M largest weights in ascending order, divided by the largest weight;
            with shape (M, B).
    """
    m, largest = len(excess), excess[-1]
    flat = ~(largest > _NO_TAIL)
    excess = torch.where(flat, torch.linspace(0, 1, m, dtype=excess.dtype)[:, None], excess)
    largest = excess[-1]
    quartile = excess[int(m / 4 + 0.5) - 1].clamp(min=_NO_TAIL * largest)
    points = torch.arange(1, 31 + int(math.sqrt(m)), dtype=excess.dtype) - 0.5
    theta = (1 - (len(points) / points).sqrt())[:, None] / (3 * quartile) + 1 / largest
    k = torch.stack([torch.log1p(-each * excess).mean(0) for each in theta])
    likelihood = m * ((-theta / k).log() - k - 1)
    theta = (theta * likelihood.softmax(0)).sum(0)
    k = torch.log1p(-theta * excess).mean(0)
    shrunk = (m * k + _PRIOR_SIZE * _PRIOR_K) / (m + _PRIOR_SIZE)
    return torch.where(flat, 0.0, shrunk), torch.where(flat, 0.0, -k / theta)


def standard_error(
    top: Tensor, k: Tensor, sigma: Tensor, body: Tensor, body_squares: Tensor, samples: int
) -> Tensor:
    """Return the standard deviation of log sum_k w_k over replicates of the K weights, shape (B,).

    A replicate has about M weights from the fitted tail, and a normal sum for the others. All rows
    use the same random numbers, of a stream of their own.

    Args:
        top: the M + 1 largest weights in descending order; their last is u; with shape (M + 1, B).
        k: of the tail, with shape (B,).
        sigma: of the tail, with shape (B,).
        body: the sum of the K - M other weights, with shape (B,).
        body_squares: the sum of their squares, with shape (B,).
        samples: K.
    """
    m, u, rest = len(top) - 1, top[-1], samples - len(top) + 1
    mean = body / rest
    deviation = (body_squares / rest - mean**2).clamp(min=0).sqrt()
    k = k.clamp(max=_LARGEST_K)
    k = torch.where(k.abs() < 1e-4, 1e-4, k)  # an exponential tail, without its own formula
    shape, stream = k.float(), torch.Generator().manual_seed(0)
    sums = []
    for _ in range(_REPLICATES):
        e = -torch.rand(m, 1, generator=stream).clamp(min=1e-10).log()  # exponential
        tail = u + sigma / k * torch.expm1(shape * e).mean(0)  # in float32: most of the time
        noise, of_count = torch.randn(2, generator=stream, dtype=top.dtype)
        count = (m + math.sqrt(m * rest / samples) * of_count).clamp(min=1)  # binomial
        others = (samples - count) * mean + math.sqrt(rest) * deviation * noise
        sums.append(count * tail + others.clamp(min=0))
    return torch.stack(sums).log().std(0)
