"""The values that data may take: supports of densities, kinds of data, likelihoods that fit them.

Torch's count densities return finite but meaningless values outside their support where validation
is off, so data are checked against the support once before training.
"""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import NamedTuple

from torch import Tensor

from pyrovae.data.batches import Array, as_source

__all__ = [
    "BINARY",
    "COUNTS",
    "REAL",
    "UNIT",
    "Kind",
    "Suggestion",
    "Support",
    "kind_of",
    "levels",
    "suggest_likelihoods",
]

_MOST_COUNTS = 64  # whole numbers up to it are taken for counts
_MOST_LEVELS = 255  # and up to it for grey levels of 8 bits


class Support(NamedTuple):
    """The finite numbers from `low` to `high`, only the whole ones if `whole`.

    Attributes:
        words: the set in words, for errors.
    """

    words: str
    low: float
    high: float
    whole: bool

    def holds(self, x: Tensor) -> Tensor:
        """Return whether each value is in the set, elementwise."""
        inside = (x >= self.low) & (x <= self.high) & x.isfinite()
        return inside & (x == x.floor()) if self.whole else inside

    def admits(self, low: float, high: float, whole: bool) -> bool:
        """Return whether finite numbers of that range, all whole or not, are in the set."""
        return self.low <= low and high <= self.high and (whole or not self.whole)


BINARY = Support("0 or 1", 0, 1, whole=True)
UNIT = Support("values in [0, 1]", 0, 1, whole=False)
REAL = Support("finite real numbers", -inf, inf, whole=False)
COUNTS = Support("whole numbers from 0", 0, inf, whole=True)


def levels(high: int) -> Support:
    """Return the set of whole numbers from 0 to `high`."""
    return Support(f"whole numbers from 0 to {high}", 0, high, whole=True)


class Suggestion(NamedTuple):
    """A likelihood: its name in `pyrovae.likelihoods`, and the arguments beside the network.

    Example:
        >>> str(Suggestion("Binomial", {"total_count": 16}))
        'Binomial(total_count=16)'
    """

    name: str
    arguments: dict[str, int] = {}  # noqa: RUF012 (a NamedTuple's default; nobody writes to it)

    def __str__(self) -> str:
        """Return the call without the network."""
        arguments = ", ".join(f"{key}={value}" for key, value in self.arguments.items())
        return f"{self.name}({arguments})" if arguments else self.name


class Kind(Enum):
    """What the values of data are; the value of a member says it in words."""

    BINARY = "zeros and ones"
    COUNTS = "counts"
    UNIT = "grey values in [0, 1]"
    LEVELS = "levels 0 to 255"
    REAL = "real numbers"

    def likelihoods(self, high: int, known: bool = False) -> tuple[Suggestion, ...]:
        """Return the likelihoods that fit such values, the most fitting first.

        Args:
            high: the largest count.
            known: whether no count can be larger, as for a number of trials; otherwise `high` is
                only the largest count seen.
        """
        if self is not Kind.COUNTS:
            return (*(Suggestion(name) for name in _FITTING[self]), Suggestion("Gaussian"))
        bounded = Suggestion("Binomial", {"total_count": high})
        categories = Suggestion("Categorical", {"levels": high + 1})
        few = (bounded, categories) if high <= _MOST_COUNTS else ()
        unbounded = (Suggestion("Poisson"), Suggestion("Gaussian"))
        if known:
            return (bounded, *few[1:], *unbounded)
        return (unbounded[0], *few, unbounded[1])


_FITTING = {
    Kind.BINARY: ("Bernoulli",),
    Kind.UNIT: ("ContinuousBernoulli",),
    Kind.LEVELS: ("DiscretizedLogistic", "Categorical", "Poisson"),
    Kind.REAL: (),
}


def kind_of(x: Array) -> Kind:
    """Return what the values of data are.

    Whole numbers up to 64 are taken for counts, and up to 255 for grey levels.

    Args:
        x: data or a source of them, with shape (N, *event).
    """
    low, high, whole = as_source(x).scan()[:3]
    if not whole or low < 0:
        return Kind.UNIT if low >= 0 and high <= 1 else Kind.REAL
    if high <= 1:
        return Kind.BINARY
    return Kind.LEVELS if _MOST_COUNTS < high <= _MOST_LEVELS else Kind.COUNTS


def suggest_likelihoods(x: Array) -> tuple[Suggestion, ...]:
    """Return the likelihoods that fit the data, the most fitting first.

    None fits data with a NaN or an infinite value.

    Args:
        x: data or a source of them, with shape (N, *event).

    Example:
        >>> [str(likelihood) for likelihood in suggest_likelihoods([[0, 1], [1, 1]])]
        ['Bernoulli', 'Gaussian']
        >>> suggest_likelihoods([[0, 1], [1, 16]])[1]
        Suggestion(name='Binomial', arguments={'total_count': 16})
    """
    source = as_source(x)
    found = source.scan()
    if found.not_finite is not None:
        return ()
    kind = kind_of(source)
    return kind.likelihoods(int(found.high) if kind is Kind.COUNTS else 0)
