"""How well a trained model explains cells: methods of `SingleCellVAE`, as functions of it.

log p(x) >= ELBO = E_q log p(x | z, l) - KL(q(z) || p(z)) - KL(q(l) || p(l))
"""

from typing import Any

from pyrovae import evaluation
from pyrovae.distributions import whole_number
from pyrovae.singlecell.minified import counts_of
from pyrovae.singlecell.state import Model, selected

__all__ = ["get_elbo", "get_marginal_ll", "get_reconstruction_error"]


def get_elbo(
    model: Model,
    adata: Any = None,
    indices: Any = None,
    return_mean: bool = True,
    *,
    n_mc_samples: int = 1,
    seed: int | None = 0,
    batch_size: int | None = None,
) -> Any:
    """Return the ELBO in nats per cell (higher is better): the mean, or with shape (N,).

    Args:
        model: the model.
        adata: see `SingleCellVAE`.
        indices: see `SingleCellVAE`.
        return_mean: average over the cells.
        n_mc_samples: draws of z and l per cell; more of them to compare models closely.
        seed: of the draws. The same seed gives the same estimate, so that to average several calls
            each needs another seed, or None, which continues the global random stream.
        batch_size: scvi-tools'; memory is bounded here without it, here and below.

    Raises:
        ValueError: if n_mc_samples is below 1, or the cells do not fit, or are minified.
    """
    elbo = _terms(model, "get_elbo", adata, indices, n_mc_samples, seed).elbo
    return elbo.mean().item() if return_mean else elbo.cpu().numpy()


def get_reconstruction_error(
    model: Model,
    adata: Any = None,
    indices: Any = None,
    return_mean: bool = True,
    *,
    n_mc_samples: int = 1,
    seed: int | None = 0,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Return {"reconstruction_loss": -E_q log p(x | z, l)} in nats per cell, mean or (N,).

    Arguments and errors are those of `get_elbo`.
    """
    method = "get_reconstruction_error"
    loss = -_terms(model, method, adata, indices, n_mc_samples, seed).reconstruction
    return {"reconstruction_loss": loss.mean().item() if return_mean else loss.cpu().numpy()}


def get_marginal_ll(
    model: Model,
    adata: Any = None,
    indices: Any = None,
    n_mc_samples: int = 1000,
    return_mean: bool = True,
    *,
    seed: int | None = 0,
    batch_size: int | None = None,
) -> Any:
    """Return log p(x) in nats per cell by importance sampling: the mean, or with shape (N,).

    See `pyrovae.log_evidence`; n_mc_samples is the number of draws per cell, and `seed` that of the
    draws, None to continue the global random stream.

    Raises:
        ValueError: if n_mc_samples is below 1, or the cells do not fit, or are minified.
    """
    graph = counts_of(model, "get_marginal_ll")
    whole_number(n_mc_samples, "get_marginal_ll: n_mc_samples")
    data = selected(model, "get_marginal_ll", adata, indices).data
    log_p = evaluation.log_evidence(graph, *data, samples=n_mc_samples, seed=seed).log_p
    return log_p.mean().item() if return_mean else log_p.numpy()


def _terms(
    model: Model, method: str, adata: Any, indices: Any, samples: int, seed: int | None
) -> evaluation.Terms:
    graph = counts_of(model, method)
    whole_number(samples, f"{method}: n_mc_samples")
    data = selected(model, method, adata, indices).data
    return evaluation.elbo(graph, *data, samples=samples, seed=seed)
