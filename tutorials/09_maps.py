# %% [markdown]
# # 09 · Maps
#
# A latent vector has no places: nothing says which of its numbers belongs to the top of a picture.
# The last part of N4 (after Wang, Yuan and Ji, 2019; N0 to N4 are the notes that the course
# follows) lets the latents be $N$ maps of $d\times d$ numbers instead, $F_1,\dots,F_N$, from which
# a convolutional decoder starts. Each map has a matrix-variate normal posterior:
#
# $$F=M+AEB^\top,\quad E_{ij}\sim N(0,1)\quad\Longleftrightarrow\quad
#   \mathrm{vec}(F^\top)\sim N(\mathrm{vec}(M^\top),\Omega\otimes\Psi),\qquad
#   \Omega=AA^\top,\ \Psi=BB^\top .$$
#
# `PYROVAE_QUICK=1` or `--quick` runs it on 8 x 8 digits; otherwise it takes 10,000 images of MNIST.

# %%
import os
import sys
from functools import partial

import matplotlib.pyplot as plt
import torch
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal
from torch.nn.functional import pad

import pyrovae as pv
from pyrovae import datasets, likelihoods, nets, objectives, posteriors, priors
from pyrovae.distributions import MatrixNormal, kl_divergence

QUICK = "--quick" in sys.argv or os.environ.get("PYROVAE_QUICK") == "1"
data = datasets.digits() if QUICK else datasets.mnist()
x, test = (torch.from_numpy(part[:10_000]).float() / data.x.max() for part in (data.x, data.x_test))
torch.manual_seed(0)
test, kinds = test[:2_000].bernoulli(), torch.from_numpy(data.labels_test[:2_000])
N, d, channels, epochs, rate = (3, 4, (16,), 40, 5e-3) if QUICK else (4, 7, (16, 32), 12, 2e-3)
latents, pixels, shape, height = N * d * d, x[0].numel(), x.shape[1:], x.shape[2]

# %% [markdown]
# ## A normal distribution of matrices
#
# Three checks in double precision, with matrices of 3 x 2: the density is that of the flattened
# matrix, draws have the covariance $\Omega\otimes\Psi$, and the divergence from $N(0,I)$, which the
# ELBO needs, has a closed form. For $n\times m$ matrices
#
# $$\mathrm{KL}=\tfrac12\bigl(\mathrm{tr}\,\Omega\,\mathrm{tr}\,\Psi+\lVert M\rVert^2
#   -m\log\det\Omega-n\log\det\Psi-nm\bigr).$$
#
# Last check: one scale is redundant, $(c\,\Omega,\Psi/c)$ is the same distribution for all $c>0$.

# %%
n, m, draws = 3, 2, 200_000
M, A, B = (torch.randn(*size, dtype=torch.double) for size in ((n, m), (n, n), (m, m)))
A, B = (part.tril(-1) + part.diagonal().abs().add(0.5).diag() for part in (A, B))
omega, psi = A @ A.T, B @ B.T
p = MatrixNormal(M, row_tril=A, column_tril=B)
F = M + A @ torch.randn(draws, n, m, dtype=torch.double) @ B.T
S = torch.kron(omega, psi)
flat = MultivariateNormal(M.flatten(), S)
assert torch.allclose(p.log_prob(F), flat.log_prob(F.flatten(1)), atol=1e-10)
error = ((S.diag()[:, None] * S.diag() + S**2) / draws).sqrt()  # of a covariance from draws
assert ((F.flatten(1).T.cov() - S) / error).abs().max() < 4.5
standard = Independent(Normal(torch.zeros_like(M), 1.0), 2)
kl = omega.trace() * psi.trace() + M.square().sum() - m * omega.logdet() - n * psi.logdet() - n * m
assert torch.allclose(kl_divergence(p, standard), kl / 2)
ratio = p.log_prob(F) - standard.log_prob(F)
assert abs(ratio.mean() - kl / 2) < 4.5 * ratio.std() / draws**0.5
same = MatrixNormal(M, row_tril=3 * A, column_tril=B / 3)
assert torch.allclose(same.log_prob(F), p.log_prob(F))

# %% [markdown]
# ## How many numbers, and what is independent of what
#
# In the paper $\Omega$ and $\Psi$ are diagonal. A vector needs a mean and a scale for each latent,
# $2d^2N$ numbers; maps need $(d^2+2d)N$. (N4 says that the decoder outputs them. It is the
# encoder.) The low-rank variant, whose means have rank one, $\mu\nu^\top$, needs $4dN$.

# %%
count = posteriors.MatrixNormal.parameters_of
d0, N0 = 3, 64  # of the paper
numbers = {"vector": 2 * d0**2 * N0, "MVN": count(N0, d0), "low rank": count(N0, d0, rank=1)}
assert (numbers["MVN"], numbers["low rank"]) == ((d0**2 + 2 * d0) * N0, 4 * d0 * N0)
low_rank = posteriors.MatrixNormal(torch.nn.Linear(5, numbers["low rank"]), N0, d0, rank=1)
assert torch.linalg.svdvals(low_rank(torch.randn(7, 5)).maps.loc)[..., 1:].max() < 1e-5

# %% [markdown]
# The paper speaks of dependence between the places of a map. With *diagonal* factors there is none:
# $\Omega\otimes\Psi$ is then diagonal too, and given $x$ all entries are independent. What rows and
# columns share is their scale. So these posteriors are a *subset* of those of an ordinary vector:
# for a given decoder their best ELBO is never higher. They need fewer numbers. Only dense factors
# (`dense=True`) correlate neighbours, in the picture on the right.

# %%
steps = torch.arange(5.0)
near = torch.linalg.cholesky(0.6 ** (steps[:, None] - steps).abs())
pair = {
    "diagonal": MatrixNormal(torch.zeros(5, 5), 1 + steps / 4, 1 + steps / 4),
    "dense": MatrixNormal(torch.zeros(5, 5), row_tril=near, column_tril=near),
}
assert not pair["diagonal"].covariance_matrix.tril(-1).any()
axes = plt.figure(figsize=(8, 3.6), layout="constrained").subplots(1, 2)
for ax, (name, q) in zip(axes, pair.items(), strict=True):
    ax.imshow(q.covariance_matrix.numpy())
    ax.set(title=f"Covariance of 25 entries, {name} factors", xlabel="entry", ylabel="entry")
plt.show()

# %% [markdown]
# ## Four autoencoders
#
# The same encoder up to its last layer, and as many latents, in four models. Three share a decoder
# that starts from maps, `nets.MapDecoder`, and differ in the posterior: a vector's, a matrix
# normal, and one of low rank. The fourth, "ordinary", has a vector's posterior and the usual
# convolutional decoder, whose first layer is linear and mixes all latents.


# %%
def model(name):
    matrix, rank = name in ("MVN", "low rank"), 1 if name == "low rank" else None
    f = nets.MLP(shape, [256], count(N, d, rank) if matrix else 2 * latents)
    q = posteriors.MatrixNormal(f, N, d, rank) if matrix else posteriors.DiagonalNormal(f)
    usual = nets.ConvDecoder(latents, shape, channels)
    g = usual if name == "ordinary" else nets.MapDecoder(N, d, shape, channels)
    return pv.VAE(priors.StandardNormal(latents), q, likelihoods.Bernoulli(g))


options = {"optimizer": partial(torch.optim.Adam, lr=rate), "transform": pv.batches.binarize}
options |= {"objective": objectives.SGVB_B(beta=objectives.warm_up(0.5)), "epochs": epochs}
torch.manual_seed(0)
graphs = {name: model(name).eval() for name in ("ordinary", "vector", "MVN", "low rank")}
for graph in graphs.values():
    pv.fit(graph, x, seed=0, progress=False, **options)

# %% [markdown]
# The paper's published code averages the cross entropy over the pixels and the KL over the latents.
# Their sum, below, is no bound on $\log p(x)$: times the number of pixels it is the ELBO's loss
# with the weight $\beta$ = pixels / latents on the KL, 1.36 for 784 pixels and 64 maps of 3 x 3.

# %%
pixel = Bernoulli(x.mean(0).clamp(1e-3, 1 - 1e-3))
table = {"no latents": pixel.log_prob(test).sum((1, 2, 3)).mean().item()}
print(f"independent pixels, without latents: {table['no latents']:.2f} nats per test image")
for name, graph in graphs.items():
    elbo, fit_of_x, kl = (part.mean().item() for part in pv.elbo(graph, test, samples=5))
    published = -fit_of_x / pixels + kl / latents
    rmse = (pv.reconstruct(graph, test) - test).square().mean().sqrt().item()
    table[name] = elbo
    print(f"{name:9} ELBO {elbo:.2f}  KL {kl:.2f}  RMSE {rmse:.3f}  published loss {published:.3f}")
    assert abs(pixels * published + elbo - (pixels / latents - 1) * kl) < 1e-3
assert table["ordinary"] > max(table["vector"], table["MVN"]) > table["low rank"] + 0.5
assert table["no latents"] < table["MVN"] < table["vector"] + 0.5

# %% [markdown]
# So maps buy no likelihood: the ordinary decoder, whose every latent may act on the whole picture,
# has the best ELBO. Over the same maps the matrix normal is not better than a vector here. With one
# decoder and the best $q$ it could not be; trained models have decoders of their own. The low rank
# costs most; in quick mode it has hardly begun to learn, and is below independent pixels.
#
# ## The top of one picture on another
#
# What maps do buy: their numbers have a place. Encode sevens and fours, put the top row of a
# seven's maps (in full mode the top three of seven) over a four's, and decode. Each convolution
# reaches one row further and each upsampling repeats rows, so one can count below which row no
# pixel changes.
#
# Does a vector have such a part? Give it the best chance: rank its numbers by how much of their
# change lies in the top half, and exchange them in this order, until as much of the top has changed
# as with maps. By then much of the bottom has changed too.

# %%
h, rows, reach = height // 2, *((1, 6) if QUICK else (3, 20))
ends = {"seven": test[kinds == 7][:30], "four": test[kinds == 4][:30]}
codes = {name: [pv.embed(graph, part) for part in ends.values()] for name, graph in graphs.items()}


@torch.no_grad()
def exchanged(name, which):
    """Return the pictures, and their change by row and half, as a share of that of all numbers."""
    (a, b), net = codes[name], graphs[name].likelihood.net
    y, seven, four = (net(z).sigmoid() for z in (torch.where(which, a, b), a, b))
    moved, whole = ((part - four).square().sum((0, 1, 3)) for part in (y, seven))
    return y, moved, (moved[:h].sum() / whole[:h].sum(), moved[h:].sum() / whole[h:].sum())


top_row = (torch.arange(d)[:, None] < rows).expand(N, d, d).flatten()
results = {name: exchanged(name, top_row) for name in ("vector", "MVN")}
each = [exchanged("ordinary", row)[2] for row in torch.eye(latents).bool()]
best = torch.tensor([top / (top + bottom) for top, bottom in each]).argsort(descending=True)
for size in range(1, latents + 1):
    results["ordinary"] = exchanged("ordinary", torch.isin(torch.arange(latents), best[:size]))
    if results["ordinary"][2][0] >= results["MVN"][2][0]:
        break
for name, (_, moved, (top, bottom)) in results.items():
    print(f"{name:9} {top:4.0%} of the change of the top half, {bottom:4.0%} of the bottom's")
    assert (moved[reach:] == 0).all() == (name != "ordinary")
    assert (bottom < 0.2 * top) == (name != "ordinary")


def show(title, pictures):
    tiles = [pad(part[:12, 0], (0, 1, 0, 1), value=0.5) for part in pictures.values()]
    picture = torch.cat([torch.cat([*part], 1) for part in tiles])
    ax = plt.figure(figsize=(9, 0.6 + 0.75 * len(pictures)), layout="constrained").gca()
    ax.imshow(picture.numpy(), cmap="gray")
    ax.set(title=title, xticks=[])
    ax.set_yticks([(height + 1) * (i + 0.5) for i in range(len(pictures))], [*pictures])
    plt.show()


pictures = {name: pv.reconstruct(graphs["MVN"], part) for name, part in ends.items()}
show("The top of a seven on a four", pictures | {name: y for name, (y, *_) in results.items()})
ax = plt.figure(figsize=(7, 3.2), layout="constrained").gca()
for name, (_, moved, _) in results.items():
    ax.plot((moved / moved.sum()).numpy(), "o-", label=name)
ax.set(title="Where the picture changes", xlabel="row of the picture", ylabel="share of the change")
ax.legend()
plt.show()

# %% [markdown]
# "vector" and "MVN" do the same: in full mode many fours get a bar and turn into nines. It is the
# *decoder* that gives latents places, whatever the posterior; the matrix normal saves numbers only.
#
# ## What places cost
#
# The prior is $N(0,I)$, so that places are independent in it: nothing says which top goes with
# which bottom. How much do the upper and the lower third of pictures have to do with each other?
# With the covariance $C$ of all pixels and its blocks for the two thirds, the RV coefficient
# (Escoufier, 1973) is 0 if they are uncorrelated, 1 if one is a rotation of the other:
#
# $$\mathrm{RV}=\lVert C_{ab}\rVert^2\,/\,(\lVert C_{aa}\rVert\,\lVert C_{bb}\rVert).$$


# %%
def rv(images):
    c, k = images.flatten(1).T.cov(), height // 3 * shape[2]
    return (c[:k, -k:].square().sum() / (c[:k, :k].norm() * c[-k:, -k:].norm())).item()


found = {name: rv(pv.generate(graphs[name], 2_000, mean=False, seed=0)) for name in results}
found["test images"] = rv(test)
print("RV of the outer thirds:", {name: f"{value:.3f}" for name, value in found.items()})
assert min(found["test images"], found["ordinary"]) > 2 * max(found["vector"], found["MVN"])
show("Samples", {name: pv.generate(graphs[name], 12, seed=0) for name in results})

# %% [markdown]
# Use maps where a part of the latents has to mean a part of the picture; an ordinary decoder where
# likelihood or samples matter, or use a prior that models all places jointly. `benchmarks/maps.py`
# has 64 maps of 3 x 3 over seeds: there the matrix normal is as good as the vector or better, and
# the low rank costs some of the reconstruction, but no ELBO.
#
# **Exercises.** 1. Fit the matrix normal with `dense=True`. How much of its KL is due to the
# correlations? 2. Count the reach of one row of 3 x 3 maps through the default `MapDecoder`.
# Answers: `tutorials/answers/09_maps.py`. **Next:** 10 gives latents that are a picture's pose.
