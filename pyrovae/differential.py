"""Differential expression between two groups of cells, from the posterior (Lopez et al. 2018, section 2.3; Boyeau et al. 2019).

For pairs of cells a, b of the two groups, z_a ~ q(z | x_a), z_b ~ q(z | x_b):   lfc_g = log2 rho_g(z_a) - log2 rho_g(z_b)

change     p_g = P(|lfc_g| > delta)             vanilla     p_g = P(lfc_g > 0)             bayes factor     log p_g / (1 - p_g)
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Change", "compared", "discoveries"]

_LEAST = 1e-8  # keeps the Bayes factor finite at a probability of 0 or 1


class Change(NamedTuple):
    """Each gene's change, every field with shape (G,)."""

    proba_de: Tensor
    bayes_factor: Tensor
    lfc_mean: Tensor
    lfc_median: Tensor
    lfc_std: Tensor


def compared(rho1: Tensor, rho2: Tensor, delta: float | None, pseudo: float) -> Change:
    """Compare pairs of draws of the expression of two groups.

    Args:
        rho1: proportions of the first group, with shape (P, G).
        rho2: of the second, paired with it.
        delta: log2 fold change above which a change counts, either way; None asks only whether the first is higher.
        pseudo: added to both before the logarithm, so that what neither group expresses has not changed.
    """
    lfc = (rho1 + pseudo).log2_().sub_((rho2 + pseudo).log2_())
    p = (lfc > 0 if delta is None else lfc.abs() > delta).double().mean(0)
    bayes_factor = (p + _LEAST).log() - (1 - p + _LEAST).log()
    return Change(p, bayes_factor, lfc.mean(0), lfc.median(0).values, lfc.std(0, correction=0))


def discoveries(proba: Tensor, fdr: float) -> Tensor:
    """Return which genes to call changed: the most, by falling p, of whom an expected share of at most `fdr` are not (G,)."""
    order = proba.argsort(descending=True, stable=True)
    expected = (1 - proba[order]).cumsum(0) / torch.arange(1, len(proba) + 1)
    called = torch.zeros_like(proba, dtype=torch.bool)
    called[order[: int((expected <= fdr).sum())]] = True
    return called
