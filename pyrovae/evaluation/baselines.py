"""Simple restorations that a model has to beat: a mean, principal components, filters.

Each is a function of rows alone; none knows a model. The corrupted input itself is the first
baseline and needs no function.

Probabilistic PCA (Tipping & Bishop 1999), for rows x with D values and L components:

    x = mu + W z + eps,   z ~ N(0, I),   eps ~ N(0, s^2 I)
    z | x_o ~ N( M^-1 W_o^T (x_o - mu_o), s^2 M^-1 ),   M = W_o^T W_o + s^2 I
    x_h | x_o ~ N( mu_h + W_h E[z | x_o],  s^2 W_h M^-1 W_h^T + s^2 I )

where o are the observed values of a row and h the hidden ones.
"""

import math
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pyrovae.data import Array

__all__ = [
    "PCA",
    "Conditional",
    "bilinear_filter",
    "bilinear_upsampling",
    "mean_image",
    "median_filter",
]

_ROWS = 4096  # of a block in double precision
_ROWS_PER_VALUE = 4  # from which the covariance takes less time and memory than singular values
_TENT = (0.25, 0.5, 0.25)  # bilinear interpolation half a pixel to both sides


def mean_image(train: Array, n: int) -> Tensor:
    """Return the mean of the training rows n times, with shape (n, *event)."""
    rows = torch.as_tensor(train)
    mean = rows.double().mean(0).to(_floating(rows))
    return mean.expand(n, *mean.shape)


def median_filter(y: Array, size: int = 3) -> Tensor:
    """Return images (N, *, H, W) with each pixel the median of a square of `size` pixels."""
    from scipy.ndimage import median_filter as filtered

    images = _images("median_filter", y)
    window = (1,) * (images.ndim - 2) + (size, size)
    return torch.from_numpy(filtered(images.numpy(), window, mode="nearest"))


def bilinear_filter(y: Array) -> Tensor:
    """Return images (N, *, H, W) smoothed by the tent (1/4, 1/2, 1/4) along both sides."""
    from scipy.ndimage import convolve1d

    smooth = _images("bilinear_filter", y).numpy()
    for axis in (-2, -1):
        smooth = convolve1d(smooth, _TENT, axis=axis, mode="nearest")
    return torch.from_numpy(smooth)


def bilinear_upsampling(pooled: Array, factor: int = 2) -> Tensor:
    """Return images (N, *, H, W) enlarged to (N, *, factor H, factor W) by interpolation."""
    images = _images("bilinear_upsampling", pooled)
    flat = images.reshape(len(images), -1, *images.shape[-2:])
    large = functional.interpolate(flat, scale_factor=factor, mode="bilinear", align_corners=False)
    return large.reshape(*images.shape[:-2], *large.shape[-2:])


class Conditional(NamedTuple):
    """The normal distribution of rows given their observed values.

    Attributes:
        mean: E[x | x_o], with shape (N, *event); observed values as they are.
        standard_deviation: of each hidden value, with shape (N, *event); 0 where observed.
        log_prob: log p(x_h | x_o) of the hidden values of the rows that were given, in nats, with
            shape (N,).
    """

    mean: Tensor
    standard_deviation: Tensor
    log_prob: Tensor


class PCA:
    """Principal components of training rows as a density and a projection.

    Args:
        train: rows with shape (N, *event).
        components: L, smaller than the number of values of a row and of rows.

    Raises:
        ValueError: if there is no variance left for the noise, because L is too large.

    Example:
        >>> x = torch.randn(50, 1, generator=torch.Generator().manual_seed(0)) * torch.ones(3)
        >>> noisy = x[:1] + torch.tensor([0.3, -0.3, 0.0])
        >>> bool((PCA(x, 1).denoise(noisy) - x[:1]).abs().max() < 1e-5)
        True
    """

    def __init__(self, train: Array, components: int) -> None:
        rows = torch.as_tensor(train)
        self.event, flat = rows.shape[1:], rows.flatten(1)
        _check_components(components, tuple(flat.shape))
        self._rows_fitted = len(flat)
        self.mean, self._variances, self._every_axis = _principal(flat)
        self._keep(components)

    def truncated(self, components: int) -> "PCA":
        """Return what a fit with another number of components gives, without fitting again.

        Raises:
            ValueError: as for a fit.
        """
        _check_components(components, (self._rows_fitted, len(self.mean)))
        other = copy(self)
        other._keep(components)
        return other

    def _keep(self, components: int) -> None:
        values = self._variances
        self.axes = self._every_axis[:components]
        self.variance = float(values[components:].mean())  # s^2
        above = values[:components] - self.variance
        self.weights = self.axes.T * above.clamp(min=0).sqrt()  # W, (D, L)

    def denoise(self, y: Array) -> Tensor:
        """Return rows projected onto the components, with shape (N, *event)."""
        rows = self._rows(y)
        projected = self.mean + (rows - self.mean) @ self.axes.T @ self.axes
        return self._as_given(projected, y)

    def impute(self, x: Array, hidden: Array) -> Conditional:
        """Return the distribution of the hidden values given the observed ones, in closed form.

        Args:
            x: rows with shape (N, *event). Hidden values are read for `log_prob` alone; where one
                of a row is NaN, so is its `log_prob`.
            hidden: True at the hidden values, with shape (N, *event) or (*event).

        Raises:
            ValueError: if the shapes do not fit, an observed value is NaN, or the components leave
                no variance to the noise.
        """
        if self.variance <= 0:
            raise ValueError("PCA.impute: the components explain all variance; take fewer")
        rows, mask = self._rows(x), self._mask(hidden, len(x))
        seen = torch.where(mask, 0.0, rows - self.mean)
        if seen.isnan().any():
            raise ValueError("PCA.impute: an observed value is NaN; mark it as hidden")
        z, covariance = self._posterior(seen, ~mask)
        mean = torch.where(mask, self.mean + z @ self.weights.T, rows)
        spread = torch.einsum("dl,nlk,dk->nd", self.weights, covariance, self.weights)
        deviation = torch.where(mask, (spread + self.variance).sqrt(), 0.0)
        whole = self._log_prob(rows - self.mean, torch.ones_like(mask))
        log_prob = whole - self._log_prob(seen, ~mask)
        given = self._as_given(mean, x), self._as_given(deviation, x)
        return Conditional(*given, log_prob)

    def _posterior(self, seen: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean (N, L) and covariance (N, L, L) of z given observed values, else 0."""
        inverse = torch.linalg.inv(self._precision(observed))
        return torch.einsum("nlk,nk->nl", inverse, seen @ self.weights), inverse * self.variance

    def _precision(self, observed: Tensor) -> Tensor:
        """Return M = W_o^T W_o + s^2 I of each row, with shape (N, L, L)."""
        d, size = self.weights.shape
        products = (self.weights[:, :, None] * self.weights[:, None]).reshape(d, -1)
        gram = (observed.double() @ products).reshape(-1, size, size)
        return gram + self.variance * torch.eye(size, dtype=gram.dtype)

    def _log_prob(self, seen: Tensor, observed: Tensor) -> Tensor:
        """Return log p of the observed values, by Woodbury's identity; `seen` is 0 elsewhere."""
        precision, count = self._precision(observed), observed.sum(1)
        on_axes = seen @ self.weights
        explained = (on_axes * torch.linalg.solve(precision, on_axes)).sum(1)
        squares = (seen.square().sum(1) - explained) / self.variance
        size = self.weights.shape[1]
        log_det = torch.logdet(precision) + (count - size) * math.log(self.variance)
        return -0.5 * (squares + log_det + count * math.log(2 * math.pi))

    def _rows(self, x: Array) -> Tensor:
        """Return rows as (N, D) in double precision."""
        rows = torch.as_tensor(x)
        if rows.shape[1:] != self.event:
            raise ValueError(
                f"PCA: the rows have shape {tuple(rows.shape[1:])}, those that it was fitted on "
                f"{tuple(self.event)}"
            )
        return rows.flatten(1).double()

    def _mask(self, hidden: Array, n: int) -> Tensor:
        """Return the mask as (N, D)."""
        mask = torch.as_tensor(hidden)
        if mask.dtype != torch.bool or mask.shape not in ((n, *self.event), self.event):
            raise ValueError(
                f"PCA.impute: hidden has shape {tuple(mask.shape)} and type {mask.dtype}, expected "
                f"booleans of shape {(n, *self.event)} or {tuple(self.event)}"
            )
        return mask.expand(n, *self.event).flatten(1)

    def _as_given(self, rows: Tensor, like: Array) -> Tensor:
        return rows.reshape(-1, *self.event).to(_floating(torch.as_tensor(like)))


def _principal(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (D,), variances, greatest first, and axes of rows (N, D), in double precision.

    Many rows are read in blocks for their covariance; of few the singular values are those of PCA.
    """
    n, d = rows.shape
    if n < _ROWS_PER_VALUE * d:
        from sklearn.decomposition import PCA as Fitted  # noqa: N811

        fitted = Fitted(svd_solver="full").fit(rows.double().numpy())
        found = fitted.mean_, fitted.explained_variance_, fitted.components_
        mean, variances, axes = map(torch.from_numpy, found)
        return mean, variances, axes
    blocks = rows.split(_ROWS)
    mean = sum((block.double().sum(0) for block in blocks), torch.zeros(d).double()) / n
    products = torch.zeros(d, d).double()
    for block in blocks:
        centred = block.double() - mean
        products.addmm_(centred.T, centred)
    variances, columns = torch.linalg.eigh(products / (n - 1))
    axes = columns.T.flip(0)
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))  # positive, as scikit-learn's are
    return mean, variances.flip(0).clamp(min=0), axes * largest.sign()


def _check_components(components: int, shape: tuple[int, ...]) -> None:
    if not 0 < components < min(shape):
        raise ValueError(
            f"PCA: components is {components}, expected at least 1 and fewer than the rows and "
            f"their values, {shape[0]} and {shape[1]}"
        )


def _images(name: str, images: Array) -> Tensor:
    """Return images as floating-point numbers on the CPU."""
    tensor = torch.as_tensor(images).detach().cpu()
    if tensor.ndim < 3:
        raise ValueError(
            f"{name}: the shape is {tuple(tensor.shape)}, expected images (N, H, W) or "
            "(N, C, H, W); reshape rows that are vectors"
        )
    return tensor.to(_floating(tensor))


def _floating(values: Tensor) -> torch.dtype:
    return values.dtype if values.is_floating_point() else torch.get_default_dtype()
