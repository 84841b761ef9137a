"""The prior of the log library size, l ~ N(mean_s, sd_s^2), learned from the cells of batch s.

mean_s and sd_s are those of the log totals log sum_g x_g over the cells of the batch that have
counts (Lopez et al. 2018, section 2.1; scvi-tools does the same).
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from pyrovae.singlecell.messages import listed

__all__ = ["LibrarySizes", "library_sizes"]

# Counting noise alone gives the log of a total of T transcripts a standard deviation of T ** -0.5;
# this is that of T = 100.
_LEAST_SD = 0.1


class LibrarySizes(NamedTuple):
    """Log library sizes by batch.

    Attributes:
        means: mean of each batch, S numbers.
        sds: standard deviation of each batch, S numbers.
        messages: what a user should know about batches in which they could not be computed.
    """

    means: list[float]
    sds: list[float]
    messages: list[str]


def library_sizes(totals: Tensor, batch: Tensor, names: Sequence[str]) -> LibrarySizes:
    """Return mean and standard deviation of the log totals in each batch.

    Only cells with counts enter. A batch with fewer than two such cells has the standard deviation
    of all cells together, and one with none also their mean. No standard deviation is below 0.1,
    the counting noise of a total of 100.

    Args:
        totals: transcripts of each cell, with shape (N,).
        batch: number of each cell's batch, with shape (N,).
        names: of the S batches.

    Raises:
        ValueError: if no cell has counts.
    """
    full = totals > 0
    if not full.any():
        raise ValueError("no training cell has counts: there is no library size to learn from")
    logs, batch = totals[full].double().log(), batch[full]
    groups = [logs[batch == s] for s in range(len(names))]
    means = [(group if len(group) else logs).mean().item() for group in groups]
    sds = [(group if len(group) > 1 else logs).std(correction=0).item() for group in groups]
    messages = []
    few = [name for name, group in zip(names, groups, strict=True) if len(group) < 2]
    if few and len(names) > 1:
        messages.append(
            f"fewer than two training cells with counts in batch {listed(few)}: the standard "
            "deviation of its library sizes is that of all batches together. Merge it into another "
            "batch if you can"
        )
    low = [name for name, sd in zip(names, sds, strict=True) if sd < _LEAST_SD]
    if low:
        where = f" in batch {listed(low)}" if len(names) > 1 else ""
        messages.append(
            f"library sizes hardly vary{where}: the standard deviation of their prior is set to "
            f"{_LEAST_SD}"
        )
    return LibrarySizes(means, [max(sd, _LEAST_SD) for sd in sds], messages)
