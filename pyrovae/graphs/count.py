"""The two-latent model of counts: a cell's state z and its log library size l (Lopez et al. 2018, figure 1).

p(x, z, l | c) = p(x | z, l, c) p(z | c) p(l | c)         the model
q(z, l | x, c) = q(z | log(1 + x), c) q(l | log(1 + x), c)      the guide

log p(x | c) >= E log p(x | z, l, c) - KL(q(z) || p(z)) - KL(q(l) || p(l));  only the KL of z is annealed: `annealed={"z"}`.
"""

from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyrovae.programs import data_plate, register

__all__ = ["CountVAE"]


class CountVAE(nn.Module):
    """Counts from a state and a library size. Sites: "z" with shape (B, D), "l" with shape (B, 1), "x" with shape (B, G).

    Any prior and posterior of the library serve for z. `pyrovae.graphs.count_vae` puts scVI's networks together.

    Args:
        prior: p(z | c), called with the context.
        posterior: q(z | log(1 + x), c).
        likelihood: p(x | z, l, c), a part of `pyrovae.expression`.
        library_prior: p(l | c), such as `pyrovae.priors.LibraryNormal`; None takes l = log sum_g x_g as observed.
        library_posterior: q(l | log(1 + x), c), wherever there is a prior.

    Raises:
        ValueError: if only one of the two parts over l is given.
    """

    likelihood: Any  # to the type checker an nn.Module's attributes are tensors or modules

    def __init__(
        self,
        prior: nn.Module,
        posterior: nn.Module,
        likelihood: nn.Module,
        library_prior: nn.Module | None = None,
        library_posterior: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if (library_prior is None) != (library_posterior is None):
            raise ValueError(
                "CountVAE: library_prior and library_posterior go together: give both, or neither for an observed library"
            )
        self.prior, self.posterior, self.likelihood = prior, posterior, likelihood
        self.library_prior, self.library_posterior = library_prior, library_posterior

    def model(self, x: Tensor, *c: Tensor) -> Tensor:
        """Draw z ~ p(z | c), l ~ p(l | c), x ~ p(x | z, l, c)."""
        register(self)
        with data_plate(x):
            z = pyro.sample("z", self.prior(*c))
            l = (  # noqa: E741
                observed_library(x)
                if self.library_prior is None
                else pyro.sample("l", self.library_prior(*c))
            )
            return pyro.sample("x", self.likelihood(z, l, *c), obs=x)

    def guide(self, x: Tensor, *c: Tensor) -> Tensor:
        """Draw z ~ q(z | log(1 + x), c), l ~ q(l | log(1 + x), c), and return z."""
        register(self)
        h = torch.log1p(x)
        with data_plate(x):
            z = pyro.sample("z", self.posterior(h, *c))
            if self.library_posterior is not None:
                pyro.sample("l", self.library_posterior(h, *c))
            return z

    def check(self, x: Any, *c: Any) -> None:
        """Refuse what are no counts; `pyrovae.fit` asks before it trains."""
        getattr(self.likelihood, "check", lambda x: None)(x)


def observed_library(x: Tensor) -> Tensor:
    """Return log sum_g x_g, with shape (B, 1); an empty cell counts as one transcript.

    Raises:
        ValueError: if x has no genes: without counts there is no library size to observe.
    """
    if x.shape[-1] == 0:
        raise ValueError(
            "CountVAE: an observed library needs the counts it is the sum of; generate with a latent library"
        )
    return x.sum(-1, keepdim=True).clamp(min=1).log()
