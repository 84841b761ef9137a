"""Masked networks of an affine autoregressive flow, for all its steps together.

(m, a) = net_t(z, h)      m_d and a_d depend on the context h, and on the dimensions of z that come
                          before d in the order of step t

A hidden unit of level g sees the dimensions of rank below g; the outputs for the dimension of rank
r see the units up to level r (the masks of Germain et al. 2015). Pyro's `AutoRegressiveNN` and
`ConditionalAutoRegressiveNN` give the same numbers. Here the weights of one layer in all steps lie
in one tensor, so that one product masks them all, and what does not depend on z (masked weights,
the context's contribution) is computed once per context and not once per pass.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["AutoregressiveNetworks", "ConditionedNetwork", "step_orders"]

_OPEN = (
    2.0  # sigmoid(2) = 0.88: gated steps start near the identity (Kingma et al. 2016, section 4.1)
)


def step_orders(d: int, steps: int, seed: int | None = None) -> Tensor:
    """Return the order in which each step goes through the dimensions, with shape (T, D).

    Args:
        d: number of dimensions D.
        steps: T.
        seed: of random permutations, drawn from a random stream of their own; None reverses the
            order from step to step (Kingma et al. 2016, section 5).

    Raises:
        ValueError: if `d` or `steps` is below 1.

    Example:
        >>> step_orders(3, 2)
        tensor([[0, 1, 2],
                [2, 1, 0]])
    """
    if d < 1 or steps < 1:
        raise ValueError(f"step_orders: d is {d} and steps is {steps}, expected at least 1 of each")
    if seed is None:
        first = torch.arange(d)
        return torch.stack([first.flip(0) if step % 2 else first for step in range(steps)])
    stream = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(d, generator=stream) for _ in range(steps)])


class AutoregressiveNetworks(nn.Module):
    """T autoregressive networks of one architecture.

    Args:
        orders: order of the D dimensions in each step, with shape (T, D). They are saved with the
            weights, and the masks follow from them.
        hidden: widths of the hidden layers, each at least D.
        context: H, the number of values in the context; 0 for networks of z alone.
        gated: start the gates' logits 2 higher, where the gates are open.
        activation: of the hidden layers.

    Attributes:
        sequences: the orders as lists, which are read without waiting for a device.

    Example:
        >>> nets = AutoregressiveNetworks(step_orders(3, 2), (8,), context=4)
        >>> m, a = nets.at(torch.zeros(5, 4))[0].parameters(torch.zeros(5, 3))
        >>> m.shape, a.shape
        (torch.Size([5, 3]), torch.Size([5, 3]))
    """

    orders: Tensor
    context: nn.Linear | None
    first_bias: nn.Parameter | None

    def __init__(
        self,
        orders: Tensor,
        hidden: Sequence[int],
        context: int = 0,
        gated: bool = False,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        steps, d = orders.shape
        widths = [d, *hidden, 2 * d]
        self.activation = activation()
        self.register_buffer("orders", orders)
        self.context = nn.Linear(context, steps * hidden[0]) if context else None
        self.first_bias = None if context else nn.Parameter(torch.empty(steps, hidden[0]))
        # (T, in, out), and not torch's (out, in): the gradient of a product comes in this layout.
        self.weights = nn.ParameterList(torch.empty(steps, *pair) for pair in pairwise(widths))
        self.biases = nn.ParameterList(torch.empty(steps, width) for width in widths[2:])
        for i, weight in enumerate(self.weights):
            self.register_buffer(f"mask{i}", torch.empty_like(weight), persistent=False)
        self._initialize(gated)
        self._set_masks()
        # A file brings orders of its own, from which the masks are computed again.
        self.register_load_state_dict_post_hook(AutoregressiveNetworks._set_masks)

    def at(self, h: Tensor | None = None) -> list["ConditionedNetwork"]:
        """Return the network of each step at a context with shape (*, H), or at none."""
        firsts = self._first_layers(h)
        masked = [weight * self._mask(i) for i, weight in enumerate(self.weights)]
        weights = zip(*(weight.unbind() for weight in masked), strict=True)
        biases = zip(*(bias.unbind() for bias in self.biases), strict=True)
        return [
            ConditionedNetwork(self.activation, *of_step)
            for of_step in zip(firsts, weights, biases, strict=True)
        ]

    def _first_layers(self, h: Tensor | None) -> Sequence[Tensor]:
        """Return what enters each step's first hidden layer at z = 0, with shape (*, H_1)."""
        if self.context is not None and h is not None:
            return self.context(h).chunk(len(self.orders), -1)
        if self.first_bias is not None and h is None:
            return self.first_bias.unbind()
        expected = "no context" if self.context is None else "a context h"
        raise ValueError(f"AutoregressiveNetworks: these networks take {expected}; change the call")

    def _mask(self, layer: int) -> Tensor:
        return self.get_buffer(f"mask{layer}")

    def _initialize(self, gated: bool) -> None:
        """Draw from U(-1 / sqrt(n), 1 / sqrt(n)) for n inputs, as torch's linear layers do."""
        first, *rest = self.weights
        of_context = [] if self.context is None else list(self.context.parameters())
        bias = [] if self.first_bias is None else [self.first_bias]
        inputs = first.shape[1] + (0 if self.context is None else self.context.in_features)
        layers = [(inputs, [first, *of_context, *bias])]
        layers += [(w.shape[1], [w, b]) for w, b in zip(rest, self.biases, strict=True)]
        for n, parameters in layers:
            for parameter in parameters:
                nn.init.uniform_(parameter, -1 / math.sqrt(n), 1 / math.sqrt(n))
        if gated:
            with torch.no_grad():
                self.biases[-1].chunk(2, -1)[1].add_(_OPEN)

    def _set_masks(self, *_: object) -> None:
        self.sequences = self.orders.tolist()
        rank = self.orders.argsort(-1)  # (T, D), the place of each dimension in the order
        levels = [self._levels(w.shape[-1]).to(rank.device) for w in list(self.weights)[:-1]]
        self._mask(0).copy_(rank[..., None] < levels[0])
        for i, (before, after) in enumerate(pairwise(levels), 1):
            self._mask(i).copy_(before[:, None] <= after)
        self._mask(len(levels)).copy_(levels[-1][:, None] <= rank.repeat(1, 2)[:, None])

    def _levels(self, width: int) -> Tensor:
        """Return the level of each unit of a hidden layer.

        They are spread over 0 to D - 1, or over 1 to D - 1 where there is no context that a unit of
        level 0 could see. In float32 whatever the default is, for the levels are not saved.
        """
        lowest = 0 if self.context is not None else 1
        spread = self.orders.shape[-1] - lowest
        return torch.linspace(1, spread, width, dtype=torch.float32).round() - 1 + lowest


class ConditionedNetwork(NamedTuple):
    """One step's network at a given context.

    Attributes:
        activation: of the hidden layers.
        first: what enters the first hidden layer at z = 0, with shape (*, H_1).
        weights: the masked weights of each layer, (in, out).
        biases: of each layer but the first.
    """

    activation: nn.Module
    first: Tensor
    weights: Sequence[Tensor]
    biases: Sequence[Tensor]

    def parameters(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return m and a at z, each with shape (*, D)."""
        hidden = self.hidden(_affine(self.first, z, self.weights[0]))
        m, a = _affine(self.biases[-1], hidden, self.weights[-1]).chunk(2, -1)
        return m, a

    def parameters_of(self, i: int, first: Tensor) -> tuple[Tensor, Tensor]:
        """Return m_i and a_i from what enters the first hidden layer, each with shape (*)."""
        last = self.biases[-1], self.weights[-1]
        bias, weight = (each.unflatten(-1, (2, -1))[..., i] for each in last)
        m, a = _affine(bias, self.hidden(first), weight).unbind(-1)
        return m, a

    def hidden(self, first: Tensor) -> Tensor:
        """Return the last hidden layer from what enters the first."""
        h = self.activation(first)
        for weight, bias in zip(self.weights[1:-1], self.biases[:-1], strict=True):
            h = self.activation(_affine(bias, h, weight))
        return h


def _affine(b: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """Return b + x w, for b that broadcasts to it."""
    one_call = x.ndim == 2 and (b.ndim == 1 or b.shape == (len(x), w.shape[-1]))
    return torch.addmm(b, x, w) if one_call else b + x @ w
