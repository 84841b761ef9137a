"""The count model with labels: a discrete latent y that is known for some of the cells.

p(x, z, u, y, l) = p(x | z, l) p(z | u, y) p(u) p(y) p(l)                     the model
q(z, u, y, l | x) = q(z | x) q(y | z) q(u | z, y) q(l | x)                    the guide

Kingma et al. 2014 (their M2, stacked on z); Xu et al. 2021 (scANVI). y is summed out by Pyro's
enumeration in the guide, so train it with `pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)`. Where
y is known, q(y | z) is a point mass at it, and log q(y | z) of the classifier is added to the
bound while training:

bound + alpha * sum over labelled cells of log q(y | z)                       (their eq. 9)
"""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from pyrovae.graphs.count import CountVAE
from pyrovae.graphs.parts import check_graph, check_networks, check_part, refuse_call
from pyrovae.programs import data_plate, register

__all__ = ["LabelledCountVAE"]

_IMPOSSIBLE = -1e4  # log probability of all other labels where y is known; 0 in the sum


class LabelledCountVAE(nn.Module):
    """A count model whose state depends on a label that is known for some cells.

    The first context is y, with shape (B,): the number of the label, -1 where it is unknown.
    Sites: "y", "u" with shape (B, E), "z" with shape (B, D), "l" and "x" as in `CountVAE`.

    Args:
        cells: the model of counts; its prior of z is replaced by p(z | u, y).
        classifier: maps z to the logits of L labels, q(y | z).
        upper: maps z and the one-hot of y to 2 E numbers, mean and log sd of q(u | z, y).
        lower: maps u and the one-hot of y to 2 D numbers, mean and log sd of p(z | u, y).
        labels: L.
        latents: E, dimensions of u.
        alpha: weight of the classifier's log probability of the known labels, in units of nats per
            labelled cell; 0 outside training.

    Raises:
        TypeError: if cells is no graph, or a network is a class or cannot be called.
    """

    forward = refuse_call

    def __init__(
        self,
        cells: CountVAE,
        classifier: nn.Module,
        upper: nn.Module,
        lower: nn.Module,
        labels: int,
        latents: int,
        alpha: float = 50.0,
    ) -> None:
        super().__init__()
        check_graph(self, cells=cells)
        check_networks(self, classifier=classifier, upper=upper, lower=lower)
        self.cells, self.classifier = cells, classifier
        self.upper, self.lower = upper, lower
        self.labels, self.latents, self.alpha = labels, latents, alpha

    def model(self, x: Tensor, y: Tensor, *c: Tensor) -> Tensor:
        """Draw y, u, z ~ p(z | u, y), l and x; return x."""
        register(self)
        cells = self.cells
        with data_plate(x):
            label = pyro.sample("y", dist.Categorical(logits=x.new_zeros(len(x), self.labels)))
            zeros = x.new_zeros(len(x), self.latents)
            u = pyro.sample("u", dist.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            mean, log_sd = self._joined(self.lower, u, label).chunk(2, -1)
            z = pyro.sample("z", dist.Normal(mean, log_sd.exp()).to_event(1))
            if self.training:
                self._classified(z, y)
            l = cells.library(x, *c)  # noqa: E741 (the paper's symbol)
            return pyro.sample("x", cells.likelihood(z, l, *c), obs=x)

    def guide(self, x: Tensor, y: Tensor, *c: Tensor) -> Tensor:
        """Draw z ~ q(z | x), y ~ q(y | z), u ~ q(u | z, y), l; return z."""
        register(self)
        h = x.log1p()
        with data_plate(x):
            z = pyro.sample("z", self.cells.posterior(h, *c))
            q_y = dist.Categorical(logits=self._logits(z, y))
            label = pyro.sample("y", q_y, infer={"enumerate": "parallel"})
            mean, log_sd = self._joined(self.upper, z, label).chunk(2, -1)
            pyro.sample("u", dist.Normal(mean, log_sd.exp()).to_event(1))
            self.cells.infer_library(x, h, *c)
            return z

    def predicted(self, x: Tensor, *c: Tensor) -> Tensor:
        """Return the logits of q(y | z) at the mean of q(z | x), with shape (B, L)."""
        return self.classifier(self.cells.posterior(x.log1p(), *c).mean)

    def check(self, x: Tensor, y: Tensor, *c: Tensor) -> None:
        """Raise a ValueError if x are not counts, or y not labels; `fit` and evaluation call it."""
        check_part(self.cells.likelihood, x)
        y = torch.as_tensor(y[:])
        if y.dim() != 1 or not bool(((y == y.round()) & (y >= -1) & (y < self.labels)).all()):
            raise ValueError(
                f"LabelledCountVAE: y has shape {tuple(y.shape)} and values from {y.min():g} to "
                f"{y.max():g}, expected one whole number for each cell, 0 to {self.labels - 1}, or "
                "-1 where the label is unknown"
            )

    def _logits(self, z: Tensor, y: Tensor) -> Tensor:
        """Return the logits of q(y | z): the classifier's, or a point mass where y is known."""
        known = one_hot(y.long().clamp(min=0), self.labels) == 1
        point = torch.where(known, 0.0, _IMPOSSIBLE)
        return torch.where((y >= 0)[..., None], point, self.classifier(z))

    def _classified(self, z: Tensor, y: Tensor) -> None:
        """Add alpha log q(y | z) of the cells whose label is known."""
        log_q = torch.log_softmax(self.classifier(z), -1)
        known = log_q.gather(-1, y.long().clamp(min=0)[..., None]).squeeze(-1)
        pyro.factor("classified", self.alpha * torch.where(y >= 0, known, 0.0))

    def _joined(self, net: nn.Module, value: Tensor, label: Tensor) -> Tensor:
        """Return a network of a value and the one-hot of a label, batch dimensions broadcast."""
        code = one_hot(label, self.labels).to(value)
        batch = np.broadcast_shapes(value.shape[:-1], code.shape[:-1])
        return net(torch.cat([value.expand(*batch, -1), code.expand(*batch, -1)], -1))
