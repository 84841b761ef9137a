"""What the likelihoods p(x | z, c) share: the shape of an event, and the check of data."""

from math import prod

import numpy as np
from torch import Tensor, nn

from pyrovae.data import Support, suggest_likelihoods, supports
from pyrovae.distributions import Conditional

__all__ = ["Likelihood", "suggest_likelihoods"]


class Likelihood(Conditional):
    """p(x | z, c) with the shape of one observation of x, and the check of data.

    A subclass with P > 1 parameters for each value of x calls `set_parameters_per_value(P)` in its
    constructor; one whose parameters are not the outputs of `net` overrides `event_shape`.

    Args:
        net: maps z (and c) to the parameters, stacked along the first event dimension: with shape
            (*, P * E_1, E_2, ...) for an event of shape (E_1, E_2, ...).
        event_dim: number of event dimensions; None takes the length of `net.shape_out`, or 1 for a
            network without that attribute.

    Attributes:
        support: the values of x that have a density.
        event_ndim: number of event dimensions.
        parameters_per_value: P.
    """

    support: Support

    def __init__(self, net: nn.Module, event_dim: int | None = None) -> None:
        super().__init__()
        self.net, self.event_dim = net, event_dim
        shape = getattr(net, "shape_out", None)
        dims = 1 if shape is None else len(shape)
        self.event_ndim = dims if event_dim is None else event_dim
        self.parameters_per_value = 1

    @property
    def event_shape(self) -> tuple[int, ...] | None:
        """Shape of one observation of x; None for a network without `shape_out`."""
        shape = getattr(self.net, "shape_out", None)
        return None if shape is None else (shape[0] // self.parameters_per_value, *shape[1:])

    def set_parameters_per_value(self, parameters: int) -> None:
        """Declare how many parameters the network outputs for each value of x.

        Raises:
            ValueError: if the first event dimension of the output is not a multiple of that number.
        """
        shape = getattr(self.net, "shape_out", None)
        if shape is not None and shape[0] % parameters:
            raise ValueError(
                f"likelihoods.{type(self).__name__}: net has outputs of shape {tuple(shape)}, "
                f"expected a multiple of {parameters} along the first dimension, {parameters} "
                "parameters for each value of x. Change its last layer"
            )
        self.parameters_per_value = parameters

    def check(self, x: Tensor | np.ndarray, name: str = "x") -> None:
        """Refuse data that the likelihood cannot explain.

        Args:
            x: data with shape (N, *event), of any real or integer type.
            name: what the error calls the data.

        Raises:
            ValueError: if the rows have another shape than the network puts out, or a value is off the support: the
                first such value, where it is, how many there are, and the likelihoods that fit.
        """
        place = f"likelihoods.{type(self).__name__}"
        if self.event_shape is not None and tuple(x.shape[1:]) != self.event_shape:
            raise ValueError(
                f"{place}: expected rows of {name} with shape {self.event_shape}, as the network puts them out, got {name} "
                f"with shape {tuple(x.shape)}; reshape the data, or build the network for that shape"
            )
        off = self.support.first_off(x)
        if off is not None:
            raise ValueError(
                f"{place}: expected {name} to hold {self.support.words}, got {off.value:g} at row {off.row}, position "
                f"{off.position} ({off.total} of {prod(x.shape)} values are off); {self._remedy(x)}"
            )

    def _remedy(self, x: Tensor | np.ndarray) -> str:
        fit = suggest_likelihoods(x)
        if not fit:
            return "no likelihood fits NaN or infinite values: remove those rows, or fill the values in"
        text = "such data fit " + ", ".join(f"likelihoods.{name}" for name in fit)
        if self.support is supports.BINARY and fit[0] == "ContinuousBernoulli":
            text += "; or make them binary by pyrovae.batches.binarize"
        return text
