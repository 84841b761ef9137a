"""Mixtures: p(z) = sum_k w_k p_k(z), of normals of their own, or of the model's posteriors.

p_k = N(mu_k, Sigma_k)          the Gaussian mixture
p_k = q(z | u_k),  w_k = 1 / K  the VampPrior, whose optimum is the aggregate posterior (Tomczak & Welling 2018, eq. 9)
"""

import pyro.distributions as dist
import torch
from pyro.distributions import Distribution
from torch import Tensor, nn

from pyrovae.conditional import Conditional
from pyrovae.distributions import cholesky_factor

__all__ = ["Mixture", "Vamp"]


class Mixture(Conditional):
    """p(z) = sum_k w_k N(mu_k, Sigma_k), all learned with the model. The context c is not looked at.

    Args:
        d: number of latents D.
        components: K.
        full: give each component a full covariance, by its Cholesky factor; otherwise a diagonal one.
        learned_weights: learn w; False keeps w_k = 1 / K.
        spread: standard deviation of the means' start, drawn around 0; the components start with unit covariance.
        seed: of that draw, from a stream of its own.

    Raises:
        ValueError: if `d` or `components` is below 1, or `spread` negative.

    Example:
        >>> Mixture(2, components=10)().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    logits: Tensor

    def __init__(
        self,
        d: int,
        components: int,
        *,
        full: bool = False,
        learned_weights: bool = True,
        spread: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if d < 1 or components < 1 or spread < 0:
            raise ValueError(f"Mixture: d is {d}, components {components}, spread {spread}; expected at least 1, 1 and 0")
        self.d, self.components, self.full = d, components, full
        self.learned_weights, self.spread, self.seed = learned_weights, spread, seed
        stream = torch.Generator().manual_seed(seed)
        self.mu = nn.Parameter(spread * torch.randn(components, d, generator=stream))
        self.log_sigma = nn.Parameter(torch.zeros(components, d))
        if full:
            self.lower = nn.Parameter(torch.zeros(components, d * (d - 1) // 2))
        _hold_weights(self, components, learned_weights)

    def forward(self, *c: Tensor) -> Distribution:
        """Return p(z), batch shape (), event shape (D,)."""
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), self._normals())

    def responsibilities(self, z: Tensor) -> Tensor:
        """Return p(k | z), with shape (*, K), for z with shape (*, D): which component it belongs to."""
        return (self._normals().log_prob(z.unsqueeze(-2)) + self.logits.log_softmax(-1)).softmax(-1)

    def _normals(self) -> Distribution:
        if self.full:
            return dist.MultivariateNormal(self.mu, scale_tril=cholesky_factor(self.log_sigma, self.lower))
        return dist.Normal(self.mu, self.log_sigma.exp()).to_event(1)


class Vamp(Conditional):
    """The variational mixture of posteriors: p(z | c) = sum_k w_k q(z | u_k, c) (Tomczak & Welling 2018, eq. 9).

    Give it the graph's own posterior: the module is shared, and its parameters are counted, trained and saved once.

    Args:
        posterior: q(z | x, c), with a density.
        pseudo_inputs: u, where they start, with shape (K, *event): training data, or noise around its mean.
        low: least value of a pseudo-input, such as 0 for pixels and counts; None for no bound.
        high: largest value, such as 1 for pixels; None for no bound.
        learned: train the pseudo-inputs.
        learned_weights: learn w too; False keeps w_k = 1 / K, as in the paper.

    Raises:
        ValueError: if there are no pseudo-inputs; when it is called, if the posterior is a point.

    Example:
        >>> from pyrovae.posteriors import DiagonalNormal
        >>> Vamp(DiagonalNormal(nn.Linear(6, 4)), torch.rand(10, 6), low=0.0, high=1.0)().event_shape
        torch.Size([2])
    """

    pseudo_inputs: Tensor
    logits: Tensor

    def __init__(
        self,
        posterior: nn.Module,
        pseudo_inputs: Tensor,
        *,
        low: float | None = None,
        high: float | None = None,
        learned: bool = True,
        learned_weights: bool = False,
    ) -> None:
        super().__init__()
        if pseudo_inputs.dim() < 2 or not len(pseudo_inputs):
            raise ValueError(f"Vamp: pseudo_inputs has shape {tuple(pseudo_inputs.shape)}, expected (K, *event) with K at least 1")
        self.posterior, self.low, self.high = posterior, low, high
        self.learned, self.learned_weights = learned, learned_weights
        start = pseudo_inputs.detach().clone()
        if learned:
            self.pseudo_inputs = nn.Parameter(start)
        else:
            self.register_buffer("pseudo_inputs", start)
        _hold_weights(self, len(start), learned_weights)

    def forward(self, *c: Tensor) -> Distribution:
        """Return p(z | c), batch shape (*) of the context, or () without one, event shape (D,)."""
        u = self.pseudo_inputs
        if self.low is not None or self.high is not None:
            u = u.clamp(self.low, self.high)
        lead = torch.broadcast_shapes(*(part.shape[:-1] for part in c))
        pairs = (part.unsqueeze(-2).expand(*lead, len(u), part.shape[-1]) for part in c)  # every u_k at every c
        q = self.posterior(u.expand(*lead, *u.shape), *pairs)
        if isinstance(q, dist.Delta) or q.batch_shape != (*lead, len(u)):
            raise ValueError(
                f"Vamp: the posterior is a {type(q).__name__} with batch shape {tuple(q.batch_shape)} for {len(u)} pseudo-inputs, expected "
                "a density for each: an autoencoder's point has none, use priors.Flat there"
            )
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits.expand(*lead, len(u))), q)


def _hold_weights(part: nn.Module, components: int, learned: bool) -> None:
    """Give the part the logits of equal weights, to be learned or not."""
    if learned:
        part.logits = nn.Parameter(torch.zeros(components))
    else:
        part.register_buffer("logits", torch.zeros(components), persistent=False)
