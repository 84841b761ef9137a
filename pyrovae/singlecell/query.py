"""New cells in a trained model: a reference, and a query with batches or categories new to it.

    query = SingleCellVAE.prepare_query_anndata(adata, reference)
    model = SingleCellVAE.load_query_data(query, reference)
    model.train(max_epochs=100)

Genes are matched by name, and those that the query lacks are zeros. The reference's weights are
held constant; only those of the new batches and categories are trained (Lotfollahi et al. 2022).
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyrovae.data import as_source, to_scipy
from pyrovae.singlecell import saving
from pyrovae.singlecell.cells import Cells
from pyrovae.singlecell.columns import category_names
from pyrovae.singlecell.counts import counts
from pyrovae.singlecell.encoding import Encoding
from pyrovae.singlecell.messages import listed, warn_user
from pyrovae.singlecell.minified import counts_of
from pyrovae.singlecell.setup import KEY, Setup, check_anndata
from pyrovae.singlecell.shards import Shards
from pyrovae.singlecell.state import Entries, FitResult, Model, Query, State, fit_of
from pyrovae.singlecell.widening import Columns, widened

__all__ = ["only_new_weights", "prepare_query_anndata", "query_state"]

_FEW = 0.8  # fraction of the reference's genes below which a query is warned of
_FEWEST = (
    0.2  # and refused: other names, another species, or a panel to train a model of its own on
)
_OF_CELLS = ("obsm", "obsp", "uns")


def prepare_query_anndata(adata: Any, reference: Any) -> Any:
    """Return the cells with the genes of a reference, in its order; nothing is written to `adata`.

    Args:
        adata: new cells, with the layer and columns that the reference was set up with. Labels may
            be missing, or new: they matter for dispersion "gene-label" alone, where a cell without
            a known label takes the mean of the log dispersions.
        reference: a trained model, or the folder of one.

    Returns:
        An AnnData with the counts in X (or the reference's layer), zeros for genes that `adata`
        lacks, the setup of the reference, and copies of the `obs`, `obsm`, `obsp` and `uns` of
        `adata`. `var["in_query"]` says which genes `adata` has. What else belongs to genes (`var`,
        `varm`, `varp`, `raw`, other layers) is left out.

    Raises:
        ValueError: if less than a fifth of the reference's genes are there, a layer or column is
            missing, or a value is not a count.

    Warns:
        UserWarning: if less than four fifths of the reference's genes are there.
    """
    import anndata
    import pandas as pd
    from scipy import sparse

    encoding = _reference(reference).cells.encoding
    check_anndata(adata)
    if isinstance(adata, Shards):
        raise ValueError(
            "prepare_query_anndata adds genes to an AnnData in memory: pass cells.to_memory(). "
            "Cells that have all of the reference's genes need no preparation"
        )
    names = adata.var_names.astype(str)
    if not names.is_unique:
        raise ValueError(
            "the query's gene names are not unique: call adata.var_names_make_unique()"
        )
    columns = names.get_indexer(encoding.genes)
    there = columns >= 0
    missing = [gene for gene, found in zip(encoding.genes, there, strict=True) if not found]
    if there.mean() < _FEWEST:
        raise ValueError(
            f"the query has {there.sum() or 'none'} of the reference's genes, expected at least "
            f"{_FEWEST:.0%} of {len(there)}, which are {listed(encoding.genes)}; the query's are "
            f"{listed(names)}. Use names of the same kind (symbols or identifiers, with or without "
            "a version), or a reference with the genes of both"
        )
    if there.mean() < _FEW:
        warn_user(
            f"the query lacks {len(missing)} of the reference's {len(encoding.genes)} genes, which "
            f"are taken for zeros: {listed(missing)}"
        )
    setup = encoding.setup
    setup.check(adata, labels=False)
    known = to_scipy(as_source(counts(adata, setup.layer, list(names[columns[there]]))))
    place = sparse.csr_matrix(
        (np.ones(there.sum()), (np.arange(there.sum()), np.flatnonzero(there))),
        shape=(int(there.sum()), len(encoding.genes)),
        dtype=known.dtype,
    )
    table = sparse.csr_matrix(known @ place)
    layers = {} if setup.layer is None else {setup.layer: table}
    var = pd.DataFrame({"in_query": there}, index=encoding.genes)
    of_cells = {name: copy.deepcopy(dict(getattr(adata, name))) for name in _OF_CELLS}
    query = anndata.AnnData(table, obs=adata.obs.copy(), var=var, layers=layers, **of_cells)
    setup.write(query, labels=False)
    return query


def query_state(adata: Any, reference: Any, unfrozen: bool = False) -> State:
    """Return a reference with the cells of a query as its own, and with their categories.

    Args:
        adata: the query, as `prepare_query_anndata` returns it.
        reference: a trained model, or the folder of one.
        unfrozen: train all weights.

    Raises:
        ValueError: if a gene, column or category does not fit; see `prepare_query_anndata`.
    """
    base = _reference(reference)
    check_anndata(adata)
    encoding, fit = base.cells.encoding, fit_of(base, "load_query_data")
    if KEY in adata.uns and Setup.read(adata) != encoding.setup:
        raise ValueError(
            f"the query is set up as {Setup.read(adata)}, the reference as {encoding.setup}. Call "
            "prepare_query_anndata, which sets it up as the reference"
        )
    cells = Cells(_with_new(encoding, adata), adata)
    graph: Any = copy.deepcopy(base.graph)
    trained: dict[str, Entries] = {}
    for columns in _new_columns(encoding, cells.encoding):
        own = columns.of_batches and graph.library_prior is not None
        graph, new = widened(graph, columns, _library(base, cells) if own else None)
        for name, entries in new.items():  # what is widened later stands behind it
            parts = (*trained[name].parts, *entries.parts) if name in trained else entries.parts
            trained[name] = Entries(entries.axis, *parts[0], parts[1:])
    result = FitResult(fit.history, torch.arange(0), torch.arange(0))
    return State(cells, graph.eval(), base.seed, result, None if unfrozen else Query(trained))


def _with_new(encoding: Encoding, adata: Any) -> Encoding:
    """Return an encoding with the batches and categories of new cells behind the known ones."""
    key, categories = encoding.setup.batch_key, encoding.categories
    batches = encoding.batches if key is None else _with_new_names(adata, key, encoding.batches)
    wide = {key: _with_new_names(adata, key, names) for key, names in categories.items()}
    return replace(encoding, batches=batches, categories=wide)


def _with_new_names(adata: Any, key: str, known: list[str]) -> list[str]:
    found = category_names(adata, key, known)
    return [*known, *(name for name in found if name not in known)]


def _new_columns(before: Encoding, after: Encoding) -> Iterator[Columns]:
    """Yield which columns of the context become more, in their order."""
    known, now = len(before.batches), len(after.batches)
    if now > known:
        yield Columns(0, known if known > 1 else 0, known, now, True)
    at = now if now > 1 else 0
    for key, names in after.categories.items():
        known = len(before.categories[key])
        if len(names) > known:
            yield Columns(at, known, known, len(names), False)
        at += len(names)


@contextmanager
def only_new_weights(model: Model) -> Iterator[list[str]]:
    """Context in which only the entries of what is new get gradients; yields what to freeze.

    For a model that is no query it does nothing.

    Raises:
        ValueError: if the query has no batch or category that the reference does not know.
    """
    if model.query is None:
        yield []
        return
    trained = model.query.trained
    if not trained:
        raise ValueError(
            "train: the reference knows all batches and categories of these cells, so that no "
            "weight is new; use the model as it is, or load_query_data(..., unfrozen=True)"
        )
    parameters = dict(model.graph.named_parameters())
    hooks = [
        parameters[name].register_hook(_masking(new.mask(parameters[name])))
        for name, new in trained.items()
    ]
    try:
        yield _constant_parts(model.graph, set(trained))
    finally:
        for hook in hooks:
            hook.remove()


def _masking(mask: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient * mask.to(gradient)


def _constant_parts(graph: nn.Module, trained: set[str]) -> list[str]:
    """Return the largest modules without a trained parameter, and further constant parameters."""
    parts: list[str] = []
    for name, module in graph.named_modules():
        own = [f"{name}.{inner}" for inner, _ in module.named_parameters()]
        inside = any(name.startswith(f"{part}.") for part in parts)
        if name and own and not inside and not trained.intersection(own):
            parts.append(name)
    left = (name for name, _ in graph.named_parameters() if name not in trained)
    return parts + [n for n in left if not any(n.startswith(f"{part}.") for part in parts)]


def _library(base: Any, cells: Cells) -> tuple[list[float], list[float]]:
    """Return the library sizes by batch: the reference's, and for new batches the query's."""
    prior, known = base.graph.library_prior, len(base.cells.encoding.batches)
    query = cells.library_sizes()
    for message in query.messages:
        if not any(repr(name) in message for name in base.cells.encoding.batches):
            warn_user(message)
    return [*prior.mean, *query.means[known:]], [*prior.deviation, *query.sds[known:]]


def _reference(reference: Any) -> Any:
    """Return a trained model from a model or its folder."""
    if isinstance(reference, str | Path):
        return saving.read(reference, None, None)
    if not hasattr(reference, "fit_result"):
        raise TypeError(
            f"got {type(reference).__name__} as the reference, expected a trained SingleCellVAE or "
            "the folder of one; the new cells come first"
        )
    fit_of(reference, "the reference")
    counts_of(reference, "a reference for new cells")
    return reference
