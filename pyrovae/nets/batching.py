"""The axes of a network's inputs: any leading axes around the features, and contexts joined to them.

(x, c) with shapes (K, B, D) and (B, C) -> one tensor with shape (K, B, D + C), which is what a linear layer takes.
"""

from abc import ABC
from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor, nn

__all__ = [
    "Activation",
    "Features",
    "Network",
    "Shape",
    "concatenated",
    "int_or_tuple",
    "over_leading_axes",
    "shape_of",
]

Shape = tuple[int, ...]


class Network(nn.Module, ABC):
    """f(x, c) with any leading axes: what the networks of this library share.

    Attributes:
        shape_in: shape of x without leading axes.
        shape_out: shape of f(x, c) without leading axes.
        context: features of the further inputs c, all together.
    """

    shape_in: Shape
    shape_out: Shape
    context: int = 0

    def joined(self, inputs: Sequence[Tensor]) -> Tensor:
        """(x, *c) with shapes (*, *shape_in), (*, C_i) -> one tensor with shape (*, prod(shape_in) + context)."""
        x, *c = self.checked(inputs)
        return concatenated([x.flatten(-len(self.shape_in)), *c])

    def checked(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The inputs, whole numbers as floating point, or a ValueError if they have not the features expected."""
        x, *c = inputs
        shape, n, context = self.shape_in, len(self.shape_in), _features(c)
        together = (
            n == 1 and sum(x.shape[-1:]) + context == shape[0] + self.context
        )  # 784 + 10 may come as 794
        if not together and (x.shape[-n:], context) != (shape, self.context):
            raise ValueError(f"{type(self).__name__}: {_mismatch(x, c, shape, self.context)}")
        return [p if p.is_floating_point() else p.to(next(self.parameters()).dtype) for p in inputs]


def over_leading_axes(
    net: Callable[..., Tensor], *inputs: Tensor, event_dims: Sequence[int]
) -> Tensor:
    """Apply a network that knows one batch axis to inputs with any leading axes.

    The leading axes are broadcast against each other, flattened to one and put back. A convolution takes no others, and
    `BatchNorm1d` would take the B of (K, B, D) for its channels: an error, or silently wrong where B equals D.

    Args:
        net: maps tensors (N, *event_i) to a tensor (N, *out).
        inputs: tensors with shape (*, *event_i).
        event_dims: for each input, how many of its last axes are the event.

    Returns:
        A tensor with shape (*, *out).

    Example:
        >>> over_leading_axes(nn.BatchNorm1d(3), torch.ones(5, 2, 3), event_dims=[1]).shape
        torch.Size([5, 2, 3])
    """
    cuts = [x.dim() - n for x, n in zip(inputs, event_dims, strict=True)]
    lead = _broadcast([x.shape[:cut] for x, cut in zip(inputs, cuts, strict=True)], inputs)
    events = [x.shape[cut:] for x, cut in zip(inputs, cuts, strict=True)]
    h = net(
        *(
            x.expand(lead + event).reshape(prod(lead), *event)
            for x, event in zip(inputs, events, strict=True)
        )
    )
    return h.reshape(lead + h.shape[1:])


def concatenated(parts: Sequence[Tensor]) -> Tensor:
    """Parts with shapes (*, D_i) side by side, with shape (*, sum D_i), leading axes broadcast."""
    if len(parts) == 1:
        return parts[0]
    lead = _broadcast([p.shape[:-1] for p in parts], parts)
    return torch.cat([p.expand(*lead, -1) for p in parts], -1)


def _broadcast(leads: Sequence[torch.Size], inputs: Sequence[Tensor]) -> torch.Size:
    try:
        return torch.broadcast_shapes(*leads)
    except RuntimeError:
        shapes = " and ".join(str(tuple(x.shape)) for x in inputs)
        raise ValueError(
            f"the leading axes of {shapes} do not broadcast; give x and its context the same batch, and a context as "
            "(*, features): labels as one_hot(labels), one number a row as c[:, None]"
        ) from None


def _features(c: Sequence[Tensor]) -> int:
    return sum(sum(p.shape[-1:]) for p in c)


def _mismatch(x: Tensor, c: Sequence[Tensor], shape: Shape, context: int) -> str:
    came, last = tuple(x.shape), tuple(x.shape[max(x.dim() - len(shape), 0) :])
    expected = " + ".join([_words(shape), *([f"{context} context"] if context else [])])
    got = " + ".join([_words(last), *(f"{_features([p])} context" for p in c)])
    text = f"expected {expected} features, got {got} features (an input of shape {came}); "
    if c and (last == shape or not context):
        return (
            text
            + f"build the network with context={_features(c)}, or drop the context by WithoutContext(net)"
        )
    if last == shape:
        return text + "pass the context too, or build the network with context=0"
    if came[1:] != shape and prod(came[1:]) == prod(shape):
        axes = str(shape).strip("(,)")
        return (
            text + f"reshape the input to (*, {axes}), or build the network for {_words(came[1:])}"
        )
    return text + f"build the network for {_words(last)} features, or give it other data"


def _words(shape: Shape) -> str:
    return str(shape[0]) if len(shape) == 1 else str(shape)


Features = int | Sequence[int]


Activation = type[nn.Module]


def shape_of(features: Features) -> Shape:
    """Return features as a shape: 784 -> (784,)."""
    return (features,) if isinstance(features, int) else tuple(features)


def int_or_tuple(features: Features) -> int | Shape:
    """Return features as an integer or a tuple, as a constructor keeps them."""
    return features if isinstance(features, int) else tuple(features)
