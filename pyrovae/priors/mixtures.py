"""Mixtures: p(z) = sum_k w_k p_k(z), of normals of their own, or of the model's posteriors.

p_k = N(mu_k, Sigma_k)          the Gaussian mixture
p_k = q(z | u_k),  w_k = 1 / K  the VampPrior, whose optimum is the aggregate posterior (Tomczak & Welling 2018, eq. 9)
p(k | z) = w_k p_k(z) / p(z)    which component a code belongs to (Bishop 2006, eq. 9.13)
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae.distributions import Conditional, MixtureOf, cholesky_factor

__all__ = ["Mixture", "Vamp"]


class Mixture(Conditional):
    """p(z) = sum_k w_k N(mu_k, Sigma_k), all learned with the model. The context c is not looked at.

    It starts with the moments of N(0, I): means drawn from N(0, r / (1 + r) I) and Sigma_k = I / (1 + r), with r such that two
    means lie `spread` standard deviations of a component apart, in any number of dimensions. Near enough to share codes, far
    enough to part: means of unit variance are 9 apart at D = 40, and each code would start with one component of its own.

    Args:
        d: number of latents D.
        components: K.
        full: give each component a full covariance, by its Cholesky factor; otherwise a diagonal one.
        learned_weights: learn w; False keeps w_k = 1 / K.
        spread: root mean square distance of two means at the start, in standard deviations of a component.
        seed: of the means' start, drawn from a stream of its own.

    Raises:
        ValueError: if `d` or `components` is below 1, or `spread` negative.

    Example:
        >>> Mixture(2, components=10).responsibilities(torch.zeros(5, 2)).shape
        torch.Size([5, 10])
    """

    logits: Tensor

    def __init__(
        self,
        d: int,
        components: int,
        *,
        full: bool = False,
        learned_weights: bool = True,
        spread: float = 4.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if d < 1 or components < 1 or spread < 0:
            raise ValueError(
                f"Mixture: d is {d}, components {components}, spread {spread}; expected at least 1, 1 and 0"
            )
        self.d, self.components, self.full = d, components, full
        self.learned_weights, self.spread, self.seed = learned_weights, spread, seed
        stream = torch.Generator().manual_seed(seed)
        r = spread**2 / (2 * d)  # means of variance r s^2 lie sqrt(2 r D) s apart
        self.mu = nn.Parameter(
            math.sqrt(r / (1 + r)) * torch.randn(components, d, generator=stream)
        )
        self.log_sigma = nn.Parameter(
            torch.full((components, d), -0.5 * math.log1p(r))
        )  # if full, of the factors' diagonals
        if full:
            self.lower = nn.Parameter(torch.zeros(components, d * (d - 1) // 2))
        _hold_weights(self, components, learned_weights)

    def forward(self, *c: Tensor) -> MixtureOf:
        """Return p(z), batch shape (), event shape (D,)."""
        if self.full:
            tril = cholesky_factor(self.log_sigma, self.lower)
            return MixtureOf(self.logits, dist.MultivariateNormal(self.mu, scale_tril=tril))
        return MixtureOf(self.logits, dist.Normal(self.mu, self.log_sigma.exp()).to_event(1))

    def responsibilities(self, z: Tensor) -> Tensor:
        """Return p(k | z), with shape (*, K), for z with shape (*, D): which component it belongs to."""
        return self().log_joint(z).softmax(-1)


class Vamp(Conditional):
    """The variational mixture of posteriors: p(z | c) = sum_k w_k q(z | u_k, c) (Tomczak & Welling 2018, eq. 9).

    Give it the graph's own posterior: the module is shared, and its parameters are counted, trained and saved once. It runs in
    eval() mode here: a density has no dropout, and batch normalization's statistics are those of data, not of pseudo-inputs.

    With a normal posterior a step costs one more pass of its network, over K inputs, or over B K pairs (u_k, c_n) if it reads c:
    its network then broadcasts u with shape (K, *event) against c with shape (*, K, C), as the library's do. A flow's density at a
    z that it did not draw is solved for, D passes for each of the B K pairs: give it few pseudo-inputs.

    Args:
        posterior: q(z | x, c), with a density.
        pseudo_inputs: u, where they start, with shape (K, *event), as the posterior sees them (log(1 + x) in a `CountVAE`):
            training data, or noise around its mean.
        low: least value of a pseudo-input, such as 0 for pixels and counts; None for no bound.
        high: largest value, such as 1 for pixels; None for no bound. With both it is the paper's hardtanh.
        learned: train the pseudo-inputs.
        learned_weights: learn w too; False keeps w_k = 1 / K, as in the paper.

    Raises:
        ValueError: if there are no pseudo-inputs, or `low` is not below `high`; when it is called, if the posterior is a point.

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
            raise ValueError(
                f"Vamp: pseudo_inputs has shape {tuple(pseudo_inputs.shape)}, expected (K, *event) with K at least 1"
            )
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f"Vamp: low is {low} and high {high}, expected low < high, such as 0 and 1 for pixels"
            )
        self.posterior, self.low, self.high = posterior, low, high
        self.learned, self.learned_weights = learned, learned_weights
        start = pseudo_inputs.detach().clone()
        start = self._bounded(
            start if start.is_floating_point() else start.to(torch.get_default_dtype())
        )
        if learned:
            self.pseudo_inputs = nn.Parameter(start)
        else:
            self.register_buffer("pseudo_inputs", start)
        _hold_weights(self, len(start), learned_weights)

    def forward(self, *c: Tensor) -> MixtureOf:
        """Return p(z | c), batch shape (*) of the context, or () where the posterior reads none, event shape (D,)."""
        u = self._bounded(self.pseudo_inputs)
        lead = torch.broadcast_shapes(*(part.shape[:-1] for part in c))
        pairs = (
            part.unsqueeze(-2).expand(*lead, len(u), part.shape[-1]) for part in c
        )  # every u_k at every c
        with _evaluating(self.posterior):
            q = self.posterior(
                u, *pairs
            )  # u itself: a posterior that leaves c out has K rows to do, not B K
        if isinstance(q, dist.Delta) or q.batch_shape not in ((len(u),), (*lead, len(u))):
            raise ValueError(
                f"Vamp: the posterior is a {type(q).__name__} with batch shape {tuple(q.batch_shape)} for {len(u)} pseudo-inputs, expected "
                "a density for each: an autoencoder's point has none, use priors.Flat there"
            )
        return MixtureOf(self.logits, q)

    def _bounded(self, u: Tensor) -> Tensor:
        if self.low is None and self.high is None:
            return u
        # The gradient of hardtanh, and of torch's clamp, is 0 at the bounds too: black pixels could never be learned.
        bounded = u.detach().clamp(self.low, self.high)
        return torch.where(u == bounded, u, bounded)


def _hold_weights(part: nn.Module, components: int, learned: bool) -> None:
    """Give the part the logits of equal weights, to be learned or not."""
    if learned:
        part.logits = nn.Parameter(torch.zeros(components))
    else:
        part.register_buffer("logits", torch.zeros(components), persistent=False)


@contextmanager
def _evaluating(part: nn.Module) -> Iterator[None]:
    """Context in which the part is in eval() mode; afterwards each of its modules is back in its own."""
    training = [module for module in part.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
