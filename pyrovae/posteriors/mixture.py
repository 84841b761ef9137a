"""A posterior with several modes: q(z | x) = sum_k w_k(x) N(mu_k(x), diag sigma_k(x)^2)."""

from pyro.distributions import Distribution
from torch import Tensor, nn

from pyrovae.distributions import Conditional, PathwiseMixture, split_parameters

__all__ = ["Mixture"]


class Mixture(Conditional):
    """A mixture of K diagonal normals, drawn differentiably by the weights too (Figurnov et al. 2018; Graves 2016).

    Where the components lie far apart almost no draw falls between them, and the gradient by the weights, though right in the mean,
    varies without bound: start them close together.

    Args:
        net: maps x (and c) to K (2 D + 1) numbers: K logits of the weights, then K times D means, then K times D log sigmas.
        d: number of latents D.
        components: K.

    Raises:
        ValueError: if a number is below 1, or the network puts out another number than K (2 D + 1).

    Example:
        >>> import torch
        >>> q = Mixture(nn.Linear(784, 3 * (2 * 20 + 1)), 20, components=3)
        >>> q(torch.zeros(5, 784)).rsample().shape
        torch.Size([5, 20])
    """

    def __init__(self, net: nn.Module, d: int, components: int) -> None:
        super().__init__()
        if d < 1 or components < 1:
            raise ValueError(
                f"Mixture: d is {d} and components {components}, expected at least 1 of each"
            )
        self.net, self.d, self.components = net, d, components

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(z | x, c), batch shape (*), event shape (D,)."""
        k, d = self.components, self.d
        meaning = f"weights, means and log sigmas of {k} components over {d} latents"
        logits, mu, log_sigma = split_parameters(
            self.net(x, *c), [k, k * d, k * d], "Mixture", meaning
        )
        shape = (*logits.shape, d)
        return PathwiseMixture(mu.reshape(shape), log_sigma.reshape(shape).exp(), logits)
