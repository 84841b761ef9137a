# %% [markdown]
# # 13 · New cells: a batch that the model never saw, labels for a few, and which model is right
#
# Tutorial 11 fitted the two-latent count model to the cells of an atlas. A new experiment brings
# cells of a batch s' that the model does not know. In
#
#     h = a(W_z z + W_s s + b)                     the decoder's first layer
#
# the batch enters by one column of W_s for each batch. A new batch is a new column, and everything
# else may stay as it is (Lotfollahi et al. 2022): the reference is not trained again.
#
# Labels y of some cells make z a mixture that knows them (Kingma et al. 2014; Xu et al. 2021):
#
#     y ~ Cat(1 / L),   u ~ N(0, I),   z ~ N(mu(u, y), sigma(u, y)^2),   x | z, l as before
#     q(z, y, u | x) = q(z | x) q(y | z) q(u | z, y)
#
# y is discrete, so it has no reparameterization; with L labels the sum over y is exact, and Pyro
# takes it: `pyro.infer.TraceEnum_ELBO` and `infer={"enumerate": "parallel"}` in the guide.
#
#     python tutorials/13_new_cells.py --quick     # simulated cells; under a minute
#     python tutorials/13_new_cells.py             # Kang et al. 2018, from PYROVAE_DATA/single_cell

# %%
import argparse
import json
import os
import sys
import warnings
from pathlib import Path

import anndata
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

import pyrovae as pv
from pyrovae.singlecell import CellLabels, SingleCellVAE, compare, simulate

parser = argparse.ArgumentParser(description="Reference mapping, label transfer, and comparison.")
parser.add_argument("--quick", action="store_true", help="simulated cells")
parser.add_argument("--output", type=Path, default=Path("figures"), help="folder for the pictures")
options = parser.parse_args([] if "ipykernel" in sys.modules else None)
options.output.mkdir(parents=True, exist_ok=True)

result = {}
torch.manual_seed(0)
epochs = 30 if options.quick else 60

# %% [markdown]
# ## A reference, and a batch left out
#
# One batch is held out: it plays the new experiment. Of the reference's labels a third is hidden.

# %%
if options.quick:
    atlas = simulate(cells=1500, genes=150, types=4, batches=3, seed=0).to_anndata()
else:
    root = Path(os.environ.get("PYROVAE_DATA", "data"))
    atlas = anndata.read_h5ad(root / "single_cell" / "pbmc_kang18_ifnb_small.h5ad")
batches, truth = (atlas.obs[key].astype(str).to_numpy() for key in ("batch", "cell_type"))
left_out = batches == sorted(set(batches))[-1]
hidden = np.random.default_rng(0).random(atlas.n_obs) < 1 / 3
atlas.obs["known"] = np.where(hidden, "Unknown", truth)
reference, new = atlas[~left_out].copy(), atlas[left_out].copy()
print(f"{reference.n_obs} cells of the reference, {new.n_obs} of the new batch")

SingleCellVAE.setup_anndata(reference, batch_key="batch", labels_key="known")
model = SingleCellVAE(reference, seed=0)
model.train(max_epochs=epochs, progress=False)

# %% [markdown]
# ## Mapping
#
# `prepare_query_anndata` brings the genes into the reference's order (zeros for those that are
# missing). `load_query_data` adds the column for the new batch. z of the new cells is there at
# once: by default the encoder does not see the batch. `train` then fits the new column alone.

# %%
query = SingleCellVAE.prepare_query_anndata(new, model)
mapped = SingleCellVAE.load_query_data(query, model)
before = mapped.get_elbo()
weights = {name: value.clone() for name, value in mapped.graph.state_dict().items()}
mapped.train(max_epochs=epochs, progress=False)
after = mapped.get_elbo()
now = mapped.graph.state_dict()
moved = [name for name in now if not torch.equal(now[name], weights[name])]
print(f"ELBO of the new cells: {before:.1f} before, {after:.1f} after training {moved}")
result |= {"elbo_before": before, "elbo_after": after, "tensors_moved": len(moved)}
assert after > before
assert set(moved) <= set(mapped.query.trained)

# The reference's own cells are seen as before: nothing of what they use has moved.
own = [model.get_elbo(), mapped.get_elbo(reference)]
result["reference_moved"] = abs(own[0] - own[1])
assert result["reference_moved"] < 1e-2

# %% [markdown]
# ## Labels
#
# The classifier q(y | z) is trained with the model, on the labels that are known. It predicts the
# hidden ones, and those of the new batch. Its probabilities are calibrated on labelled cells that
# were held out (Guo et al. 2017). For comparison: the nearest neighbours in z without it.

# %%
labels = CellLabels.from_model(model, "known", unlabeled_category="Unknown")
labels.train(max_epochs=epochs, progress=False)
soft = labels.predict(new, soft=True)
predicted = soft.idxmax(axis=1).to_numpy()
z, z_new = model.get_latent_representation(), mapped.get_latent_representation()
seen = ~hidden[~left_out]
neighbours = KNeighborsClassifier(15).fit(z[seen], truth[~left_out][seen])
result |= {
    "hidden": float((labels.predict() == truth[~left_out])[~seen].mean()),
    "new_batch": float((predicted == truth[left_out]).mean()),
    "neighbours": float(neighbours.score(z_new, truth[left_out])),
    "confidence": float(soft.max(axis=1).mean()),
}
print(
    f"accuracy: hidden labels {result['hidden']:.3f}, the new batch {result['new_batch']:.3f} "
    f"(mean confidence {result['confidence']:.3f}); nearest neighbours {result['neighbours']:.3f}"
)
assert result["new_batch"] > result["neighbours"] - 0.05

# %% [markdown]
# Both in one plane: the new cells lie where the reference has cells of their type.

# %%
plane = PCA(2).fit(z)
figure, axes = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained", sharex=True, sharey=True)
for axis, cells, types, title in (
    (axes[0], z, truth[~left_out], "the reference"),
    (axes[1], z_new, predicted, "the new batch, by its predicted labels"),
):
    for i, name in enumerate(sorted(set(truth))):
        rows = types == name
        axis.scatter(*plane.transform(cells)[rows].T, s=4, color=f"C{i}", label=name)
    axis.set(title=title, xticks=[], yticks=[])
axes[1].legend(fontsize=7)
figure.savefig(options.output / "13_query.png")
plt.show()

# %% [markdown]
# ## Which model?
#
# Zero-inflated or not, overdispersed or not? Held-out cells decide: `compare` gives log p(x) by
# importance sampling with the standard error of the *difference*, cell by cell, which is far
# smaller than that of either value. (A latent and an observed library size are no densities of the
# same thing; for those `measure="thinned"` predicts one half of every count from the other.)

# %%
warnings.simplefilter("ignore", pv.EvidenceWarning)  # few draws; the differences are paired
models = {"zinb": model}
for name in ("nb", "poisson"):
    models[name] = SingleCellVAE(reference, gene_likelihood=name, seed=0)
    models[name].train(max_epochs=epochs, progress=False)
table = compare(models, n_samples=100)
print(table.round(2).to_string())
poisson = table.loc["poisson"]
result |= {
    "poisson_loses": -float(poisson["difference"]),
    "poisson_error": float(poisson["difference_standard_error"]),
    "value_error": float(poisson["standard_error"]),
}
assert poisson["difference"] < -3 * poisson["difference_standard_error"]

figure, axis = plt.subplots(figsize=(7, 2.4), layout="constrained")
axis.errorbar(
    table["difference"],
    table.index,
    xerr=2 * table["difference_standard_error"],
    fmt="o",
    capsize=4,
)
axis.axvline(0, color="0.7", zorder=0)
axis.set(xlabel="log p(x) - that of the best, nats per cell (± 2 paired standard errors)")
figure.savefig(options.output / "13_comparison.png")
plt.show()

# %%
print("RESULT", json.dumps(result))
