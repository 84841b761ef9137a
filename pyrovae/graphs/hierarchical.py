"""Two layers of latents, z2 -> z1 -> x, given c (Burda et al. 2016, sec. 5; Rezende et al. 2014).

p(x, z1, z2 | c) = p(x | z1, c) p(z1 | z2, c) p(z2 | c)      the model
q(z1, z2 | x, c) = q(z1 | x, c) q(z2 | z1, c)                the guide, from the data upwards

log p(x | c) >= E_q[ log p(x | z1) + log p(z1 | z2) - log q(z1 | x) - KL( q(z2 | z1) || p(z2) ) ]

KL(q(z1 | x) || p(z1 | z2)) has no closed form here: the guide samples z2 conditionally on z1.
"""

import pyro
from torch import Tensor, nn

from pyrovae.graphs.parts import check_part, check_parts, refuse_call
from pyrovae.programs import data_plate, register

__all__ = ["HierarchicalVAE"]


class HierarchicalVAE(nn.Module):
    """A variational autoencoder whose prior over z1 has a latent z2 of its own.

    Sites: "z2", "z1", "x", with shapes (B, D2), (B, D1), (B, *event). Functions of latents take the
    layer by its name: `pyrovae.embed(graph, x, site="z2")`.

    Args:
        top_prior: p(z2 | c), such as `priors.StandardNormal(D2)`.
        prior: p(z1 | z2, c), such as `priors.ConditionalNormal(net)`, whose network maps D2
            features to 2 D1. Its standard deviations are exponentials of the outputs, and z2 is
            unbounded: end the hidden layers in a bounded activation such as tanh, or they diverge.
        posterior: q(z1 | x, c).
        top_posterior: q(z2 | z1, c), a posterior whose data are z1.
        likelihood: p(x | z1, c).

    Raises:
        TypeError: if one of them is a class, or cannot be called.

    Example:
        >>> import torch
        >>> from pyrovae import likelihoods, nets, posteriors, priors
        >>> mlp = lambda a, b: nets.MLP(a, [32], b, activation=nn.Tanh)
        >>> p = priors.StandardNormal(2), priors.ConditionalNormal(mlp(2, 2 * 3))
        >>> q = posteriors.DiagonalNormal(mlp(6, 2 * 3)), posteriors.DiagonalNormal(mlp(3, 2 * 2))
        >>> graph = HierarchicalVAE(*p, *q, likelihoods.Bernoulli(mlp(3, 6)))
        >>> graph.model(torch.zeros(5, 6)).shape
        torch.Size([5, 6])
    """

    forward = refuse_call

    def __init__(
        self,
        top_prior: nn.Module,
        prior: nn.Module,
        posterior: nn.Module,
        top_posterior: nn.Module,
        likelihood: nn.Module,
    ) -> None:
        super().__init__()
        check_parts(self, top_prior=top_prior, prior=prior, posterior=posterior)
        check_parts(self, top_posterior=top_posterior, likelihood=likelihood)
        self.top_prior, self.prior = top_prior, prior
        self.posterior, self.top_posterior, self.likelihood = posterior, top_posterior, likelihood

    def model(self, x: Tensor, *c: Tensor) -> Tensor:
        """Draw z2 ~ p(z2 | c), z1 ~ p(z1 | z2, c), x ~ p(x | z1, c), and return x."""
        register(self)
        with data_plate(x):
            z2 = pyro.sample("z2", self.top_prior(*c))
            z1 = pyro.sample("z1", self.prior(z2, *c))
            return pyro.sample("x", self.likelihood(z1, *c), obs=x)

    def guide(self, x: Tensor, *c: Tensor) -> Tensor:
        """Draw z1 ~ q(z1 | x, c), z2 ~ q(z2 | z1, c), and return z1."""
        register(self)
        with data_plate(x):
            z1 = pyro.sample("z1", self.posterior(x, *c))
            pyro.sample("z2", self.top_posterior(z1, *c))
            return z1

    def check(self, x: Tensor, *c: Tensor) -> None:
        """Raise a ValueError if x is outside the likelihood's support; `pyrovae.fit` calls this."""
        check_part(self.likelihood, x)
