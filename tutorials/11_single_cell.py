# %% [markdown]
# # 11 · Single cells: two latents, counts, batches
#
# A cell n is a row of counts x_ng, one for each gene g. It was measured in a batch s_n, with a depth that says more of the
# instrument than of the cell. The notes' model (Lopez et al. 2018) keeps the two apart by two latents:
#
#     z_n ~ N(0, I)                                the state of the cell
#     l_n ~ N(mean_s, deviation_s^2)               its log library size, by batch
#     rho_n = softmax f(z_n, s_n)                  expression, as proportions
#     x_ng ~ ZINB(mu = e^l_n rho_ng, theta_g, pi_ng)
#
# and fits q(z | x) q(l | x) by the bound
#
#     log p(x | s) >= E[log p(x | z, l, s)] - KL(q(z) || p(z)) - KL(q(l) || p(l)).
#
#     python tutorials/11_single_cell.py --quick      # simulated cells, whose truth is known, under a minute
#     python tutorials/11_single_cell.py              # Kang et al. 2018 from PYROVAE_DATA/single_cell; minutes

# %%
import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import anndata
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

import pyrovae as pv
from pyrovae.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from pyrovae.singlecell import SingleCellVAE, simulate

parser = argparse.ArgumentParser(
    description="From an h5ad to clusters, corrected expression and differential expression."
)
parser.add_argument("--quick", action="store_true", help="simulated cells")
parser.add_argument("--output", type=Path, default=Path("figures"), help="folder for the pictures")
options = parser.parse_args([] if "ipykernel" in sys.modules else None)
options.output.mkdir(parents=True, exist_ok=True)

result = {}  # the numbers this script stands for, printed at its end
torch.manual_seed(0)

# %% [markdown]
# ## Counts, not measurements
#
# A negative binomial is a Poisson whose rate is itself Gamma distributed: its variance mu + mu^2 / theta exceeds the mean. Zero
# inflation adds a coin that turns a count to 0, whatever its mean. Both in one line each:

# %%
mu, theta = torch.tensor(4.0), torch.tensor(2.0)
nb, zinb = (
    NegativeBinomial(mu, theta),
    ZeroInflatedNegativeBinomial(mu, theta, gate_logits=torch.tensor(-1.0)),
)
for name, p in (("NB", nb), ("ZINB", zinb)):
    x = p.sample((100_000,))
    share, expected = (x == 0).float().mean().item(), p.log_prob(torch.zeros(())).exp().item()
    print(
        f"{name:<5} mean {x.mean():.2f} ({p.mean:.2f})   variance {x.var():.2f} ({p.variance:.2f})   zeros {share:.3f} ({expected:.3f})"
    )
    result[f"zeros_error_{name}"] = abs(share - expected)

# %% [markdown]
# ## From an h5ad
#
# `setup_anndata` says where things are. The model reads every value once, before training: negative, fractional or missing
# counts are refused by the name of cell and gene, and so are log-normalized data. Genes are matched by name ever after.

# %%
if options.quick:
    path = Path(tempfile.mkdtemp()) / "cells.h5ad"
    simulate(cells=1500, genes=200, types=4, batches=2, seed=0).to_anndata().write_h5ad(path)
else:
    path = (
        Path(os.environ.get("PYROVAE_DATA", "data"))
        / "single_cell"
        / "pbmc_kang18_ctrl_5donors_2511g.h5ad"
    )
adata = anndata.read_h5ad(path)
types, batches = (
    adata.obs["cell_type"].astype(str).to_numpy(),
    adata.obs["batch"].astype(str).to_numpy(),
)
totals = np.asarray(adata.X.sum(1)).ravel()
print(
    f"{adata.n_obs} cells, {adata.n_vars} genes, {len(set(types))} types, {len(set(batches))} batches"
)
print(f"{adata.X.nnz / np.prod(adata.shape):.0%} of the counts are not zero")

SingleCellVAE.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
model = SingleCellVAE(adata, n_hidden=64 if options.quick else 128, n_latent=10, seed=0)
model.train(
    max_epochs=60 if options.quick else 40, lr=4e-3 if options.quick else 1e-3, progress=False
)

# %% [markdown]
# ## The bound, term by term
#
# Three terms: how well the counts are explained, and what each latent costs. Only the KL of z is warmed up; that of l is never
# annealed. log p(x) by importance sampling lies above the bound, and that gap is what the Gaussian q leaves.

# %%
held_out = model.validation_indices
elbo, log_p = (
    model.get_elbo(indices=held_out),
    model.get_marginal_ll(indices=held_out, n_mc_samples=200),
)
print(f"held-out cells: ELBO {elbo:.1f} <= log p(x) {log_p:.1f} nats a cell")
result |= {"elbo": elbo, "log_p": log_p}

history = model.history
figure = Figure(figsize=(9, 3.2), layout="constrained")
left, right = figure.subplots(1, 2)
for name, label in (("elbo", "training"), ("validation_elbo", "held out")):
    left.plot(history[name].index[2:] + 1, history[name][name].iloc[2:], label=label)
left.set(xlabel="epoch", ylabel="ELBO, nats a cell")
left.legend()
right.plot(history["beta"].index + 1, history["beta"]["beta"], color="tab:red")
right.set(xlabel="epoch", ylabel="weight of KL(q(z) || p(z))")
figure.savefig(options.output / "11_training.png")

# %% [markdown]
# ## z: clusters without the batch
#
# The decoder is told the batch, so z need not carry it. Beside it the common shortcut: principal components of log-normalized
# counts. k-means on either is scored against the cell types (adjusted Rand index, 1 is perfect).

# %%
z = model.get_latent_representation()
adata.obsm["X_pyrovae"] = z  # the user writes; the library never does
logs = np.log1p(1e4 * adata.X.toarray() / totals[:, None])
components = PCA(10, random_state=0).fit_transform(logs)


def score(code):
    """Return how k-means on a code finds the types."""
    return adjusted_rand_score(
        types, KMeans(len(set(types)), n_init=10, random_state=0).fit_predict(code)
    )


result |= {"ari": score(z), "ari_pca": score(components)}
print(f"adjusted Rand index: z {result['ari']:.3f}, PCA of log counts {result['ari_pca']:.3f}")

figure = Figure(figsize=(9, 8), layout="constrained")
for row, (name, code) in zip(
    figure.subplots(2, 2),
    (("z of the count model", z), ("PCA of log counts", components)),
    strict=True,
):
    plane = PCA(2).fit_transform(code)
    for axes, groups, what in zip(row, (types, batches), ("cell type", "batch"), strict=True):
        for group in sorted(set(groups)):
            axes.scatter(*plane[groups == group].T, s=3, label=group)
        axes.set(title=f"{name}, by {what}", xticks=[], yticks=[])
        axes.legend(markerscale=3, fontsize=7)
figure.savefig(options.output / "11_latent.png")

# %% [markdown]
# ## l: the library size
#
# The inferred size e^l follows the observed total without being it: the counts are noisy, the prior of the batch pulls.

# %%
sizes = model.get_latent_library_size().ravel()
result["library_correlation"] = float(np.corrcoef(np.log(sizes), np.log(totals))[0, 1])
print(f"correlation of log library size with log total: {result['library_correlation']:.3f}")

# %% [markdown]
# ## Does the model make such data?
#
# Draws from the posterior predictive p(x' | x) should have the data's means, and its zeros.

# %%
drawn = model.posterior_predictive_sample(n_samples=1)
data_mean, drawn_mean = (np.asarray(x.mean(0)).ravel() for x in (adata.X, drawn))
data_zero, drawn_zero = (1 - np.diff(x.tocsc().indptr) / adata.n_obs for x in (adata.X, drawn))
result["zero_fraction_error"] = float(np.abs(data_zero - drawn_zero).mean())
figure = Figure(figsize=(12, 3.8), layout="constrained")
axes = figure.subplots(1, 3)
axes[0].scatter(totals, sizes, s=2)
axes[0].set(xscale="log", yscale="log", xlabel="observed total", ylabel="inferred library size")
axes[1].scatter(data_mean + 1e-3, drawn_mean + 1e-3, s=4)
axes[1].set(
    xscale="log", yscale="log", xlabel="mean of a gene, data", ylabel="mean of a gene, drawn"
)
axes[2].scatter(data_zero, drawn_zero, s=4)
axes[2].set(xlabel="zeros of a gene, data", ylabel="zeros of a gene, drawn")
axes[0].xaxis.set_minor_formatter(NullFormatter())
for panel in axes:
    low, high = (
        max(panel.get_xlim()[0], panel.get_ylim()[0]),
        min(panel.get_xlim()[1], panel.get_ylim()[1]),
    )
    panel.plot([low, high], [low, high], color="black", linewidth=0.8)
figure.savefig(options.output / "11_predictive.png")

# %% [markdown]
# ## Corrected expression
#
# rho(z, s) decoded with every cell put into the same batch: what the cell would have shown there. With the simulation the truth
# is known, and so is how far plain normalization of the counts is from it.

# %%
one_batch = sorted(set(batches))[0]
rho = model.get_normalized_expression(transform_batch=one_batch, return_numpy=True)
own = model.get_normalized_expression(return_numpy=True)
result["sums_to_one"] = float(np.abs(own.sum(1) - 1).max())
if "rho" in adata.layers:
    truth, plain = adata.layers["rho"], adata.X.toarray() / totals[:, None]
    result |= {
        "rho_error": float(np.abs(own - truth).sum(1).mean()),
        "plain_error": float(np.abs(plain - truth).sum(1).mean()),
    }
    print(
        f"distance from the true proportions: decoded {result['rho_error']:.3f}, counts over totals {result['plain_error']:.3f}"
    )

# %% [markdown]
# ## Differential expression
#
# For pairs of cells of two groups, draw z of each, decode both, and count how often the log2 fold change exceeds 0.25: a
# probability for each gene, and no p-value.

# %%
first = sorted(set(types))[0]
table = model.differential_expression("cell_type", group1=first)
print(table[["lfc_mean", "proba_de", "raw_mean1", "raw_mean2"]].head(8).round(3))
if "marker_of" in adata.var:
    markers = adata.var["marker_of"].str.contains(first)
    top = table[table["lfc_mean"] > 0].index[: int(markers.sum())]
    result["markers_found"] = float(markers.loc[top].mean())
    print(
        f"{len(top)} surest genes above the rest: {result['markers_found']:.0%} mark {first}, of all {markers.mean():.0%}"
    )

# %% [markdown]
# ## Another part
#
# The face holds no mathematics: underneath is the graph `pv.CountVAE`, and any prior or posterior of the library is an argument.

# %%
own_posterior = pv.posteriors.DiagonalNormal(
    pv.blocks.Blocks(adata.n_vars, [32, 32], 2 * 10, dropout=0.1), floor=1e-4
)
graph = pv.graphs.count_vae(
    adata.n_vars,
    hidden=32,
    library=([np.log(totals).mean()], [np.log(totals).std()]),
    posterior=own_posterior,
)
fitted = pv.fit(
    graph, adata.X, epochs=3, objective=pv.objectives.SGVB_B(annealed={"z"}), progress=False, seed=0
)
result["own_posterior_rises"] = fitted.elbo[-1] - fitted.elbo[0]

print("RESULT " + json.dumps(result))
