"""Sums over all values of x in one pass, for blocks of a distribution's parameters.

f(theta) = F( log p(x_1 | theta), ..., log p(x_K | theta) ) of each of N values of theta

takes K N numbers at once, and several times as many for its gradient. In blocks it takes those of a
block, and the gradient is computed with the sum: df / dtheta has the shape of theta.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import Beta, Binomial, Categorical

from pyrovae.data import torch_threads
from pyrovae.distributions.bernoulli import ContinuousBernoulli
from pyrovae.distributions.discrete import DiscretizedLogistic, OrdinalCategorical

__all__ = ["family", "in_blocks"]

LogMass = Callable[..., Tensor]  # of values (K, 1, ..., 1) and parameters (*, ...), shape (K, *)

_BLOCK = 1 << 17  # numbers: half a megabyte in float32, which stays in a processor's cache
_BLOCK_ON_DEVICE = 1 << 24  # 64 MiB: an accelerator wants few and large operations


def family(p: Any) -> tuple[tuple[Tensor, ...], LogMass]:
    """Return parameters of p with shape (*, ...), and log p(x) as a function of x and of them.

    There are no parameters if the family is not known; then they cannot be taken apart.
    """
    if type(p) in (Categorical, dist.Categorical, OrdinalCategorical):
        return (p.logits,), _log_mass_of_classes
    if type(p) in (Binomial, dist.Binomial) and p.total_count.numel():
        n = p.total_count.flatten()[0]
        if (p.total_count == n).all():
            return (p.logits,), _log_mass_of_binomial(n)
    if type(p) is DiscretizedLogistic:
        return (p.loc, p.log_scale), _log_mass_of_bins(p.levels)
    if type(p) is ContinuousBernoulli:
        return (p.logits,), lambda x, logits: ContinuousBernoulli(logits, False).log_prob(x)
    if type(p) in (Beta, dist.Beta):
        a, b = p.concentration1, p.concentration0
        return (a - 1, b - 1, a.lgamma() + b.lgamma() - (a + b).lgamma()), _log_density_of_beta
    return (), lambda x: p.log_prob(x.expand(len(x), *p.batch_shape))


def _log_mass_of_classes(x: Tensor, logits: Tensor) -> Tensor:
    return logits.movedim(-1, 0)


def _log_mass_of_binomial(n: Tensor) -> LogMass:
    def log_mass(x: Tensor, logits: Tensor) -> Tensor:
        k, total = x.double(), n.double()
        ways = torch.lgamma(total + 1) - torch.lgamma(k + 1) - torch.lgamma(total - k + 1)
        return torch.addcmul(ways.to(logits.dtype), x, logits) - n * F.softplus(logits)

    return log_mass


def _log_mass_of_bins(levels: int) -> LogMass:
    def log_mass(x: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
        p = DiscretizedLogistic(loc, log_scale, levels, validate_args=False)
        return p.log_masses()

    return log_mass


def _log_density_of_beta(x: Tensor, a: Tensor, b: Tensor, log_norm: Tensor) -> Tensor:
    return a * x.log() + b * (-x).log1p() - log_norm


def in_blocks(f: Callable[..., Tensor], parts: Sequence[Tensor], width: int) -> Tensor:
    """Return f(*parts) with shape (N,), and its gradient, in blocks of the N.

    On a processor one thread computes them: operations on a block are so short that waiting for a
    second one takes longer where other programs run as well.

    Args:
        f: from tensors with shapes (n, ...), its own result with shape (n,), element by element.
        parts: tensors with shapes (N, ...).
        width: numbers that f holds for each of the N.
    """
    on_cpu = parts[0].device.type == "cpu"
    size = max(1, (_BLOCK if on_cpu else _BLOCK_ON_DEVICE) // width)
    with torch_threads(1) if on_cpu else nullcontext():
        if torch.is_grad_enabled() and any(part.requires_grad for part in parts):
            return _InBlocks.apply(f, size, *parts)
        return _joined(len(parts[0]), ((f(*block),) for block in _blocks(parts, size)))[0]


class _InBlocks(torch.autograd.Function):
    """f(*parts) with df / dparts, which f's being element by element makes as small as parts."""

    @staticmethod
    def forward(ctx: Any, f: Callable[..., Tensor], size: int, *parts: Tensor) -> Tensor:
        needed = ctx.needs_input_grad[2:]

        def with_gradients(block: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                leaves = [b.detach().requires_grad_(n) for b, n in zip(block, needed, strict=True)]
                value = f(*leaves)
                wanted = [leaf for leaf in leaves if leaf.requires_grad]
                found = torch.autograd.grad(
                    value.sum(), wanted, allow_unused=True, materialize_grads=True
                )
                return value.detach(), *found

        pieces = (with_gradients(block) for block in _blocks(parts, size))
        found, *gradients = _joined(len(parts[0]), pieces)
        ctx.save_for_backward(*gradients)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        saved = iter(ctx.saved_tensors)
        gradients = [next(saved) if needed else None for needed in ctx.needs_input_grad[2:]]
        return (
            None,
            None,
            *(None if d is None else d * g.reshape(-1, *[1] * (d.dim() - 1)) for d in gradients),
        )


def _blocks(parts: Sequence[Tensor], size: int) -> Sequence[tuple[Tensor, ...]]:
    return list(zip(*(part.split(size) for part in parts), strict=True))


def _joined(n: int, pieces: Iterable[tuple[Tensor, ...]]) -> list[Tensor]:
    """Return tensors with n rows, from those of each block.

    No piece is kept. Small ones that stayed would lie where tables of their block were, so that
    those of the next would not fit there, and memory would grow by a table for each block.
    """
    whole, start = list[Tensor](), 0
    for piece in pieces:
        whole = whole or [part.new_empty(n, *part.shape[1:]) for part in piece]
        stop = start + len(piece[0])
        for each, part in zip(whole, piece, strict=True):
            each[start:stop] = part
        start = stop
    return whole
