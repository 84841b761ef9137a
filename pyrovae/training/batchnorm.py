"""Precise BatchNorm: running statistics recomputed at the current weights.

mean_l, var_l = averages of the batch statistics over minibatches at fixed weights
                                  (Wu & Johnson 2021, "Rethinking Batch in BatchNorm", section 3)

The running statistics of training lag behind the weights, by a hundred steps at scVI's momentum of
0.01: on real counts the held-out ELBO under eval() then jumps by tens of nats between epochs.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from pyrovae.programs import Programs, cuda_devices, parameters_held, random_stream

__all__ = ["one_row_explained", "recompute_batchnorm"]

_LAYERS = nn.modules.batchnorm._BatchNorm  # what update_bn resets


@contextmanager
def one_row_explained() -> Iterator[None]:
    """Context in which a step on one row names what batch normalization needs.

    Raises:
        ValueError: where torch raises one because the row has no variance.
    """
    try:
        yield
    except ValueError as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "fit: batch normalization needs at least 2 rows in a minibatch: give more rows, or a "
            f"larger batch_size (torch: {error})"
        ) from error


def recompute_batchnorm(
    programs: Programs,
    batches: Callable[[], Iterable[tuple[Tensor, ...]]],
    constant: Collection[nn.Module] = (),
    least: int = 2,
) -> None:
    """Recompute the statistics of every batch normalization in a graph.

    A graph without any is left alone, and so are weights and the global random stream. After the
    first minibatch the programs run only as far as their last batch normalization.

    Args:
        programs: of the graph; only a graph that is an `nn.Module` shows its layers.
        batches: returns the minibatches (x, *c) to average over.
        constant: modules that keep their statistics and stay in eval() mode.
        least: rows of a minibatch; one with fewer is left out.
    """
    on_batch = _OnBatch(programs, constant)
    layers = [module for module in on_batch.modules() if isinstance(module, _LAYERS)]
    if not layers:
        return
    graph = programs.graph
    hooks = [layer.register_forward_hook(on_batch.count) for layer in layers]
    try:
        with torch.no_grad(), parameters_held(graph), random_stream(0, cuda_devices(graph)):
            whole = ([batch] for batch in batches() if len(batch[0]) >= least)
            update_bn(whole, on_batch)  # takes item 0
    finally:
        for hook in hooks:
            hook.remove()


class _AllCalled(Exception):  # noqa: N818
    """The last batch normalization of a run was called."""


class _OnBatch(nn.Module):
    """Programs as a module of one argument, a minibatch (x, *c); constant modules are hidden."""

    def __init__(self, programs: Programs, constant: Collection[nn.Module]) -> None:
        super().__init__()
        self.programs = programs
        self._constant = {part: None for module in constant for part in module.modules()}
        self._calls, self._last = 0, 0

    def modules(self) -> Iterator[nn.Module]:
        """Yield the modules whose statistics `update_bn` resets."""
        yield from (part for part in super().modules() if part not in self._constant)

    def train(self, mode: bool = True) -> "_OnBatch":
        """Set the mode of all modules but the constant ones."""
        super().train(mode)
        for part in self._constant:
            part.training = False
        return self

    def forward(self, batch: tuple[Tensor, ...]) -> None:
        self._calls = 0
        try:
            self.programs(*batch)
        except _AllCalled:
            return
        self._last = self._calls

    def count(self, *_: object) -> None:
        """End the run at its last call of a batch normalization."""
        self._calls += 1
        if self._calls == self._last:
            raise _AllCalled
