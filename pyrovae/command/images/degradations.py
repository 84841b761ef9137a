"""How images are degraded, and restored: noise, hidden pixels, fewer pixels.

Images have black as 0 and white as 1. Each kind names its simple baselines too.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from pyrovae import distributions, graphs, tasks
from pyrovae.command.choices import NoiseKind
from pyrovae.command.images.gallery import Scale
from pyrovae.data import spread
from pyrovae.evaluation import baselines
from pyrovae.tasks import Restored

__all__ = ["Corruption", "Degradation", "HiddenPixels", "Noise", "Pooling"]

Named = dict[str, Tensor]

_COMPONENTS = (2, 5, 10, 20, 40, 80)  # of PCA, of which training rows choose
_FITTED = 0.8  # fraction of those rows to which PCA is fitted; of the others some choose
_CHOOSING = 200


class Degradation(ABC):
    """What was done to images. Abstract.

    Attributes:
        TASK: What undoes it, a command's name.
        GIVEN: What the degraded images are called in tables.
        where: True at the pixels that scores count, with the shape of the images; None for all.
    """

    TASK: ClassVar[str]
    GIVEN: ClassVar[str]
    where: Tensor | None = None

    @abstractmethod
    def degrade(self, x: Tensor) -> Tensor:
        """Return degraded images; draws come from torch's random stream."""

    @abstractmethod
    def restore(
        self, graph: Any, scale: Scale, given: Tensor, context: tuple[Tensor, ...], **options: Any
    ) -> Restored:
        """Return what the model makes of degraded images, as modelled."""

    @abstractmethod
    def simple(self, given: Tensor, train: Tensor | None) -> Named:
        """Return simple restorations by name, the degraded images first.

        Args:
            given: Degraded images.
            train: Rows of the training data; without them what needs them is left out.
        """

    def shown(self, given: Tensor) -> Tensor:
        """Return the degraded images as pictures of full size."""
        return given


@final
@dataclass(frozen=True)
class Corruption:
    """The words of `--noise`: its kind, and how much of it.

    Attributes:
        kind: Of the noise.
        amount: Standard deviation as a fraction of the range from black to white, or the fraction
            of the pixels that are replaced.
    """

    kind: NoiseKind
    amount: float

    def on_unit(self) -> distributions.Noise:
        """Return the noise for values with black as 0 and white as 1."""
        if self.kind is NoiseKind.GAUSSIAN:
            return graphs.GaussianNoise(self.amount)
        if self.kind is NoiseKind.MASKING:
            return graphs.MaskingNoise(self.amount)
        return graphs.SaltAndPepperNoise(self.amount)

    def on_model(self, scale: Scale) -> distributions.Noise:
        """Return the noise for values as modelled.

        Raises:
            ValueError: Black is not 0 as modelled, and the noise is masking.
        """
        if self.kind is NoiseKind.GAUSSIAN:
            return graphs.GaussianNoise(self.amount * scale.model_span)
        low, high = scale.to_model(torch.tensor([0.0, 1.0])).tolist()
        resolution = (high - low) / 255
        if self.kind is NoiseKind.MASKING:
            if low:
                raise ValueError(
                    "--noise masking is for models for which black is 0, but this one standardizes "
                    "its data; use `pyrovae impute` with a mask of the black pixels"
                )
            return graphs.MaskingNoise(self.amount, resolution)
        return graphs.SaltAndPepperNoise(self.amount, low, high, resolution)


@final
class Noise(Degradation):
    """Noise on every pixel, of a known kind or not.

    Args:
        corruption: The noise, None if nothing is known of it.
    """

    TASK = "denoise"
    GIVEN = "noisy images"

    def __init__(self, corruption: Corruption | None) -> None:
        self.corruption = corruption

    def degrade(self, x: Tensor) -> Tensor:
        """Return images with noise."""
        assert self.corruption is not None  # the command saw to it
        return self.corruption.on_unit()(x)

    def restore(
        self, graph: Any, scale: Scale, given: Tensor, context: tuple[Tensor, ...], **options: Any
    ) -> Restored:
        """Return clean images: under the noise, or what the encoder makes of it if unknown."""
        replaces = self.corruption and self.corruption.kind is not NoiseKind.GAUSSIAN
        y = scale.to_model(given, valid=bool(replaces))
        noise = self.corruption and self.corruption.on_model(scale)
        return tasks.denoise(graph, y, *context, noise=noise, **options)

    def simple(self, given: Tensor, train: Tensor | None) -> Named:
        """Return the noisy images, mean image, PCA, median and bilinear filter."""
        found = {self.GIVEN: given}
        if train is not None:
            found["mean image"] = baselines.mean_image(train, len(given))
            if self.corruption is not None:
                found |= _pca(train, self._denoised, given)
        if given.ndim == 4:
            found["median filter, 3 x 3"] = baselines.median_filter(given)
            found["bilinear filter"] = baselines.bilinear_filter(given)
        return found

    def _denoised(self, pca: baselines.PCA, x: Tensor, given: bool) -> Tensor:
        return pca.denoise(x if given else self.degrade(x))


@final
class HiddenPixels(Degradation):
    """Pixels that are not known.

    Args:
        hidden: True at hidden pixels, with the shape of the images, (N, *event).
    """

    TASK = "impute"
    GIVEN = "hidden pixels black"

    def __init__(self, hidden: Tensor) -> None:
        self.where = hidden

    def degrade(self, x: Tensor) -> Tensor:
        """Return images whose hidden pixels are black."""
        return torch.where(self._hidden(x), 0.0, x)

    def restore(
        self, graph: Any, scale: Scale, given: Tensor, context: tuple[Tensor, ...], **options: Any
    ) -> Restored:
        """Return images with the hidden pixels filled in, given the others."""
        x = scale.to_model(given, valid=True)
        return tasks.impute(graph, x, *context, hidden=self._hidden(x), **options)

    def simple(self, given: Tensor, train: Tensor | None) -> Named:
        """Return black, mean image, and PCA's mean given the observed pixels."""
        found = {self.GIVEN: self.degrade(given)}
        if train is not None:
            mean = baselines.mean_image(train, len(given))
            found["mean image"] = torch.where(self._hidden(given), mean, given)
            found |= _pca(train, self._imputed, given)
        return found

    def _imputed(self, pca: baselines.PCA, x: Tensor, given: bool) -> Tensor:
        rows = torch.arange(len(x)) % len(self._all)
        return pca.impute(x, self._all[rows]).mean

    @property
    def _all(self) -> Tensor:
        assert self.where is not None
        return self.where

    def _hidden(self, x: Tensor) -> Tensor:
        return self._all.expand_as(x)


@final
class Pooling(Degradation):
    """Squares of pixels of which only the mean is known.

    Args:
        factor: Side of a square.
    """

    TASK = "super-resolve"
    GIVEN = "pixels repeated"

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def degrade(self, x: Tensor) -> Tensor:
        """Return images (N, C, H / factor, W / factor)."""
        return torch.nn.functional.avg_pool2d(x, self.factor)

    def restore(
        self, graph: Any, scale: Scale, given: Tensor, context: tuple[Tensor, ...], **options: Any
    ) -> Restored:
        """Return images of full size given the means of their squares."""
        factor, sums = self.factor, scale.sums(given, self.factor**2)
        return tasks.super_resolve(graph, sums, *context, factor=factor, sums=True, **options)

    def simple(self, given: Tensor, train: Tensor | None) -> Named:
        """Return repeated pixels, bilinear interpolation and the mean image."""
        found = {
            self.GIVEN: self.shown(given),
            "bilinear upsampling": baselines.bilinear_upsampling(given, self.factor),
        }
        if train is not None:
            found["mean image"] = baselines.mean_image(train, len(given))
        return found

    def shown(self, given: Tensor) -> Tensor:
        """Return the images enlarged by repeating pixels."""
        return given.repeat_interleave(self.factor, -2).repeat_interleave(self.factor, -1)


Restore = Callable[[baselines.PCA, Tensor, bool], Tensor]


def _pca(train: Tensor, restore: Restore, given: Tensor) -> Named:
    """Return what PCA restores, with the number of components that is best on training rows."""
    fitted = round(_FITTED * len(train))
    most = min(fitted, train[0].numel()) - 1
    if most < 1:
        return {}
    others = train[fitted:]
    clean, found = others[spread(len(others), _CHOOSING)], {}
    first = baselines.PCA(train[:fitted], 1)
    for components in dict.fromkeys(min(k, most) for k in _COMPONENTS):
        pca = first.truncated(components)
        if pca.variance <= 0:
            continue
        restored = restore(pca, clean, False).clamp(0, 1)
        found[components] = (restored - clean).square().mean().item(), pca
    if not found:
        return {}
    components = min(found, key=lambda k: found[k][0])
    return {f"PCA, {components} components": restore(found[components][1], given, True)}
