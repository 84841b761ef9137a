"""What is known of x: some of its values, sums of them, or a noisy copy. y ~ p(y | x).

p(y | z) = E_p(x | z)[ p(y | x) ],    p(x | z, y) = p(y | x) p(x | z) / p(y | z)

The values of x are independent given the latents, so that both are computed value by value, or
square by square. A measurement is of B rows; `place` lays a tensor of rows out as the distribution
of the values lies, with K draws of the latents for each row, and `place.rows` is the way back.
"""

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor

from pyrovae.distributions import BlockSums, Noise, expected, numbers_per_value

__all__ = ["Corrupted", "Hidden", "Measurement", "Nothing", "Place", "Pooled"]


class Place(Protocol):
    """Where the rows and draws lie in the batch shape (*, *event) of the values."""

    def __call__(self, rows: Tensor) -> Tensor:
        """Return a tensor of rows, shape (B, ...), with shape (*, ...)."""

    def rows(self, values: Tensor) -> Tensor:
        """Return a tensor with the batch shape of the values with shape (K, B, *event)."""


class Measurement(ABC):
    """Abstract: what is known of B rows of x.

    In its methods, p is the distribution p(x | z) of single values, batch shape (*, *event), and
    `place` lays a tensor with shape (B, ...) out with shape (*, ...).

    Attributes:
        rows_first: whether the methods return tensors with shape (K, B, ...) instead.
    """

    rows_first = False

    @abstractmethod
    def start(self) -> Tensor:
        """Return an x with shape (B, *event) to give to the guide first."""

    @abstractmethod
    def log_prob(self, p: Any, place: Place) -> Tensor:
        """Return the terms of log p(y | z), with shape (*, ...): they add up to it."""

    def numbers_per_value(self, p: Any, place: Place) -> int:
        """Return how many numbers are held for each value of x in one run."""
        return numbers_per_value(p, summed=False)

    @abstractmethod
    def mean(self, p: Any, place: Place) -> Tensor:
        """Return E[x | z, y], with shape (*, *event)."""

    @abstractmethod
    def draw(self, p: Any, place: Place) -> Tensor:
        """Return x ~ p(x | z, y), with shape (*, *event)."""


class Nothing(Measurement):
    """Nothing is known but what the guide sees.

    Args:
        x: what the guide sees, with shape (B, *event).
    """

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def start(self) -> Tensor:
        """Return what the guide sees."""
        return self.x

    def log_prob(self, p: Any, place: Place) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(place(self.x))

    def mean(self, p: Any, place: Place) -> Tensor:
        """Return E[x | z]."""
        return expected(p)

    def draw(self, p: Any, place: Place) -> Tensor:
        """Return x ~ p(x | z)."""
        return p.sample()


class Hidden(Measurement):
    """The values that are not hidden: p(x_o | z) = prod_{j in o} p(x_j | z).

    Args:
        x: with shape (B, *event), any value of its support where it is hidden.
        hidden: True where it is, with the shape of x.
        fill: what the guide sees first where it is hidden.
    """

    def __init__(self, x: Tensor, hidden: Tensor, fill: float = 0.0) -> None:
        self.x, self.hidden, self.fill = x, hidden, fill

    def start(self) -> Tensor:
        """Return x with its hidden values filled in."""
        return self.x.masked_fill(self.hidden, self.fill)

    def log_prob(self, p: Any, place: Place) -> Tensor:
        """Return log p(x_j | z), and 0 where x_j is hidden."""
        return p.log_prob(place(self.x)).masked_fill(place(self.hidden), 0.0)

    def mean(self, p: Any, place: Place) -> Tensor:
        """Return x, and E[x_j | z] where it is hidden."""
        return torch.where(place(self.hidden), expected(p), place(self.x))

    def draw(self, p: Any, place: Place) -> Tensor:
        """Return x, and a draw where it is hidden."""
        return torch.where(place(self.hidden), p.sample(), place(self.x))


class Corrupted(Measurement):
    """A copy with noise on each value.

    Args:
        y: with shape (B, *event).
        noise: p(y | x).
    """

    def __init__(self, y: Tensor, noise: Noise) -> None:
        self.y, self.noise = y, noise

    def start(self) -> Tensor:
        """Return y."""
        return self.y

    def numbers_per_value(self, p: Any, place: Place) -> int:
        """Return how many numbers the sum over x holds for each value."""
        return numbers_per_value(p)

    def log_prob(self, p: Any, place: Place) -> Tensor:
        """Return log p(y_j | z)."""
        return self.noise.log_prob(place(self.y), p)

    def mean(self, p: Any, place: Place) -> Tensor:
        """Return E[x_j | z, y_j]."""
        return self.noise.mean(place(self.y), p)

    def draw(self, p: Any, place: Place) -> Tensor:
        """Return x_j ~ p(x_j | z, y_j)."""
        return self.noise.draw(place(self.y), p)


class Pooled(Measurement):
    """Sums over squares of an image, whose pixels may be a plate left of that over the rows.

    Args:
        sums: with shape (B, *, H / f, W / f).
        factor: f, the side of a square.
        event: shape of one observation of the model, (*, H, W), or flat.
    """

    rows_first = True

    def __init__(self, sums: Tensor, factor: int, event: tuple[int, ...]) -> None:
        self.sums, self.factor, self.event = sums, factor, event
        *lead, height, width = sums.shape[1:]
        self.image = (*lead, height * factor, width * factor)

    def start(self) -> Tensor:
        """Return the image of which every square is constant."""
        x = self.sums / self.factor**2
        x = x.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)
        return x.reshape(-1, *self.event)

    def numbers_per_value(self, p: Any, place: Place) -> int:
        """Return how many numbers the sums over squares hold for each value."""
        return max(numbers_per_value(p, summed=False), self._sums(p, place).numbers_per_value)

    def log_prob(self, p: Any, place: Place) -> Tensor:
        """Return log p(S | z) of each square."""
        return self._sums(p, place).log_prob(self.sums)

    def mean(self, p: Any, place: Place) -> Tensor:
        """Return E[x | z, S]."""
        return self._flat(self._sums(p, place).mean(self.sums))

    def draw(self, p: Any, place: Place) -> Tensor:
        """Return x ~ p(x | z, S)."""
        return self._flat(self._sums(p, place).draw(self.sums))

    def _sums(self, p: Any, place: Place) -> BlockSums:
        shape = (-1, len(self.sums), *self.image)
        return BlockSums(p, self.factor, shape, place.rows)

    def _flat(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], *self.event)
