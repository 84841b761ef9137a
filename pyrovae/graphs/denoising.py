"""Denoising: the guide sees a corrupted x~ ~ C(x~ | x), the model explains the clean x.

E_C(x~|x) E_q(z|x~) [ log p(x, z) - log q(z | x~) ]      (Vincent et al. 2008; Im et al. 2017, eq. 7, for the variational one)
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Denoising", "GaussianNoise", "MaskingNoise"]


class GaussianNoise(nn.Module):
    """x~ = x + sigma * eps, eps ~ N(0, I).

    Args:
        sigma: standard deviation, in units of x.
    """

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        """Return a noisy x of the same shape."""
        return x + self.sigma * torch.randn_like(x)


class MaskingNoise(nn.Module):
    """x~ = x * m, each m ~ Bernoulli(1 - share): a share of the values set to zero (Vincent et al. 2008, section 2.3).

    Args:
        share: of the values that are lost, in [0, 1).
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Return x of the same shape with some values lost."""
        return x * (torch.rand_like(x) >= self.share)


class Denoising(nn.Module):
    """Any graph, trained to explain x from a corrupted x: wrap, do not subclass.

    As with dropout, the corruption belongs to training: under `eval()` the guide sees its input as it is, so that
    `pyrovae.reconstruct(graph, noisy)` denoises.

    Args:
        graph: the graph to wrap, a `VAE` or an autoencoder.
        corrupt: x with shape (B, *event) to a corrupted tensor of the same shape, drawn anew at each call.

    Example:
        >>> import torch
        >>> from pyrovae import VAE, likelihoods, posteriors, priors
        >>> parts = priors.Flat(2), posteriors.Point(nn.Linear(6, 2)), likelihoods.Gaussian(nn.Linear(2, 6))
        >>> Denoising(VAE(*parts), nn.Dropout(0.3)).guide(torch.ones(5, 6)).shape
        torch.Size([5, 2])
    """

    graph: Any  # to the type checker an nn.Module's attributes are tensors or modules
    corrupt: Any

    def __init__(self, graph: nn.Module, corrupt: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.graph, self.corrupt = graph, corrupt

    def model(self, x: Tensor, *c: Tensor) -> Tensor:
        """Return the wrapped model, of the clean x."""
        return self.graph.model(x, *c)

    def guide(self, x: Tensor, *c: Tensor) -> Tensor:
        """Return the wrapped guide, of the corrupted x."""
        return self.graph.guide(self.corrupt(x) if self.training else x, *c)

    def check(self, x: Tensor, *c: Tensor) -> None:
        """Refuse what the wrapped graph refuses."""
        getattr(self.graph, "check", lambda *batch: None)(x, *c)
