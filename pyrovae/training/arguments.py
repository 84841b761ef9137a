"""The arguments of `pyrovae.fit` that its loop follows, and their checks."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrovae.data import Minibatch, Transform
from pyrovae.files import History, check_writable
from pyrovae.training.events import Hook
from pyrovae.training.optimization import MakeScheduler, Scheduler

__all__ = ["Arguments"]

_COUNTS = ("epochs", "batch_size", "accumulate")
_FUNCTIONS = {"callback": "the history", "transform": "x", "batch_transform": "(x, *c)"}
_OPTIONAL_COUNTS = ("steps_per_epoch", "patience", "checkpoint_every")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The arguments of `pyrovae.fit` of the same names, and the graph's check of its data.

    Raises:
        ValueError: if one is out of range.
        TypeError: if a hook is none.
    """

    check: Callable[..., None]
    epochs: int
    steps_per_epoch: int | None
    batch_size: int
    drop_last: bool
    accumulate: int
    transform: Transform | None
    batch_transform: Callable[..., Any] | None
    scheduler: MakeScheduler | None
    scheduler_interval: str | None
    patience: int | None
    seed: int | None
    checkpoint: str | Path | None
    checkpoint_every: int | None
    resume: str | Path | None
    callback: Callable[[History], bool | None] | None
    hooks: Hook | Sequence[Hook]
    progress: bool

    def __post_init__(self) -> None:
        """Check them."""
        for name in (*_COUNTS, *_OPTIONAL_COUNTS):
            count = getattr(self, name)
            if count is None and name in _OPTIONAL_COUNTS:
                continue
            if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
                raise ValueError(f"fit: {name} is {count!r}, expected a whole number of at least 1")
            object.__setattr__(self, name, int(count))  # NumPy's too
        if self.scheduler_interval not in (None, "epoch", "step"):
            raise ValueError(
                f"fit: scheduler_interval is {self.scheduler_interval!r}, expected "
                '"epoch", "step" or None'
            )
        if self.scheduler is not None and not callable(self.scheduler):
            raise TypeError(
                f"fit: scheduler is a {type(self.scheduler).__name__}, expected a function of the "
                "optimizer that makes one, such as lambda adam: ExponentialLR(adam, 0.99)"
            )
        for name in ("checkpoint", "resume"):
            given = getattr(self, name)
            if not isinstance(given, str | os.PathLike | None):
                kind = type(given).__name__
                raise TypeError(f"fit: {name} is a {kind}, expected the path of a file or None")
        if self.checkpoint is not None:  # the same file if a hook or data change the current folder
            object.__setattr__(self, "checkpoint", Path(self.checkpoint).absolute())
        for name, given in _FUNCTIONS.items():
            function = getattr(self, name)
            if function is not None and not callable(function):
                kind = type(function).__name__
                raise TypeError(f"fit: {name} is a {kind}, expected a function of {given}")
        if self.seed is not None and not isinstance(self.seed, Integral):
            raise ValueError(f"fit: seed is {self.seed!r}, expected a whole number or None")
        if not torch.is_grad_enabled():
            raise RuntimeError(
                "fit: gradients are switched off; call it outside of torch.no_grad() and "
                "torch.inference_mode()"
            )
        for hook in self.listeners():
            if not isinstance(hook, Hook):
                raise _no_hook(hook)

    def check_checkpoint(self) -> None:
        """Check that the checkpoint can be written, before the first epoch is trained for it.

        Raises:
            OSError: if it cannot.
        """
        if self.checkpoint is None:
            return
        try:
            check_writable(Path(self.checkpoint))
        except OSError as error:
            message = f"fit: checkpoint is {str(self.checkpoint)!r}: {error.strerror}"
            raise OSError(error.errno, message) from error

    def listeners(self) -> list[Hook]:
        """Return the hooks as a list."""
        if isinstance(self.hooks, Hook):
            return [self.hooks]
        if not isinstance(self.hooks, Iterable) or isinstance(self.hooks, type):
            raise _no_hook(self.hooks)
        return list(self.hooks)

    def scheduled(self, optimizer: torch.optim.Optimizer) -> Scheduler | None:
        """Return the learning-rate scheduler of an optimizer, if there is to be one.

        Raises:
            TypeError: if it needs more than the optimizer.
        """
        try:
            return self.scheduler(optimizer) if self.scheduler is not None else None
        except TypeError as error:
            raise TypeError(
                f"fit: scheduler cannot be called with the optimizer alone ({error}). Give its "
                "other arguments first, as by functools.partial(StepLR, step_size=10)"
            ) from error

    def check_values(self, minibatch: Minibatch, batch: tuple[Tensor, ...], scanned: bool) -> None:
        """Check the values of a minibatch, unless it is empty or they were checked before.

        Args:
            minibatch: as it was read.
            batch: the same, transformed.
            scanned: whether the data were checked whole, under `transform`.
        """
        if not batch or (scanned and self.batch_transform is None):
            return
        same = self.transform is None and self.batch_transform is None
        self.check(*(minibatch.to_check if same else batch))

    def transformed(self, x: Tensor, *c: Tensor) -> tuple[Tensor, ...]:
        """Return a minibatch of training data, transformed."""
        if self.transform is not None:
            x = self.transform(x)
            if not isinstance(x, Tensor):
                raise TypeError(
                    f"fit: transform returned a {type(x).__name__}, expected a tensor of rows"
                )
        if self.batch_transform is None:
            return (x, *c)
        batch = self.batch_transform(x, *c)
        if not isinstance(batch, Tensor | tuple | list):
            raise TypeError(
                f"fit: batch_transform returned a {type(batch).__name__}, expected x or (x, *c)"
            )
        return (batch,) if isinstance(batch, Tensor) else tuple(batch)


def _no_hook(given: object) -> TypeError:
    """Return the error of what is no hook, such as a class of hooks."""
    if isinstance(given, type) and issubclass(given, Hook):
        name = given.__name__
        return TypeError(f"fit: hooks has the class {name}, expected an object of it: {name}(...)")
    return TypeError(
        f"fit: hooks has {given!r}, expected objects of pyrovae.hooks.Hook, a class whose on_step "
        "or on_epoch you override; a function of the history goes to callback="
    )
