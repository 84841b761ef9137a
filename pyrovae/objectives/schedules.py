"""Schedules for beta, the weight of the KL.

A schedule is a plain function of t, the fraction of the planned steps that is done (0 at the first
step, 1 at the last), so that a short run ends at the same weight as a long one.
"""

import math
from collections.abc import Callable

__all__ = ["Schedule", "cyclical", "warm_up"]

Schedule = Callable[[float], float]


def warm_up(fraction: float, target: float = 1.0) -> Schedule:
    """Return the schedule t -> target * min(1, t / fraction), linear and then constant.

    Source: Bowman et al. 2016.

    Args:
        fraction: fraction of the planned steps, in (0, 1].
        target: the weight at which it ends.

    Raises:
        ValueError: if `fraction` is not in (0, 1].

    Example:
        >>> beta = warm_up(0.25)
        >>> [beta(t) for t in (0.0, 0.125, 0.25, 1.0)]
        [0.0, 0.5, 1.0, 1.0]
    """
    if not 0 < fraction <= 1:
        raise ValueError(
            f"warm_up: fraction is {fraction}, expected a fraction of the planned steps in (0, 1], "
            "e.g. 0.25"
        )
    return lambda t: target * min(1.0, t / fraction)


def cyclical(cycles: int, fraction: float = 0.5, target: float = 1.0) -> Schedule:
    """Return a schedule that warms up several times, each over the first `fraction` of its cycle.

    Source: Fu et al. 2019, eq. 6.

    Args:
        cycles: how often it starts again at 0.
        fraction: fraction of each cycle over which the weight rises, in (0, 1].
        target: the weight at which each cycle, and so the whole, ends.

    Raises:
        ValueError: if `cycles` is below 1 or `fraction` not in (0, 1].
    """
    if cycles < 1:
        raise ValueError(f"cyclical: cycles is {cycles}, expected at least 1")
    ramp = warm_up(fraction, target)
    return lambda t: target if t >= 1 else ramp(math.modf(t * cycles)[0])
