"""Plates over the rows of x and over draws."""

from typing import Any

import pyro
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

__all__ = ["OF_SAMPLES", "SAMPLES", "data_plate"]

SAMPLES = "samples"  # the plate of K runs at once; Pyro's own ELBOs call theirs otherwise
OF_SAMPLES = (SAMPLES, "num_particles_vectorized")


class data_plate(pyro.plate):  # noqa: N801 (a context manager, used like a function)
    """The plate over the rows of x: `pyro.plate("data", len(x))` without the site that Pyro's own adds for drawing a subsample.

    Minibatches come drawn already, and that site, in model and guide, is a fifth of what Pyro's handlers cost a small step;
    broadcasting what needs none is a tenth.

    Args:
        x: what has one row a datum.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__("data", len(x))

    @staticmethod
    def _subsample(name: str, size: int, *_: object) -> tuple[int, int, None]:
        return size, size, None

    def _process_message(self, msg: Any) -> None:
        ready = (
            msg["type"] == "sample"
            and not msg["cond_indep_stack"]
            and msg["fn"].batch_shape == (self.size,)
        )
        if ready:  # it has one row a datum: there is nothing to broadcast
            msg["cond_indep_stack"] = (
                CondIndepStackFrame(self.name, self.dim, self.size, self.counter, self.size),
            )
        else:
            super()._process_message(msg)
