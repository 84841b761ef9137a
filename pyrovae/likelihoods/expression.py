"""Parts of the two-latent model of single-cell counts: p(l | s), and p(x | z, l, s, v) for G genes (Lopez et al. 2018, section 2).

l ~ N(mean_s, deviation_s^2)           the log library size, by the batch s of the cell
rho = softmax( W h(z, s, v) + b )      the expression, as proportions
mu_g = e^l rho_g                       the mean count
x_g ~ ZINB(mu_g, theta_g, pi_g), NB(mu_g, theta_g) or Poisson(mu_g)

A context c has the columns (s, v, y): the batch one-hot, if there are several; covariates; the label one-hot, if dispersion is by label.
"""

from abc import abstractmethod
from enum import StrEnum
from typing import Any

import torch
from pyro.distributions import Distribution, TorchDistribution
from torch import Tensor, nn

from pyrovae import distributions
from pyrovae.data import supports
from pyrovae.likelihoods.base import Likelihood
from pyrovae.nets import WideLinear, concatenated

__all__ = [
    "PER_BATCH",
    "PER_CELL",
    "PER_GENE",
    "PER_LABEL",
    "Dispersion",
    "Expression",
    "NegativeBinomial",
    "Poisson",
    "ZeroInflated",
]


class Dispersion(StrEnum):
    """What theta depends on, beside the gene; the values are scverse's names."""

    GENE = "gene"
    BATCH = "gene-batch"
    LABEL = "gene-label"
    CELL = "gene-cell"


PER_GENE, PER_BATCH, PER_LABEL, PER_CELL = Dispersion


class Expression(Likelihood):
    """p(x | z, l, c): what the likelihoods of counts share. A network's hidden layer h(z, c), and linear heads of G genes on it.

    Args:
        net: maps z and (s, v) to h, such as `pyrovae.blocks.Blocks` without a last layer.
        genes: G.
        dispersion: what log theta, which starts at N(0, 1), depends on; without use for the Poisson.
        batches: S, of whose one-hot the first columns of c are, if S > 1.
        labels: L, of whose one-hot the last columns of c are, if dispersion is by label.
        bf16: take the heads' products in bfloat16 while training, see `pyrovae.blocks.WideLinear`.

    Attributes:
        support: whole numbers from 0.
    """

    support = supports.COUNTS
    log_theta: Tensor

    def __init__(
        self,
        net: nn.Module,
        genes: int,
        dispersion: Dispersion = PER_GENE,
        batches: int = 1,
        labels: int = 0,
        bf16: bool = False,
    ) -> None:
        super().__init__(net, event_dim=1)
        self._event = (genes,)  # what the heads put out, not the network
        self.genes, self.dispersion = genes, Dispersion(dispersion)
        self.batches, self.labels, self.bf16 = batches, labels, bf16
        self.scale = self._head()
        self._gate_and_dispersion()

    @abstractmethod
    def _gate_and_dispersion(self) -> None:
        """Make what the distribution needs beside its mean."""

    @abstractmethod
    def _counts(self, h: Tensor, log_mu: Tensor, c: Tensor | None) -> TorchDistribution:
        """Return the distribution of single counts, batch shape (*, G)."""

    def forward(self, z: Tensor, l: Tensor, *c: Tensor) -> Distribution:  # noqa: E741 (the papers' symbol)
        """Return p(x | z, l, c), batch shape (*), event shape (G,); its leaf has `mu`, and `theta` and `gate_logits` if any."""
        h = self.hidden(z, *c)
        log_mu = torch.log_softmax(self.scale(h), -1) + l
        return self._counts(h, log_mu, concatenated(c) if c else None).to_event(1)

    def proportions(self, z: Tensor, *c: Tensor) -> Tensor:
        """Return rho, with shape (*, G), which sums to one over the genes."""
        return torch.softmax(self.scale(self.hidden(z, *c)), -1)

    def hidden(self, z: Tensor, *c: Tensor) -> Tensor:
        """Return h(z, s, v), with shape (*, H)."""
        if not c:
            return self.net(z)
        together = concatenated(c)
        seen = together[
            ..., : together.shape[-1] - (self.labels if self.dispersion is PER_LABEL else 0)
        ]
        return self.net(z, seen) if seen.shape[-1] else self.net(z)

    def _head(self) -> nn.Linear:
        width: Any = self.net.shape_out
        return WideLinear(width[0], self.genes, self.bf16)

    def _make_dispersion(self) -> None:
        rows = {PER_GENE: (), PER_BATCH: (self.batches,), PER_LABEL: (self.labels,)}
        if self.dispersion is PER_CELL:
            self.theta_head = self._head()
        else:
            self.log_theta = nn.Parameter(torch.randn(*rows[self.dispersion], self.genes))

    def _log_theta(self, h: Tensor, c: Tensor | None) -> Tensor:
        """Return log theta, with shape (G,) or (*, G)."""
        if self.dispersion is PER_CELL:
            return self.theta_head(h)
        if self.log_theta.dim() == 1 or c is None:
            return self.log_theta.reshape(-1, self.genes)[0]
        if self.dispersion is PER_LABEL:
            return c[..., -self.labels :] @ self.log_theta
        return c[..., : self.batches] @ self.log_theta if self.batches > 1 else self.log_theta[0]


class Poisson(Expression):
    """x_g ~ Poisson(e^l rho_g): no more variance than that of counting."""

    def _gate_and_dispersion(self) -> None:
        pass

    def _counts(self, h: Tensor, log_mu: Tensor, c: Tensor | None) -> TorchDistribution:
        return distributions.LogPoisson(log_mu)


class NegativeBinomial(Expression):
    """x_g ~ NB(e^l rho_g, theta_g)."""

    def _gate_and_dispersion(self) -> None:
        self._make_dispersion()

    def _counts(self, h: Tensor, log_mu: Tensor, c: Tensor | None) -> TorchDistribution:
        return distributions.NegativeBinomial.from_logs(log_mu, self._log_theta(h, c))


class ZeroInflated(Expression):
    """x_g ~ ZINB(e^l rho_g, theta_g, pi_g), the logit of pi a further head (Lopez et al. 2018, eq. 4)."""

    def _gate_and_dispersion(self) -> None:
        self._make_dispersion()
        self.gate = self._head()

    def _counts(self, h: Tensor, log_mu: Tensor, c: Tensor | None) -> TorchDistribution:
        return distributions.ZeroInflatedNegativeBinomial.from_logs(
            log_mu, self._log_theta(h, c), self.gate(h)
        )
