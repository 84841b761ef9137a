"""Latents that are maps: N matrices of n x m numbers, each with a matrix normal (Wang et al. 2019).

F_k ~ N(M_k(x), Omega_k(x) (x) Psi_k(x)),   k = 1 .. N;      z = (F_1, .., F_N), flattened

M full                         Omega, Psi diagonal      (n m + n + m) N numbers
M = sum_r mu_r nu_r^T          Omega, Psi diagonal      (n + m) (R + 1) N numbers
M full or of rank R            Omega, Psi dense         n (n + 1) / 2 + m (m + 1) / 2 for the scales
"""

from typing import NamedTuple

import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from pyrovae.distributions import (
    Conditional,
    MatrixMaps,
    check_network,
    cholesky_factor,
    split_parameters,
)
from pyrovae.distributions import MatrixNormal as Matrices

__all__ = ["MatrixNormal"]


class _Sizes(NamedTuple):
    """Numbers for one map: of its mean, its rows' factor and its columns' factor."""

    mean: int
    row: int
    column: int


class MatrixNormal(Conditional):
    """q(z | x): N maps with a matrix normal each, as one vector of N n m latents.

    The prior is any over vectors, such as `StandardNormal(N n m)`; a decoder that starts from maps,
    `nets.MapDecoder`, gives them their shape back. With diagonal factors the entries of a map are
    independent, and its rows and columns share their scales; dense factors correlate them.

    Args:
        net: maps x (and c) to `parameters_of` numbers: the means of all maps, row by row (or mu_1
            .. mu_R, nu_1 .. nu_R of each), then the log scales of their rows, and of their columns,
            with `dense` followed by what lies below the diagonal of the factor.
        maps: N.
        size: n, or (n, m).
        rank: R, the rank of the means; None for full means.
        dense: whether rows and columns are correlated.

    Raises:
        ValueError: if a number is below 1; when it is called, if the network does not output
            `parameters_of` numbers.

    Example:
        >>> count = MatrixNormal.parameters_of(maps=4, size=3)
        >>> q = MatrixNormal(nn.Linear(784, count), maps=4, size=3)
        >>> count, q(torch.zeros(5, 784)).rsample().shape
        (60, torch.Size([5, 36]))
    """

    def __init__(
        self,
        net: nn.Module,
        maps: int,
        size: int | tuple[int, int],
        rank: int | None = None,
        dense: bool = False,
    ) -> None:
        super().__init__()
        check_network(net, "MatrixNormal")
        _check(maps, size, rank)
        self.net, self.maps, self.size, self.rank, self.dense = net, maps, _pair(size), rank, dense

    @staticmethod
    def parameters_of(
        maps: int, size: int | tuple[int, int], rank: int | None = None, dense: bool = False
    ) -> int:
        """Return how many numbers the network has to output.

        Raises:
            ValueError: if a number is below 1.
        """
        _check(maps, size, rank)
        return maps * sum(_sizes(_pair(size), rank, dense))

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(z | x, c), batch shape (*), event shape (N n m,)."""
        sizes = _sizes(self.size, self.rank, self.dense)
        y = self.net(x, *c)
        meaning = f"{self.maps} maps of {self.size[0]} x {self.size[1]}, {sum(sizes)} for each"
        pieces = [self.maps * size for size in sizes]
        mean, row, column = (
            part.unflatten(-1, (self.maps, -1))
            for part in split_parameters(y, pieces, "MatrixNormal", meaning)
        )
        loc = self._mean(mean)
        if not self.dense:
            return MatrixMaps(Matrices(loc, row.exp(), column.exp()))
        n, m = self.size
        return MatrixMaps(Matrices(loc, row_tril=_tril(row, n), column_tril=_tril(column, m)))

    def _mean(self, y: Tensor) -> Tensor:
        n, m = self.size
        if self.rank is None:
            return y.unflatten(-1, (n, m))
        mu, nu = y.split([self.rank * n, self.rank * m], -1)
        return mu.unflatten(-1, (self.rank, n)).mT @ nu.unflatten(-1, (self.rank, m))


def _check(maps: int, size: int | tuple[int, int], rank: int | None) -> None:
    if min(maps, *_pair(size), 1 if rank is None else rank) < 1:
        raise ValueError(
            f"MatrixNormal: maps is {maps}, size {size} and rank {rank}, expected at least 1 "
            "of each"
        )


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    n, m = (size, size) if isinstance(size, int) else size
    return n, m


def _sizes(size: tuple[int, int], rank: int | None, dense: bool) -> _Sizes:
    n, m = size
    row, column = (k * (k + 1) // 2 if dense else k for k in size)
    return _Sizes(n * m if rank is None else rank * (n + m), row, column)


def _tril(y: Tensor, n: int) -> Tensor:
    """Return diag s (I + L / n), its rows in units of their own scale, as `FullRankNormal` does."""
    log_scale, lower = y.split([n, n * (n - 1) // 2], -1)
    correlated = cholesky_factor(torch.zeros_like(log_scale), lower / n)
    return log_scale.exp().unsqueeze(-1) * correlated
