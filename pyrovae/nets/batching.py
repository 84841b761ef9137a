"""Batch dimensions around the features of a network's inputs, and contexts joined to the features.

(x, c) with shapes (K, B, D) and (B, C) -> one tensor with shape (K, B, D + C), for a linear layer.
"""

from abc import ABC
from collections.abc import Callable, Iterable, Sequence
from math import prod
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "Activation",
    "Features",
    "Network",
    "Shape",
    "checked_activation",
    "concatenated",
    "int_or_tuple",
    "over_leading_axes",
    "shape_of",
]

Shape = tuple[int, ...]
Features = int | Sequence[int]  # a number of features, or the shape of an image
Activation = type[nn.Module]


def checked_activation(activation: Any, network: nn.Module) -> Activation:
    """Return the class of a network's activations, which is called once for each of them.

    Raises:
        TypeError: if it makes no module, as a name, a function or a module that is made already.
    """
    try:
        made = activation()
    except TypeError:
        made = None
    if not isinstance(made, nn.Module):
        raise TypeError(
            f"{type(network).__name__}: activation is {activation!r}, expected a class of torch.nn "
            "that is made without arguments, as nn.ReLU"
        )
    return activation


class Network(nn.Module, ABC):
    """f(x, c) with any batch dimensions: what the networks of this library share.

    Attributes:
        shape_in: shape of x without batch dimensions.
        shape_out: shape of f(x, c) without batch dimensions.
        context: total number of features of the further inputs c.
    """

    shape_in: Shape
    shape_out: Shape
    context: int = 0

    def joined(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return x, flattened, and the context as one tensor (*, prod(shape_in) + context).

        Args:
            inputs: x with shape (*, *shape_in), and contexts with shapes (*, C_i).

        Raises:
            ValueError: as `checked`, or if the batch dimensions do not broadcast.
        """
        x, *c = self.checked(inputs)
        return concatenated([x.flatten(-len(self.shape_in)), *c])

    def checked(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the inputs, integers converted to the floating-point type of the parameters.

        Raises:
            ValueError: if the inputs do not have the features that the network was built for.
        """
        x, *c = inputs
        shape, n, context = self.shape_in, len(self.shape_in), _features(c)
        total = sum(x.shape[-1:]) + context
        # A vector and its context may be counted together: 784 + 10 features as 794.
        counted_together = n == 1 and total == shape[0] + self.context
        fits = counted_together or (x.shape[-n:], context) == (shape, self.context)
        if not fits or _one_per_row(x, c, shape):
            raise ValueError(f"{type(self).__name__}: {_mismatch(x, c, shape, self.context)}")
        return [v if v.is_floating_point() else v.to(next(self.parameters()).dtype) for v in inputs]


def over_leading_axes(
    net: Callable[..., Tensor], *inputs: Tensor, event_dims: Sequence[int]
) -> Tensor:
    """Apply a network that takes one batch dimension to inputs with any batch dimensions.

    The batch dimensions are broadcast, flattened to one and restored. Convolutions take no other
    inputs, and `BatchNorm1d` would treat the B of (K, B, D) as its channels: an error, or silently
    wrong where B equals D.

    Args:
        net: maps tensors (N, *event_i) to a tensor (N, *out).
        inputs: tensors with shape (*, *event_i).
        event_dims: the number of event dimensions of each input.

    Returns:
        A tensor with shape (*, *out).

    Raises:
        ValueError: if the batch dimensions do not broadcast.

    Example:
        >>> over_leading_axes(nn.BatchNorm1d(3), torch.ones(5, 2, 3), event_dims=[1]).shape
        torch.Size([5, 2, 3])
    """
    splits = [x.dim() - n for x, n in zip(inputs, event_dims, strict=True)]
    batch = _broadcast([x.shape[:i] for x, i in zip(inputs, splits, strict=True)], inputs)
    events = [x.shape[i:] for x, i in zip(inputs, splits, strict=True)]
    flat = [
        x.expand(batch + event).reshape(prod(batch), *event)
        for x, event in zip(inputs, events, strict=True)
    ]
    y = net(*flat)
    return y.reshape(batch + y.shape[1:])


def concatenated(parts: Sequence[Tensor]) -> Tensor:
    """Return tensors (*, D_i) as one with shape (*, sum D_i), batch dimensions broadcast.

    Raises:
        ValueError: if the batch dimensions do not broadcast.
    """
    if len(parts) == 1:
        return parts[0]
    batch = _broadcast([p.shape[:-1] for p in parts], parts)
    return torch.cat([p.expand(*batch, -1) for p in parts], -1)


def shape_of(features: Any) -> Shape:
    """Return features as a shape: 784 -> (784,).

    Raises:
        ValueError: if they are neither a whole number nor several, of at least 0.
    """
    several = isinstance(features, Iterable) and not isinstance(features, str)
    shape: tuple[Any, ...] = tuple(features) if several else (features,)
    if not all(isinstance(size, Integral) and int(size) >= 0 for size in shape):
        raise ValueError(
            f"a network has {features!r} features, expected a whole number, or a list or a shape "
            "of whole numbers, as in MLP(784, [500, 200], (1, 28, 28))"
        )
    return tuple(map(int, shape))


def int_or_tuple(features: Features) -> int | Shape:
    """Return features as an integer or a tuple: what a constructor keeps as its attribute."""
    return int(features) if isinstance(features, Integral) else shape_of(features)


def _broadcast(shapes: Sequence[torch.Size], inputs: Sequence[Tensor]) -> Shape:
    try:
        return np.broadcast_shapes(*shapes)  # torch's own imports sympy: a second of a first fit
    except ValueError:
        whole = " and ".join(str(tuple(x.shape)) for x in inputs)
        raise ValueError(
            f"the batch dimensions of {whole} do not broadcast; give x and its context the same "
            "rows, and a context as (*, features): labels as one_hot(labels), one number per row "
            "as c[:, None]"
        ) from None


def _features(c: Sequence[Tensor]) -> int:
    return sum(sum(p.shape[-1:]) for p in c)


def _mismatch(x: Tensor, c: Sequence[Tensor], shape: Shape, context: int) -> str:
    """Return the error's text: the features expected, those of the inputs, and the remedy."""
    found = tuple(x.shape[max(x.dim() - len(shape), 0) :])
    expected = [_words(shape), *([f"{context} context"] if context else [])]
    got = [_words(found), *(f"{_features([p])} context" for p in c)]
    return (
        f"expected {' + '.join(expected)} features, got {' + '.join(got)} features "
        f"(an input of shape {tuple(x.shape)}); {_remedy(x, c, shape, found, context)}"
    )


def _remedy(x: Tensor, c: Sequence[Tensor], shape: Shape, found: Shape, context: int) -> str:
    if c and not context:
        labels = _one_per_row(x, c, shape)
        build = "classes given as one_hot(labels)" if labels else f"context={_features(c)}"
        return (
            "the second item of a tuple, a list or a pair is the context c, and this network takes "
            f"none. Pass x alone; or build the network for c, {build}, or let it ignore c, by "
            "WithoutContext(net). Of several arrays of rows, give torch.cat(arrays)"
        )
    if _one_per_row(x, c, shape):
        return (
            "a context of one dimension holds one number per row, expected (*, features): give "
            "classes as one_hot(labels), one number per row as c[:, None]"
        )
    if c and found == shape:
        build = f"build the network with context={_features(c)}"
        return (
            f"{build}, or drop the context by WithoutContext(net). Data in a list or tuple are "
            "(x, *c): of several arrays of rows, give torch.cat(arrays)"
        )
    if found == shape:
        return "pass the context too, or build the network with context=0"
    event = tuple(x.shape[1:])
    if event != shape and prod(event) == prod(shape):
        dimensions = str(shape).strip("(,)")
        build = f"build the network for {_words(event)}"
        return f"reshape the input to (*, {dimensions}), or {build}"
    return f"build the network for {_words(found)} features, or give it other data"


def _one_per_row(x: Tensor, c: Sequence[Tensor], shape: Shape) -> bool:
    """Return whether a context seems to be labels or numbers of rows, without a feature axis."""
    rows = x.shape[: max(x.dim() - len(shape), 0)]
    return any(p.dim() == 1 and len(rows) > 0 and len(p) == rows[-1] for p in c)


def _words(shape: Shape) -> str:
    return str(shape[0]) if len(shape) == 1 else str(shape)
