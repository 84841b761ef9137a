"""What a user should know about valid counts: empty cells and genes, and genes not measured."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pyrovae.data import SparseRows, to_scipy
from pyrovae.singlecell.counts import Counts
from pyrovae.singlecell.messages import listed
from pyrovae.singlecell.shards import Shards

__all__ = ["empty_cells_and_genes", "genes_absent_from_batches"]

# A gene of which 20 transcripts were expected in at least 20 cells is not absent by chance: even at
# an inverse dispersion of 0.5 that has a probability of 1e-5.
_EXPECTED, _CELLS = 20, 20
_ABSENT, _LEAST_ABSENT = 0.05, 10  # share and number of genes; single ones may differ by sex


def empty_cells_and_genes(x: Counts, cells: Sequence[str], genes: Sequence[str]) -> list[str]:
    """Return a message on the cells without counts, and one on the genes without, if there are any.

    Raises:
        ValueError: if every count is zero.
    """
    messages = []
    for dim, names, subject, consequence in (
        (1, cells, "cells have", "They are kept, and left out of the library prior"),
        (0, genes, "genes have", "They are kept, and carry no information"),
    ):
        empty = (x.sum(dim) == 0).nonzero().flatten().tolist()
        if len(empty) == len(names):
            raise ValueError(
                "every value is zero: there is nothing to learn. Pass the layer of raw counts: "
                "layer='counts'"
            )
        if empty:
            first = listed([names[i] for i in empty])
            messages.append(f"{len(empty)} {subject} no counts: {first}. {consequence}")
    return messages


def genes_absent_from_batches(
    x: Counts, batch: Tensor, batches: Sequence[str], genes: Sequence[str]
) -> list[str]:
    """Return a message if a batch lacks many genes of which the others have many transcripts.

    They were not measured there, and an outer join filled them with zeros. `Shards`, of which all
    have the same genes, are not looked at.

    Args:
        x: counts with shape (N, G).
        batch: number of each cell's batch, with shape (N,).
        batches: names of the S batches.
        genes: names of the G genes.
    """
    if isinstance(x, Shards) or len(batches) < 2:
        return []
    sums = _sums_by_batch(x, batch, len(batches))
    others, totals = sums.sum(0) - sums, sums.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):  # of a batch that has all counts
        expected = totals * others / others.sum(1, keepdims=True)
    cells = torch.bincount(batch, minlength=len(batches)).numpy()[:, None]
    absent = (sums == 0) & (expected >= _EXPECTED) & (cells >= _CELLS)
    numbers = absent.sum(1)
    worst = numbers.argmax()
    if numbers[worst] < max(_LEAST_ABSENT, _ABSENT * len(genes)):
        return []
    names = listed([genes[i] for i in absent[worst].nonzero()[0]])
    return [
        f"{numbers[worst]} of {len(genes)} genes have no counts in batch {batches[worst]!r}, but "
        f"many in others: {names}. If they were not measured there, as after an outer join, zeros "
        "are no counts of them: keep the genes that were measured in all batches"
    ]


def _sums_by_batch(x: Tensor | SparseRows, batch: Tensor, batches: int) -> np.ndarray:
    """Return the transcripts of each gene in each batch, with shape (S, G)."""
    if isinstance(x, Tensor):
        return x.new_zeros(batches, x.shape[1]).index_add_(0, batch, x).numpy()
    from scipy.sparse import csr_matrix

    ones = np.ones(len(batch), np.float32)
    members = csr_matrix((ones, (batch.numpy(), np.arange(len(batch)))), (batches, len(batch)))
    return (members @ to_scipy(x)).toarray()
