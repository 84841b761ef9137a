# %% [markdown]
# # 12 · The uncertain decoder
#
# A VAE infers $z$, but takes a point estimate of the weights $w$ of its decoder, as if they were
# known. With few images they are uncertain, and the point estimate overfits. N2's appendix (Kingma
# and Welling, 2014, appendix F; N0 to N4 are the notes that the course follows; tutorials/README.md
# introduces them) makes $w$ a latent variable too, with the same bound:
#
# $$p(X,Z,w)=p(w)\prod_ip(z_i)\,p(x_i\mid z_i,w),\qquad
#   q(Z,w)=N(w;\theta,\mathrm{diag}\,\sigma^2)\prod_iq(z_i\mid x_i),\qquad p(w)=N(0,I),$$
# $$\log p(X)\ge\sum_i\bigl(\mathbb E\log p(x_i\mid z_i,w)
#   -\mathrm{KL}(q(z_i\mid x_i)\,\Vert\,p(z_i))\bigr)-\mathrm{KL}(q(w)\,\Vert\,p(w)).$$
#
# `PYROVAE_QUICK=1` or `--quick` runs it on 8 x 8 digits; otherwise it takes MNIST.

# %%
import math
import os
import sys
from functools import partial

import matplotlib.pyplot as plt
import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

import pyrovae as pv
from pyrovae import datasets

QUICK = "--quick" in sys.argv or os.environ.get("PYROVAE_QUICK") == "1"
torch.manual_seed(0)

# %% [markdown]
# ## A case with a closed form
#
# Let the "decoder" depend on a context $c$ only, $x\sim N(c^\top w,s^2)$. This is Bayesian linear
# regression, whose posterior and evidence have closed forms. If the columns of $C$ are orthogonal,
# the covariance of the posterior is diagonal, like that of $q(w)$:
#
# $$p(w\mid X,C)=N(VC^\top X/s^2,\,V),\quad V=(I+C^\top C/s^2)^{-1},\qquad
#   p(X\mid C)=N(0,CC^\top+s^2I).$$
#
# `BayesianVAE` takes the same three parts as `VAE`; $\theta$ are the parameters of the likelihood,
# and `log_sigma` is a further tensor. At the exact posterior the bound is the evidence, for every
# single draw of $w$.


# %%
class OnContext(nn.Linear):
    def forward(self, z, c):
        return super().forward(c)  # z is not used


class AsThePrior(nn.Module):
    def forward(self, x, c):
        return dist.Normal(torch.zeros(len(x), 1).double(), 1.0).to_event(1)


n, s = 24, 0.5
C = torch.linalg.qr(torch.randn(n, 3).double()).Q * torch.tensor([5.0, 2.0, 0.5])  # (n, 3)
X = C @ torch.randn(3, 1).double() + s * torch.randn(n, 1).double()
V = 1 / (1 + C.square().sum(0) / s**2)
marginal = MultivariateNormal(torch.zeros(n).double(), C @ C.T + s**2 * torch.eye(n))
log_evidence = marginal.log_prob(X[:, 0]).item()

parts = (
    pv.priors.StandardNormal(1),
    AsThePrior(),
    pv.likelihoods.Gaussian(OnContext(3, 1, bias=False), s),
)
toy = pv.BayesianVAE(*parts, data_size=n).double()
with torch.no_grad():
    toy.likelihood.net.weight.copy_((V * (C.T @ X)[:, 0] / s**2)[None])
    toy.log_sigma.copy_(V.log() / 2)
losses = [pv.objectives.SGVB_A().loss(toy.model, toy.guide, X, C) for _ in range(5)]
print(f"log p(X) = {log_evidence:.6f}, the bound for 5 draws of w:", [-loss for loss in losses])
assert max(abs(loss + log_evidence) for loss in losses) < 1e-9

# %% [markdown]
# ## The scale of minibatches
#
# Each $z$ belongs to one data point, $w$ to all $N$. A minibatch of $M$ is a share $M/N$ of them,
# and its loss must contain $M/N$ of $\mathrm{KL}(q(w)\Vert p(w))$: then the losses of the batches
# of an epoch add up to that of the data. The graph scales the site "w" in the model *and* in the
# guide, and therefore needs $N$, its `data_size`.
#
# > **Find the mistake.** "The loss of a minibatch is its reconstruction error plus its KLs, so add
# > $\mathrm{KL}(q(w)\Vert p(w))$ to each." Then it counts $N/M$ times, and $w$ collapses to its
# > prior (exercise 2). `fit` refuses a `data_size` below the number of data points.

# %%
whole = kl_divergence(toy.q_w(), dist.Normal(torch.zeros(3).double(), 1.0).to_event(1)).item()
minibatches = list(zip(X.split(7), C.split(7), strict=True))  # 7, 7, 7 and 3 rows
terms = [pv.objectives.SGVB_B().bound(toy.model, toy.guide, *batch) for batch in minibatches]
kls = [each.kl["w"].item() for each in terms]
print(f"KL {whole:.6f}; the shares of the minibatches", [f"{kl:.3f}" for kl in kls])
assert abs(sum(kls) - whole) < 1e-9
assert len(minibatches) * whole > 3 * sum(kls)  # the mistake

# %% [markdown]
# ## Few images
#
# The same networks are trained on $N$ images, as a point estimate (`VAE`) and by full variational
# Bayes (`BayesianVAE`), and compared by the ELBO of test images; for full Bayes it is averaged over
# draws of $w$ (`graph.draw()` returns a `VAE` with drawn weights). The encoder is a point estimate
# in both. Test bits are those of all scripts, drawn once. Here the *training* bits are drawn once
# too: few data are the point, and an image whose bits are drawn anew at each visit is more than one
# data point.

# %%
data = datasets.digits() if QUICK else datasets.mnist()
grey, test = (torch.from_numpy(p).flatten(1).float() / data.x.max() for p in (data.x, data.x_test))
images = torch.bernoulli(grey[:10_000], generator=torch.Generator().manual_seed(1))
test = torch.bernoulli(test[:1_000], generator=torch.Generator().manual_seed(0))[:500]
images, D = images[torch.randperm(len(images))], images.shape[1]
hidden, latents = (64, 5) if QUICK else (200, 10)
sizes = (50, 200, len(images)) if QUICK else (100, 1000, 5000)
steps, every, rate = (1200, 100, 1e-2) if QUICK else (4000, 250, 2e-3)


def fresh(rows, full):
    """Return an untrained model for N = `rows` data points."""
    torch.manual_seed(1)
    parts = (
        pv.priors.StandardNormal(latents),
        pv.posteriors.DiagonalNormal(pv.nets.MLP(D, [hidden], 2 * latents)),
        pv.likelihoods.Bernoulli(pv.nets.MLP(latents, [hidden], D)),
    )
    return pv.BayesianVAE(*parts, data_size=rows, sigma=0.05) if full else pv.VAE(*parts)


def bound(graph, x):
    """Return the mean ELBO of images in nats, for full Bayes averaged over draws of the weights."""
    networks = [graph.draw() for _ in range(5)] if isinstance(graph, pv.BayesianVAE) else [graph]
    elbos = [pv.elbo(network, x, samples=5).elbo.mean().item() for network in networks]
    return sum(elbos) / len(networks)


def trained(graph, x):
    """Train, and return the curve as pairs (steps, test ELBO)."""
    an_epoch, curve = math.ceil(len(x) / 100), []

    def record(history):
        done = len(history.loss) * an_epoch
        pace = every if done > every else 10
        if done // pace > (done - an_epoch) // pace:
            curve.append((done, bound(graph, test)))

    how = {"optimizer": partial(torch.optim.Adam, lr=rate), "batch_size": 100, "progress": False}
    pv.fit(graph, x, epochs=steps // an_epoch, seed=0, callback=record, **how)
    return curve


floors, graphs, curves, last, best, training = {}, {}, {}, {}, {}, {}
for size in sizes:
    pixel = images[:size].mean(0).clamp(1e-3, 1 - 1e-3)
    floors[size] = dist.Bernoulli(pixel).log_prob(test).sum(-1).mean().item()
    print(f"N = {size:5d}, independent pixels: {floors[size]:.1f} nats per test image")
for key in [(size, full) for size in sizes for full in (False, True)]:
    graphs[key] = fresh(*key)
    curves[key] = trained(graphs[key], images[: key[0]])
    last[key], training[key] = curves[key][-1][1], bound(graphs[key], images[: key[0]])
    best[key], kind = max(value for _, value in curves[key]), "full Bayes" if key[1] else "point"
    print(f"N = {key[0]:5d}, {kind:10}: test {last[key]:7.1f}", end=" ")
    print(f"(best during training {best[key]:6.1f}), training {training[key]:7.1f}")

# %%
axes = plt.figure(figsize=(10, 3.4), layout="constrained").subplots(1, 3, sharey=True)
for ax, size in zip(axes, sizes, strict=True):
    for full in (False, True):
        ax.plot(*zip(*curves[size, full], strict=True), label="full Bayes" if full else "point")
    ax.axhline(floors[size], color="gray", ls="--", lw=1, label="independent pixels")
    ax.set(title=f"N = {size}", xlabel="steps", ylim=(2.2 * floors[size], 0.5 * floors[size]))
axes[0].set_ylabel("test ELBO, nats per image")
axes[-1].legend()
plt.show()

# %% [markdown]
# Three observations.
#
# * The point estimate overfits, and more so with fewer images. With the fewest it ends far below
#   its best value on test images, 58 nats on the digits and almost 290 on MNIST; full Bayes ends 4
#   and 37 nats below its best. Its ELBO on training images is much closer to that on test images,
#   too. Part of the remaining difference is the encoder's, which is a point estimate and overfits.
#   With the fewest images neither model ends above independent pixels (with the means of the same
#   $N$ images).
# * **Full Bayes is not better than a point estimate with early stopping** (which needs held-out
#   images): not even its own best value during training reaches that of the point estimate, for any
#   $N$. A diagonal $q(w)$ around one network is a poor approximation of the posterior: its noise
#   makes the reconstruction worse, and a weight for which the data carry too little information
#   goes back to the prior.
# * $\mathrm{KL}(q(w)\Vert p(w))$ grows with the data, while the KL per data point decreases.

# %%
few, most = sizes[0], sizes[-1]
assert training[few, False] - last[few, False] > 2 * (training[few, True] - last[few, True])
assert last[few, False] + 15 < last[few, True] < floors[few]
assert best[few, False] - last[few, False] > 4 * (best[few, True] - last[few, True])
assert all(best[size, False] > best[size, True] for size in sizes)  # both stopped in time
q = [graphs[size, True].q_w() for size in sizes]
standard = dist.Normal(torch.zeros(q[0].event_shape), 1.0).to_event(1)
prices = [kl_divergence(p, standard) for p in q]
shares = [price.item() / size for price, size in zip(prices, sizes, strict=True)]
print("KL(q(w) || p(w)) per data point", [f"{share:.2f}" for share in shares])
assert prices[0] < prices[1] < prices[2]
assert shares[0] > shares[1] > shares[2]

# %% [markdown]
# ## Uncertain pictures
#
# `predictive` decodes the same $z$ with many networks drawn from $q(w)$. Where they agree, the
# decoder is certain; their standard deviation measures the uncertainty about $w$, which is another
# thing than the noise of $p(x\mid z,w)$. Shown for test images, with 100 networks each.

# %%
shown = {"test images": test[:12]}
for size in (few, most):
    graph = graphs[size, True]
    p = graph.predictive(pv.embed(graph.draw(), test[:12]), draws=100)  # (100, 12, D)
    shown |= {f"N = {size}: mean": p.mean(0), f"N = {size}: 4 x spread": 4 * p.std(0)}
rows = [torch.cat([*part.reshape(12, *data.shape[-2:])], 1) for part in shown.values()]
ax = plt.figure(figsize=(9, 4.4), layout="constrained").gca()
ax.imshow(torch.cat(rows).numpy(), cmap="gray", vmin=0, vmax=1)
ax.set(title="The decoded mean, and its standard deviation over networks", xticks=[])
ax.set_yticks([data.shape[-2] * (i + 0.5) for i in range(len(shown))], [*shown])
plt.show()
spreads = [part.mean().item() for name, part in shown.items() if "spread" in name]
assert spreads[0] > 1.5 * spreads[1]

# %% [markdown]
# ## The average over networks
#
# A prediction averages *probabilities* over $w$, $\log\mathbb E_{q(w)}p(x\mid w)$, not their
# logarithms. By Jensen's inequality it is the larger of the two. Here it is with the bound of each
# network in place of $\log p(x\mid w)$: the average over thirty networks is better than one.

# %%
nets = [graphs[few, True].draw() for _ in range(30)]
each = torch.stack([pv.elbo(network, test[:200], samples=20).elbo for network in nets])
together, apart = (each.logsumexp(0) - math.log(30)).mean().item(), each.mean().item()
print(f"N = {few}: log of the mean over 30 networks {together:.1f}, mean of the logs {apart:.1f}")
assert together > max(apart, bound(graphs[few, False], test[:200]))

# %% [markdown]
# **Exercises.** 1. The MAP estimate of $w$ is weight decay. Where does it stop, between the point
# estimate and full Bayes? 2. Train with the mistake of the box, `data_size` = 100 for all images
# (remove the check of the graph: `graph.check = lambda *data: None`). What becomes of the ELBO and
# of $q(w)$? Answers: `tutorials/answers/12_uncertain_decoder.py`. This script is the last.
