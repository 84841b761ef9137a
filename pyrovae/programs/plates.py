"""The plate over the rows of x, and the plate over draws of the latents."""

from typing import Any

import pyro
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyrovae.programs.plain import is_plain

__all__ = ["DRAWS", "check_callable", "check_subsample", "data_plate", "draws_plate"]

DRAWS = "_pyrovae_draws"  # the name of the plate over draws, which no program uses


def data_plate(x: Tensor) -> pyro.plate:
    """Return the plate over the rows of x, `pyro.plate("data", len(x))`, to be used in `with`.

    Minibatches are drawn before a program runs, so the site that Pyro's own plate adds for drawing
    a subsample is left out, and a distribution that has one element per row already is not
    broadcast. Both cost a third of the handlers of a small step (`benchmarks/step.py`).

    Args:
        x: anything with one element per row.
    """
    return pyro.plate("data", len(x)) if is_plain() else _WholePlate("data", len(x))


def draws_plate(draws: int, depth: int) -> pyro.plate:
    """Return a plate over K draws, left of a program's own plates.

    Args:
        draws: K.
        depth: the number of batch dimensions that the program's own plates take.
    """
    plate = pyro.plate if is_plain() else _WholePlate
    return plate(DRAWS, draws, dim=-depth - 1)


def check_callable(msg: Any) -> None:
    """Refuse a sample site whose distribution is not Pyro's.

    Raises:
        TypeError: if it is of torch or zuko.
    """
    if msg["type"] == "sample" and not callable(msg["fn"]):
        cls = type(msg["fn"])
        remedy = (
            "A network alone is no part: wrap it, as in likelihoods.Bernoulli(net) or "
            "posteriors.DiagonalNormal(net)"
            if isinstance(msg["fn"], Tensor)
            else "Wrap a part that returns torch or zuko distributions by "
            "pyrovae.conditional.from_torch, or use the class of this name in pyro.distributions"
        )
        raise TypeError(
            f'site "{msg["name"]}": got a {cls.__module__}.{cls.__qualname__}, expected a '
            f"distribution of Pyro's. {remedy}"
        )


class _WholePlate(pyro.plate):
    """A plate without a subsample site; both methods override private ones of Pyro 1.9."""

    @staticmethod
    def _subsample(name: str, size: int, *_: object) -> tuple[int, int, None]:
        return size, size, None

    def _process_message(self, msg: Any) -> None:
        check_callable(msg)
        # A subsample site, which a user's plate inside this one adds, has no batch shape.
        ready = getattr(msg["fn"], "batch_shape", None) == (self.size,)
        if ready and msg["type"] == "sample" and not msg["cond_indep_stack"]:
            frame = CondIndepStackFrame(self.name, self.dim, self.size, self.counter, self.size)
            msg["cond_indep_stack"] = (frame,)
        else:
            super()._process_message(msg)


def check_subsample(msg: Any) -> None:
    """Refuse a plate that draws more rows by itself than there are.

    Raises:
        ValueError: names the plate.
    """
    if not site_is_subsample(msg):
        return
    size, drawn = msg["fn"].size, msg["fn"].subsample_size or 0
    if drawn > size:
        raise ValueError(
            f'the plate "{msg["name"]}" draws {drawn} rows by itself, as by subsample_size='
            f"{drawn}, of as many as are given, and here {size} are. Write "
            f'pyro.plate("{msg["name"]}", len(x)) and let fit draw the minibatches (batch_size=)'
        )
