"""Log probability of negative binomial counts, with a gate of zeros or without, and its gradients.

log NB(x) = log C(x, theta) - theta log(1 + mu / theta) - x log(1 + theta / mu)
log NB(0) = -theta log(1 + mu / theta)                            C: see `pochhammer.py`
log ZINB(0) = log(pi + (1 - pi) NB(0)),   log ZINB(x) = log(1 - pi) + log NB(x)

Most counts of single cells are zeros, which need no C. It is computed for the other counts alone,
in double precision, in which it keeps its digits at theta = 1e7, or looked up where theta is one of
a gene. Value and gradients come out of one pass: of `count_kernel.py` for single precision on a CPU
if numba is there, otherwise of `torch_counts.py`. On a GPU `device_counts.py` computes all places.

With a = log mu, t = log theta, g = logit pi, d = log(1 + mu / theta), s = -theta d,
r = mu / (theta + mu), and at a zero w = P(the zero is one of the negative binomial's):

              d / da               d / dt                                               d / dg
x = 0         -w theta r           w theta (r - d)                                      1 - w - pi
x > 0         x - (x + theta) r    theta (psi(x + theta) - psi(theta) - d + r           -pi
                                          - x / (theta + mu))
"""

import warnings
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.autograd import Function

from pyrovae.distributions import device_counts, torch_counts

__all__ = ["is_traced", "negative_binomial_log_prob"]


def negative_binomial_log_prob(a: Tensor, t: Tensor, g: Tensor | None, x: Tensor) -> Tensor:
    """Return log p(x), with the shape (*) of a.

    Args:
        a: log mu, with shape (*).
        t: log theta, with a shape that broadcasts with it.
        g: logit of pi, with shape (*); None without a gate.
        x: counts, with a shape that broadcasts with it.
    """
    return _LogProb.apply(a, t, g, x)


class _LogProb(Function):
    """log p(x), with all gradients computed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, t: Tensor, g: Tensor | None, x: Tensor) -> Tensor:
        differentiable, a = any(ctx.needs_input_grad), a.contiguous()
        evaluate = _as_one_operation if _is_opaque(a) else _evaluate
        log_p, *gradients = evaluate(a, t, g, x, differentiable)
        ctx.save_for_backward(*gradients)
        ctx.shape = t.shape
        return log_p

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # by create_graph=True
            raise RuntimeError(
                "the log probability of counts has no second derivative here: its gradients are "
                "computed once, so leave create_graph out, or take differences of gradients"
            )
        da, dt, *dg = ctx.saved_tensors
        if upstream.stride() == (0,) * upstream.dim():  # one number: the sum is taken first
            dt = dt.sum_to_size(ctx.shape) * upstream.flatten()[0]
        else:
            dt = (dt * upstream).sum_to_size(ctx.shape)
        return da * upstream, dt, dg[0] * upstream if dg else None, None


def _evaluate(
    a: Tensor, t: Tensor, g: Tensor | None, x: Tensor, differentiable: bool
) -> list[Tensor]:
    """Return log p(x), and its gradients in a, t (and g), each with shape (*)."""
    return _module(a, t, x).evaluate(a, t, g, x, differentiable)


# The same as one operation, into which torch's compiler does not look.
_as_one_operation = torch.library.custom_op("pyrovae::count_log_prob", _evaluate, mutates_args=())


def is_traced(a: Tensor) -> bool:
    """Return whether torch's compiler records what is computed, with tensors without values."""
    return torch.compiler.is_compiling() or isinstance(a, FakeTensor)


def _is_opaque(a: Tensor) -> bool:
    """Return whether what is recorded is one operation.

    A fit that is compiled for a GPU sees all operations instead, of which its compiler makes one.
    """
    on_cpu = isinstance(a, FakeTensor) and a.device.type == "cpu"
    return torch.compiler.is_compiling() or on_cpu


@_as_one_operation.register_fake
def _shapes_only(
    a: Tensor, t: Tensor, g: Tensor | None, x: Tensor, differentiable: bool
) -> list[Tensor]:
    """Return tensors of the shapes of what `_evaluate` returns."""
    count = (4 if g is not None else 3) if differentiable else 1
    return [a.new_empty(a.shape) for _ in range(count)]


def _module(a: Tensor, t: Tensor, x: Tensor) -> ModuleType:
    """Return the module that computes the densities and their gradients."""
    if a.device.type != "cpu":
        return device_counts
    single = a.dtype == t.dtype == x.dtype == torch.float32
    if single and a.dim() and a.numel():
        return _compiled() or torch_counts
    return torch_counts


@cache
def _compiled() -> ModuleType | None:
    """Return the module compiled by numba, if numba is installed."""
    if find_spec("numba") is None:
        return None
    try:
        from pyrovae.distributions import count_kernel
    except ImportError as error:  # as of a numba for another NumPy
        warnings.warn(
            f"numba cannot be imported ({error}), so the likelihood of counts takes its slower "
            "path; install a numba for this NumPy, or uninstall it",
            stacklevel=2,
        )
        return None
    return count_kernel
