"""A posterior with several modes: q(z | x) = sum_k w_k(x) N(mu_k(x), diag sigma_k(x)^2)."""

from pyro.distributions import Distribution
from torch import Tensor, nn

from pyrovae.distributions import Conditional, PathwiseMixture, check_network, split_parameters

__all__ = ["Mixture"]


class Mixture(Conditional):
    """A mixture of K diagonal normals (Figurnov et al. 2018; Graves 2016).

    Draws are differentiable in the weights too. Where the components are far apart almost no draw
    lies between them, and the variance of the gradient in the weights, though it is unbiased, has
    no bound: initialize the components close together.

    Args:
        net: maps x (and c) to K (2 D + 1) numbers: K logits of the weights, then K times D means,
            then K times D log sigmas.
        d: number of latents D.
        components: K.

    Raises:
        ValueError: if a number is below 1; when it is called, if the network does not output
            K (2 D + 1) numbers.

    Example:
        >>> import torch
        >>> q = Mixture(nn.Linear(784, 3 * (2 * 20 + 1)), 20, components=3)
        >>> q(torch.zeros(5, 784)).rsample().shape
        torch.Size([5, 20])
    """

    def __init__(self, net: nn.Module, d: int, components: int) -> None:
        super().__init__()
        check_network(net, "Mixture")
        if d < 1 or components < 1:
            raise ValueError(
                f"Mixture: d is {d} and components {components}, expected at least 1 of each"
            )
        self.net, self.d, self.components = net, d, components

    def forward(self, x: Tensor, *c: Tensor) -> Distribution:
        """Return q(z | x, c), batch shape (*), event shape (D,)."""
        k, d = self.components, self.d
        meaning = f"weights, means and log sigmas of {k} components over {d} latents"
        sizes = [k, k * d, k * d]
        logits, mu, log_sigma = split_parameters(self.net(x, *c), sizes, "Mixture", meaning)
        shape = (*logits.shape, d)
        return PathwiseMixture(mu.reshape(shape), log_sigma.reshape(shape).exp(), logits)
