"""The two-latent model of counts: a cell's state z and its log library size l.

p(x, z, l | c) = p(x | z, l, c) p(z | c) p(l | c)               the model
q(z, l | x, c) = q(z | log(1 + x), c) q(l | log(1 + x), c)      the guide

log p(x | c) >= E log p(x | z, l, c) - KL(q(z) || p(z)) - KL(q(l) || p(l))

(Lopez et al. 2018, figure 1). Only the KL of z is annealed: `annealed={"z"}` of an objective.
"""

import pyro
from torch import Tensor, nn

from pyrovae.graphs.parts import Submodule, check_part, check_parts, refuse_call
from pyrovae.programs import data_plate, register

__all__ = ["CountVAE", "observed_library"]


class CountVAE(nn.Module):
    """Counts from a state and a library size.

    Sites: "z" with shape (B, D), "l" with shape (B, 1), "x" with shape (B, G). z may have any prior
    and posterior of the library. `pyrovae.graphs.count_vae` builds scVI's networks around it.

    Args:
        prior: p(z | c), called with the context.
        posterior: q(z | log(1 + x), c).
        likelihood: p(x | z, l, c), one of `pyrovae.expression`.
        library_prior: p(l | c), such as `pyrovae.priors.LibraryNormal`; None takes the library size
            as observed, l = log sum_g x_g.
        library_posterior: q(l | log(1 + x), c); required with a prior. If it has an attribute
            `takes_total`, it is called with the sum of x, as `total=`, too.

    Raises:
        TypeError: if a part is a class, or cannot be called.
        ValueError: if only one of `library_prior` and `library_posterior` is given.
    """

    likelihood: Submodule

    forward = refuse_call

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
                "CountVAE: library_prior and library_posterior go together: give both, or neither "
                "for an observed library size"
            )
        check_parts(self, prior=prior, posterior=posterior, likelihood=likelihood)
        if library_prior is not None:
            check_parts(self, library_prior=library_prior, library_posterior=library_posterior)
        self.prior, self.posterior, self.likelihood = prior, posterior, likelihood
        self.library_prior, self.library_posterior = library_prior, library_posterior

    def model(self, x: Tensor, *c: Tensor) -> Tensor:
        """Draw z ~ p(z | c), l ~ p(l | c), x ~ p(x | z, l, c), and return x."""
        register(self)
        with data_plate(x):
            z = pyro.sample("z", self.prior(*c))
            l = self.library(x, *c)  # noqa: E741 (the paper's symbol)
            return pyro.sample("x", self.likelihood(z, l, *c), obs=x)

    def guide(self, x: Tensor, *c: Tensor) -> Tensor:
        """Draw z ~ q(z | log(1 + x), c), l ~ q(l | log(1 + x), c), and return z."""
        register(self)
        h = x.log1p()
        with data_plate(x):
            z = pyro.sample("z", self.posterior(h, *c))
            self.infer_library(x, h, *c)
            return z

    def library(self, x: Tensor, *c: Tensor) -> Tensor:
        """Return l ~ p(l | c), or the observed one where it has no prior, with shape (*, 1)."""
        if self.library_prior is None:
            return observed_library(x)
        return pyro.sample("l", self.library_prior(*c))

    def infer_library(self, x: Tensor, h: Tensor, *c: Tensor) -> None:
        """Draw l ~ q(l | h, c) for h = log(1 + x), unless it is observed."""
        if self.library_posterior is None:
            return
        takes_total = getattr(self.library_posterior, "takes_total", False)
        known = {"total": x.sum(-1, keepdim=True)} if takes_total else {}
        pyro.sample("l", self.library_posterior(h, *c, **known))

    def check(self, x: Tensor, *c: Tensor) -> None:
        """Raise a ValueError if x are not counts; `pyrovae.fit` calls this before training."""
        check_part(self.likelihood, x)


def observed_library(x: Tensor) -> Tensor:
    """Return log sum_g x_g with shape (B, 1), and 0 for a cell without counts.

    Raises:
        ValueError: if x has no genes: without counts there is no library size to observe.
    """
    if x.shape[-1] == 0:
        raise ValueError(
            "CountVAE: an observed library size is the sum of the counts, and x has no genes; "
            "generate from a model with a library_prior and a library_posterior"
        )
    return x.sum(-1, keepdim=True).clamp(min=1).log()
