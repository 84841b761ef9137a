"""Batch normalization's statistics, taken anew at the present weights.

mean_l, var_l = averages over minibatches of the batch's own statistics      (Wu & Johnson 2021, "Rethinking Batch in BatchNorm", section 3)

The running statistics that training leaves trail the weights, by a hundred steps at scVI's momentum of 0.01: on real counts the
held-out ELBO under `eval()` then jumps by tens of nats from one epoch to the next, and settles once they are taken anew.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from pyrovae import programs
from pyrovae.programs import parameters_held

__all__ = ["settle"]


class _Programs(nn.Module):
    """The two programs of a graph as one module of row numbers, which is what torch's `update_bn` runs."""

    def __init__(self, graph: Any, batch: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.graph, self.batch = graph, batch

    def forward(self, rows: Tensor) -> None:
        """Run guide and model."""
        programs.run(self.graph.model, self.graph.guide, *self.batch(rows))


def settle(
    graph: object, batch: Callable[[Tensor], tuple[Tensor, ...]], rows: list[Tensor]
) -> None:
    """Take the statistics of every batch normalization in the graph anew; a graph without any is left alone.

    Neither weights nor the global random stream move.

    Args:
        graph: what holds them, an `nn.Module`; anything else is left alone.
        batch: row numbers -> minibatch (x, *c).
        rows: of the minibatches to average over.
    """
    if not isinstance(graph, nn.Module) or not any(
        isinstance(module, _BatchNorm) for module in graph.modules()
    ):
        return
    with (
        torch.no_grad(),
        parameters_held(graph),
        programs.random_stream(0, programs.cuda_devices(graph)),
    ):
        update_bn([part for part in rows if len(part) > 1], _Programs(graph, batch))
