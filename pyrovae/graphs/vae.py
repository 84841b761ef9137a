"""The variational autoencoder z -> x, given c.

p(x, z | c) = p(x | z, c) p(z | c)      the model
q(z | x, c)                             the guide
"""

import pyro
from torch import Tensor, nn

from pyrovae.graphs.parts import check_part, check_parts, refuse_call
from pyrovae.programs import data_plate, register

__all__ = ["VAE"]


class VAE(nn.Module):
    """Prior, posterior and likelihood as two Pyro programs (Kingma & Welling 2014, figure 1).

    Sites: "z" with shape (B, D), "x" with shape (B, *event). `SVI(vae.model, vae.guide, ...)`
    trains it, and so does `pyrovae.fit`.

    Args:
        prior: p(z | c), called with the context.
        posterior: q(z | x, c), called with the data and the context.
        likelihood: p(x | z, c), called with the latent and the context.

    Raises:
        TypeError: if one of them is a class, or cannot be called.

    Example:
        >>> import torch
        >>> from pyrovae import likelihoods, nets, posteriors, priors
        >>> q = posteriors.DiagonalNormal(nets.MLP(6, [8], 4))
        >>> p = likelihoods.Bernoulli(nets.MLP(2, [8], 6))
        >>> VAE(priors.StandardNormal(2), q, p).model(torch.zeros(5, 6)).shape
        torch.Size([5, 6])
    """

    forward = refuse_call

    def __init__(self, prior: nn.Module, posterior: nn.Module, likelihood: nn.Module) -> None:
        super().__init__()
        check_parts(self, prior=prior, posterior=posterior, likelihood=likelihood)
        self.prior, self.posterior, self.likelihood = prior, posterior, likelihood

    def model(self, x: Tensor, *c: Tensor) -> Tensor:
        """Draw z ~ p(z | c), x ~ p(x | z, c), and return x."""
        register(self)
        with data_plate(x):
            z = pyro.sample("z", self.prior(*c))
            return pyro.sample("x", self.likelihood(z, *c), obs=x)

    def guide(self, x: Tensor, *c: Tensor) -> Tensor:
        """Draw z ~ q(z | x, c), and return z."""
        register(self)
        with data_plate(x):
            return pyro.sample("z", self.posterior(x, *c))

    def check(self, x: Tensor, *c: Tensor) -> None:
        """Raise a ValueError if x is outside the likelihood's support; `pyrovae.fit` calls this."""
        check_part(self.likelihood, x)
