"""Correlations of genes over more draws than fit into memory.

With blocks A and B of n and m rows, their means a and b, and C the sums of products around the mean

C(A and B) = C(A) + C(B) + n m / (n + m) (a - b)(a - b)^T               (Chan et al. 1979)

pearson    C_gh / sqrt(C_gg C_hh); only C and a block are held
spearman   that of the ranks, for which the draws of a gene must lie together
"""

import errno
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np

__all__ = ["pearson", "spearman"]

_AT_ONCE = 1 << 22  # values of a block
_IN_MEMORY = 1 << 28  # values, of 4 bytes; more are in a file
_RANK = np.dtype(np.float32)  # holds the ranks of 2^24 rows exactly, less their mean


def pearson(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Return the correlation of the columns of blocks with shape (n, G), with shape (G, G).

    It is NaN where a column is constant, and of a single row.

    Example:
        >>> table = np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]])
        >>> pearson([table[:2], table[2:]]).round(3)
        array([[1., 1.],
               [1., 1.]])
    """
    rows, mean, products = 0, np.zeros(1), np.zeros((1, 1))
    for block in _gathered(blocks):
        x = block.astype(np.float64)  # the mean of equal single-precision numbers is exact
        own = x.mean(0)
        x -= own
        n, apart = len(x), own - mean
        products = products + x.T @ x
        if rows:
            products += (rows * n / (rows + n)) * np.outer(apart, apart)
        mean = mean + apart * (n / (rows + n))
        rows += n
    sd = np.sqrt(products.diagonal())
    with np.errstate(invalid="ignore", divide="ignore"):
        return (products / np.outer(sd, sd)).clip(-1, 1)


def spearman(blocks: Iterable[np.ndarray], rows: int, genes: int) -> np.ndarray:
    """Return the correlation of the ranks of the columns of blocks, with shape (G, G).

    Equal values share the mean of their ranks.

    Args:
        blocks: with shape (n, G), in single precision.
        rows: of all blocks together.
        genes: G.

    Raises:
        OSError: if a temporary file is needed and its disk has not the space.

    Example:
        >>> table = np.array([[1.0, 2.0], [2.0, 40.0], [3.0, 50.0]], np.float32)
        >>> spearman([table[:2], table[2:]], rows=3, genes=2).round(3)
        array([[1., 1.],
               [1., 1.]])
    """
    from scipy.stats import rankdata

    with _table(genes, rows) as table:
        start = 0
        for block in blocks:
            table[:, start : start + len(block)] = block.T
            start += len(block)
        for column in table:
            column[:] = rankdata(column) - (rows + 1) / 2
        step = max(1, _AT_ONCE // genes)
        return pearson(table[:, start : start + step].T for start in range(0, rows, step))


def _gathered(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the rows of the blocks in larger blocks, for which a product of matrices is fast."""
    held: list[np.ndarray] = []
    for block in blocks:
        held.append(block)
        if sum(part.size for part in held) >= _AT_ONCE:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


@contextmanager
def _table(genes: int, rows: int) -> Iterator[np.ndarray]:
    """Context of a table with shape (G, N): in memory, or if it is large in a temporary file."""
    if genes * rows <= _IN_MEMORY:
        yield np.empty((genes, rows), _RANK)
        return
    size, folder = genes * rows * _RANK.itemsize, tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(
            errno.ENOSPC,
            f"get_feature_correlation_matrix: the ranks of {rows} draws of {genes} genes take "
            f"{size / 1e9:.3g} GB in a temporary file, and {free / 1e9:.3g} GB are free. Name a "
            "larger disk by the environment variable TMPDIR, or take fewer n_samples, genes "
            "(gene_list=) or cells (indices=), or correlation_type='pearson'",
            folder,
        )
    with tempfile.TemporaryFile() as file:
        yield np.memmap(file, _RANK, "w+", shape=(genes, rows))
