"""Label transfer to a batch that the reference never saw, beside scvi-tools' SCANVI.

One batch is left out. A reference is trained on the others with their labels, and the cells of the
batch left out are mapped to it: accuracy of their predicted labels, calibration (mean confidence
minus accuracy), k-NN accuracy of labels from the reference's z to the query's, and mixing of query
and reference (1 - |silhouette of reference against query| within labels).

    python benchmarks/label_transfer.py DATA.h5ad [--scvi] [--seeds 3]
"""

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from sklearn.metrics import f1_score, silhouette_samples
from sklearn.neighbors import KNeighborsClassifier

from pyrovae.singlecell import CellLabels, SingleCellVAE

HERE = Path(__file__).resolve().parent
# benchmarks/scvi.py has the name of the package that it is compared with.
sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
UNKNOWN, NEIGHBOURS = "Unknown", 15


def mixing(z: np.ndarray, batch: np.ndarray, label: np.ndarray) -> float:
    """Return 1 - |silhouette of batches| within labels, averaged over the labels."""
    found = []
    for name in np.unique(label):
        rows = label == name
        if min(rows.sum(), len(np.unique(batch[rows]))) >= 2 and rows.sum() > 10:
            found.append(1 - np.abs(silhouette_samples(z[rows], batch[rows])).mean())
    return float(np.mean(found))


def scores(
    predicted: np.ndarray, confidence: np.ndarray, z: list[np.ndarray], parts: list[Any]
) -> dict[str, float]:
    """Return the scores of a mapping; z and cells of the reference, then of the query."""
    truth = parts[1].obs["cell_type"].astype(str).to_numpy()
    labels = parts[0].obs["cell_type"].astype(str).to_numpy()
    neighbours = KNeighborsClassifier(NEIGHBOURS).fit(z[0], labels)
    batch = np.repeat([0, 1], [len(part) for part in z])
    return {
        "accuracy": float((predicted == truth).mean()),
        "macro F1": float(f1_score(truth, predicted, average="macro")),
        "confidence - accuracy": float(confidence.mean() - (predicted == truth).mean()),
        "k-NN": float(neighbours.score(z[1], truth)),
        "mixing": mixing(np.concatenate(z), batch, np.concatenate([labels, truth])),
    }


def ours(parts: list[Any], seed: int, epochs: int) -> dict[str, float]:
    """Map the query with this library."""
    reference, query = (part.copy() for part in parts)
    SingleCellVAE.setup_anndata(reference, batch_key="batch")
    model = SingleCellVAE(reference, seed=seed)
    model.train(epochs, progress=False, accelerator="cpu")
    labels = CellLabels.from_model(model, "cell_type", UNKNOWN)
    labels.train(progress=False)
    soft = labels.predict(query, soft=True)
    z = [labels.get_latent_representation(), labels.get_latent_representation(query)]
    predicted = soft.idxmax(axis=1).to_numpy()
    return scores(predicted, soft.max(axis=1).to_numpy(), z, parts)


def scanvi(parts: list[Any], seed: int, epochs: int) -> dict[str, float]:
    """Map the query with scvi-tools, as its tutorial on scArches does."""
    import scvi

    scvi.settings.seed, scvi.settings.verbosity = seed, 40
    reference, query = (part.copy() for part in parts)
    query.obs["cell_type"] = UNKNOWN
    quiet = {"enable_progress_bar": False, "accelerator": "cpu"}
    scvi.model.SCVI.setup_anndata(reference, batch_key="batch", labels_key="cell_type")
    model = scvi.model.SCVI(
        reference, use_layer_norm="both", use_batch_norm="none", encode_covariates=True
    )
    model.train(epochs, **quiet)
    labels = scvi.model.SCANVI.from_scvi_model(model, unlabeled_category=UNKNOWN)
    labels.train(max_epochs=20, n_samples_per_label=100, **quiet)
    scvi.model.SCANVI.prepare_query_anndata(query, labels)
    mapped = scvi.model.SCANVI.load_query_data(query, labels)
    plan = {"weight_decay": 0.0}
    mapped.train(max_epochs=100, plan_kwargs=plan, check_val_every_n_epoch=10, **quiet)
    soft = mapped.predict(soft=True)
    z = [mapped.get_latent_representation(reference), mapped.get_latent_representation()]
    return scores(soft.idxmax(axis=1).to_numpy(), soft.max(axis=1).to_numpy(), z, parts)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--scvi", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    adata = anndata.read_h5ad(arguments.data)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str)
    batches = sorted(adata.obs["batch"].astype(str).unique())
    methods = {"pyrovae": ours} | ({"scvi-tools": scanvi} if arguments.scvi else {})
    rows = []
    for seed in range(arguments.seeds):
        out = batches[seed % len(batches)]
        left_out = (adata.obs["batch"].astype(str) == out).to_numpy()
        parts = [adata[~left_out], adata[left_out]]
        for name, run in methods.items():
            found = run(parts, seed, arguments.epochs)
            rows.append({"library": name, "seed": seed, "left out": out, **found})
            print(pd.DataFrame(rows[-1:]).to_string(index=False), flush=True)
    table = pd.DataFrame(rows).groupby("library").mean(numeric_only=True).drop(columns="seed")
    print(table.to_string(float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
