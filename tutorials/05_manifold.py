# %% [markdown]
# # 05 · The manifold
#
# With two latents a VAE can be looked at as a whole: a map of the plane onto images. This script
# follows N3's convolutional VAE (the Keras example), N0's walk from a 3 to an 8 and N4's question
# why a standard normal prior is enough (N0 to N4 are the notes that the course follows). First it
# settles what N3's objective is, since the notes' formula and the notes' code are two things.
#
# $$J=-\tfrac12\lVert x-\mu_G(z)\rVert^2-\lambda\,\mathrm{KL}(q(z\mid x)\,\Vert\,p(z))
#   \qquad\text{(N3, equation 5)}$$
#
# `PYROVAE_QUICK=1` or `--quick` runs it on 8 x 8 digits; otherwise it takes 10,000 images of MNIST.

# %%
import math
import os
import sys
from functools import partial

import matplotlib.pyplot as plt
import torch
from torch.distributions import kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits, pad

import pyrovae as pv
from pyrovae import datasets, likelihoods, nets, posteriors, priors, scores

QUICK = "--quick" in sys.argv or os.environ.get("PYROVAE_QUICK") == "1"
data = datasets.digits() if QUICK else datasets.mnist()
x, test = (torch.from_numpy(part[:10_000]).float() / data.x.max() for part in (data.x, data.x_test))
labels, kinds = (torch.from_numpy(part).long() for part in (data.labels, data.labels_test))
test, labels, kinds, shape = test[:2_000], labels[: len(x)], kinds[:2_000], x.shape[1:]
n = x[0].numel()
hidden, epochs, rate = (200, 40, 3e-3) if QUICK else (400, 15, 1e-3)


def variational(d, sigma=0.15, learned=True):
    f, g = nets.MLP(shape, [hidden], 2 * d), nets.MLP(d, [hidden], shape)
    p = likelihoods.Gaussian(g, sigma, learned=learned)
    return pv.VAE(priors.StandardNormal(d), posteriors.DiagonalNormal(f), p)


def fit(make, *arguments, rows=x, epochs=epochs, rate=rate):
    torch.manual_seed(0)
    graph = make(*arguments)
    adam = partial(torch.optim.Adam, lr=rate)
    pv.fit(graph, rows, optimizer=adam, epochs=epochs, batch_size=50, seed=0, progress=False)
    return graph.eval()


def show(title, rows):
    tiles = [pad(images[:, 0], (0, 1, 0, 1), value=0.5) for images in rows.values()]
    picture = torch.cat([torch.cat([*images], 1) for images in tiles])
    ax = plt.figure(figsize=(9, 0.6 + 0.85 * len(rows)), layout="constrained").gca()
    ax.imshow(picture.clamp(0, 1).numpy(), cmap="gray")
    ax.set(title=title, xticks=[])
    ax.set_yticks([(shape[1] + 1) * (i + 0.5) for i in range(len(rows))], [*rows])
    plt.show()


# %% [markdown]
# ## What the weight of the KL is
#
# N3 calls $\lambda$ a hyperparameter between reconstruction and KL. It is not free. Let the
# likelihood be $N(\mu_G(z),\lambda I)$, with $\lambda$ as its noise variance. For $n$ pixels
#
# $$\mathrm{ELBO}=-\frac{\lVert x-\mu_G\rVert^2}{2\lambda}-\frac n2\log(2\pi\lambda)-\mathrm{KL}
#   \quad\Longrightarrow\quad \lambda\Bigl(\mathrm{ELBO}+\frac n2\log 2\pi\lambda\Bigr)=J .$$
#
# So each $\lambda$ is another model of the same data, their ELBOs are comparable, and the noise
# variance can be learned like any parameter. Where the derivative of the ELBO in $\lambda$ is zero,
# $\lambda$ is the mean squared error of a pixel, $\mathrm E\lVert x-\mu_G\rVert^2/n$. Who writes
# "squared error plus KL" without a weight has chosen $\lambda=\tfrac12$ or 1: noise about as wide
# as the whole range of a grey value.

# %%
lam, vae = 0.1, variational(2, 0.1**0.5, False)
q = vae.posterior(x[:100])
z, kl = q.rsample(), kl_divergence(q, vae.prior().expand((100,)))
elbo = vae.likelihood(z).log_prob(x[:100]) - kl
mean = vae.likelihood.net(z)
J = -(x[:100] - mean).square().flatten(1).sum(1) / 2 - lam * kl
assert torch.allclose(lam * (elbo + n / 2 * math.log(2 * math.pi * lam)), J, atol=1e-4)

# %% [markdown]
# N3's *code*, from Keras, has something else: binary cross entropy of grey values, and $\lambda=1$.
# For bits that is a negative log likelihood, for grey values it is none: the "density"
# $p^x(1-p)^{1-x}$ on $[0,1]$ does not integrate to one. What is missing is a factor $C$, and with
# it the likelihood is the continuous Bernoulli (Loaiza-Ganem and Cunningham, 2019):
#
# $$\log p(x)=-\mathrm{BCE}(x,p)+\log C(p),\qquad
#   C(p)=\frac{2\,\mathrm{artanh}(1-2p)}{1-2p}\;\ge 2 .$$
#
# The factor is least at $p=\tfrac12$ and grows without bound towards 0 and 1, so that a loss
# without it undervalues black and white pixels. With it $p$ is no longer the mean of a pixel: the
# mean of a continuous Bernoulli lies between $p$ and $\tfrac12$.

# %%
logits = vae.likelihood.net(z).flatten(1) + 1.0  # any logits will do
grey, p = x[:100].flatten(1), logits.sigmoid()
keras = binary_cross_entropy_with_logits(logits, grey, reduction="none").sum(1)
log_c = (2 * torch.atanh(1 - 2 * p) / (1 - 2 * p)).log().sum(1)
whole = pv.distributions.ContinuousBernoulli(logits).log_prob(grey).sum(1)
assert torch.allclose(whole, log_c - keras, rtol=1e-3)
assert log_c.min() >= n * math.log(2)
print(f"Keras' loss leaves out {log_c.mean():.1f} nats an image, {log_c.mean() / n:.2f} a pixel")

# %% [markdown]
# ## Small noise, large noise, learned noise
#
# Five models, ten latents, one difference. With a small $\lambda$ the reconstructions are sharp and
# the code carries many nats, but few draws of the prior look like digits: the posteriors are
# narrow, and most of the prior's mass lies where no image has its posterior. With a large
# $\lambda$, 1 on the digits and 10 on MNIST, no latent is worth its KL; all collapse to the prior,
# and every sample is the mean image. (On MNIST, whose pixels vary more, eight are active at 1: see
# exercise 1.) The learned $\lambda$ has the best ELBO, and ends where it must: at the mean squared
# error of a pixel under draws of $q$.

# %%
table, samples = {}, {}
large = 1.0 if QUICK else 10.0
for lam in (0.001, 0.01, 0.1, large, None):
    graph = fit(variational, 10, *((lam**0.5, False) if lam else ()))
    bound, active = pv.elbo(graph, test), int(pv.active_units(graph, test).sum())
    name = f"λ = {lam}" if lam else "learned"
    table[name] = (bound.elbo.mean().item(), bound.kl.mean().item(), active)
    samples[name] = pv.generate(graph, 12, seed=0)
    print(f"{name:10} ELBO {table[name][0]:9.1f}, KL {table[name][1]:6.2f}, active {active}")
mse = (graph.likelihood.net(graph.posterior(x).sample()) - x).square().mean().item()
learned = graph.likelihood.scale.item() ** 2
print(f"learned λ {learned:.4f}, mean squared error {mse:.4f}")
assert max(table, key=lambda name: table[name][0]) == "learned"
assert abs(learned / mse - 1) < 0.1
assert table["λ = 0.001"][1] > table["λ = 0.01"][1] > table["λ = 0.1"][1]
assert table[f"λ = {large}"][2] == 0
show("Samples: the mean of p(x | z) at draws of the prior", samples)

# %% [markdown]
# ## How many latents?
#
# Figure 5 of Kingma and Welling: samples for 2, 5, 10 and 20 latents. The ELBO rises as long as a
# further latent pays for its KL, then stays: unused latents cost nothing. The first number printed
# is that of a model without latents, with one mean for each pixel and one noise.

# %%
variance, off = ((part - x.mean(0)).square().mean().item() for part in (x, test))
independent = -n / 2 * (math.log(2 * math.pi * variance) + off / variance)
sizes = {d: graph if d == 10 else fit(variational, d) for d in (2, 5, 10, 20)}  # 10 of above
bounds = {d: pv.elbo(graph, test).elbo.mean().item() for d, graph in sizes.items()}
print(f"ELBO: no latents {independent:.1f}", bounds)
assert independent < bounds[2] < bounds[5] < bounds[20]
show("Samples by number of latents", {d: pv.generate(g, 12, seed=0) for d, g in sizes.items()})

# %% [markdown]
# ## Why a standard normal is enough
#
# N4 (after Doersch) says: any distribution is a function of normal draws, so the decoder can bend
# $N(0,I)$ into what the data need. His example is $g(z)=z/10+z/\lVert z\rVert$, which turns a cloud
# into a ring. And a VAE with a small decoder *learns* such a map from points of a ring, not without
# flaw: its decoder is continuous, as the ring's is not at zero, so a few draws lie in the hole.

# %%
torch.manual_seed(0)
z = torch.randn(2_000, 2)
ring = z / 10 + z / z.norm(dim=1, keepdim=True)


def small():
    q = posteriors.DiagonalNormal(nets.MLP(2, [64, 64], 4))
    p = likelihoods.Gaussian(nets.MLP(2, [64, 64], 2), 0.3, learned=True)
    return pv.VAE(priors.StandardNormal(2), q, p)


made = pv.generate(fit(small, rows=ring, epochs=40), 2_000, mean=False, seed=0)
clouds = {"z": z, "g(z)": ring, "VAE": made}
radius = {name: rows.norm(dim=1) for name, rows in clouds.items()}
print({name: f"{r.mean():.3f} +- {r.std():.3f}" for name, r in radius.items()})
assert abs(radius["VAE"].mean() - radius["g(z)"].mean()) < 0.1
assert radius["g(z)"].std() < 0.1 < radius["VAE"].std() < 0.35 < 0.6 < radius["z"].std()
holes = {name: (r < 0.5).double().mean().item() for name, r in radius.items()}
assert holes["g(z)"] == 0 < holes["VAE"] < 0.1 < holes["z"]
axes = plt.figure(figsize=(9, 3), layout="constrained").subplots(1, 3)
for ax, (name, rows) in zip(axes, clouds.items(), strict=True):
    ax.scatter(*rows.T.numpy(), s=2, alpha=0.4)
    ax.set(title=name, aspect="equal")
plt.show()

# %% [markdown]
# ## The whole plane, and the way from a 3 to an 8
#
# N3's convolutional networks, two latents. First the codes of test images by digit, with the
# straight line from the most typical 3 to the most typical 8; then what the line decodes to; then
# the whole prior, cut into squares of equal probability (AEVB, figure 4). What lies between the two
# is whatever the plane holds there. That is a property of the map, and no law of nature: another
# seed puts other digits on the way. On MNIST two dimensions and ten epochs do not separate 3s from
# 8s: the line is short, and decodes to one blurred shape between the two. The last picture is read
# like a map: neighbours look alike, since the decoder is continuous, and the middle of the picture
# is the middle of the prior.


# %%
def convolutional():
    channels = (32,) if QUICK else (16, 8, 8)
    f, g = nets.ConvEncoder(shape, 4, channels), nets.ConvDecoder(2, shape, channels)
    p = likelihoods.Gaussian(g, 0.15, learned=True)
    return pv.VAE(priors.StandardNormal(2), posteriors.DiagonalNormal(f), p)


plane = fit(convolutional, epochs=20 if QUICK else 10, rate=3e-3)
codes, known = pv.embed(plane, test), pv.embed(plane, x)
accuracy = scores.knn_accuracy(known, labels, codes, kinds).mean
print(f"nearest neighbours in two dimensions name {100 * accuracy:.0f} % of the digits rightly")
assert accuracy > 0.4  # by chance: 0.1
off = {k: (codes - codes[kinds == k].mean(0)).norm(dim=1) + 9 * (kinds != k) for k in (3, 8)}
ends = torch.stack([test[off[k].argmin()] for k in off])  # the most typical 3 and 8
line, walk = pv.embed(plane, ends), pv.interpolate(plane, *ends, steps=12)
assert torch.allclose(walk[[0, -1]], pv.reconstruct(plane, ends), atol=1e-5)
points = plt.figure(figsize=(6, 5), layout="constrained").gca()
dots = points.scatter(*codes.T.numpy(), c=kinds.numpy(), cmap="tab10", s=8)
points.plot(*line.T.numpy(), "k-o")
points.set(title="Codes of test images; the line from a 3 to an 8")
plt.colorbar(dots)
plt.show()
show("The line, decoded", {"3 to 8": walk})
show("The manifold", {" " * i: row for i, row in enumerate(pv.manifold(plane, steps=20))})

# %% [markdown]
# **Exercises.** 1. At the largest $\lambda$ all latents have collapsed. Find the largest $\lambda$
# at which one is active, and compare it with the largest eigenvalue of the covariance of the
# pixels. 2. Train the ring's decoder without hidden layers: what is the best that it can do?
# Answers: `tutorials/answers/05_manifold.py`. **Next:** 06 uses the posterior to denoise, to fill
# in hidden pixels and to enlarge.
