"""What the likelihoods p(x | z, c) share: event dimensions, and the check of data against the support."""

from math import prod

import numpy as np
from torch import Tensor, nn

from pyrovae.data import Support, suggest_likelihoods, supports
from pyrovae.distributions import Conditional

__all__ = ["Likelihood", "suggest_likelihoods"]


class Likelihood(Conditional):
    """p(x | z, c): what all likelihoods share, the axes of the event and the check of data against the support.

    Args:
        net: maps z (and c) to the parameters, with shape (*, *event), the first event axis longer by their number.
        event_dim: number of event axes; by default that of `net.shape_out`, and 1 for a network without that attribute.

    Attributes:
        support: the values of x that have a density.
    """

    support: Support

    def __init__(self, net: nn.Module, event_dim: int | None = None) -> None:
        super().__init__()
        self.net, self.event_dim = net, event_dim
        shape = getattr(net, "shape_out", None)
        self._n = event_dim if event_dim is not None else 1 if shape is None else len(shape)
        self._event = None if shape is None else tuple(shape)

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
        if self._event is not None and tuple(x.shape[1:]) != self._event:
            raise ValueError(
                f"{place}: expected rows of {name} with shape {self._event}, as the network puts them out, got {name} "
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

    def _divide(self, parameters: int) -> None:
        """Note that each value of x has so many parameters: a ValueError if the network's output does not divide."""
        if self._event is None:
            return
        first, *rest = self._event
        if first % parameters:
            raise ValueError(
                f"likelihoods.{type(self).__name__}: expected {parameters} blocks on the first axis of the network's "
                f"output, got the shape {self._event}; let it put out {parameters} features (or channels) for each of x"
            )
        self._event = (first // parameters, *rest)
