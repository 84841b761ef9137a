"""How improbable an observation is under the model: -log p(x)."""

from typing import Any

from torch import Tensor

from pyrovae.data import Array
from pyrovae.evaluation import log_evidence

__all__ = ["anomaly_score"]


def anomaly_score(
    graph: Any, x: Array, *c: Array, samples: int = 100, seed: int | None = 0
) -> Tensor:
    """Return -log p(x | c) of each row with shape (B,), in nats: the higher, the less probable.

    It is estimated by importance sampling from the guide (`log_evidence`). Of rows unlike the data
    that the guide was trained on it is often too high, which does not hide them. A model may find
    simpler data than its own more probable (Nalisnick et al. 2019): measure the area under the
    curve on both kinds before you rely on it.

    Args:
        graph: any graph with a density over its latents.
        x: data with shape (B, *event).
        c: context, B rows each.
        samples: importance samples per row.
        seed: of the random stream used, so that two calls agree; None uses the global stream.

    Raises:
        ValueError: as `log_evidence`.

    Warns:
        EvidenceWarning: as `log_evidence`.

    Example:
        >>> import pyrovae as pv
        >>> q = pv.posteriors.DiagonalNormal(nn.Linear(6, 4))
        >>> vae = pv.VAE(pv.priors.StandardNormal(2), q, pv.likelihoods.Bernoulli(nn.Linear(2, 6)))
        >>> pv.anomaly_score(vae, torch.ones(3, 6), samples=10).shape
        torch.Size([3])
    """
    return -log_evidence(graph, x, *c, samples=samples, seed=seed).log_p
