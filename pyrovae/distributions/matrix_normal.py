"""The matrix-variate normal distribution (Gupta & Nagar 1999, chapter 2).

F = M + A E B^T,   E_ij ~ N(0, 1);      Omega = A A^T (rows),   Psi = B B^T (columns)
Cov(F_ij, F_kl) = Omega_ik Psi_jl,      vec(F^T) ~ N(vec(M^T), Omega (x) Psi)
log p(F) = -1/2 |A^-1 (F - M) B^-T|^2 - m log det A - n log det B - n m / 2 log 2 pi

The flattened F is vec(F^T) in torch's order, row after row. (c Omega, Psi / c) is the same
distribution for every c > 0. With diagonal Omega and Psi all entries are independent, and rows and
columns share only their scales.
"""

import math
from typing import Any

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["Factor", "MatrixMaps", "MatrixNormal"]

_LOG_2_PI = math.log(2 * math.pi)


class Factor:
    """A of Omega = A A^T: standard deviations, or a lower triangular matrix.

    Args:
        scale: standard deviations, with shape (*, n), or A, with shape (*, n, n).
        dense: whether it is A.
    """

    def __init__(self, scale: Tensor, dense: bool) -> None:
        self.scale, self.dense = scale, dense

    @property
    def size(self) -> int:
        """N, the number of rows of A."""
        return self.scale.shape[-1]

    @property
    def batch_shape(self) -> torch.Size:
        """Batch shape (*)."""
        return self.scale.shape[: -2 if self.dense else -1]

    @property
    def diagonal(self) -> Tensor:
        """The diagonal of A, with shape (*, n)."""
        return self.scale.diagonal(dim1=-2, dim2=-1) if self.dense else self.scale

    @property
    def variance(self) -> Tensor:
        """The diagonal of A A^T, with shape (*, n)."""
        return self.scale.square().sum(-1) if self.dense else self.scale.square()

    @property
    def covariance(self) -> Tensor:
        """A A^T, with shape (*, n, n)."""
        return self.scale @ self.scale.mT if self.dense else torch.diag_embed(self.scale.square())

    def log_det(self) -> Tensor:
        """Return log det A, with shape (*)."""
        return self.diagonal.log().sum(-1)

    def times(self, x: Tensor) -> Tensor:
        """Return A x, for x with shape (*, n, m)."""
        return self.scale @ x if self.dense else self.scale.unsqueeze(-1) * x

    def solved(self, x: Tensor) -> Tensor:
        """Return A^-1 x, for x with shape (*, n, m)."""
        if not self.dense:
            return x / self.scale.unsqueeze(-1)
        return torch.linalg.solve_triangular(self.scale, x, upper=False)

    def expand(self, batch_shape: torch.Size) -> "Factor":
        """Return the factor with another batch shape."""
        event = self.scale.shape[-2:] if self.dense else self.scale.shape[-1:]
        return Factor(self.scale.expand(*batch_shape, *event), self.dense)


class MatrixNormal(TorchDistribution):
    """N(M, Omega (x) Psi) of n x m matrices.

    Args:
        loc: M, with shape (*, n, m).
        row: standard deviations of the rows, with shape (*, n): Omega = diag row^2. None if
            `row_tril` is given.
        column: those of the columns, with shape (*, m): Psi = diag column^2.
        row_tril: A of Omega = A A^T, lower triangular with a positive diagonal, (*, n, n).
        column_tril: B of Psi = B B^T, (*, m, m).

    Raises:
        ValueError: if not exactly one of the two is given for rows and for columns, or the shapes
            do not fit; with validation, if a scale is not positive, a factor not lower triangular,
            or M not a number.

    Example:
        >>> p = MatrixNormal(torch.zeros(3, 2), torch.ones(3), torch.tensor([1.0, 2.0]))
        >>> p.covariance_matrix.diagonal()
        tensor([1., 4., 1., 4., 1., 4.])
    """

    arg_constraints = {"loc": constraints.independent(constraints.real, 2)}  # noqa: RUF012
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        row: Tensor | None = None,
        column: Tensor | None = None,
        *,
        row_tril: Tensor | None = None,
        column_tril: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        rows, columns = _factor("row", row, row_tril), _factor("column", column, column_tril)
        if loc.dim() < 2 or tuple(loc.shape[-2:]) != (rows.size, columns.size):
            raise ValueError(
                f"MatrixNormal: loc has shape {tuple(loc.shape)}, and the scales are of "
                f"{rows.size} rows and {columns.size} columns: expected "
                f"(*, {rows.size}, {columns.size})"
            )
        batches = loc.shape[:-2], rows.batch_shape, columns.batch_shape
        batch = torch.Size(np.broadcast_shapes(*batches))
        self.loc = loc.expand(*batch, *loc.shape[-2:])
        self.rows, self.columns = rows.expand(batch), columns.expand(batch)
        super().__init__(batch, loc.shape[-2:], validate_args=validate_args)
        if self._validate_args:
            _check_scale("row", self.rows)
            _check_scale("column", self.columns)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "MatrixNormal":
        """Return the distribution with another batch shape."""
        shape = torch.Size(batch_shape)
        factors = {
            name + ("_tril" if factor.dense else ""): factor.expand(shape).scale
            for name, factor in (("row", self.rows), ("column", self.columns))
        }
        loc = self.loc.expand(*shape, *self.event_shape)
        new = MatrixNormal(loc, **factors, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """M, with shape (*, n, m)."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance of each entry, Omega_ii Psi_jj, with shape (*, n, m)."""
        return self.rows.variance.unsqueeze(-1) * self.columns.variance.unsqueeze(-2)

    @property
    def covariance_matrix(self) -> Tensor:
        """Omega (x) Psi, the covariance of the flattened matrix, with shape (*, n m, n m)."""
        a, b = self.rows.covariance, self.columns.covariance
        whole = a[..., :, None, :, None] * b[..., None, :, None, :]
        return whole.flatten(-2).flatten(-3, -2)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw M + A E B^T, with shape (*sample_shape, *, n, m)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        eps = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + self.columns.times(self.rows.times(eps).mT).mT

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(F), with shape (*)."""
        if self._validate_args:
            self._validate_sample(value)
        eps = self.columns.solved(self.rows.solved(value - self.loc).mT)
        return -0.5 * eps.square().sum((-2, -1)) - self._log_scale()

    def entropy(self) -> Tensor:
        """Return the entropy in nats, with shape (*)."""
        return 0.5 * self.event_shape.numel() + self._log_scale()

    def _log_scale(self) -> Tensor:
        n, m = self.event_shape
        log_det = m * self.rows.log_det() + n * self.columns.log_det()
        return log_det + 0.5 * n * m * _LOG_2_PI


class MatrixMaps(TorchDistribution):
    """N matrices with a matrix normal each, as one vector of N n m numbers.

    Latents of a VAE are vectors; a decoder that reads maps gives them their shape back.

    Args:
        maps: a `MatrixNormal` with batch shape (*, N).

    Raises:
        ValueError: if `maps` has no batch dimension.

    Example:
        >>> maps = MatrixNormal(torch.zeros(5, 3, 3), torch.ones(5, 3), torch.ones(5, 3))
        >>> MatrixMaps(maps).event_shape
        torch.Size([45])
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, maps: MatrixNormal, validate_args: bool | None = None) -> None:
        if not maps.batch_shape:
            raise ValueError(
                "MatrixMaps: maps has no batch dimension, expected one, of N maps: a single map is "
                "maps.expand((1,))"
            )
        self.maps = maps
        self.shape_of_maps = maps.batch_shape[-1:] + maps.event_shape
        event = torch.Size([self.shape_of_maps.numel()])
        super().__init__(maps.batch_shape[:-1], event, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "MatrixMaps":
        """Return the distribution with another batch shape."""
        shape = torch.Size(batch_shape) + self.shape_of_maps[:1]
        return MatrixMaps(self.maps.expand(shape), validate_args=self._validate_args)

    @property
    def mean(self) -> Tensor:
        """The means, with shape (*, N n m)."""
        return self.maps.mean.flatten(-3)

    @property
    def variance(self) -> Tensor:
        """The variances, with shape (*, N n m)."""
        return self.maps.variance.flatten(-3)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draw all maps, with shape (*sample_shape, *, N n m)."""
        return self.maps.rsample(sample_shape).flatten(-3)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the sum of the maps' log densities, with shape (*)."""
        if self._validate_args:
            self._validate_sample(value)
        return self.maps.log_prob(value.unflatten(-1, self.shape_of_maps)).sum(-1)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, with shape (*)."""
        return self.maps.entropy().sum(-1)


def _factor(name: str, scale: Tensor | None, tril: Tensor | None) -> Factor:
    if (scale is None) == (tril is None):
        raise ValueError(
            f"MatrixNormal: give either {name}, standard deviations, or {name}_tril, a lower "
            "triangular factor"
        )
    if tril is None:
        return _standard_deviations(name, torch.as_tensor(scale))
    if tril.dim() < 2 or tril.shape[-1] != tril.shape[-2]:
        raise ValueError(
            f"MatrixNormal: {name}_tril has shape {tuple(tril.shape)}, expected square matrices"
        )
    return Factor(tril, dense=True)


def _standard_deviations(name: str, scale: Tensor) -> Factor:
    if not scale.dim():
        raise ValueError(
            f"MatrixNormal: {name} is one number, expected one for each {name}, with shape (*, n)"
        )
    return Factor(scale, dense=False)


def _check_scale(name: str, factor: Factor) -> None:
    if factor.dense and not constraints.lower_cholesky.check(factor.scale).all():
        raise ValueError(
            f"MatrixNormal: {name}_tril is not lower triangular with a positive diagonal. From a "
            "covariance it is torch.linalg.cholesky(covariance)"
        )
    if not (factor.diagonal > 0).all():
        raise ValueError(f"MatrixNormal: {name} has a scale that is not above 0")
