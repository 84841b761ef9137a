# %% [markdown]
# # 17 · Learned priors: which one is the best?
#
# The notes take $p(z)=N(0,I)$ throughout; N4 asks how the latent distribution should be chosen and
# answers that the decoder can bend a normal one into any other (N0 to N4 are the notes that the
# course follows; `tutorials/README.md` introduces them). Can it, with a small decoder and a
# Gaussian encoder? This script splits the KL of the notes' bound (N0, equation 28) into the two
# parts that matter for the prior, finds the best prior, and compares two approximations of it, the
# VampPrior (Tomczak and Welling, 2018) and a flow, with the mixture of script 07.
#
# $$-E_{x}\,\mathrm{KL}\bigl(q(z\mid x)\,\Vert\,p(z)\bigr)=-I(x;z)
#   -\mathrm{KL}\bigl(q_\text{agg}(z)\,\Vert\,p(z)\bigr),\qquad
#   q_\text{agg}(z)=\frac1N\sum_nq(z\mid x_n).$$
#
# `PYROVAE_QUICK=1` or `--quick` runs its last part on 8 x 8 digits; otherwise on 10,000 images of
# MNIST.

# %%
import math
import os
import sys
import warnings
from functools import partial

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

import pyrovae as pv
from pyrovae import datasets, likelihoods, nets, objectives, posteriors, priors

QUICK = "--quick" in sys.argv or os.environ.get("PYROVAE_QUICK") == "1"
torch.manual_seed(0)

# %% [markdown]
# ## Data whose codes have a shape
#
# Points on a spiral in the plane, with a little noise, are placed in ten dimensions by a linear
# map, and get Gaussian noise of standard deviation 0.3. The models below know this noise, and have
# a *linear* decoder: nothing bends. With the prior $N(0,I)$ such a model is probabilistic PCA, its
# $p(x)$ is one Gaussian, and no training makes it a spiral. All shape has to come from the prior.
# Two latents allow us to integrate over a grid, so every $\log p(x)$ of this part is exact, that of
# the truth included.

# %%
W = torch.linalg.qr(torch.randn(10, 2)).Q.T  # (2, 10), orthonormal rows


def spiral(t):
    return torch.stack([t.cos(), t.sin()], -1) * t[..., None] / 4


angles, sigma = 3 + 7 * torch.rand(4_400), 0.3
codes = spiral(angles) + 0.1 * torch.randn(4_400, 2)
x, test = (codes @ W + sigma * torch.randn(4_400, 10)).split([4_000, 400])
t = torch.linspace(3, 10, 2_001)
spread = torch.tensor(0.1**2 + sigma**2).sqrt()  # along the plane; sigma across it
in_plane = Normal(spiral(t), spread).log_prob((test @ W.T)[:, None]).sum(-1)
across = test - test @ W.T @ W
off_plane = -across.square().sum(1) / (2 * sigma**2) - 4 * math.log(2 * math.pi * sigma**2)
truth = (in_plane.logsumexp(1) - math.log(len(t)) + off_plane).mean().item()

step = 0.1
axis = torch.arange(-6, 6, step) + step / 2
grid = torch.cartesian_prod(axis, axis)


def fitted(make_prior):
    torch.manual_seed(0)
    q = posteriors.DiagonalNormal(nets.MLP(10, [64], 4))
    graph = pv.VAE(make_prior(q), q, likelihoods.Gaussian(nn.Linear(2, 10), sigma))
    adam = partial(torch.optim.Adam, lr=5e-3)
    pv.fit(graph, x, epochs=30, batch_size=100, optimizer=adam, seed=0, progress=False)
    return graph.eval()


@torch.no_grad()
def log_p(graph, rows, log_prior):
    """log p(x) of each row, by the sum over the grid."""
    joint = log_prior + 2 * math.log(step)
    p = graph.likelihood(grid)
    return torch.cat([(joint + p.log_prob(row)).logsumexp(0, keepdim=True) for row in rows])


plain = fitted(lambda q: priors.StandardNormal(2))
log_prior = plain.prior().log_prob(grid)
print(f"log p(x): N(0, I) {log_p(plain, test, log_prior).mean():.3f}, the truth {truth:.3f}")

# %% [markdown]
# ## The KL in two parts
#
# Add and subtract $\log q_\text{agg}(z)$ within the KL, and average over the data:
#
# $$E_xE_{q(z\mid x)}\Bigl[\log\frac{q(z\mid x)}{q_\text{agg}(z)}
#   +\log\frac{q_\text{agg}(z)}{p(z)}\Bigr]
#   =E_x\mathrm{KL}(q(z\mid x)\Vert q_\text{agg})+\mathrm{KL}(q_\text{agg}\Vert p),$$
#
# because $E_xE_{q(z\mid x)}$ is an expectation over $q_\text{agg}$. The first part is the mutual
# information $I(x;z)$ of a row and its code, at most $\log N$. It does not contain the prior. So
# for a given encoder *the best prior is the aggregate posterior*, and it leaves $I(x;z)$ as KL. All
# three numbers are integrals over the plane, here for 50 rows.

# %%
rows = x[:50]
with torch.no_grad():
    q = plain.posterior(rows)
    left = kl_divergence(q, plain.prior().expand((50,))).mean().item()
    log_q = q.log_prob(grid[:, None])  # (grid, rows)
    log_agg = log_q.logsumexp(1) - math.log(50)
    information = ((log_q.exp() * (log_q - log_agg[:, None])).sum(0) * step**2).mean().item()
    from_prior = (log_agg.exp() * (log_agg - log_prior)).sum().item() * step**2
print(f"E KL(q || p) {left:.4f} = I(x; z) {information:.4f} + KL(q_agg || p) {from_prior:.4f}")
assert abs(left - information - from_prior) < 1e-3
assert 0 < information < math.log(50)
assert from_prior > 0

# %% [markdown]
# ## The best prior, and why it is not used
#
# Put $q_\text{agg}$ of these 50 rows in the place of $N(0,I)$, and change nothing else. Their
# bound rises by exactly $\mathrm{KL}(q_\text{agg}\Vert p)$. On test rows it rises by much less, for
# three seeds by 0.02 to 0.09 nats: most of the gain is the prior's knowledge of these 50 codes, and
# a test row whose code is far from all of them loses. With more rows the difference vanishes, but
# each density of this prior needs as many encodings as it has rows. The VampPrior keeps the form
# and few components, $p(z)=\frac1K\sum_kq(z\mid u_k)$, at *pseudo-inputs* $u_k$ that are learned.
# It shares the encoder, whose parameters count once.

# %%
with torch.no_grad():
    q = plain.posterior(test)
    weights = q.log_prob(grid[:, None]).exp() * step**2
    rise = ((log_agg - log_prior)[:, None] * weights).sum(0).mean().item()
print(f"the bound rises by {from_prior:.3f} on these rows, by {rise:.3f} on test rows")
assert rise < from_prior / 2
kinds = {
    "mixture": lambda q: priors.Mixture(2, 20),
    "VampPrior": lambda q: priors.Vamp(q, x[:20]),
    "flow": lambda q: priors.Flow(2, hidden=(64,)),
}
models = {"N(0, I)": plain} | {name: fitted(make) for name, make in kinds.items()}
numbers = {name: sum(p.numel() for p in graph.parameters()) for name, graph in models.items()}
assert numbers["VampPrior"] - numbers["N(0, I)"] == 20 * 10  # the pseudo-inputs alone

# %% [markdown]
# ## Four priors on the spiral
#
# A flow is an invertible network with a known density (script 08). As a prior it must give the
# density of *given* values fast, which is why it runs in the other direction than a posterior's. In
# the picture are the densities, and the codes of test rows. The mixture and the VampPrior take the
# shape of the codes and cover about four fifths of the way from $N(0,I)$ to the truth. This small
# flow makes a ring that is not empty inside, and covers two fifths to a half. It is the same spiral
# up to a linear map: the decoder may turn and stretch it.

# %%
exact, densities = {}, {}
with torch.no_grad():
    for name, graph in models.items():
        density = graph.prior().log_prob(grid)
        assert abs(density.exp().sum() * step**2 - 1) < 0.01
        exact[name], densities[name] = log_p(graph, test, density), density.exp()
panels = plt.figure(figsize=(11, 3.2), layout="constrained").subplots(1, 4)
for panel, (name, density) in zip(panels, densities.items(), strict=True):
    panel.contourf(axis, axis, density.view(len(axis), -1).T, levels=12, cmap="Blues")
    z = pv.embed(models[name], test)
    panel.scatter(*z.T.numpy(), s=2, c="k", alpha=0.4)
    panel.set(title=name, xlim=(-4, 4), ylim=(-4, 4))
plt.show()
base = exact["N(0, I)"].mean().item()
assert base < truth - 0.3
gains = {name: values.mean().item() - base for name, values in exact.items()}
print(f"gain over N(0, I), of {truth - base:.3f} that are possible:", gains)
for name in kinds:
    assert 0.3 < gains[name] / (truth - base) < 1.02

# %% [markdown]
# ## And on images?
#
# There the decoder is a network, which can bend. Whether a learned prior pays then depends on the
# data, the network and the number of images. All models see the same images, so their differences
# in $\log p(x)$ are paired, image by image, and have small standard errors. On the digits the gains
# are 0.1 to 0.5 nats; on 10,000 images of MNIST and with twenty latents they are larger, for each
# of the three. (With all 55,000 images, 40 latents and three seeds, `benchmarks/priors.py` measures
# about 2 nats.) The bits are those of the whole course, drawn anew at each visit in training and
# once for the test images. The library's warning of heavy-tailed importance weights is silenced,
# since all models get the same number of draws.

# %%
warnings.simplefilter("ignore", pv.EvidenceWarning)
data = datasets.digits() if QUICK else datasets.mnist()
grey, grey_test = (torch.from_numpy(x).float() / data.x.max() for x in (data.x, data.x_test))
grey, grey_test = grey[:10_000], grey_test[:1_000]
bits = torch.bernoulli(grey_test, generator=torch.Generator().manual_seed(0))
shape, (d, hidden, epochs) = grey.shape[1:], (6, 128, 80) if QUICK else (20, 300, 40)
starts = grey[:: len(grey) // 50][:50]
kinds = {
    "N(0, I)": lambda q: priors.StandardNormal(d),
    "mixture": lambda q: priors.Mixture(d, 50),
    "VampPrior": lambda q: priors.Vamp(q, starts, low=0.0, high=1.0),
    "flow": lambda q: priors.Flow(d, hidden=(64,)),
}
found, samples = {}, {}
for name, make in kinds.items():
    torch.manual_seed(0)
    q = posteriors.DiagonalNormal(nets.MLP(shape, [hidden] * 2, 2 * d))
    graph = pv.VAE(make(q), q, likelihoods.Bernoulli(nets.MLP(d, [hidden] * 2, shape)))
    how = {"objective": objectives.SGVB_B(beta=objectives.warm_up(0.5)), "epochs": epochs}
    how |= {"optimizer": partial(torch.optim.Adam, lr=4e-3 if QUICK else 1e-3), "batch_size": 200}
    pv.fit(graph, grey, transform=pv.batches.binarize, seed=0, progress=False, **how)
    found[name] = pv.log_evidence(graph.eval(), bits, samples=200).log_p
    gain = found[name] - found["N(0, I)"]
    error = (gain.std() / len(bits) ** 0.5).item()
    print(f"{name:9} log p(x) {found[name].mean():.2f}, gain {gain.mean():.2f} +- {error:.2f}")
    samples[name] = pv.generate(graph, 14, seed=0)
    if name != "N(0, I)" and not QUICK:
        assert gain.mean() > 3 * error
best = max(found, key=lambda name: found[name].mean())
assert best != "N(0, I)"
picture = torch.cat([torch.cat([*images[:, 0]], 1) for images in samples.values()])
panel = plt.figure(figsize=(9, 3.4), layout="constrained").gca()
panel.imshow(picture.numpy(), cmap="gray")
panel.set(title="Samples", xticks=[])
panel.set_yticks([shape[1] * (i + 0.5) for i in range(4)], [*samples])
plt.show()

# %% [markdown]
# **Exercises.** 1. Which prior is the best for an encoder that ignores $x$, and what are the two
# parts of the KL then? 2. Fit the spiral with $N(0,I)$ and a decoder of one hidden layer. Is a
# learned prior still worth anything? Answers: `tutorials/answers/17_learned_priors.py`.
# **Next:** 09 gives latents a place in the picture.
