"""Count models on extreme counts with random options: none may end in a NaN without a word.

Each fit draws a table (sparse, dense, one gene with nearly all counts, single huge counts, empty
cells, totals over six orders of magnitude, few cells or genes) and options at random (likelihood,
dispersion, library, layers, learning rate up to 1). It is

refused    a ValueError before training, or a TrainingError: an error that says what to do
good       ELBO, library sizes, z and expression are finite
silent     one of them is not, and nothing was said

    python benchmarks/extreme_counts.py [--fits 300] [--seed 0]
"""

import argparse
import collections
import sys
import time
import warnings
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix

from pyrovae.singlecell import SingleCellVAE
from pyrovae.training import TrainingError

TABLES = {
    "sparse": lambda r, n, g: r.poisson(0.02, (n, g)),
    "dense": lambda r, n, g: r.poisson(30, (n, g)),
    "one gene": lambda r, n, g: r.poisson(np.r_[1e4, np.full(g - 1, 0.05)], (n, g)),
    "huge counts": lambda r, n, g: r.poisson(1, (n, g)) + (r.random((n, g)) < 1e-3) * 10**7,
    "many zeros": lambda r, n, g: r.poisson(5, (n, g)) * (r.random((n, 1)) < 0.7),
    "depths": lambda r, n, g: r.poisson(10 ** r.uniform(-3, 3, (n, 1)), (n, g)),
    "heavy tails": lambda r, n, g: np.minimum(r.pareto(0.5, (n, g)), 1e6).astype(int),
    "constant": lambda r, n, g: np.full((n, g), 3),
}


def table(random: np.random.Generator) -> tuple[str, anndata.AnnData]:
    """Return the name of a kind of table, and cells of it in up to three batches."""
    name = random.choice(list(TABLES))
    n, g = int(random.choice([3, 20, 150])), int(random.choice([2, 30, 300]))
    x = np.asarray(TABLES[name](random, n, g), dtype=np.float32)
    x[0, 0] = max(1, x[0, 0])
    obs = pd.DataFrame({"batch": random.integers(random.integers(1, 4), size=n).astype(str)})
    obs.index = obs.index.map("cell {}".format)
    counts = csr_matrix(x) if random.random() < 0.5 else x
    return name, anndata.AnnData(counts, obs=obs)


def options(random: np.random.Generator) -> dict[str, Any]:
    """Return arguments of the model, drawn at random."""
    return {
        "gene_likelihood": str(random.choice(["zinb", "nb", "poisson"])),
        "dispersion": str(random.choice(["gene", "gene-batch", "gene-cell"])),
        "use_observed_lib_size": bool(random.random() < 0.4),
        "n_layers": int(random.integers(1, 3)),
        "n_hidden": int(random.choice([8, 64])),
        "n_latent": int(random.choice([1, 10])),
        "dropout_rate": float(random.choice([0.0, 0.1])),
    }


def outcome(random: np.random.Generator) -> tuple[str, str, float]:
    """Fit once; return the kind of table, the outcome, and the largest library over total."""
    name, adata = table(random)
    rate, epochs = float(10 ** random.uniform(-4, 0)), int(random.choice([1, 10, 30]))
    SingleCellVAE.setup_anndata(adata, batch_key="batch")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            model = SingleCellVAE(adata, **options(random))
            model.train(epochs, lr=rate, progress=False, accelerator="cpu")
        except (ValueError, TrainingError) as error:
            return name, f"refused: {type(error).__name__}", 0.0
        sizes = model.get_latent_library_size()
        found = [
            np.asarray(model.get_elbo(return_mean=False)),
            sizes,
            model.get_latent_representation(),
            model.get_normalized_expression(return_numpy=True),
        ]
    del said
    totals = np.asarray(adata.X.sum(1)).ravel()
    ratio = float((sizes.ravel()[totals > 0] / totals[totals > 0]).max())
    finite = all(np.isfinite(values).all() for values in found)
    return name, "good" if finite else "silent", ratio


def main() -> None:
    """Count the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fits", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)
    torch.manual_seed(arguments.seed)
    counted: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    largest, started = 0.0, time.perf_counter()
    for _ in range(arguments.fits):
        name, result, ratio = outcome(random)
        counted[name][result] += 1
        largest = max(largest, ratio)
    columns = sorted({result for row in counted.values() for result in row})
    print(pd.DataFrame(counted).T.reindex(columns=columns).fillna(0).astype(int).to_string())
    total = sum((row for row in counted.values()), collections.Counter())
    print(f"\n{arguments.fits} fits in {time.perf_counter() - started:.0f} s: {dict(total)}")
    print(f"largest inferred library size over the observed total: {largest:.2f}")
    sys.exit(1 if total["silent"] else 0)


if __name__ == "__main__":
    main()
