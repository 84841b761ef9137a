"""What autoregressive flows share: the orders in which their steps go through the dimensions, and a step that is Pyro's."""

import torch
from pyro.distributions.transforms import AffineAutoregressive
from torch import Tensor

__all__ = ["Autoregressive", "orders"]


class Autoregressive(AffineAutoregressive):
    """Pyro's step y = exp(a(x)) x + m(x), whose inverse has the type of y: Pyro's own starts from zeros of torch's default type."""

    def _inverse(self, y: Tensor) -> Tensor:
        x, a = torch.zeros_like(y), y
        for i in self.arn.permutation:
            m, a = self.arn(x)
            a = (
                a + (a.clamp(self.log_scale_min_clip, self.log_scale_max_clip) - a).detach()
            )  # clipped, gradients kept
            x = x.index_copy(-1, i, ((y - m) * (-a).exp()).index_select(-1, i))
        self._cached_log_scale = a
        return x


def orders(d: int, steps: int, seed: int | None = None) -> list[Tensor]:
    """Return one order of the D dimensions for each step: each the reverse of the one before, or random ones.

    Args:
        d: number of dimensions D.
        steps: number of orders.
        seed: of random permutations, drawn from a stream of their own; None reverses between steps (Kingma et al. 2016, section 5).

    Raises:
        ValueError: if `d` or `steps` is below 1.

    Example:
        >>> orders(3, 2)
        [tensor([0, 1, 2]), tensor([2, 1, 0])]
    """
    if d < 1 or steps < 1:
        raise ValueError(f"orders: d is {d} and steps is {steps}, expected at least 1 of each")
    if seed is None:
        first = torch.arange(d)
        return [first.flip(0) if step % 2 else first.clone() for step in range(steps)]
    stream = torch.Generator().manual_seed(seed)
    return [torch.randperm(d, generator=stream) for _ in range(steps)]
