"""The variational mixture of posteriors: p(z | c) = (1 / K) sum_k q(z | u_k, c)      (Tomczak & Welling 2018, eq. 9)

The best prior of a VAE is its aggregate posterior, (1 / N) sum_n q(z | x_n); this takes K pseudo-inputs u_k for the N data.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pyrovae.conditional import Conditional
from pyrovae.distributions import MixtureOf

__all__ = ["Vamp"]


class Vamp(Conditional):
    """p(z | c) = sum_k w_k q(z | u_k, c), w_k = 1 / K unless learned (Tomczak & Welling 2018, eq. 9).

    It shares the graph's posterior, whose parameters count once: give the same object to both. The posterior runs in eval()
    mode here: a density has no dropout, and batch normalization's statistics are those of data, not of pseudo-inputs.

    A normal posterior costs one more pass of its network over K inputs. A flow's density at a z that it did not draw is solved for,
    D passes for each of the N K pairs: use few pseudo-inputs.

    Args:
        posterior: q(z | x, c), any with a density.
        pseudo_inputs: u with shape (K, *event), e.g. rows of the training data, as the posterior sees them (log(1 + x) in a
            `CountVAE`).
        low: least value of a pseudo-input; None for no bound.
        high: largest value. The paper's hardtanh: with both, u = clamp(u, low, high).
        learned_inputs: train the pseudo-inputs; False keeps them.
        learned_weights: train the weights w, which start equal.

    Raises:
        ValueError: if there is no pseudo-input, or `low` is not below `high`.

    Example:
        >>> from pyrovae.posteriors import DiagonalNormal
        >>> Vamp(DiagonalNormal(nn.Linear(6, 4)), torch.rand(10, 6), low=0.0, high=1.0)().event_shape
        torch.Size([2])
    """

    logits: Tensor
    pseudo_inputs: Tensor

    def __init__(
        self,
        posterior: nn.Module,
        pseudo_inputs: Tensor,
        *,
        low: float | None = None,
        high: float | None = None,
        learned_inputs: bool = True,
        learned_weights: bool = False,
    ) -> None:
        super().__init__()
        if pseudo_inputs.dim() < 2 or not len(pseudo_inputs):
            raise ValueError(f"Vamp: pseudo_inputs have shape {tuple(pseudo_inputs.shape)}, expected (K, *event) with K >= 1 rows like x")
        if low is not None and high is not None and low >= high:
            raise ValueError(f"Vamp: low is {low} and high is {high}, expected low < high, such as 0 and 1 for images")
        self.posterior, self.low, self.high = posterior, low, high
        self.learned_inputs, self.learned_weights = learned_inputs, learned_weights
        u = pseudo_inputs.detach().clone()
        u = self._bounded(u if u.is_floating_point() else u.to(torch.get_default_dtype()))
        logits = torch.zeros(len(u))
        if learned_inputs:
            self.pseudo_inputs = nn.Parameter(u)
        else:
            self.register_buffer("pseudo_inputs", u)
        if learned_weights:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits, persistent=False)

    def forward(self, *c: Tensor) -> MixtureOf:
        """Return p(z | c), batch shape (*) for contexts with shape (*, C), event shape (D,)."""
        u = self._bounded(self.pseudo_inputs)
        lead = torch.broadcast_shapes(*(part.shape[:-1] for part in c))
        pairs = (part.unsqueeze(-2).expand(*lead, len(u), part.shape[-1]) for part in c)
        with _evaluating(self.posterior):
            return MixtureOf(self.logits, self.posterior(u.expand(*lead, *u.shape), *pairs))

    def _bounded(self, u: Tensor) -> Tensor:
        # clamp, not hardtanh, whose gradient is 0 at the bounds themselves: black pixels could never be learned
        return u if self.low is None and self.high is None else u.clamp(self.low, self.high)


@contextmanager
def _evaluating(part: nn.Module) -> Iterator[None]:
    """Context in which the part is in eval() mode; each of its modules is put back into its own."""
    training = [module for module in part.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
