"""What hooks of a fit are called with, and their base class."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from pyrovae.files import History, checkpoint
from pyrovae.programs import Programs, modes_restored
from pyrovae.training.distributed import Processes
from pyrovae.training.results import Result
from pyrovae.training.synchronized import alone

__all__ = ["Epoch", "Hook", "Start", "Step", "isolated"]


class Start(NamedTuple):
    """What is known before the first step of a fit.

    Attributes:
        graph: the graph that is trained.
        steps: planned optimizer steps of the whole fit.
        done: steps that were taken before; not 0 in a fit that is resumed.
        bound_name: what `Step.elbo` holds, such as "ELBO".
    """

    graph: Any
    steps: int
    done: int
    bound_name: str


class Step(NamedTuple):
    """One optimizer step. Terms are in nats per observation, averaged over the rows of the step.

    Attributes:
        graph: the graph, with the weights after the step.
        step: number of the step, from 1, over the whole fit.
        epoch: number of the epoch, from 1.
        rows: rows of the step.
        loss: the minimized loss.
        elbo: the bound at beta = 1: reconstruction - sum of kl.
        reconstruction: log p(x | z), averaged over the draws.
        kl: by latent site, unweighted.
        beta: the weight of the KL.
        learning_rates: of each parameter group of the optimizer.
        gradient_norm: norm of the whole gradient of the mean loss, before it is clipped.
    """

    graph: Any
    step: int
    epoch: int
    rows: int
    loss: float
    elbo: float
    reconstruction: float
    kl: dict[str, float]
    beta: float
    learning_rates: list[float]
    gradient_norm: float

    @classmethod
    def of(cls, result: Result, **others: Any) -> "Step":
        """Return a step with its terms as means over the rows."""
        rows, kl = result.rows, {site: value / result.rows for site, value in result.kl.items()}
        reconstruction = result.reconstruction / rows
        return cls(
            rows=rows,
            loss=result.loss,
            elbo=reconstruction - sum(kl.values()),
            reconstruction=reconstruction,
            kl=kl,
            gradient_norm=result.gradient_norm,
            **others,
        )


class Epoch(NamedTuple):
    """The end of an epoch.

    Attributes:
        graph: the graph, with the weights after the epoch.
        history: the record of the fit with this epoch as its last entry.
        step: optimizer steps taken so far.
    """

    graph: Any
    history: History
    step: int


class Hook:
    """Base class of hooks; each method does nothing unless it is overridden.

    A hook may look at the graph, and change it at its own risk. Random numbers that it draws leave
    the fit as it is, and so does `graph.eval()`: afterwards all modules are in their modes again.
    An exception that it raises ends the fit.
    """

    def on_start(self, start: Start) -> None:
        """Called once before the first step."""

    def on_step(self, step: Step) -> bool | None:
        """Called after each optimizer step; a true value ends the fit."""
        return None

    def on_epoch(self, epoch: Epoch) -> bool | None:
        """Called after each epoch, validation included; a true value ends the fit."""
        return None

    def on_end(self) -> None:
        """Called once when the fit ends, however it ends: files are closed here."""


@contextmanager
def isolated(
    programs: Programs, processes: Processes, devices: list[int], hooks: Sequence[Hook] = ()
) -> Iterator[None]:
    """Context of calls of hooks and callbacks, which leave random streams and modes as they were.

    Args:
        programs: of the graph.
        processes: of the fit; what is called looks at the rows of its own process.
        devices: indices of the CUDA devices whose random streams the fit uses.
        hooks: what is called, if known: those of the library leave both alone by themselves.
    """
    if hooks and all(type(hook).__module__.startswith("pyrovae.") for hook in hooks):
        yield
        return
    stream = checkpoint.random_state(devices)
    try:
        with modes_restored(programs), alone(programs, processes):
            yield
    finally:
        checkpoint.set_random_state(stream, devices)
