"""Full variational Bayes: the decoder's weights w are latent too (Kingma & Welling 2014, app. F).

p(X, Z, w) = p(w) prod_i p(z_i) p(x_i | z_i, w),   p(w) = N(0, s^2 I)              the model
q(Z, w) = q(w) prod_i q(z_i | x_i),                q(w) = N(theta, diag sigma^2)   the guide

log p(X) >= sum_i ( E log p(x_i | z_i, w) - KL(q(z_i | x_i) || p(z_i)) ) - KL(q(w) || p(w))

All N rows share w, so a minibatch of M rows carries M / N of its KL: both programs scale the site
"w" by M / N. The losses of an epoch's minibatches then sum to the whole bound, and a loss divided
by M is the bound per observation. `pyrovae.fit` reports and minimizes that; plain `SVI` with
`Trace_ELBO` minimizes the sum over the M rows.
"""

import copy
from math import log

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.func import functional_call

from pyrovae.distributions import Stacked
from pyrovae.graphs.parts import Submodule, check_part, check_parts, refuse_call
from pyrovae.graphs.vae import VAE
from pyrovae.programs import data_plate, register

__all__ = ["BayesianVAE"]


class BayesianVAE(nn.Module):
    """A VAE whose likelihood's parameters are latent.

    Sites: "w" with shape (P,), one draw per minibatch; "z" with shape (B, D); "x" with shape
    (B, *event). theta, the mean of q(w), are the likelihood's own parameters. They start at their
    initial values, so that `likelihood` itself is the network at the mean. The prior and the
    encoder remain point estimates.

    Quantities per observation, such as `pyrovae.log_evidence`, and tasks, such as
    `pyrovae.generate`, need fixed weights: give them `graph.draw()`, a `VAE` with weights from
    q(w). Given this graph itself, `log_evidence`, `decode`, `interpolate` and `manifold` raise a
    ValueError, because the rows share "w"; `generate` draws w from the prior, and with
    `from_guide=["w"], like=x` from q(w). `reconstruct` takes the mean of q(w).

    Args:
        prior: p(z | c), called with the context.
        posterior: q(z | x, c), called with the data and the context.
        likelihood: p(x | z, c, w), any likelihood with parameters. w are all of them, a learned
            sigma included.
        data_size: N, the number of rows of the whole training data, over all processes of a job.
            `pyrovae.fit` refuses another number, where it knows that of its data.
        scale: s, standard deviation of p(w).
        sigma: initial standard deviation of q(w).

    Raises:
        TypeError: if a part is a class, or cannot be called.
        ValueError: if the likelihood has no parameters, or a number is not positive.

    Example:
        >>> from pyrovae import likelihoods, posteriors, priors
        >>> q = posteriors.DiagonalNormal(nn.Linear(6, 4))
        >>> p = likelihoods.Bernoulli(nn.Linear(2, 6))
        >>> graph = BayesianVAE(priors.StandardNormal(2), q, p, data_size=100)
        >>> graph.model(torch.zeros(5, 6)).shape
        torch.Size([5, 6])
    """

    likelihood: Submodule

    forward = refuse_call

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
        check_parts(self, prior=prior, posterior=posterior, likelihood=likelihood)
        if data_size < 1 or not scale > 0 or not sigma > 0:
            raise ValueError(
                f"BayesianVAE: data_size is {data_size}, scale {scale} and sigma {sigma}, expected "
                "the number of training rows and two positive standard deviations"
            )
        self.prior, self.posterior, self.likelihood = prior, posterior, likelihood
        self.data_size, self.scale, self.sigma = data_size, scale, sigma
        weights = likelihood.named_parameters() if isinstance(likelihood, nn.Module) else ()
        self._shapes = {name: parameter.shape for name, parameter in weights}
        if not self._shapes:
            raise ValueError(
                "BayesianVAE: the likelihood has no parameters, expected weights to infer. Use VAE "
                "instead"
            )
        self.log_sigma = nn.Parameter(torch.full_like(self._theta().detach(), log(sigma)))  # (P,)

    def model(self, x: Tensor, *c: Tensor) -> Tensor:
        """Draw w ~ p(w), z ~ p(z | c), x ~ p(x | z, c, w), and return x."""
        register(self)
        with poutine.scale(scale=len(x) / self.data_size):
            w = pyro.sample("w", self.p_w())
        with data_plate(x):
            z = pyro.sample("z", self.prior(*c))
            return pyro.sample("x", self._likelihood_at(w, z, *c), obs=x)

    def guide(self, x: Tensor, *c: Tensor) -> Tensor:
        """Draw w ~ q(w), z ~ q(z | x, c), and return z."""
        register(self)
        with poutine.scale(scale=len(x) / self.data_size):
            pyro.sample("w", self.q_w())
        with data_plate(x):
            return pyro.sample("z", self.posterior(x, *c))

    def p_w(self) -> TorchDistribution:
        """Return p(w), event shape (P,)."""
        zeros = torch.zeros_like(self.log_sigma)
        return dist.Normal(zeros, zeros.new_full((), self.scale)).to_event(1)

    def q_w(self) -> TorchDistribution:
        """Return q(w), event shape (P,)."""
        return dist.Normal(self._theta(), self.log_sigma.exp()).to_event(1)

    def draw(self) -> VAE:
        """Return a `VAE` with weights w ~ q(w), and with this graph's own prior and posterior."""
        likelihood = copy.deepcopy(self.likelihood)
        with torch.no_grad():
            for name, value in self._by_name(self.q_w().sample()).items():
                likelihood.get_parameter(name).copy_(value)
        return VAE(self.prior, self.posterior, likelihood)

    def predictive(self, z: Tensor, *c: Tensor, draws: int = 20) -> Tensor:
        """Return E[x | z, c, w] for draws w ~ q(w), with shape (draws, *, *event).

        Its mean over the draws is E[x | z, c]; its spread is the uncertainty about the weights.
        """
        with torch.no_grad():
            return torch.stack([self.draw().likelihood(z, *c).mean for _ in range(draws)])

    def check(self, x: Tensor, *c: Tensor) -> None:
        """Raise a ValueError if x is outside the likelihood's support; `pyrovae.fit` calls this."""
        check_part(self.likelihood, x)

    def check_data_size(self, rows: int) -> None:
        """Raise a ValueError if `data_size` is not the number of training rows.

        `pyrovae.fit` calls this where it knows that number.
        """
        if rows != self.data_size:
            often = "more" if rows > self.data_size else "less"
            raise ValueError(
                f"BayesianVAE: data_size is {self.data_size}, but there are {rows} training rows, "
                f"so the KL of the weights would be counted {often} than once per epoch. Set "
                f"graph.data_size = {rows}; or pass what is a part of larger data as an iterable "
                "of minibatches, with steps_per_epoch="
            )

    def _likelihood_at(self, w: Tensor, z: Tensor, *c: Tensor) -> TorchDistribution:
        """Return p(x | z, c, w).

        Args:
            w: weights with shape (P,), or (K, 1, P) for K draws at once.
            z: latents with shape (B, D), or (K, B, D).
            c: context.
        """
        if w.dim() == 1:
            return functional_call(self.likelihood, self._by_name(w), (z, *c))
        draws = zip(w.reshape(-1, w.shape[-1]), z, strict=True)
        return Stacked([self._likelihood_at(w_k, z_k, *c) for w_k, z_k in draws])

    def _by_name(self, w: Tensor) -> dict[str, Tensor]:
        """Return the likelihood's parameters by name, split from w with shape (P,)."""
        pieces = w.split([shape.numel() for shape in self._shapes.values()])
        named = zip(self._shapes.items(), pieces, strict=True)
        return {name: piece.reshape(shape) for (name, shape), piece in named}

    def _theta(self) -> Tensor:
        return torch.cat([parameter.flatten() for parameter in self.likelihood.parameters()])
