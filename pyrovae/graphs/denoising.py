"""Denoising: the guide is given a corrupted x~ ~ C(x~ | x), the model explains the clean x.

E_C(x~|x) E_q(z|x~) [ log p(x, z) - log q(z | x~) ]

(Vincent et al. 2008; Im et al. 2017, eq. 7, for the variational one)
"""

from collections.abc import Callable

from torch import Tensor, nn

from pyrovae.distributions import GaussianNoise, MaskingNoise, SaltAndPepperNoise
from pyrovae.graphs.parts import (
    Submodule,
    check_graph,
    check_networks,
    check_part,
    check_rows_of_data,
    refuse_call,
)

__all__ = ["Denoising", "GaussianNoise", "MaskingNoise", "SaltAndPepperNoise"]


class Denoising(nn.Module):
    """Any graph, trained to explain x from a corrupted x.

    As with dropout, only training corrupts: under `eval()` the guide is given x as it is, so that
    `pyrovae.reconstruct(graph, noisy)` denoises.

    Args:
        graph: the graph to wrap, any module with `model` and `guide`.
        corrupt: maps x with shape (B, *event) to a corrupted tensor of the same shape, with new
            noise at each call.

    Raises:
        TypeError: if one of them is a class, the graph has no model, or corrupt cannot be called.

    Example:
        >>> import torch
        >>> from pyrovae import VAE, likelihoods, posteriors, priors
        >>> q, p = posteriors.Point(nn.Linear(6, 2)), likelihoods.Gaussian(nn.Linear(2, 6))
        >>> graph = Denoising(VAE(priors.Flat(2), q, p), nn.Dropout(0.3))
        >>> graph.guide(torch.ones(5, 6)).shape
        torch.Size([5, 2])
    """

    graph: Submodule
    corrupt: Submodule

    forward = refuse_call

    def __init__(self, graph: nn.Module, corrupt: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        check_graph(self, graph=graph)
        check_networks(self, corrupt=corrupt)
        self.graph, self.corrupt = graph, corrupt

    def model(self, x: Tensor, *c: Tensor) -> Tensor:
        """Run the wrapped model on the clean x, and return its value."""
        return self.graph.model(x, *c)

    def guide(self, x: Tensor, *c: Tensor) -> Tensor:
        """Run the wrapped guide on x, in training on the corrupted x, and return its value."""
        return self.graph.guide(self._corrupted(x) if self.training else x, *c)

    def _corrupted(self, x: Tensor) -> Tensor:
        noisy = self.corrupt(x)
        if getattr(noisy, "shape", None) != x.shape:
            raise ValueError(
                f"Denoising: corrupt returned a {type(noisy).__name__} of shape "
                f"{getattr(noisy, 'shape', None)}, expected a tensor of x's, {tuple(x.shape)}"
            )
        return noisy

    def check(self, x: Tensor, *c: Tensor) -> None:
        """Raise what the wrapped graph's `check` raises."""
        check_part(self.graph, x, *c)

    def check_data_size(self, rows: int) -> None:
        """Raise what the wrapped graph's `check_data_size` raises."""
        check_rows_of_data(self.graph, rows)
