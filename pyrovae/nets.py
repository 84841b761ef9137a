r"""Networks h = f(x, c): maps of tensors, with no distribution in them.

MLP           h_0 = (x, c),          h_l = a(W_l h_{l-1} + b_l),               f = W h_L + b
ResidualMLP   h_0 = W_0 (x, c) + b_0,  h_l = h_{l-1} + V_l a(U_l a(norm h_{l-1})),  f = W a(norm h_L) + b
ConvEncoder   a convolution, a and a pooling for each scale; one more convolution; a linear map of the features and c
ConvDecoder   a linear map of (z, c); a convolution, a and an upsampling for each scale; two more convolutions

Every network takes any leading axes, `()`, `(B,)` or `(K, B)`. A context c comes as further inputs, which are joined on the
feature axis with broadcast leading axes. `shape_out` is the shape of what comes out, without the leading axes.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

__all__ = ["MLP", "AnyLeading", "ConvDecoder", "ConvEncoder", "ResidualMLP", "WithoutContext", "over_leading_axes"]

Shape = tuple[int, ...]


class MLP(nn.Module):
    """Fully connected layers with an activation between them; `hidden=[]` is one linear map.

    Args:
        features_in: features D of x, or a shape such as (1, 28, 28), which is flattened on the way in.
        hidden: widths of the hidden layers.
        features_out: features that come out, or a shape, to which they are unflattened.
        activation: a class of `torch.nn`, made without arguments.
        context: features of the further inputs c, all together. `MLP(784 + 10, ...)` does as well as `MLP(784, ..., context=10)`.

    Example:
        >>> net = MLP(784, [400], (1, 28, 28), activation=nn.Tanh, context=10)
        >>> net(torch.zeros(7, 5, 784), torch.zeros(5, 10)).shape
        torch.Size([7, 5, 1, 28, 28])
    """

    def __init__(
        self,
        features_in: int | Sequence[int],
        hidden: Sequence[int],
        features_out: int | Sequence[int],
        activation: type[nn.Module] = nn.ReLU,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.features_in, self.features_out = _int_or_tuple(features_in), _int_or_tuple(features_out)
        self.hidden, self.activation, self.context = tuple(hidden), activation, context
        self.shape_in, self.shape_out = _shape(features_in), _shape(features_out)
        widths = [prod(self.shape_in) + context, *hidden, prod(self.shape_out)]
        layers: list[nn.Module] = []
        for before, after in zip(widths, widths[1:], strict=False):
            layers += [nn.Linear(before, after), activation()]
        self.layers = nn.Sequential(*layers[:-1])
        self._ready = torch.Size(widths[:1] if len(self.shape_in) == 1 else [])  # last axes of an input that needs no work

    def forward(self, *inputs: Tensor) -> Tensor:
        """(x, *c) with shapes (*, *features_in), (*, C_i) -> f(x, c) with shape (*, *features_out)."""
        x = inputs[0]
        if len(inputs) > 1 or x.shape[-1:] != self._ready or not x.is_floating_point():
            x = _joined(self, inputs)
        h = self.layers(x)
        return h if len(self.shape_out) == 1 else h.unflatten(-1, self.shape_out)


class ResidualMLP(nn.Module):
    """Fully connected residual network with pre-activation blocks (He et al. 2016, "Identity mappings", figure 1b).

    A block adds to its input what two layers make of it, normalized over the features (Ba et al. 2016), so that depth costs
    no gradient. Layer and not batch normalization: no row sees its neighbours, and training equals evaluation.

    Args:
        features_in: as for `MLP`.
        hidden: width of all blocks.
        features_out: as for `MLP`.
        blocks: number of blocks.
        activation: a class of `torch.nn`, made without arguments.
        context: features of the further inputs c, all together.

    Example:
        >>> ResidualMLP(784, 64, 20, blocks=3)(torch.zeros(5, 784)).shape
        torch.Size([5, 20])
    """

    def __init__(
        self,
        features_in: int | Sequence[int],
        hidden: int,
        features_out: int | Sequence[int],
        blocks: int = 2,
        activation: type[nn.Module] = nn.ReLU,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.features_in, self.features_out = _int_or_tuple(features_in), _int_or_tuple(features_out)
        self.hidden, self.blocks, self.activation, self.context = hidden, blocks, activation, context
        self.shape_in, self.shape_out = _shape(features_in), _shape(features_out)
        self.first = nn.Linear(prod(self.shape_in) + context, hidden)
        self.residuals = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), activation(), nn.Linear(hidden, hidden), activation(), nn.Linear(hidden, hidden))
            for _ in range(blocks)
        )
        self.last = nn.Sequential(nn.LayerNorm(hidden), activation(), nn.Linear(hidden, prod(self.shape_out)))

    def forward(self, *inputs: Tensor) -> Tensor:
        """(x, *c) with shapes (*, *features_in), (*, C_i) -> f(x, c) with shape (*, *features_out)."""
        h = self.first(_joined(self, inputs))
        for residual in self.residuals:
            h = h + residual(h)
        return self.last(h).unflatten(-1, self.shape_out)


class ConvEncoder(nn.Module):
    """Convolutional network from an image of any C x H x W to a vector.

    Each scale is a 3 x 3 convolution and a pooling that halves height and width, rounding up; one more convolution follows.
    The defaults take 28 x 28 x 1 to 4 x 4 x 8 by four convolutions and three poolings, 28 -> 14 -> 7 -> 4.

    Args:
        shape_in: (C, H, W).
        features_out: features that come out; None leaves the last linear layer out and gives the feature maps, flattened.
        channels: channels of the scales, from the image inwards.
        activation: a class of `torch.nn`, made without arguments.
        context: features of the further inputs c, all together. They join the flattened feature maps.

    Attributes:
        code: the shape of the feature maps, (8, 4, 4) by default.

    Raises:
        ValueError: for a context without a last linear layer to take it.

    Example:
        >>> net = ConvEncoder((1, 28, 28), 2 * 20)
        >>> net.code, net(torch.zeros(5, 1, 28, 28)).shape
        ((8, 4, 4), torch.Size([5, 40]))
    """

    def __init__(
        self,
        shape_in: Sequence[int],
        features_out: int | None,
        channels: Sequence[int] = (16, 8, 8),
        activation: type[nn.Module] = nn.ReLU,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.shape_in, self.features_out, self.channels = tuple(shape_in), features_out, tuple(channels)
        self.activation, self.context = activation, context
        self.code = (channels[-1], *_scales(self.shape_in, len(channels))[-1])
        layers: list[nn.Module] = []
        for before, after in zip((shape_in[0], *channels), channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1), activation(), nn.MaxPool2d(2, ceil_mode=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[-1], channels[-1], 3, padding=1), activation())
        self.linear = _linear_or_none(self, prod(self.code), features_out)
        self.shape_out = (features_out or prod(self.code),)

    def forward(self, *inputs: Tensor) -> Tensor:
        """(x, *c) with shapes (*, C, H, W), (*, C_i) -> f(x, c) with shape (*, features_out)."""
        x, *c = _checked(self, inputs)
        code = over_leading_axes(self.layers, x, event_dims=[3]).flatten(-3)
        return self.linear(_concatenated([code, *c]))


class ConvDecoder(nn.Module):
    """Convolutional network from a vector to an image of any C x H x W: `ConvEncoder` walked backwards.

    A linear map to the feature maps of the coarsest scale; for each scale a 3 x 3 convolution and an upsampling to exactly the
    size that the encoder had there, odd ones too; then two more convolutions. The defaults take 4 x 4 x 8 to 28 x 28 x 1 by
    five convolutions and three upsamplings, 4 -> 7 -> 14 -> 28.

    Args:
        features_in: features of z; None leaves the first linear layer out and takes the flattened feature maps themselves.
        shape_out: (C, H, W); a likelihood with P parameters a value needs P C channels here.
        channels: channels of the scales, from the image inwards, as for the encoder.
        activation: a class of `torch.nn`, made without arguments.
        context: features of the further inputs c, all together. They join z.

    Attributes:
        code: the shape of the first feature maps, (8, 4, 4) by default.

    Raises:
        ValueError: for a context without a first linear layer to take it.

    Example:
        >>> ConvDecoder(20, (3, 65, 49))(torch.zeros(7, 5, 20)).shape
        torch.Size([7, 5, 3, 65, 49])
    """

    def __init__(
        self,
        features_in: int | None,
        shape_out: Sequence[int],
        channels: Sequence[int] = (16, 8, 8),
        activation: type[nn.Module] = nn.ReLU,
        context: int = 0,
    ) -> None:
        super().__init__()
        self.features_in, self.shape_out, self.channels = features_in, tuple(shape_out), tuple(channels)
        self.activation, self.context = activation, context
        *sizes, smallest = _scales(self.shape_out, len(channels))
        self.code = (channels[-1], *smallest)
        self.shape_in = (features_in or prod(self.code),)
        self.linear = _linear_or_none(self, features_in, prod(self.code))
        inwards, layers = channels[::-1], []
        for before, after, size in zip((channels[-1], *inwards), inwards, sizes[::-1], strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1), activation(), nn.Upsample(size)]
        layers += [nn.Conv2d(channels[0], channels[0], 3, padding=1), activation()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels[0], shape_out[0], 3, padding=1))

    def forward(self, *inputs: Tensor) -> Tensor:
        """(z, *c) with shapes (*, features_in), (*, C_i) -> f(z, c) with shape (*, C, H, W)."""
        code = self.linear(_joined(self, inputs)).unflatten(-1, self.code)
        return over_leading_axes(self.layers, code, event_dims=[3])


class WithoutContext(nn.Module):
    """f(x, c) = f(x): for a network that does not want the context that other parts of the graph get.

    Args:
        net: any network of one input.

    Example:
        >>> WithoutContext(MLP(784, [400], 40))(torch.zeros(5, 784), torch.zeros(5, 10)).shape
        torch.Size([5, 40])
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @property
    def shape_out(self) -> Shape:
        """What the network tells; missing where the network does not tell."""
        return self.net.shape_out

    def forward(self, x: Tensor, *c: Tensor) -> Tensor:
        """Return f(x)."""
        return self.net(x)


class AnyLeading(nn.Module):
    """Any network that knows one batch axis, such as one with `BatchNorm1d`, as one that takes any leading axes.

    Args:
        net: maps (N, *features_in), and contexts (N, C_i) where given, to (N, *features_out).
        features_in: features or shape of x.
        features_out: features or shape of what comes out.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))
        >>> AnyLeading(net, 3, 2)(torch.zeros(7, 5, 3)).shape
        torch.Size([7, 5, 2])
    """

    def __init__(self, net: nn.Module, features_in: int | Sequence[int], features_out: int | Sequence[int]) -> None:
        super().__init__()
        self.net = net
        self.features_in, self.features_out = _int_or_tuple(features_in), _int_or_tuple(features_out)
        self.shape_in, self.shape_out = _shape(features_in), _shape(features_out)

    def forward(self, x: Tensor, *c: Tensor) -> Tensor:
        """(x, *c) with shapes (*, *features_in), (*, C_i) -> f(x, c) with shape (*, *features_out)."""
        _checked(self, (x,))
        return over_leading_axes(self.net, x, *c, event_dims=[len(self.shape_in), *(1 for _ in c)])


# --------------------------------------------------------------------------------------------------------------- helpers
def over_leading_axes(net: nn.Module, *inputs: Tensor, event_dims: Sequence[int]) -> Tensor:
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
    lead = torch.broadcast_shapes(*(x.shape[:cut] for x, cut in zip(inputs, cuts, strict=True)))
    events = [x.shape[cut:] for x, cut in zip(inputs, cuts, strict=True)]
    rows = [x.expand(lead + event).reshape(prod(lead), *event) for x, event in zip(inputs, events, strict=True)]
    h = net(*rows)
    return h.reshape(lead + h.shape[1:])


def _shape(features: int | Sequence[int]) -> Shape:
    return (features,) if isinstance(features, int) else tuple(features)


def _int_or_tuple(features: int | Sequence[int]) -> int | Shape:
    return features if isinstance(features, int) else tuple(features)


def _scales(shape: Shape, poolings: int) -> list[Shape]:
    """(H, W) before each pooling and after the last: 28 -> 14 -> 7 -> 4."""
    h, w = shape[1:]
    return [(-(-h // 2**i), -(-w // 2**i)) for i in range(poolings + 1)]  # repeated halving rounds up as one division does


def _linear_or_none(net: nn.Module, features_in: int | None, features_out: int | None) -> nn.Module:
    if features_in is not None and features_out is not None:
        return nn.Linear(features_in + net.context, features_out)
    if net.context:
        raise ValueError(
            f"{type(net).__name__}: {net.context} context features need the linear layer that features None leaves out; "
            "give the number of features, or context=0 and WithoutContext(net)"
        )
    return nn.Identity()


def _joined(net: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """(x, *c) with shapes (*, *shape_in), (*, C_i) -> one tensor (*, prod(shape_in) + context)."""
    x, *c = _checked(net, inputs)
    return _concatenated([x.flatten(-len(net.shape_in)), *c])


def _checked(net: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The inputs in the network's floating-point type, or a ValueError if their features are not what the network takes."""
    x, *c = inputs
    shape, n = net.shape_in, len(net.shape_in)
    context = sum(sum(p.shape[-1:]) for p in c)
    wanted = getattr(net, "context", 0)
    if (x.shape[-n:], context) != (shape, wanted) and (n > 1 or sum(x.shape[-1:]) + context != shape[0] + wanted):
        raise ValueError(_mismatch(type(net).__name__, x, c, shape, wanted))
    return [p if p.is_floating_point() else p.to(next(net.parameters()).dtype) for p in inputs]


def _concatenated(parts: list[Tensor]) -> Tensor:
    """Parts with shapes (*, D_i) side by side, (*, sum D_i), leading axes broadcast."""
    if len(parts) == 1:
        return parts[0]
    try:
        lead = torch.broadcast_shapes(*(p.shape[:-1] for p in parts))
    except RuntimeError:
        shapes = " and ".join(str(tuple(p.shape)) for p in parts)
        raise ValueError(
            f"the leading axes of {shapes} do not broadcast; give x and its context the same batch, and a context as "
            "(*, features): labels as one_hot(labels), one number a row as c[:, None]"
        ) from None
    return torch.cat([p.expand(*lead, -1) for p in parts], -1)


def _mismatch(place: str, x: Tensor, c: list[Tensor], shape: Shape, context: int) -> str:
    came, features = tuple(x.shape), tuple(x.shape[max(x.dim() - len(shape), 0) :])
    got = " + ".join([_size(features), *(f"{sum(p.shape[-1:])} context" for p in c)])
    expected = " + ".join([_size(shape), *([f"{context} context"] if context else [])])
    text = f"{place}: expected {expected} features, got {got} features (an input of shape {came}); "
    if features == shape or c and not context:
        n = sum(sum(p.shape[-1:]) for p in c)
        return text + f"build the network with context={n}" + (", or drop the context by WithoutContext(net)" if c else "")
    if came[1:] != shape and len(came) > 1 and prod(came[1:]) == prod(shape):
        return text + f"reshape the input to (*, {_size(shape)}), or build the network for {_size(came[1:])}"
    return text + f"build the network for {_size(features)}" + (f" and context={context}" if context else "")


def _size(shape: Shape) -> str:
    return str(shape[0]) if len(shape) == 1 else str(tuple(shape))
