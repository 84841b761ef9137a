"""Pyro's own ELBOs as objectives."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer import RenyiELBO, ReweightedWakeSleep, TraceTailAdaptive_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae.objectives.base import Objective
from pyrovae.objectives.bounds import Bound
from pyrovae.objectives.sgvb import SGVB_B
from pyrovae.programs import Layout, Program, Trace

__all__ = ["PyroELBO", "as_objective"]

_BOUNDS = {RenyiELBO: "L_alpha", ReweightedWakeSleep: "L_K"}  # that are not the ELBO


class PyroELBO(Objective):
    """An ELBO of Pyro's, such as `TraceGraph_ELBO` or `RenyiELBO`, as an objective.

    It reports its loss only: the terms of the bound are NaN in the history, and validation takes
    the loss for the negative bound. The loss of Pyro's `ReweightedWakeSleep` is the model's and the
    guide's, of which the model's alone is a negative bound, L_K; it and `RenyiELBO` weigh draws of
    whole minibatches, so that their bounds are looser for more rows, unlike those of this library.

    Args:
        elbo: an object with Pyro's methods `loss` and `loss_and_grads`.

    Raises:
        ValueError: if the class reports no loss (`TraceTailAdaptive_ELBO`); when it runs, if a
            compiled class (`JitTrace_ELBO`) gets minibatches of different sizes, or the programs
            show it no parameter.
    """

    needs_param_sites = True

    def __init__(self, elbo: Any) -> None:
        super().__init__()
        if isinstance(elbo, TraceTailAdaptive_ELBO):
            raise ValueError(
                "TraceTailAdaptive_ELBO reports an infinite loss by design, so a fit could neither "
                "record nor check it. Use pyro.infer.SVI with it, or objectives.Renyi or DReG"
            )
        self.elbo, self._rows = elbo, 0
        self.bound_name = next(
            (_BOUNDS[kind] for kind in _BOUNDS if isinstance(elbo, kind)), "ELBO"
        )

    def bound(self, model: Program, guide: Program, *batch: Tensor) -> Bound:
        """Return the negative loss as the reconstruction, without a KL; of two, the model's."""
        elbo = self.elbo
        if isinstance(elbo, ReweightedWakeSleep):  # without a sleep phase there is a wake phase
            elbo = copy.copy(elbo)
            elbo.insomnia = 1.0
        with _without_guesses(), self._factor_found(len(batch[0])):
            loss = elbo.loss(model, guide, *batch)
        of_model = loss[0] if isinstance(loss, tuple) else loss
        return Bound(torch.tensor(-float(of_model), dtype=torch.double), {})

    def backward(self, model: Program, guide: Program, *batch: Tensor) -> tuple[Tensor, Bound]:
        """Add the gradient of the mean loss per observation; the bound's terms are NaN."""
        self._check_rows(len(batch[0]))
        with _without_guesses(), self._factor_found(len(batch[0])):
            loss = self._sum_of_phases(self.elbo.loss_and_grads(model, guide, *batch))
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not gradients:
            raise ValueError(
                f"{type(self.elbo).__name__} found no parameter in the programs, so nothing would "
                'be trained: call pyro.module("a name of its own", network) in model and guide'
            )
        rows = len(batch[0]) * self._factor
        for gradient in gradients:
            gradient /= rows
        nan = torch.tensor(torch.nan)
        return torch.tensor(loss / rows, dtype=torch.double), Bound(nan, {"remainder": nan})

    def _sum_of_phases(self, loss: Any) -> float:
        """Return a loss as a number; reweighted wake-sleep's is a pair.

        Where Pyro computes no loss of the model it returns 100 in its place, which is left out.
        """
        if not isinstance(loss, tuple):
            return float(loss)
        of_model, of_guide = loss
        has_model = self.elbo.model_has_params or self.elbo.insomnia > 0
        return float(of_model + of_guide if has_model else of_guide)

    @contextmanager
    def _factor_found(self, rows: int) -> Iterator[None]:
        """Context that keeps the factor of the programs' rows; compiled ones keep the first."""
        with _Factor(rows) as seen:
            yield
        self._factor = seen.factor or self._factor

    def _check_rows(self, rows: int) -> None:
        name = type(self.elbo).__name__
        if name.startswith("Jit") and self._rows not in (0, rows):
            raise ValueError(
                f"{name} was compiled for minibatches of {self._rows} rows and got {rows}: choose "
                "a batch_size that divides the number of rows, or the class without Jit"
            )
        self._rows = rows

    def validation_objective(self) -> "PyroELBO":
        """Return the same objective."""
        return self

    def check(self, p: Trace, q: Trace, needs_rsample: bool) -> None:
        """Leave the checks to Pyro's class."""


class _Factor(Messenger):
    """See the factor N / M of the plate over the rows in which x is observed."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.layout, self.factor = Layout(rows), None

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.factor is None and msg["is_observed"] and self.layout.has_rows(msg):
            self.factor = self.layout.scale_of_rows(msg)


def as_objective(objective: Any) -> Objective:
    """Return what `pyrovae.fit` minimizes: a copy of an objective, or of an ELBO of Pyro's.

    A copy, so that the caller's object learns nothing; None is `SGVB_B()`.

    Raises:
        TypeError: if it is neither.
    """
    if objective is None:
        return SGVB_B()
    if isinstance(objective, Objective):
        return copy.deepcopy(objective)
    is_elbo = all(callable(getattr(objective, name, None)) for name in ("loss", "loss_and_grads"))
    if is_elbo and not isinstance(objective, type):
        return PyroELBO(copy.deepcopy(objective))
    raise TypeError(
        f"objective: got {objective!r}, expected one of pyrovae.objectives, such as SGVB_B(), or "
        "an ELBO of Pyro's, such as pyro.infer.Trace_ELBO()"
    )


@contextmanager
def _without_guesses() -> Iterator[None]:
    """Context in which Pyro does not print how many plates it guessed that a program nests."""
    logger = logging.getLogger("pyro.infer.elbo")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
