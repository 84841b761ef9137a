"""The change of each gene between two groups of cells, from draws of its expression in pairs.

lfc_g = log2( rho_g(z_a) + eps ) - log2( rho_g(z_b) + eps )     the log2 fold change in a pair

change, "three"    p_g = max( P(lfc_g >= delta), P(lfc_g <= -delta) )
change, "two"      p_g = P(|lfc_g| >= delta)
vanilla            p_g = max( P(lfc_g > 0), P(lfc_g < 0) ) + P(lfc_g = 0) / 2
bayes factor       log p_g / (1 - p_g)

A pair without any difference, lfc_g = 0, is no change, also where delta is 0.

Against a group of mixed cells, |lfc| exceeds delta in nearly every pair, now in one direction and
now in the other: only "three" asks whether a gene is higher, or lower, in most of them.

(Lopez et al. 2018, section 2.3; Boyeau et al. 2019; Boyeau et al. 2023)
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Change", "Rule", "TestMode", "compared", "estimated_pseudocount"]

TestMode = Literal["three", "two"]

_GENES = 2048  # compared at once
_LEAST = 1e-8  # keeps the Bayes factor finite at a probability of 0 or 1
_LEAST_DELTA = 0.3  # of an estimated delta, scvi-tools' bound
_OF_OUTER_MEANS = 0.6  # an estimated delta, as a fraction of them, scvi-tools' value
_UNSEEN = 0.5  # transcripts, the posterior mean where none was seen


class Rule(NamedTuple):
    """When a pair of cells counts as changed.

    Attributes:
        mode: "change" or "vanilla".
        delta: log2 fold change above which a change counts; None estimates it.
        test_mode: "three" asks for the two directions apart, "two" for either.
    """

    mode: str = "change"
    delta: float | None = 0.25
    test_mode: TestMode = "three"


class Change(NamedTuple):
    """Change of each gene, every field with shape (G,).

    Attributes:
        proba_de: p_g.
        proba_not_de: 1 - p_g.
        bayes_factor: log p_g / (1 - p_g).
        scale1, scale2: mean of rho in each group.
        pseudocounts: eps, the same for all genes.
        delta: of the rule, the same for all genes; NaN for "vanilla".
        lfc_mean, lfc_median, lfc_std, lfc_min, lfc_max: of lfc_g over the pairs.
    """

    proba_de: Tensor
    proba_not_de: Tensor
    bayes_factor: Tensor
    scale1: Tensor
    scale2: Tensor
    pseudocounts: Tensor
    delta: Tensor
    lfc_mean: Tensor
    lfc_median: Tensor
    lfc_std: Tensor
    lfc_min: Tensor
    lfc_max: Tensor


def compared(rho1: Tensor, rho2: Tensor, rule: Rule, pseudocount: float) -> Change:
    """Compare pairs of draws of the expression of two groups.

    Args:
        rho1: proportions of P cells of the first group, with shape (P, G).
        rho2: proportions of the cells of the second group that they are paired with.
        rule: when a pair counts as changed.
        pseudocount: added to both before the logarithm, so that a gene that neither group
            expresses does not change.
    """
    parts = list(zip(rho1.split(_GENES, 1), rho2.split(_GENES, 1), strict=True))
    if rule.mode == "change" and rule.delta is None:
        means = [_fold_changes(a, b, pseudocount).mean(0) for a, b in parts]
        rule = rule._replace(delta=_estimated_delta(torch.cat(means)))
    found = [_compared(a, b, rule, pseudocount) for a, b in parts]
    return Change(*map(torch.cat, zip(*found, strict=True)))


def estimated_pseudocount(transcripts: Sequence[float]) -> float:
    """Return eps = 0.5 / transcripts of the smaller group: half a transcript among all its cells.

    It is what counts can resolve: where a group has no transcript of a gene, 0.5 / transcripts is
    the posterior mean of its proportion under Jeffreys' prior of a Poisson rate. Proportions far
    below it are the network's guess, and their ratio should not count as a change. It needs no
    counts of genes, so that minified cells have the same one. (scvi-tools takes the 0.9 quantile,
    over the genes without a transcript in a group, of the largest decoded proportion, divided by
    the number of genes.)

    Args:
        transcripts: the library sizes of the cells of each group, summed.
    """
    return _UNSEEN / max(min(transcripts), 1.0)


def _fold_changes(rho1: Tensor, rho2: Tensor, pseudocount: float) -> Tensor:
    return (rho1 + pseudocount).log2_().sub_((rho2 + pseudocount).log2_())


def _compared(rho1: Tensor, rho2: Tensor, rule: Rule, pseudocount: float) -> Change:
    lfc = _fold_changes(rho1, rho2, pseudocount)
    p = _probability(lfc, rule)
    delta = torch.nan if rule.mode == "vanilla" or rule.delta is None else rule.delta
    return Change(
        proba_de=p,
        proba_not_de=1 - p,
        bayes_factor=(p + _LEAST).log() - (1 - p + _LEAST).log(),
        scale1=rho1.mean(0),
        scale2=rho2.mean(0),
        pseudocounts=torch.full_like(p, pseudocount),
        delta=torch.full_like(p, delta),
        lfc_mean=lfc.mean(0),
        lfc_median=lfc.median(0).values,
        lfc_std=lfc.std(0, correction=0),
        lfc_min=lfc.amin(0),
        lfc_max=lfc.amax(0),
    )


def _probability(lfc: Tensor, rule: Rule) -> Tensor:
    delta = 0.0 if rule.mode == "vanilla" or rule.delta is None else rule.delta
    up, down = (
        ((sign * lfc >= delta) & (lfc != 0)).mean(0, dtype=torch.double) for sign in (1, -1)
    )
    if rule.mode == "vanilla":
        return torch.maximum(up, down) + (1 - up - down) / 2
    return up + down if rule.test_mode == "two" else torch.maximum(up, down)


def _estimated_delta(lfc_means: Tensor) -> float:
    """Return 0.6 of the distance from 0 of the outer two of three normals, fitted to the genes.

    (Boyeau et al. 2023, supplement; the values are scvi-tools')
    """
    from sklearn.mixture import GaussianMixture

    values = lfc_means.double().cpu().numpy()[:, None]
    if len(values) < 3:  # genes, for three components
        return _LEAST_DELTA
    means = np.sort(GaussianMixture(3, random_state=0).fit(values).means_.ravel())
    return max(_LEAST_DELTA, _OF_OUTER_MEANS * float(np.abs(means[[0, -1]]).mean()))
