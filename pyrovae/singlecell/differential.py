"""Differential expression of genes between two groups of cells.

For pairs of cells a, b of the two groups, z_a ~ q(z | x_a) and z_b ~ q(z | x_b),

lfc_g = log2 rho_g(z_a) - log2 rho_g(z_b)        the log2 fold change of gene g

change          p_g = P(|lfc_g| > delta)
vanilla         p_g = max( P(lfc_g > 0), P(lfc_g <= 0) ), of the group that lfc_median favours
bayes factor    log p_g / (1 - p_g)

(Lopez et al. 2018, section 2.3; Boyeau et al. 2019)
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pyrovae import programs
from pyrovae.data import as_sources, device_and_dtype, take
from pyrovae.graphs import CountVAE
from pyrovae.singlecell import decoding
from pyrovae.singlecell.cells import rows_in
from pyrovae.singlecell.expression import check_samples
from pyrovae.singlecell.messages import listed
from pyrovae.singlecell.state import Model, selected

__all__ = ["Change", "compared", "differential_expression", "discoveries"]

_GENES = 2048  # compared at once
_CELLS = 512  # encoded and decoded at once
_LEAST = 1e-8  # keeps the Bayes factor finite at a probability of 0 or 1


class Change(NamedTuple):
    """Change of each gene, every field with shape (G,).

    Attributes:
        proba_de: p_g.
        bayes_factor: log p_g / (1 - p_g).
        lfc_mean: mean of lfc_g over the pairs.
        lfc_median: median of lfc_g.
        lfc_std: standard deviation of lfc_g.
    """

    proba_de: Tensor
    bayes_factor: Tensor
    lfc_mean: Tensor
    lfc_median: Tensor
    lfc_std: Tensor


def differential_expression(
    model: Model,
    groupby: str,
    group1: str | None = None,
    group2: str | None = None,
    adata: Any = None,
    mode: Literal["change", "vanilla"] = "change",
    delta: float = 0.25,
    batch_correction: bool = False,
    fdr_target: float = 0.05,
    n_samples: int = 5000,
    pseudocounts: float = 1e-6,
    seed: int = 0,
) -> Any:
    """Compare gene expression between two groups of cells.

    Args:
        model: the model.
        groupby: column of `adata.obs`; cells in which it is missing belong to no group, also not to
            the remaining cells.
        group1: a group in that column; None compares every group, one after the other.
        group2: another group; None for all remaining cells.
        adata: see `SingleCellVAE`.
        mode: "change" gives the probability that the log2 fold change exceeds delta in either
            direction, "vanilla" that one group expresses the gene more than the other.
        delta: smallest log2 fold change that counts as a change.
        batch_correction: decode every cell in each batch and average; for groups that are
            confounded with batches.
        fdr_target: largest probability of no change in a gene that is called changed, and so the
            largest expected fraction of false discoveries.
        n_samples: number of pairs of cells, drawn at random with replacement.
        pseudocounts: added to the proportions. The default is one transcript in a million, which
            a thousand cells with a thousand transcripts each cannot tell from zero.
        seed: of the draws.

    Returns:
        A DataFrame by gene, the largest probability first: comparison, proba_de, bayes_factor,
        lfc_mean, lfc_median, lfc_std (log2 of group1 over group2), raw_mean1, raw_mean2,
        is_de_fdr_<target>.
    """
    import pandas as pd

    _check(mode, delta, fdr_target, n_samples, pseudocounts)
    selection = selected(model, "differential_expression", adata, None)
    data = as_sources(selection.data)  # checked once for all draws of all comparisons
    groups = _groups(model.cells.own() if adata is None else adata, groupby)
    n_batches = len(model.cells.encoding.batches)
    batches = list(range(n_batches)) if batch_correction else [None]
    first = sorted(set(groups.dropna()) - {str(group2)}) if group1 is None else [str(group1)]
    frames = []
    for group in first:
        pair = _rows_of_groups(groups, group, None if group2 is None else str(group2))
        with programs.evaluation(model.graph, seed):
            rho1, rho2 = (
                _drawn_proportions(model.graph, data, rows, n_samples, batches, n_batches)
                for rows in pair
            )
        change = compared(rho1, rho2, delta if mode == "change" else None, pseudocounts)
        frame = _frame(change, model.cells.encoding.genes, data[0], pair, fdr_target)
        frame.insert(0, "comparison", f"{group} vs {'Rest' if group2 is None else group2}")
        frames.append(frame)
    return pd.concat(frames)


def compared(rho1: Tensor, rho2: Tensor, delta: float | None, pseudocounts: float) -> Change:
    """Compare pairs of draws of the expression of two groups.

    Args:
        rho1: proportions of P cells of the first group, with shape (P, G).
        rho2: proportions of the cells of the second group that they are paired with.
        delta: log2 fold change above which a change counts; None compares signs only.
        pseudocounts: added to both before the logarithm, so that a gene that neither group
            expresses does not change.
    """
    parts = [
        _compared(a, b, delta, pseudocounts)
        for a, b in zip(rho1.split(_GENES, 1), rho2.split(_GENES, 1), strict=True)
    ]
    return Change(*map(torch.cat, zip(*parts, strict=True)))


def discoveries(proba: Tensor, fdr: float) -> Tensor:
    """Return which genes are called changed, with shape (G,): those with 1 - p_g <= fdr.

    scvi-tools selects the largest set of genes whose mean posterior error is below the target, so
    that confident genes make room for uncertain ones. But p_g is a probability over pairs of cells,
    above 0.5 for many unchanged genes, and in simulations that rule calls more of them than the
    target allows. The false calls of this rule are bounded by a test,
    `test_genes_that_are_called_changed_are_so`.
    """
    return proba >= 1 - fdr


def _compared(rho1: Tensor, rho2: Tensor, delta: float | None, pseudocounts: float) -> Change:
    lfc = (rho1 + pseudocounts).log2_().sub_((rho2 + pseudocounts).log2_())
    p = (lfc > 0 if delta is None else lfc.abs() > delta).mean(0, dtype=torch.double)
    if delta is None:
        p = torch.maximum(p, 1 - p)
    bayes_factor = (p + _LEAST).log() - (1 - p + _LEAST).log()
    return Change(p, bayes_factor, lfc.mean(0), lfc.median(0).values, lfc.std(0, correction=0))


def _frame(
    change: Change, genes: Sequence[str], x: Any, pair: tuple[Tensor, Tensor], fdr_target: float
) -> Any:
    """Return the change of each gene as a DataFrame, the largest probability first."""
    import pandas as pd

    columns = {name: value.numpy() for name, value in change._asdict().items()}
    for i, rows in enumerate(pair, 1):
        columns[f"raw_mean{i}"] = (rows_in(x, rows).sum(0) / len(rows)).numpy()
    columns[f"is_de_fdr_{fdr_target}"] = discoveries(change.proba_de, fdr_target).numpy()
    frame = pd.DataFrame(columns, index=genes)
    return frame.sort_values("proba_de", ascending=False, kind="stable")


def _drawn_proportions(
    graph: CountVAE,
    data: tuple[Any, ...],
    rows: Tensor,
    n: int,
    batches: Sequence[int | None],
    n_batches: int,
) -> Tensor:
    """Return rho of n cells drawn from the rows, with shape (n, G)."""
    chunks = []
    for drawn in rows[torch.randint(len(rows), (n,))].split(_CELLS):
        batch = take(data, drawn, *device_and_dtype(graph, data))
        z = decoding.latents(graph, batch, mean=False).z
        chunks.append(decoding.proportions(graph, z, batch[1:], batches, n_batches)[0].cpu())
    return torch.cat(chunks)


def _groups(adata: Any, key: str) -> Any:
    """Return the group of each cell as a Series of strings; None where it is missing."""
    if key not in adata.obs:
        raise ValueError(
            f"groupby: key {key!r} is not in adata.obs, which has {list(adata.obs.columns)}"
        )
    column = adata.obs[key]
    return column.astype(str).astype(object).where(column.notna(), None)


def _rows_of_groups(groups: Any, one: str, two: str | None) -> tuple[Tensor, Tensor]:
    """Return the rows of group `one`, and of group `two` or of all other groups.

    Raises:
        ValueError: if there is no cell of either; lists the groups.
    """
    known = sorted(set(groups.dropna()))
    for group in (one, two):
        if group is not None and group not in known:
            raise ValueError(
                f"{group!r} is no group of adata.obs[{groups.name!r}], which has "
                f"{listed(known, most=50)}"
            )
    first = (groups == one).to_numpy()
    second = groups.notna().to_numpy() & ~first if two is None else (groups == two).to_numpy()
    if not second.any():
        raise ValueError(
            f"every cell is in group {one!r} of adata.obs[{groups.name!r}]: there is nothing to "
            "compare it with"
        )
    return torch.from_numpy(first.nonzero()[0]), torch.from_numpy(second.nonzero()[0])


def _check(mode: str, delta: float, fdr_target: float, n_samples: int, pseudocounts: float) -> None:
    if mode not in ("change", "vanilla"):
        raise ValueError(f"mode is {mode!r}, expected 'change' or 'vanilla'")
    check_samples("differential_expression", n_samples)
    if not 0 < fdr_target < 1 or not delta >= 0 or not pseudocounts > 0:
        raise ValueError(
            f"differential_expression: fdr_target is {fdr_target}, delta {delta} and pseudocounts "
            f"{pseudocounts}, expected a fraction in (0, 1), at least 0, and above 0"
        )
