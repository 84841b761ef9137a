"""Batch normalization over the rows of all processes.

mu = sum_r n_r mu_r / n,     sigma^2 = sum_r n_r (sigma_r^2 + mu_r^2) / n - mu^2,     n = sum_r n_r
             mu_r, sigma_r^2: over the n_r values of a channel in process r

so that a layer normalizes a minibatch in several processes as one process would. torch's
`SyncBatchNorm` does this on GPUs only, and is another class, by which a saved model would need it.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from pyrovae.programs import Programs
from pyrovae.training.distributed import Processes

__all__ = ["alone", "synchronized"]


@contextmanager
def synchronized(programs: Programs, processes: Processes) -> Iterator[None]:
    """Context in which the batch normalizations of a graph see the rows of all processes.

    Each process must run the same layers in the same order, also with a minibatch of another.
    """
    layers = [part for part in programs.modules() if isinstance(part, _BatchNorm)]
    layers = [] if processes.size == 1 else layers
    for layer in layers:  # a method, so that a copy of the layer is called by its own mode
        vars(layer)["forward"] = MethodType(functools.partial(_forward, processes), layer)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


@contextmanager
def alone(programs: Programs, processes: Processes) -> Iterator[None]:
    """Context in which they see the rows of their own process, whatever the others do."""
    parts = programs.modules() if processes.size > 1 else ()
    layers = [part for part in parts if "forward" in vars(part)]
    kept = [vars(layer).pop("forward") for layer in layers]
    try:
        yield
    finally:
        for layer, forward in zip(layers, kept, strict=True):
            vars(layer)["forward"] = forward


def _forward(processes: Processes, layer: _BatchNorm, x: Tensor) -> Tensor:
    if not layer.training:
        return type(layer).forward(layer, x)
    layer._check_input_dim(x)
    channels = [1, -1] + [1] * (x.dim() - 2)
    mean, variance, n = _statistics(processes, x)
    _follow(layer, mean.detach(), variance.detach(), n)
    scale = (variance + layer.eps).rsqrt()
    mean, scale = mean.to(x.dtype), scale.to(x.dtype)
    normalized = (x - mean.view(channels)) * scale.view(channels)
    if layer.weight is None:
        return normalized
    return normalized * layer.weight.view(channels) + layer.bias.view(channels)


def _statistics(processes: Processes, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and variance of each channel in double precision, and the number of values.

    The number stays on its device, so that nothing waits for it.
    """
    others = [dim for dim in range(x.dim()) if dim != 1]
    variance, mean = torch.var_mean(x, others, correction=0)
    mean, variance = mean.double(), variance.double()
    n = x.numel() // x.shape[1] if processes.rows else 0
    count = mean.new_full((1,), n)
    first, second = (mean, variance + mean.square()) if n else (mean * 0, variance * 0)
    summed = _Total.apply(torch.cat([first * n, second * n, count]), processes)
    total = summed[-1].detach()
    mean, second = (summed[:-1] / total).chunk(2)
    return mean, (second - mean.square()).clamp(min=0), total


def _follow(layer: _BatchNorm, mean: Tensor, variance: Tensor, n: Tensor) -> None:
    """Take the statistics of a minibatch into the running ones, as torch does."""
    seen, means, variances = layer.num_batches_tracked, layer.running_mean, layer.running_var
    if seen is None or means is None or variances is None:
        return
    seen.add_(1)
    rate = seen.to(means).reciprocal() if layer.momentum is None else layer.momentum
    means.lerp_(mean.to(means.dtype), rate)
    variances.lerp_((variance * (n / (n - 1).clamp(min=1))).to(variances.dtype), rate)


class _Total(torch.autograd.Function):
    """The sum over all processes of a tensor.

    The gradient that arrives is of the mean loss over the M_r rows of process r, and so is the one
    that leaves: sum_s M_s g_s / M_r.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        return processes.total(values.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        processes, (gradient,) = ctx.processes, gradients
        rows = processes.rows
        weighted = gradient * rows if rows else torch.zeros_like(gradient)
        return processes.total(weighted) / max(1, rows), None
