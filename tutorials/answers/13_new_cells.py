# %% [markdown]
# # Answers to 13 · New cells
#
# **1.** The classifier knows no other labels than those that it was given, so it gives each cell of
# the type one of them. Nothing in a probability over the known labels says "none of these": the
# confidence is lower than for the types that it knows, but about twice that of a guess among
# three. The accuracy is zero.

# %%
import numpy as np

from pyrovae.singlecell import CellLabels, SingleCellVAE, simulate

atlas = simulate(cells=1200, genes=120, types=4, batches=3, seed=0).to_anndata()
truth = atlas.obs["cell_type"].astype(str).to_numpy()
absent = truth == "type 3"
atlas.obs["known"] = np.where(absent, "Unknown", truth)
batches = atlas.obs["batch"].astype(str).to_numpy()
SingleCellVAE.setup_anndata(atlas, batch_key="batch", labels_key="known")
model = SingleCellVAE(atlas, seed=0)
model.train(max_epochs=15, progress=False)
labels = CellLabels.from_model(model, "known", unlabeled_category="Unknown")
labels.train(max_epochs=15, progress=False)
soft = labels.predict(soft=True)
of_absent, of_known = (soft[rows].max(axis=1).mean() for rows in (absent, ~absent))
print(f"confidence: absent type {of_absent:.2f}, known types {of_known:.2f}")
assert "type 3" not in soft.columns
assert 0.6 < of_absent < of_known

# %% [markdown]
# **2.** The column is a vector of as many numbers as the hidden layer has units, and twenty cells
# tell less of it than hundreds. The ELBO of these cells rises, since it is maximized; that
# of the others of the batch is the honest number, and it rises by less.

# %%
new = batches == "batch 2"
reference = atlas[~new].copy()
SingleCellVAE.setup_anndata(reference, batch_key="batch")
model = SingleCellVAE(reference, seed=0)
model.train(max_epochs=15, progress=False)
few, others = (atlas[rows].copy() for rows in (np.flatnonzero(new)[:20], np.flatnonzero(new)[20:]))
query = SingleCellVAE.prepare_query_anndata(few, model)
mapped = SingleCellVAE.load_query_data(query, model)
before = mapped.get_elbo(), mapped.get_elbo(others)
mapped.train(max_epochs=30, train_size=1.0, batch_size=20, progress=False)
after = mapped.get_elbo(), mapped.get_elbo(others)
print(
    f"the 20 cells {before[0]:.1f} to {after[0]:.1f}, the others {before[1]:.1f} to {after[1]:.1f}"
)
assert after[0] - before[0] > after[1] - before[1] > 0
