"""Full variational Bayes: a distribution over the decoder's weights w too (Kingma & Welling 2014, appendix F).

p(X, Z, w) = p(w) prod_i p(z_i) p(x_i | z_i, w),   p(w) = N(0, s^2 I)         the model
q(Z, w) = q(w) prod_i q(z_i | x_i),                q(w) = N(theta, diag sigma^2)   the guide

log p(X) >= sum_i ( E log p(x_i | z_i, w) - KL(q(z_i | x_i) || p(z_i)) ) - KL(q(w) || p(w))

One w serves all N rows, so a minibatch of M stands for M / N of its KL: the site "w" is scaled by M / N in both programs. The sum
of the losses over the minibatches of an epoch is then the whole bound, and a loss divided by M is the bound a row: what
`pyrovae.fit` reports and steps on, and what plain `SVI` with `Trace_ELBO` trains (as a sum over the M rows).
"""

import copy
from math import log
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.func import functional_call

from pyrovae.distributions import Stacked
from pyrovae.graphs.vae import VAE
from pyrovae.programs import data_plate, register

__all__ = ["BayesianVAE"]


class BayesianVAE(nn.Module):
    """A VAE whose likelihood's parameters are latent. Sites: "w" with shape (P,), once a minibatch; "z" (B, D); "x" (B, *event).

    theta, the mean of q(w), are the likelihood's own parameters: they start at its initial values, and `likelihood` itself is the
    network at the mean. The prior and the encoder stay point estimates.

    Figures a row, such as `pyrovae.log_evidence`, and tasks, such as `pyrovae.generate`, want one network: give them
    `graph.draw()`, a `VAE` at weights from q(w). On this graph `log_evidence` says that "w" is shared by the rows, and
    `generate` would draw w from its prior.

    Args:
        prior: p(z | c), called with the context.
        posterior: q(z | x, c), called with the data and the context.
        likelihood: p(x | z, c, w), any likelihood with parameters; all of them, a learned sigma too, become w.
        data_size: N, the rows of the whole training data.
        scale: s, standard deviation of p(w).
        sigma: where the standard deviations of q(w) start.

    Raises:
        ValueError: if there are no weights, or a number is not positive.

    Example:
        >>> from pyrovae import likelihoods, posteriors, priors
        >>> q, p = posteriors.DiagonalNormal(nn.Linear(6, 4)), likelihoods.Bernoulli(nn.Linear(2, 6))
        >>> BayesianVAE(priors.StandardNormal(2), q, p, data_size=100).model(torch.zeros(5, 6)).shape
        torch.Size([5, 6])
    """

    likelihood: Any  # to the type checker an nn.Module's attributes are tensors or modules

    def __init__(
        self,
        prior: nn.Module,
        posterior: nn.Module,
        likelihood: nn.Module,
        *,
        data_size: int,
        scale: float = 1.0,
        sigma: float = 0.01,
    ) -> None:
        super().__init__()
        if data_size < 1 or not scale > 0 or not sigma > 0:
            raise ValueError(
                f"BayesianVAE: data_size is {data_size}, scale {scale} and sigma {sigma}, expected the number of training rows and "
                "two positive standard deviations"
            )
        self.prior, self.posterior, self.likelihood = prior, posterior, likelihood
        self.data_size, self.scale, self.sigma = data_size, scale, sigma
        self._shapes = {name: parameter.shape for name, parameter in likelihood.named_parameters()}
        if not self._shapes:
            raise ValueError(
                "BayesianVAE: the likelihood has no parameters, expected weights to infer. Use VAE instead"
            )
        self.log_sigma = nn.Parameter(torch.full_like(self._theta().detach(), log(sigma)))  # (P,)

    def model(self, x: Tensor, *c: Tensor) -> Tensor:
        """Draw w ~ p(w), z ~ p(z | c), x ~ p(x | z, c, w)."""
        register(self)
        with poutine.scale(scale=len(x) / self.data_size):
            w = pyro.sample(
                "w", dist.Normal(torch.zeros_like(self.log_sigma), self.scale).to_event(1)
            )
        with data_plate(x):
            z = pyro.sample("z", self.prior(*c))
            return pyro.sample("x", self._at(w, z, *c), obs=x)

    def guide(self, x: Tensor, *c: Tensor) -> Tensor:
        """Draw w ~ q(w), z ~ q(z | x, c), and return z."""
        register(self)
        with poutine.scale(scale=len(x) / self.data_size):
            pyro.sample("w", self.weights())
        with data_plate(x):
            return pyro.sample("z", self.posterior(x, *c))

    def weights(self) -> Any:
        """Return q(w), event shape (P,)."""
        return dist.Normal(self._theta(), self.log_sigma.exp()).to_event(1)

    def draw(self) -> VAE:
        """Return a `VAE` with weights drawn from q(w), its prior and posterior this graph's own."""
        likelihood = copy.deepcopy(self.likelihood)
        with torch.no_grad():
            for name, value in self._named(self.weights().sample()).items():
                likelihood.get_parameter(name).copy_(value)
        return VAE(self.prior, self.posterior, likelihood)

    def predictive(self, z: Tensor, *c: Tensor, draws: int = 20) -> Tensor:
        """Return E[x | z, c, w] at so many draws of w, with shape (draws, *, *event): average it, or look at its spread."""
        with torch.no_grad():
            return torch.stack([self.draw().likelihood(z, *c).mean for _ in range(draws)])

    def check(self, x: Tensor, *c: Tensor) -> None:
        """Refuse more rows than there are, or data that the likelihood gives no mass to; `pyrovae.fit` asks before it trains."""
        if len(x) > self.data_size:
            raise ValueError(
                f"BayesianVAE: data_size is {self.data_size}, but the data have {len(x)} rows, which would each pay for the weights "
                "again. Give the number of training rows"
            )
        getattr(self.likelihood, "check", lambda x: None)(x)

    def _at(self, w: Tensor, z: Tensor, *c: Tensor) -> Any:
        """Return p(x | z, c, w) for w with shape (P,), or (K, 1, P) beside z with shape (K, B, D) where K particles run at once."""
        if w.dim() == 1:
            return functional_call(self.likelihood, self._named(w), (z, *c))
        parts = zip(w.reshape(-1, w.shape[-1]), z, strict=True)
        return Stacked(
            [functional_call(self.likelihood, self._named(w_k), (z_k, *c)) for w_k, z_k in parts]
        )

    def _named(self, w: Tensor) -> dict[str, Tensor]:
        parts = w.split([shape.numel() for shape in self._shapes.values()])
        return {
            name: part.reshape(shape)
            for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }

    def _theta(self) -> Tensor:
        return torch.cat([parameter.flatten() for parameter in self.likelihood.parameters()])
