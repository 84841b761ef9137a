"""Negative binomial counts above 16 in double precision, one inverse dispersion per gene.

log NB(x) = G(w) - G(x + 1) - log Gamma(theta) - theta d - x (d - a + t)          w = x + theta
G(w) = log Gamma(w) - log(2 pi) / 2 = (w - 1 / 2) log w - w + 1 / (12 w) - 1 / (360 w^3) + ...
psi(w) = log w - 1 / (2 w) - 1 / (12 w^2) + 1 / (120 w^4) - ...

with a, t and d of `negative_binomial_log_prob.py`. Above 16 Stirling's series have 12 digits, in a
tenth of the time of lgamma and digamma, which only theta needs: once per gene.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pyrovae.distributions.pochhammer import LINEAR

__all__ = ["constants", "fill"]


def constants(t: Tensor) -> Tensor:
    """Return t, theta, log Gamma(theta) and psi(theta) of each gene, with shape (4, G).

    Args:
        t: log theta below 9 or so, so that no digits cancel, with shape (G,).
    """
    t = t.double()
    theta = t.exp()
    return torch.stack([t, theta, torch.lgamma(theta), torch.digamma(theta)])


def fill(a: Tensor, x: Tensor, place: Tensor, constants: Tensor, out: list[Tensor]) -> None:
    """Fill in log NB and its gradients in a and t at some places.

    Args:
        a: log mu, with shape (R, G).
        x: counts, with shape (R, G).
        place: indices of counts above 16 in x as a vector, with shape (N,).
        constants: what the function of this name gives, with shape (4, G).
        out: log NB and its gradients, or log NB alone, each with shape (R, G).
    """
    x, a = (v.reshape(-1).index_select(0, place).double() for v in (x, a))
    t, theta, log_gamma, psi = constants.index_select(1, place % constants.shape[1])
    w, ratio = x + theta, a.sub_(t)
    log_w = w.log()
    d = F.softplus(ratio, threshold=LINEAR)
    log_p = _log_gamma(w, log_w).sub_(log_gamma).addcmul_(theta, d, value=-1)
    log_p.addcmul_(x, d - ratio, value=-1)
    above = x + 1
    found = [log_p.sub_(_log_gamma(above, above.log()))]
    if len(out) > 1:
        r = ratio.sigmoid_()
        slope = log_w.sub_(_log_less_digamma(w)).sub_(psi).sub_(d).add_(r)
        in_theta = slope.mul_(theta).sub_(x).addcmul_(x, r)
        found += [torch.addcmul(x, w, r, value=-1), in_theta]
    for results, values in zip(out, found, strict=False):  # the gradient in g comes fourth
        results.view(-1).scatter_(0, place, values.to(results.dtype))


def _log_gamma(w: Tensor, log_w: Tensor) -> Tensor:
    """Return G(w)."""
    inverse = w.reciprocal()
    square = inverse * inverse
    series = (square / 1260).sub_(1 / 360).mul_(square).add_(1 / 12).mul_(inverse)
    return series.sub_(w).addcmul_(w - 0.5, log_w)


def _log_less_digamma(w: Tensor) -> Tensor:
    """Return log w - psi(w)."""
    inverse = w.reciprocal()
    square = inverse * inverse
    series = (square / 252).sub_(1 / 120).mul_(square).add_(1 / 12).mul_(square)
    return series.add_(inverse, alpha=0.5)
