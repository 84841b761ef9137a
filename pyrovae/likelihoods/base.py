"""What the likelihoods p(x | z, c) share: event dimensions, and the check of data against the support."""

from torch import nn

from pyrovae.data import Array, Source, Support, as_source, suggest_likelihoods, supports
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

    def check(self, x: Array, name: str = "x") -> None:
        """Raise an error if the data have values to which the likelihood gives no density.

        Args:
            x: data with shape (N, *event), of any real or integer type, or a source of them.
            name: what the error calls the data.

        Raises:
            ValueError: if the rows differ in shape from the network's output, or a value is off the
                support: names the first such value, its place, how many there are, and the
                likelihoods that fit.
        """
        place, source = f"likelihoods.{type(self).__name__}", as_source(x, name)
        if self._event is not None and tuple(source.shape[1:]) != self._event:
            raise ValueError(
                f"{place}: expected rows of {name} with shape {self._event}, the shape of the "
                f"network's output, got {name} with shape {tuple(source.shape)}; reshape the data, "
                "or build the network for that shape"
            )
        off = source.scan(self.support).off
        if off is not None:
            raise ValueError(
                f"{place}: expected {name} to hold {self.support.words}, got {off.value:g} "
                f"at row {off.row}, position {off.position} ({off.total} of "
                f"{source.shape.numel()} values are off); {self._remedy(source)}"
            )

    def _remedy(self, x: Source) -> str:
        fitting = suggest_likelihoods(x)
        if not fitting:
            return "no likelihood fits NaN or infinite values: remove those rows, or fill them in"
        text = "such data fit " + ", ".join(f"likelihoods.{likelihood}" for likelihood in fitting)
        if self.support is supports.BINARY and fitting[0].name == "ContinuousBernoulli":
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
