"""The bound on held-out data after an epoch, and which epochs may be the best.

Validation is always at beta = 1. Epochs that end before beta is at its target were trained for
another objective: they are neither the best nor counted by patience.
"""

import math
import warnings
from collections.abc import Callable

import torch

from pyrovae import programs
from pyrovae.data import Minibatch, Minibatches
from pyrovae.files import History, checkpoint
from pyrovae.objectives import Objective
from pyrovae.programs import Programs
from pyrovae.training.distributed import Processes

__all__ = [
    "judged_since",
    "reason_to_end",
    "validate",
    "warn_of_early_end",
    "warn_of_idle_patience",
]


def validate(
    programs_: Programs,
    objective: Objective,
    data: Minibatches,
    on_not_finite: Callable[[Minibatch], None],
    processes: Processes,
) -> dict[str, float]:
    """Return the bound on data and its terms, in nats per observation.

    It is evaluated under eval(), with the same noise each time. Each process evaluates its share of
    the rows, and all return the same numbers.

    Args:
        programs_: of the graph.
        objective: at beta = 1.
        data: the held-out data.
        on_not_finite: called with a minibatch whose bound is not finite, at the random state before
            it, or with an empty one if it is another process's; it must raise an error. A NaN would
            otherwise stay the best epoch, since nothing is above it.
        processes: of the fit.
    """
    graph, rows, reconstruction, kl = programs_.graph, 0.0, 0.0, 0.0
    broken = Minibatch(())
    devices = programs.cuda_devices(graph)
    with programs.evaluation(graph, seed=processes.number):
        for minibatch in data.in_order():
            if not data.scanned:
                programs.check_data(graph, *minibatch.to_check)
            before = checkpoint.random_state(devices)
            terms = objective.bound_of_rows(graph.model, graph.guide, *minibatch.batch).numbers()
            if not all(map(math.isfinite, terms)):
                checkpoint.set_random_state(before, devices)
                broken, rows = minibatch, math.nan
                break
            reconstruction, kl = reconstruction + terms[0], kl + terms[1]
            rows += len(minibatch.batch[0])
        rows, reconstruction, kl = processes.sums([rows, reconstruction, kl])
        if math.isnan(rows):
            on_not_finite(broken)
    return {
        "validation_elbo": (reconstruction - kl) / rows,
        "validation_reconstruction": reconstruction / rows,
        "validation_kl": kl / rows,
    }


def judged_since(history: History, target: float) -> int:
    """Return how many epochs since the best one were trained with beta at its target."""
    if history.best_epoch is None:
        return 0
    return sum(beta == target for beta in history.beta[history.best_epoch :])


def reason_to_end(history: History, epochs: int, patience: int | None, target: float) -> str:
    """Return why a fit ends after its last epoch, empty if it goes on."""
    if len(history.loss) >= epochs:
        return "all epochs ran"
    if patience is not None and judged_since(history, target) >= patience:
        return f"no better validation ELBO for {patience} epochs"
    return ""


def warn_of_idle_patience(
    objective: Objective, patience: int | None, epochs: int, steps_per_epoch: int
) -> None:
    """Warn if so few epochs have beta at its target that patience can never end the fit."""
    if patience is None or not callable(objective.beta) or epochs <= patience:
        return
    last = max(1, epochs * steps_per_epoch - 1)
    ends = torch.arange(1, epochs + 1) * steps_per_epoch - 1
    betas = [float(objective.beta(min(1.0, step / last))) for step in ends.tolist()]
    judged = sum(beta == objective.target for beta in betas)
    if judged <= patience:
        warnings.warn(
            f"fit: patience={patience} can never end this fit: only {judged} of its {epochs} "
            f"epochs end with beta at its target {objective.target:g}, and the others are not "
            "judged. Let the schedule end earlier, or lower patience",
            stacklevel=3,
        )


def warn_of_early_end(history: History, epochs: int) -> None:
    """Warn if an iterator gave no more data before all epochs were trained."""
    done = len(history.loss)
    if history.stopped == "the data ended" and done < epochs:
        warnings.warn(
            f"fit: the data ended after {done} of {epochs} epochs. A generator is read once: pass "
            "data that can be read again, or fewer epochs",
            stacklevel=4,
        )
