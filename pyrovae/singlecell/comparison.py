"""Which of several fitted models describes held-out cells best, in nats per cell.

evidence   log p(x), by importance sampling from the guide
thinned    log p(x2 | x1), where every count is split at random: x1 ~ Binomial(x, 1/2), x2 = x - x1;
           log (1 / K) sum_k p(x2 | z_k, l_k),   z_k, l_k ~ q(z, l | x1)

Evidence of a model with an observed library size is p(x | its total), no density of x, and cannot
be compared with that of a latent one. Thinned counts can: both predict x2 from x1, and the halves
of a count have the same mean. Differences are paired, cell by cell, so that their standard errors
are far smaller than those of the values.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Binomial

from pyrovae import evaluation, programs
from pyrovae.data import as_sources, batches_in_order
from pyrovae.distributions import whole_number
from pyrovae.programs import log_mean_exp
from pyrovae.singlecell import decoding
from pyrovae.singlecell.minified import counts_of
from pyrovae.singlecell.state import Model, selected, split_of

__all__ = ["compare"]

Measure = Literal["evidence", "thinned"]


def compare(
    models: Mapping[str, Model],
    adata: Any = None,
    indices: Any = None,
    measure: Measure = "evidence",
    n_samples: int = 200,
    seed: int = 0,
) -> Any:
    """Compare fitted models on the same held-out cells.

    Args:
        models: by name, all of the same genes.
        adata: held-out cells; None takes the models' own cells that none of them was trained on.
        indices: rows or a mask of `adata`; None for all.
        measure: "evidence" or "thinned", see above.
        n_samples: draws per cell.
        seed: of the draws, and of the thinning, which is the same for all models.

    Returns:
        A DataFrame by model, the best first: log_p, its standard error over the cells, difference
        to the best, paired standard error of the difference, and the number of cells. The
        standard errors of one cell are NaN.

    Raises:
        TypeError: if `models` is no dictionary.
        ValueError: if there are no such cells, the models are of other genes, layers or (without
            `adata`) cells, or "evidence" is asked of models with a latent and with an observed
            library size.
    """
    import pandas as pd

    whole_number(n_samples, "compare: n_samples")
    if not isinstance(models, Mapping):
        raise TypeError(
            f"compare: models is of type {type(models).__name__}, expected models by name, as in "
            'compare({"zinb": model, "nb": other})'
        )
    if not models:
        raise ValueError("compare: no model is given")
    if measure not in ("evidence", "thinned"):
        raise ValueError(f"compare: measure is {measure!r}, expected 'evidence' or 'thinned'")
    observed = {name for name, model in models.items() if model.graph.library_posterior is None}
    if measure == "evidence" and 0 < len(observed) < len(models):
        raise ValueError(
            f"compare: the library size is observed in {sorted(observed)} and latent in the "
            "others, whose evidence cannot be compared; use measure='thinned'"
        )
    _check_same("genes", [set(model.cells.encoding.genes) for model in models.values()])
    _check_same("layer", [model.cells.encoding.setup.layer for model in models.values()])
    if adata is None:
        _check_same("cells", [tuple(model.cells.own().obs_names) for model in models.values()])
    if adata is None and indices is None:
        indices = _held_out(models)
    values = {
        name: _values(model, adata, indices, measure, n_samples, seed)
        for name, model in models.items()
    }
    best = max(values, key=lambda name: values[name].mean())
    rows = {
        name: {
            "log_p": value.mean(),
            "standard_error": _standard_error(value),
            "difference": (value - values[best]).mean(),
            "difference_standard_error": _standard_error(value - values[best]),
            "cells": len(value),
        }
        for name, value in values.items()
    }
    return pd.DataFrame(rows).T.astype({"cells": int}).sort_values("log_p", ascending=False)


def _standard_error(values: np.ndarray) -> float:
    n = len(values)
    return values.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan


def _check_same(name: str, values: list[Any]) -> None:
    """Refuse models whose densities are not those of the same numbers."""
    if any(value != values[0] for value in values):
        remedy = " for all: pass adata=, held-out cells for all of them" if name == "cells" else ""
        raise ValueError(
            f"compare: the models do not have the same {name}, and only densities of the same "
            f"counts can be compared{remedy}"
        )


def _held_out(models: Mapping[str, Model]) -> np.ndarray:
    """Return the cells on which no model was trained."""
    used: set[int] = set()
    for model in models.values():
        used |= set(split_of(model, "compare").training.tolist())
    n = next(iter(models.values())).cells.own().n_obs
    rows = np.setdiff1d(np.arange(n), sorted(used))
    if len(rows) < 2:
        raise ValueError(
            "compare: every cell was trained on by one of the models; give all the same seed and "
            "train_size below 1, or pass adata="
        )
    return rows


def _values(
    model: Model, adata: Any, indices: Any, measure: Measure, draws: int, seed: int
) -> np.ndarray:
    """Return the measure of each cell, with shape (N,)."""
    counts_of(model, "compare")
    data = selected(model, "compare", adata, indices).data
    if measure == "evidence":
        evidence = evaluation.log_evidence(model.graph, *data, samples=draws, seed=seed)
        return evidence.log_p.double().numpy()
    pieces = []
    generator = torch.Generator().manual_seed(seed)
    with programs.evaluation(model.graph, seed):
        for x, *c in batches_in_order(model.graph, as_sources(data)):
            first = _thinned(x.cpu(), generator).to(x)
            pieces.append(_predictive(model, first, x - first, c, draws))
    return torch.cat(pieces).double().cpu().numpy()


def _thinned(x: Tensor, generator: torch.Generator) -> Tensor:
    """Return x1 ~ Binomial(x, 1/2), elementwise, the same for every model."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.set_state(generator.get_state())
        drawn = Binomial(x, torch.tensor(0.5)).sample()
        generator.set_state(torch.get_rng_state())
    return drawn


def _predictive(model: Model, first: Tensor, second: Tensor, c: list[Tensor], draws: int) -> Tensor:
    """Return log p(x2 | x1) of each cell, with shape (B,)."""
    at = decoding.latents(model.graph, (first, *c), draws, mean=False)
    log_p = [
        model.graph.likelihood(z, l, *c).log_prob(second)
        for z, l in zip(at.z, at.l, strict=True)  # noqa: E741 (the papers' symbol)
    ]
    return log_mean_exp(torch.stack(log_p))
