"""Likelihoods p(x | z, l, c) of the counts of G genes in single cells (Lopez et al. 2018, sec. 2).

rho = softmax( W h(z, s, v) + b )      expression: the proportions of the genes
mu_g = e^l rho_g                       mean counts, with l the log library size
x_g ~ ZINB(mu_g, theta_g, pi_g), NB(mu_g, theta_g) or Poisson(mu_g)

The columns of the context c are (s, v, y): the experimental batch, one-hot, if there are several;
covariates; the label, one-hot, if the dispersion theta is by label.
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

_LARGEST_LOG_THETA = 25.0  # either way; theta itself then stays in the range of single precision


class Dispersion(StrEnum):
    """What theta depends on, beside the gene; the values are scverse's names."""

    GENE = "gene"
    BATCH = "gene-batch"
    LABEL = "gene-label"
    CELL = "gene-cell"


PER_GENE, PER_BATCH, PER_LABEL, PER_CELL = Dispersion


class Expression(Likelihood):
    """p(x | z, l, c) of counts: a network's hidden layer h(z, s, v), and linear heads of G outputs.

    Args:
        net: maps z and (s, v) to h, such as `pyrovae.nets.Blocks` without a last layer. Its
            `shape_out` is the width of h.
        genes: G.
        dispersion: what theta depends on; log theta starts at N(0, 1). Ignored by the Poisson.
        batches: S, the number of experimental batches. If S > 1, the first S columns of c are their
            one-hot.
        labels: L, the number of labels. If dispersion is by label, the last L columns of c are
            their one-hot.
        bf16: multiply in bfloat16 in the heads while training, see `pyrovae.nets.WideLinear`.

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
        self.genes, self.dispersion = genes, Dispersion(dispersion)
        self.batches, self.labels, self.bf16 = batches, labels, bf16
        self.scale = self._head()
        self._add_parameters()

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(G,), the shape of the heads' outputs."""
        return (self.genes,)

    @abstractmethod
    def _add_parameters(self) -> None:
        """Add the parameters and heads that the distribution needs beside its mean."""

    @abstractmethod
    def _counts(self, h: Tensor, log_mu: Tensor, c: Tensor | None) -> TorchDistribution:
        """Return the distribution of the count of each gene, batch shape (*, G)."""

    def forward(self, z: Tensor, l: Tensor, *c: Tensor) -> Distribution:  # noqa: E741 (the paper's)
        """Return p(x | z, l, c), batch shape (*), event shape (G,).

        Its base distribution has attributes `mu`, and `theta` and `gate_logits` where they apply.
        """
        h = self.hidden(z, *c)
        log_mu = torch.log_softmax(self.scale(h), -1) + l
        return self._counts(h, log_mu, concatenated(c) if c else None).to_event(1)

    def proportions(self, z: Tensor, *c: Tensor) -> Tensor:
        """Return rho with shape (*, G), which sums to one over the genes."""
        return torch.softmax(self.scale(self.hidden(z, *c)), -1)

    def hidden(self, z: Tensor, *c: Tensor) -> Tensor:
        """Return h(z, s, v) with shape (*, H)."""
        if not c:
            return self._outputs(z)
        columns = concatenated(c)
        labels = self.labels if self.dispersion is PER_LABEL else 0
        decoded = columns[..., : columns.shape[-1] - labels]  # (s, v)
        return self._outputs(z, decoded) if decoded.shape[-1] else self._outputs(z)

    def _head(self) -> nn.Linear:
        shape: Any = self.net.shape_out
        return WideLinear(shape[0], self.genes, self.bf16)

    def _add_dispersion(self) -> None:
        rows = {PER_GENE: (), PER_BATCH: (self.batches,), PER_LABEL: (self.labels,)}
        if self.dispersion is PER_CELL:
            self.theta_head = self._head()
        else:
            self.log_theta = nn.Parameter(torch.randn(*rows[self.dispersion], self.genes))

    def _log_theta(self, h: Tensor, c: Tensor | None) -> Tensor:
        """Return log theta, with shape (G,) or (*, G), within bounds that no data call for."""
        return self._unbounded_log_theta(h, c).clamp(-_LARGEST_LOG_THETA, _LARGEST_LOG_THETA)

    def _unbounded_log_theta(self, h: Tensor, c: Tensor | None) -> Tensor:
        if self.dispersion is PER_CELL:
            return self.theta_head(h)
        if self.log_theta.dim() == 1 or c is None:
            return self.log_theta.reshape(-1, self.genes)[0]
        if self.dispersion is PER_LABEL:
            return c[..., -self.labels :] @ self.log_theta
        return c[..., : self.batches] @ self.log_theta if self.batches > 1 else self.log_theta[0]


class Poisson(Expression):
    """x_g ~ Poisson(e^l rho_g), without overdispersion."""

    def _add_parameters(self) -> None:
        pass

    def _counts(self, h: Tensor, log_mu: Tensor, c: Tensor | None) -> TorchDistribution:
        return distributions.LogPoisson(log_mu)


class NegativeBinomial(Expression):
    """x_g ~ NB(e^l rho_g, theta_g)."""

    def _add_parameters(self) -> None:
        self._add_dispersion()

    def _counts(self, h: Tensor, log_mu: Tensor, c: Tensor | None) -> TorchDistribution:
        return distributions.NegativeBinomial.from_logs(log_mu, self._log_theta(h, c))


class ZeroInflated(Expression):
    """x_g ~ ZINB(e^l rho_g, theta_g, pi_g), logit pi another head (Lopez et al. 2018, eq. 4)."""

    def _add_parameters(self) -> None:
        self._add_dispersion()
        self.gate = self._head()

    def _counts(self, h: Tensor, log_mu: Tensor, c: Tensor | None) -> TorchDistribution:
        return distributions.ZeroInflatedNegativeBinomial.from_logs(
            log_mu, self._log_theta(h, c), self.gate(h)
        )
