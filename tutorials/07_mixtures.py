# %% [markdown]
# # 07 · Mixtures
#
# A Gaussian mixture finds clusters: in the data, fitted by EM, or in the latents of a VAE, as the
# prior p(z). This tutorial has EM by hand, compared with scikit-learn's; then a mixture prior whose
# clusters match the digits, without labels in training; then the VampPrior, whose components are
# posteriors of the model itself.
#
#     p(x) = sum_k w_k N(x; mu_k, S_k)                    a mixture of the data
#     p(z) = sum_k w_k N(z; mu_k, S_k),  x ~ p(x | z)     of the latents: clusters of any shape in x
#     p(z) = 1/K sum_k q(z | u_k)                         the VampPrior
#
#     python tutorials/07_mixtures.py --quick      # embedded digits, under a minute
#     python tutorials/07_mixtures.py              # MNIST, from PYROVAE_DATA; minutes

# %%
import argparse
import itertools
import json
import math
import sys
import warnings
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from torch.distributions import MultivariateNormal
from torchvision.utils import make_grid

import pyrovae as pv
from pyrovae import datasets, nets, objectives, posteriors, priors

parser = argparse.ArgumentParser(
    description="Gaussian mixtures by EM, the mixture prior, the VampPrior."
)
parser.add_argument("--quick", action="store_true", help="embedded 8 x 8 digits instead of MNIST")
parser.add_argument("--output", type=Path, default=Path("figures"), help="folder for the pictures")
options = parser.parse_args([] if "ipykernel" in sys.modules else None)
options.output.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)
result = {}  # the numbers that this script computes, printed at its end


def show(figure, name):
    """Save a picture."""
    figure.savefig(options.output / f"07_{name}.png", dpi=110)


def tiles(pictures, columns):
    """Return images with shape (N, pixels) as one picture, in a grid with this many columns."""
    pictures = pictures.reshape(-1, 1, side, side)
    return make_grid(pictures, columns, padding=max(1, side // 8))[0].numpy()


data = datasets.digits() if options.quick else datasets.mnist()
x, x_test = (torch.from_numpy(part).flatten(1).float() for part in (data.x, data.x_test))
x, x_test = x / x.max(), x_test / x_test.max()
labels, labels_test = data.labels, data.labels_test
side = math.isqrt(x.shape[1])
K = 10

# %% [markdown]
# ## EM by hand
#
#     E-step   r_nk = w_k N(x_n; mu_k, S_k) / sum_j w_j N(x_n; mu_j, S_j)     responsibilities
#     M-step   N_k = sum_n r_nk,   w_k = N_k / N,   mu_k = sum_n r_nk x_n / N_k
#              S_k = sum_n r_nk (x_n - mu_k)(x_n - mu_k)' / N_k
#
# The responsibilities are the exact posterior p(k | x_n), which has a closed form since k is
# discrete. The bound with q(k) = r is therefore tight after each E-step, and log p(x) never
# decreases. The mixture is fitted to the first ten principal components of the digits, because ten
# full covariances of all pixels would need more images than there are.

# %%
RIDGE = 1e-3  # keeps a covariance from collapsing onto a point; scikit-learn's `reg_covar`
chosen = slice(0, 5000)
features = torch.from_numpy(PCA(10, random_state=0).fit_transform(x[chosen].double()))
N, F = features.shape
start = features[torch.randperm(N, generator=torch.Generator().manual_seed(3))[:K]]
w, mu = torch.full((K,), 1 / K, dtype=torch.double), start.clone()
S = torch.cov(features.T).expand(K, F, F).clone()
ridge = RIDGE * torch.eye(F, dtype=torch.double)
rises = []
for _ in range(100):
    joint = w.log() + MultivariateNormal(mu, S).log_prob(features[:, None])  # (N, K)
    rises.append(joint.logsumexp(1).mean().item())
    r = joint.softmax(1)
    mass = r.sum(0)
    w, mu = mass / N, r.T @ features / mass[:, None]
    off = features[:, None] - mu  # (N, K, F)
    S = torch.einsum("nk,nki,nkj->kij", r, off, off) / mass[:, None, None] + ridge
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scikit-learn warns that it stops after 100 steps, as we do
    peer = GaussianMixture(
        K,
        means_init=start.numpy(),
        weights_init=[1 / K] * K,
        precisions_init=[torch.linalg.inv(torch.cov(features.T)).numpy()] * K,
        reg_covar=RIDGE,
        max_iter=100,
        tol=0.0,
    ).fit(features.numpy())
ours, theirs = rises[-1], peer.lower_bound_
result["em_against_sklearn"] = abs(ours - theirs)
result["em_least_rise"] = min(b - a for a, b in itertools.pairwise(rises))
result["ari_em"] = adjusted_rand_score(labels[chosen], r.argmax(1))
print(f"EM: log p(x) {rises[0]:.3f} -> {ours:.3f}; scikit-learn, from the same start {theirs:.3f}")
print(f"clusters against digits: adjusted Rand index {result['ari_em']:.3f}")


# %% [markdown]
# ## A mixture in the latent space
#
# The same mixture as a *prior*: its parameters are trained together with the networks, by the same
# bound. Only one argument changes.
#
#     log p(z) = log sum_k w_k N(z; mu_k, S_k),      p(k | x) ~ E_q(z|x) p(k | z)
#
# The KL has no closed form; SGVB then estimates it as log q(z | x) - log p(z), at the draw of z
# that the reconstruction term uses. The warm-up of the KL matters: with full weight from the start,
# all components become equal before the encoder separates the images.

# %%
D, WIDTH, EPOCHS = (6, 128, 120) if options.quick else (10, 400, 60)
x_bits = (x_test > 0.5).float()[:360] if options.quick else torch.bernoulli(x_test[:1000])


def fitted(make_prior, epochs=EPOCHS, seed=0):
    """Fit a VAE with the prior `make_prior(posterior)`; return it and its test log p(x)."""
    torch.manual_seed(seed)
    q = posteriors.DiagonalNormal(nets.MLP(x.shape[1], [WIDTH, WIDTH], 2 * D))
    prior = make_prior(q)
    vae = pv.VAE(prior, q, pv.likelihoods.Bernoulli(nets.MLP(D, [WIDTH, WIDTH], x.shape[1])))
    pv.fit(
        vae,
        x,
        epochs=epochs,
        objective=objectives.SGVB_B(beta=objectives.warm_up(0.5)),
        optimizer=partial(torch.optim.Adam, lr=2e-3),
        transform=pv.batches.binarize,
        seed=seed,
        progress=False,
    )
    return vae, pv.log_evidence(vae, x_bits, samples=500).log_p.mean().item()


vae, result["log_p_mixture"] = fitted(lambda q: priors.Mixture(D, K))
z = pv.embed(vae, x_test)
with torch.no_grad():
    r = vae.prior.responsibilities(z)
    clusters = r.argmax(-1)
result["ari_mixture"] = adjusted_rand_score(labels_test, clusters)
result["components_in_use"] = int((r.mean(0) > 0.01).sum())
print(
    f"\nmixture prior: clusters against digits: ARI {result['ari_mixture']:.3f}, "
    f"{result['components_in_use']} components in use"
)

# %% [markdown]
# Left: the posterior means of test images, projected onto their first two principal components and
# coloured by digit; the means of the components are shown as crosses. Right: one row per component:
# its mean, decoded, and draws z ~ N(mu_k, S_k), decoded.

# %%
figure = Figure(figsize=(11, 5.2), layout="constrained")
left, right = figure.subplots(1, 2)
plane = PCA(2, random_state=0).fit(z)
points, means = plane.transform(z), plane.transform(vae.prior.mu.detach())
dots = left.scatter(points[:, 0], points[:, 1], c=labels_test, cmap="tab10", s=6)
left.scatter(means[:, 0], means[:, 1], marker="x", c="k", s=60)
left.set(title="posterior means by digit, means of the components", xticks=[], yticks=[])
figure.colorbar(dots, ax=left, ticks=range(10), shrink=0.7)
with torch.no_grad():
    each = vae.prior.mu[:, None] + vae.prior.log_sigma.exp()[:, None] * torch.randn(K, 9, D)
    each[:, 0] = vae.prior.mu
    right.imshow(tiles(vae.likelihood(each).mean, 9), cmap="gray_r", aspect="auto")
right.set(title="per component: its mean, and eight draws", xticks=[], yticks=[])
show(figure, "latent_mixture")

# %% [markdown]
# ## The VampPrior
#
# Which prior maximizes the bound for a given encoder? Averaged over the data, the bound contains -E
# KL(q(z | x) || p(z)), which is largest if p(z) is the aggregate posterior 1/N sum_n q(z | x_n).
# That prior overfits and costs N encodings; the VampPrior keeps K components, at learned
# pseudo-inputs u_k. It shares the encoder: `Vamp(posterior, u)` takes the posterior of the same
# model, whose parameters are counted once.

# %%
pseudo_inputs = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:100]]
vamp, result["log_p_vamp"] = fitted(lambda q: priors.Vamp(q, pseudo_inputs, low=0.0, high=1.0))
plain, result["log_p_standard"] = fitted(lambda q: priors.StandardNormal(D))
count = sum(p.numel() for p in vamp.parameters()) - sum(p.numel() for p in plain.parameters())
result["parameters_of_vamp"] = count - pseudo_inputs.numel()
for name in ("standard", "mixture", "vamp"):
    print(
        f"{name:9s} prior: log p(x) {result[f'log_p_{name}']:.2f} nats per image, "
        f"{len(x_bits)} test images, 500 importance samples"
    )

figure = Figure(figsize=(10, 2.0), layout="constrained")
for axis, (name, graph) in zip(
    figure.subplots(1, 3),
    {"standard": plain, "mixture": vae, "VampPrior": vamp}.items(),
    strict=True,
):
    torch.manual_seed(0)
    axis.imshow(tiles(pv.generate(graph, 40), 10), cmap="gray_r")
    axis.set(title=f"{name}: samples", xticks=[], yticks=[])
show(figure, "samples")

shown = {"before training": pseudo_inputs, "learned": vamp.prior.pseudo_inputs.detach()}
figure = Figure(figsize=(8, 2.2), layout="constrained")
for axis, (name, u) in zip(figure.subplots(1, 2), shown.items(), strict=True):
    axis.imshow(tiles(u[:40].clamp(0, 1), 10), cmap="gray_r")
    axis.set(title=f"pseudo-inputs, {name}", xticks=[], yticks=[])
show(figure, "pseudo_inputs")

# %%
print("RESULT", json.dumps(result))
