"""What the likelihoods p(x | z, c) share: the shape of an event, and the check of data."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from pyrovae.data import Array, Source, Support, as_source, suggest_likelihoods, supports
from pyrovae.distributions import Conditional, check_network, checked_output

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
        BEFORE: values of arguments that the class did not have at first; `load` gives them to a
            model that was saved without, so that it computes what it did.
    """

    support: Support
    BEFORE: ClassVar[dict[str, Any]] = {}

    def __init__(self, net: nn.Module, event_dim: int | None = None) -> None:
        super().__init__()
        check_network(net, f"likelihoods.{type(self).__name__}")
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

    def set_parameters_per_value(
        self, parameters: int, remedy: str = "Change its last layer"
    ) -> None:
        """Declare how many parameters the network outputs for each value of x.

        Raises:
            ValueError: if the first event dimension of the output is not a multiple of that number.
        """
        shape = getattr(self.net, "shape_out", None)
        if shape is not None and shape[0] % parameters:
            raise ValueError(
                f"likelihoods.{type(self).__name__}: net has outputs of shape {tuple(shape)}, "
                f"expected a multiple of {parameters} along the first dimension, {parameters} "
                f"parameters for each value of x. {remedy}"
            )
        self.parameters_per_value = parameters

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
        if self.event_shape is not None and tuple(source.shape[1:]) != self.event_shape:
            one_row = tuple(source.shape) == self.event_shape
            remedy = (
                f"of one row alone give {name}[None], of a list of rows torch.stack(rows)"
                if one_row
                else "give channels that come last as x.movedim(-1, 1), or build the network for "
                "that shape"
                if _channels_last(source.shape[1:], self.event_shape)
                else "reshape the data, or build the network for that shape"
            )
            raise ValueError(
                f"{place}: expected rows of {name} with shape {self.event_shape}, as the network's "
                f"output, got {name} with shape {tuple(source.shape)}; {remedy}"
            )
        off = source.scan(self.support).off
        if off is not None:
            raise ValueError(
                f"{place}: expected {name} to hold {self.support.words}, got {off.value:g} "
                f"at row {off.row}, position {off.position} ({off.total} of "
                f"{source.shape.numel()} values are off); {self._remedy(source)}"
            )

    def _outputs(self, *given: Tensor) -> Tensor:
        """Return the network's output at z (and c).

        Raises:
            TypeError: if it is no tensor of floating-point numbers.
        """
        return checked_output(self.net(*given), f"likelihoods.{type(self).__name__}")

    def _remedy(self, x: Source) -> str:
        fitting = suggest_likelihoods(x)
        if not fitting:
            return "no likelihood fits NaN or infinite values: remove those rows, or fill them in"
        text = "such data fit " + ", ".join(f"likelihoods.{likelihood}" for likelihood in fitting)
        if self.support is supports.BINARY and fitting[0].name == "ContinuousBernoulli":
            text += "; or make them binary by pyrovae.batches.binarize"
        return text


def _channels_last(shape: Sequence[int], event: Sequence[int]) -> bool:
    """Return whether images of a shape (H, W, C) would be (C, H, W), the shape of the event."""
    return len(shape) == 3 and tuple(event) == (shape[2], *shape[:2])
