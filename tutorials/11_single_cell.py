# %% [markdown]
# # 11 · Single cells: two latents, counts, batches
#
# A cell n is a vector of counts x_ng, one for each gene g. It was measured in an experimental batch
# s_n, with a sequencing depth that depends more on the instrument than on the cell. The model of
# the notes (Lopez et al. 2018) separates the two with two latents:
#
#     z_n ~ N(0, I)                                the state of the cell
#     l_n ~ N(m_s, d_s^2)                          its log library size; mean m_s and standard
#                                                  deviation d_s of its batch s
#     rho_n = softmax f(z_n, s_n)                  expression, as proportions
#     x_ng ~ ZINB(mu = e^l_n rho_ng, theta_g, pi_ng)
#
# and fits q(z | x) q(l | x) by maximizing the bound
#
#     log p(x | s) >= E[log p(x | z, l, s)] - KL(q(z) || p(z)) - KL(q(l) || p(l)).
#
#     python tutorials/11_single_cell.py --quick   # simulated cells, truth known; under a minute
#     python tutorials/11_single_cell.py           # Kang et al. 2018, from
#                                                  # PYROVAE_DATA/single_cell; minutes

# %%
import argparse
import json
import os
import sys
import tempfile
import warnings
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

result = {}  # the numbers that this script computes, printed at its end
torch.manual_seed(0)

# %% [markdown]
# ## Counts, not measurements
#
# A negative binomial is a Poisson distribution whose rate is Gamma distributed: its variance mu +
# mu^2 / theta exceeds the mean mu. Zero inflation sets a count to 0 with a further probability,
# independent of its mean. Each is one line:

# %%
mu, theta = torch.tensor(4.0), torch.tensor(2.0)
nb = NegativeBinomial(mu, theta)
zinb = ZeroInflatedNegativeBinomial(mu, theta, gate_logits=torch.tensor(-1.0))
for name, p in (("NB", nb), ("ZINB", zinb)):
    x = p.sample((100_000,))
    zeros, expected = (x == 0).float().mean().item(), p.log_prob(torch.zeros(())).exp().item()
    print(
        f"{name:<5} mean {x.mean():.2f} ({p.mean:.2f})   "
        f"variance {x.var():.2f} ({p.variance:.2f})   zeros {zeros:.3f} ({expected:.3f})"
    )
    result[f"zeros_error_{name}"] = abs(zeros - expected)

# %% [markdown]
# ## From an h5ad
#
# `setup_anndata` declares which columns hold the batch and the labels. The model checks every value
# once, before training: negative, fractional or missing counts raise a `ValueError` that names cell
# and gene, and so do log-normalized data. Later data are matched to the model's genes by name.

# %%
if options.quick:
    path = Path(tempfile.mkdtemp()) / "cells.h5ad"
    simulate(cells=1500, genes=200, types=4, batches=2, seed=0).to_anndata().write_h5ad(path)
else:
    root = Path(os.environ.get("PYROVAE_DATA", "data"))
    path = root / "single_cell" / "pbmc_kang18_ctrl_5donors_2511g.h5ad"
adata = anndata.read_h5ad(path)
types = adata.obs["cell_type"].astype(str).to_numpy()
batches = adata.obs["batch"].astype(str).to_numpy()
totals = np.asarray(adata.X.sum(1)).ravel()
print(
    f"{adata.n_obs} cells, {adata.n_vars} genes, "
    f"{len(set(types))} types, {len(set(batches))} batches"
)
print(f"{adata.X.nnz / np.prod(adata.shape):.0%} of the counts are nonzero")

SingleCellVAE.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
model = SingleCellVAE(adata, n_hidden=64 if options.quick else 128, n_latent=10, seed=0)
model.train(
    max_epochs=60 if options.quick else 40, lr=4e-3 if options.quick else 1e-3, progress=False
)

# %% [markdown]
# ## The bound, term by term
#
# The bound has three terms: the reconstruction of the counts, and one KL for each latent. Only the
# KL of z is warmed up; that of l always has weight 1. log p(x), estimated by importance sampling,
# lies above the bound: the gap is the KL between the Gaussian q and the exact posterior. Two
# hundred draws are few for single cells, and `pv.EvidenceWarning` says so; means over cells can be
# compared all the same.

# %%
warnings.simplefilter("ignore", pv.EvidenceWarning)
held_out = model.validation_indices
elbo = model.get_elbo(indices=held_out)
log_p = model.get_marginal_ll(indices=held_out, n_mc_samples=200)
print(f"held-out cells: ELBO {elbo:.1f} <= log p(x) {log_p:.1f} nats per cell")
result |= {"elbo": elbo, "log_p": log_p}

history = model.history
figure = Figure(figsize=(9, 3.2), layout="constrained")
left, right = figure.subplots(1, 2)
for name, label in (("elbo", "training"), ("validation_elbo", "held out")):
    left.plot(history[name].index[2:] + 1, history[name][name].iloc[2:], label=label)
left.set(xlabel="epoch", ylabel="ELBO, nats per cell")
left.legend()
right.plot(history["beta"].index + 1, history["beta"]["beta"], color="tab:red")
right.set(xlabel="epoch", ylabel="weight of KL(q(z) || p(z))")
figure.savefig(options.output / "11_training.png")

# %% [markdown]
# ## z: clusters without the batch
#
# The decoder takes the batch as input, so z need not encode it. For comparison, the common
# shortcut: principal components of log-normalized counts. Both embeddings are clustered by k-means
# and scored against the cell types (adjusted Rand index; 1 is perfect).

# %%
z = model.get_latent_representation()
adata.obsm["X_pyrovae"] = z  # the library itself never writes into the AnnData
logs = np.log1p(1e4 * adata.X.toarray() / totals[:, None])
components = PCA(10, random_state=0).fit_transform(logs)


def score(embedding):
    """Return the adjusted Rand index of k-means clusters of an embedding against the cell types."""
    kmeans = KMeans(len(set(types)), n_init=10, random_state=0)
    return adjusted_rand_score(types, kmeans.fit_predict(embedding))


result |= {"ari": score(z), "ari_pca": score(components)}
print(f"adjusted Rand index: z {result['ari']:.3f}, PCA of log counts {result['ari_pca']:.3f}")

figure = Figure(figsize=(9, 8), layout="constrained")
embeddings = {"z of the count model": z, "PCA of log counts": components}
for row, (name, embedding) in zip(figure.subplots(2, 2), embeddings.items(), strict=True):
    plane = PCA(2).fit_transform(embedding)
    for axes, groups, what in zip(row, (types, batches), ("cell type", "batch"), strict=True):
        for group in sorted(set(groups)):
            axes.scatter(*plane[groups == group].T, s=3, label=group)
        axes.set(title=f"{name}, by {what}", xticks=[], yticks=[])
        axes.legend(markerscale=3, fontsize=7)
figure.savefig(options.output / "11_latent.png")

# %% [markdown]
# ## l: the library size
#
# The posterior library size e^l tracks the observed total but does not equal it: the counts are
# noisy, and the size is shrunk towards the prior mean of the batch.

# %%
sizes = model.get_latent_library_size().ravel()
result["library_correlation"] = float(np.corrcoef(np.log(sizes), np.log(totals))[0, 1])
print(f"correlation of log library size with log total: {result['library_correlation']:.3f}")

# %% [markdown]
# ## Posterior predictive check
#
# Draws from the posterior predictive p(x' | x) should have the same mean per gene and the same
# fraction of zeros per gene as the data.

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
axes[1].set(xscale="log", yscale="log")
axes[1].set(xlabel="mean count per gene, data", ylabel="mean count per gene, drawn")
axes[2].scatter(data_zero, drawn_zero, s=4)
axes[2].set(xlabel="fraction of zeros per gene, data", ylabel="fraction of zeros per gene, drawn")
axes[0].xaxis.set_minor_formatter(NullFormatter())
for panel in axes:
    low = max(panel.get_xlim()[0], panel.get_ylim()[0])
    high = min(panel.get_xlim()[1], panel.get_ylim()[1])
    panel.plot([low, high], [low, high], color="black", linewidth=0.8)
figure.savefig(options.output / "11_predictive.png")

# %% [markdown]
# ## Corrected expression
#
# rho(z, s) decoded with the same batch s for every cell: an estimate of the cell's expression had
# it been measured in that batch. For simulated cells the true proportions are known, so the error
# of the decoded proportions can be compared with that of counts divided by their total.

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
        f"distance from the true proportions: decoded {result['rho_error']:.3f}, "
        f"counts over totals {result['plain_error']:.3f}"
    )

# %% [markdown]
# ## Differential expression
#
# For pairs of cells from two groups, draw z for each cell, decode both, and count how often the
# absolute log2 fold change exceeds 0.25. The result is a posterior probability per gene, not a
# p-value.

# %%
first = sorted(set(types))[0]
table = model.differential_expression("cell_type", group1=first)
print(table[["lfc_mean", "proba_de", "raw_mean1", "raw_mean2"]].head(8).round(3))
if "marker_of" in adata.var:
    markers = adata.var["marker_of"].str.contains(first)
    top = table[table["lfc_mean"] > 0].index[: int(markers.sum())]
    result["markers_found"] = float(markers.loc[top].mean())
    print(
        f"{len(top)} most probable genes with higher expression: {result['markers_found']:.0%} "
        f"are markers of {first}, of all genes {markers.mean():.0%}"
    )

# %% [markdown]
# ## Another posterior
#
# `SingleCellVAE` is an interface for AnnData. The model itself is `pv.CountVAE`, a graph in the
# sense of this library (a pair of Pyro programs, model and guide), and it takes any prior and
# posterior of the library as an argument.

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
objective = pv.objectives.SGVB_B(annealed={"z"})
fitted = pv.fit(graph, adata.X, epochs=3, objective=objective, progress=False, seed=0)
result["own_posterior_rises"] = fitted.elbo[-1] - fitted.elbo[0]

print("RESULT " + json.dumps(result))
