"""Differential expression: false calls and power where the truth is known, and beside scvi-tools.

Simulated: five types, each with markers of its own, and genes that rise from type to type, so that
the middle types are higher than some of the rest and lower than others. A gene of "one type against
the rest" is changed if, at the true expression, it is higher (or lower) by delta in most pairs of
cells. Real: each type of at least 30 cells against the rest; a call is opposite if its sign is not
that of the means of counts per 10,000.

    python benchmarks/differential.py                          simulated
    python benchmarks/differential.py DATA.h5ad [--scvi]       real, with scvi-tools if it is there
"""

import argparse
import itertools
import sys
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from pyrovae.singlecell import SingleCellVAE

HERE = Path(__file__).resolve().parent
# benchmarks/scvi.py has the name of the package that it is compared with.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
DELTA, TARGET, LEAST_CELLS, TOP = 0.25, 0.05, 30, 30
MOST = 0.6  # of the pairs: a gene of the middle type is higher in half of them, and not changed


def expected(proba: np.ndarray) -> np.ndarray:
    """Return the largest set of genes whose mean of 1 - p is at most the target."""
    order = np.argsort(-proba)
    count = int((np.cumsum(1 - proba[order]) / np.arange(1, len(proba) + 1) <= TARGET).sum())
    return np.isin(np.arange(len(proba)), order[:count])


RULES = {"each p": lambda proba: proba >= 1 - TARGET, "mean p": expected}


# ---------------------------------------------------------------------------------- truth is known
def simulated(seed: int, cells: int = 2000, genes: int = 300, types: int = 5) -> anndata.AnnData:
    """Return cells with markers, and with 40 genes that rise from type to type."""
    random = np.random.default_rng(seed)
    kind = random.integers(types, size=cells)
    log_rho = np.tile(random.standard_normal(genes), (cells, 1))
    log_rho[:, :40] += 0.8 * (kind - (types - 1) / 2)[:, None] * random.choice([-1, 1], 40)
    for k in range(types):
        marked = slice(40 + 20 * k, 60 + 20 * k)
        log_rho[:, marked] += 1.2 * (kind == k)[:, None]
    rho = np.exp(log_rho)
    rho /= rho.sum(1, keepdims=True)
    library = np.exp(7.5 + 0.4 * random.standard_normal(cells))
    theta = np.exp(1 + 0.5 * random.standard_normal(genes))
    mean = library[:, None] * rho
    x = random.poisson(random.gamma(theta, mean / theta)).astype(np.float32)
    obs = pd.DataFrame({"cell_type": [f"type {k}" for k in kind], "batch": "one"})
    obs.index = obs.index.map("cell {}".format)
    adata = anndata.AnnData(x, obs=obs, layers={"rho": rho})
    adata.var_names = [f"gene {g}" for g in range(genes)]
    return adata


def truly_changed(adata: anndata.AnnData, group: str, pairs: int = 4000) -> np.ndarray:
    """Return whether each gene is higher, or lower, by delta in most pairs of cells."""
    random = np.random.default_rng(0)
    inside = (adata.obs["cell_type"] == group).to_numpy()
    log_rho = np.log2(adata.layers["rho"])
    a = log_rho[random.choice(np.flatnonzero(inside), pairs)]
    b = log_rho[random.choice(np.flatnonzero(~inside), pairs)]
    return np.maximum((a - b >= DELTA).mean(0), (a - b <= -DELTA).mean(0)) > MOST


def on_simulations(seeds: int, epochs: int) -> None:
    """Print the fraction of false calls, and the power."""
    rows = []
    for seed in range(seeds):
        adata = simulated(seed)
        model = trained(adata, epochs, seed)
        for test_mode in ("three", "two"):
            found, changed = {name: [0, 0] for name in RULES}, 0
            for group in sorted(adata.obs["cell_type"].unique()):
                truth = truly_changed(adata, group)
                table = model.differential_expression(
                    "cell_type", group, delta=DELTA, test_mode=test_mode, fdr_target=TARGET
                ).loc[list(adata.var_names)]
                changed += truth.sum()
                for name, rule in RULES.items():
                    calls = rule(table["proba_de"].to_numpy())
                    found[name][0] += calls.sum()
                    found[name][1] += (calls & ~truth).sum()
            for name, (called, false) in found.items():
                row = {"test": test_mode, "rule": name, "seed": seed, "called": called}
                row |= {"false": false / max(1, called), "power": (called - false) / changed}
                rows.append(row)
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format))


# --------------------------------------------------------------------------------------- real cells
def trained(
    adata: anndata.AnnData, epochs: int, seed: int, observed: bool = False
) -> SingleCellVAE:
    """Return a fitted model, on request with scvi-tools' observed library size."""
    SingleCellVAE.setup_anndata(adata, batch_key="batch")
    model = SingleCellVAE(adata, seed=seed, use_observed_lib_size=observed)
    model.train(epochs, progress=False, accelerator="cpu")
    return model


def scvi_trained(adata: anndata.AnnData, epochs: int, seed: int) -> Any:
    """Return a fitted model of scvi-tools."""
    import scvi

    scvi.settings.seed = seed
    scvi.settings.verbosity = 40
    scvi.model.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.model.SCVI(adata)
    model.train(epochs, enable_progress_bar=False, accelerator="cpu")
    return model


def tables(model: Any, groups: list[str], **arguments: Any) -> dict[str, pd.DataFrame]:
    """Return the table of each group against the rest, by gene."""
    return {
        group: model.differential_expression(groupby="cell_type", group1=group, **arguments)
        for group in groups
    }


def judged(found: dict[str, pd.DataFrame], adata: anndata.AnnData) -> dict[str, Any]:
    """Count calls and those whose sign is not that of the normalized means."""
    x = adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)
    normalized = 1e4 * x / np.maximum(1, x.sum(1, keepdims=True))
    called = opposite = up = lower = 0
    for group, table in found.items():
        table = table.loc[list(adata.var_names)]
        inside = (adata.obs["cell_type"] == group).to_numpy()
        sign = np.sign(normalized[inside].mean(0) - normalized[~inside].mean(0))
        calls, rises = (
            (table["proba_de"] >= 1 - TARGET).to_numpy(),
            table["lfc_mean"].to_numpy() > 0,
        )
        called, opposite = called + calls.sum(), opposite + (calls & (rises != (sign > 0))).sum()
        up, lower = up + (calls & rises).sum(), lower + (calls & rises & (sign < 0)).sum()
    return {
        "called": called,
        "opposite sign": opposite / max(1, called),
        "called up": up,
        "of these lower": lower / max(1, up),
    }


def agreement(a: dict[str, pd.DataFrame], b: dict[str, pd.DataFrame]) -> tuple[float, float]:
    """Return the shared of the top 30 genes up, and the rank correlation of lfc_mean; means."""
    shared, correlations = [], []
    for group, one in a.items():
        other = b[group].loc[one.index]
        tops = [
            set(t[t["lfc_mean"] > 0].sort_values("proba_de", ascending=False).index[:TOP])
            for t in (one, other)
        ]
        shared.append(len(tops[0] & tops[1]))
        correlations.append(spearmanr(one["lfc_mean"], other["lfc_mean"]).statistic)
    return float(np.mean(shared)), float(np.mean(correlations))


def on_cells(path: Path, epochs: int, with_scvi: bool) -> None:
    """Print calls by rule, and the agreement between libraries and between seeds."""
    adata = anndata.read_h5ad(path)
    sizes = adata.obs["cell_type"].value_counts()
    groups = [str(group) for group, n in sizes.items() if n >= LEAST_CELLS]
    found = {}
    for seed in (0, 1):
        model = trained(adata.copy(), epochs, seed)
        found[f"pyrovae {seed}"] = tables(model, groups)
        if seed == 0:
            two = tables(model, groups, test_mode="two")
        model = trained(adata.copy(), epochs, seed, observed=True)
        found[f"pyrovae {seed}, observed library"] = tables(model, groups)
        if with_scvi:
            model = scvi_trained(adata.copy(), epochs, seed)
            found[f"scvi-tools {seed}"] = tables(model, groups, mode="change")
    rows = {name: judged(each, adata) for name, each in {**found, "pyrovae 0, two": two}.items()}
    print(pd.DataFrame(rows).T.to_string(float_format="{:.3f}".format))
    for a, b in itertools.combinations(found, 2):
        shared, correlation = agreement(found[a], found[b])
        print(
            f"{a} / {b}: {shared:.1f} of the top {TOP} up shared, "
            f"rank correlation {correlation:.2f}"
        )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--scvi", action="store_true")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if arguments.data is None:
        on_simulations(arguments.seeds, arguments.epochs)
    else:
        on_cells(arguments.data, arguments.epochs, arguments.scvi)


if __name__ == "__main__":
    main()
