# %% [markdown]
# # 14 · The gap
#
# How far below $\log p(x)$ the evidence lower bound lies, what closes the gap, and why a VAE does
# not simply average $p(x\mid z)$ over the prior. All of it is checked on a VAE whose evidence and
# posterior are known exactly. This follows N1, formula 2, N3, formulas 2 and 3, and N4 from "the
# naive average" to the loss. (N0 to N4 are the notes that the course follows; `tutorials/README.md`
# introduces them.)
#
# $$\log p(x)=\mathrm{ELBO}(q,x)+\mathrm{KL}(q(z\mid x)\,\Vert\,p(z\mid x))$$
#
# `PYROVAE_QUICK=1` or `--quick` takes 8 x 8 digits for the section on images; otherwise MNIST.

# %%
import math
import os
import sys
import warnings

import matplotlib.pyplot as plt
import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, Normal, kl_divergence
from torch.nn.functional import pad

import pyrovae as pv
from pyrovae import datasets, likelihoods, priors

QUICK = "--quick" in sys.argv or os.environ.get("PYROVAE_QUICK") == "1"
torch.manual_seed(0)

# %% [markdown]
# ## The identity
#
# N4 starts from the divergence between $q$ and the posterior, and writes the posterior by Bayes'
# rule. $\log p(x)$ does not depend on $z$ and leaves the expectation:
#
# $$\begin{aligned}
# \mathrm{KL}(q\,\Vert\,p(z\mid x))
#   &=\mathrm E_q[\log q(z\mid x)-\log p(z\mid x)]\\
#   &=\mathrm E_q[\log q(z\mid x)-\log p(x\mid z)-\log p(z)]+\log p(x)\\
#   &=\log p(x)-\underbrace{\bigl(\mathrm E_q\log p(x\mid z)-\mathrm{KL}(q\,\Vert\,p(z))\bigr)}_
#     {\mathrm{ELBO}} .
# \end{aligned}$$
#
# A KL is never negative, so the ELBO is a bound; and what Jensen's inequality loses is the
# divergence from $q$ to the posterior, zero exactly where $q$ is the posterior. To see all terms,
# let the decoder be linear and the noise Gaussian (probabilistic PCA, Tipping and Bishop 1999):
#
# $$x\sim N(Wz,s^2I),\quad p(x)=N(0,WW^\top+s^2I),\quad p(z\mid x)=N(M^{-1}W^\top x,\ s^2M^{-1}),
#   \quad M=W^\top W+s^2I .$$


# %%
class Near(nn.Module):
    """The exact posterior, with its mean shifted in each dimension and its scale multiplied."""

    def __init__(self, W, s, shift=0.0, scale=1.0):  # noqa: N803
        super().__init__()
        M = W.T @ W + s**2 * torch.eye(W.shape[1]).double()  # noqa: N806
        self.A, self.shift = W @ torch.linalg.inv(M), shift
        self.L = scale * torch.linalg.cholesky(s**2 * torch.linalg.inv(M))

    def forward(self, x):
        return dist.MultivariateNormal(x @ self.A + self.shift, scale_tril=self.L)


def linear_vae(W, s, **moved):  # noqa: N803
    decoder = nn.Linear(W.shape[1], len(W), bias=False)
    p = likelihoods.Gaussian(decoder, sigma=s, floor=0.0)
    vae = pv.VAE(priors.StandardNormal(W.shape[1]), Near(W, s, **moved), p).double()
    decoder.weight.data = W
    return vae


def log_evidence(W, s, x):  # noqa: N803
    zero = torch.zeros(len(W)).double()
    return LowRankMultivariateNormal(zero, W, zero + s**2).log_prob(x)


W, s = torch.randn(6, 2).double() @ torch.tensor([[1.0, 0.8], [0.0, 0.6]]).double(), 0.5
x = pv.generate(linear_vae(W, s), 200, mean=False, seed=0)
exact = log_evidence(W, s, x)
level = exact.mean().item()

# %% [markdown]
# With the exact posterior the weight $p(x,z)/q(z\mid x)=p(x)$ does not depend on $z$. The ELBO then
# equals $\log p(x)$ **for every single draw**, not only on average. (`log_evidence` of the library
# with one sample returns the logarithm of the weight of one draw.)

# %%
for seed in range(5):
    one = pv.log_evidence(linear_vae(W, s), x, samples=1, seed=seed).log_p
    assert (one - exact).abs().max() < 1e-10

# %% [markdown]
# Now move $q$ away: shift its mean, or scale its standard deviations. The ELBO falls below $\log
# p(x)$ by exactly $\mathrm{KL}(q\Vert p(z\mid x))$. Lines: $\log p(x)$ minus that KL in closed
# form. Points: the ELBO as the library estimates it, which knows neither.

# %%
posterior = linear_vae(W, s).posterior(x)
values = {"shift": torch.linspace(-0.4, 0.4, 13), "scale": torch.logspace(-1, 1, 13, base=4)}
axes = plt.figure(figsize=(9, 3.2), layout="constrained").subplots(1, 2, sharey=True)
for axis, (name, grid) in zip(axes, values.items(), strict=True):
    lines, points = [], []
    for value in grid.tolist():
        moved = linear_vae(W, s, **{name: value})
        lines.append(exact - kl_divergence(moved.posterior(x), posterior))
        points.append(pv.elbo(moved, x, samples=400).elbo)
        off = points[-1] - lines[-1]  # each with the noise of 400 draws
        assert off.mean().abs() < 4 * off.std() / len(x) ** 0.5 + 1e-9
    axis.plot(grid, [line.mean().item() for line in lines], label="log p(x) - KL(q || p(z | x))")
    axis.plot(grid, [point.mean().item() for point in points], "o", label="ELBO, estimated")
    axis.axhline(level, color="grey", ls="--", label="log p(x)")
    axis.set(xlabel=f"{name} of q", ylim=(level - 8, level + 0.6))
axes[1].set_xscale("log", base=2)
axes[0].set_ylabel("nats an observation")
axes[1].legend(frameon=False, loc="lower center")
plt.show()

# %% [markdown]
# > **Find the mistake.** N3 writes $\log p(x\mid z)=\mathrm{ELBO}-\mathrm{KL}(q\Vert p(z))$ in its
# > section on the generative network. There are two KLs, and two identities, both with a plus:
# > $\mathrm E_q\log p(x\mid z)=\mathrm{ELBO}+\mathrm{KL}(q\Vert p(z))$, the reconstruction, with
# > the KL to the *prior*; and $\log p(x)=\mathrm{ELBO}+\mathrm{KL}(q\Vert p(z\mid x))$, the
# > evidence, with the KL to the *posterior*. With the minus the "reconstruction" is off by twice
# > the KL.
#
# Below is a $q$ with its mean shifted by 0.3, all terms in closed form. (For the reconstruction,
# $\mathrm E_q\log N(x;Wz,s^2I)=\log N(x;W\,\mathrm E z,s^2I)-\mathrm{tr}(WSW^\top)/(2s^2)$ with the
# covariance $S$ of $q$.)

# %%
moved = linear_vae(W, s, shift=0.3)
q = moved.posterior(x)
to_posterior = kl_divergence(q, posterior)
to_prior = kl_divergence(q, MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()))
spread = (W @ q.scale_tril[0]).square().sum() / (2 * s**2)
reconstruction = Normal(q.mean @ W.T, s).log_prob(x).sum(1) - spread
elbo = reconstruction - to_prior
print(
    f"ELBO {elbo.mean():.3f}, KL to the prior {to_prior.mean():.3f}, "
    f"to the posterior {to_posterior.mean():.3f}, log p(x) {exact.mean():.3f}"
)
assert (elbo + to_posterior - exact).abs().max() < 1e-10
sampled = pv.elbo(moved, x, samples=4_000)
assert (sampled.reconstruction - (elbo + to_prior)).abs().mean() < 0.2
assert abs((sampled.reconstruction - (elbo - to_prior) - 2 * to_prior).mean()) < 0.2  # twice

# %% [markdown]
# A $q$ with a *diagonal* covariance cannot be the posterior if the posterior's latent dimensions
# are correlated: a gap remains after any amount of training. The best one has the variances
# $1/\Lambda_{jj}$, where $\Lambda=M/s^2$ is the precision of the posterior, and for it the gap is
# $\frac12(\sum_j\log\Lambda_{jj}-\log|\Lambda|)$. With an exact $q$ the maximum of the ELBO over
# the parameters is that of $\log p(x)$; with a gap that depends on them it is another one (N1 and
# N3 call the two equivalent; 00 has a number).

# %%
precision = torch.linalg.inv(posterior.covariance_matrix[0])
remains = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
best = MultivariateNormal(posterior.mean, torch.diag(1 / precision.diagonal()))
print(f"gap of the best diagonal q: {remains:.4f} nats")
assert torch.allclose(kl_divergence(best, posterior), remains)
for factor in (0.9, 1.1):
    other = MultivariateNormal(posterior.mean, factor * torch.diag(1 / precision.diagonal()))
    assert (kl_divergence(other, posterior) > remains).all()

# %% [markdown]
# ## The naive average needs too many draws
#
# Why a guide at all? Since $p(x)=\mathrm E_{p(z)}\,p(x\mid z)$, one could average $p(x\mid z)$ over
# draws of the prior. N4 says that $n$ must then be large, and this is how large: the posterior
# fills a fraction of about $e^{-\mathrm{KL}}$ of the prior, with $\mathrm{KL}=\mathrm{KL}(p(z\mid
# x)\Vert p(z))$, so about $e^{\mathrm{KL}}$ draws are needed until some of them explain $x$
# (Chatterjee and Diaconis 2018). Until then the estimate of $\log p(x)$ is far too low. *Importance
# sampling* draws from $q$ and divides by its density, $p(x)=\mathrm E_q\,p(x\mid z)p(z)/q(z\mid
# x)$; here with a $q$ that is not exact either, with standard deviations 1.2 times too large. In
# the model below, of 12 latent dimensions and $W^\top W=a^2I$, the KL is $6\log(1+a^2/s^2)$ on
# average; $a$ is chosen so that it is 5, 10 and 20 nats. The exact $\log p(x)$ is the zero line.
# Where the number of draws reaches $e^{\mathrm{KL}}$ (dotted), the naive estimate is still too low,
# by 0.7 and 2.4 nats. A KL of 20 nats, which is little for images, takes half a billion draws for
# each image, and each further nat 2.7 times as many.

# %%
warnings.simplefilter("ignore", pv.EvidenceWarning)  # too few draws are what is to be shown
sizes, low = [10, 100, 1_000, 10_000, 100_000], {}
axes = plt.figure(figsize=(9, 3.2), layout="constrained").subplots(1, 3, sharey=True)
for axis, kl in zip(axes, (5, 10, 20), strict=True):
    directions = torch.linalg.qr(torch.randn(16, 12).double()).Q
    W12 = directions * math.sqrt(math.exp(kl / 6) - 1)  # and s = 1
    vae = linear_vae(W12, 1.0, scale=1.2)
    rows = pv.generate(vae, 20, mean=False, seed=1)
    truth = log_evidence(W12, 1.0, rows).mean()
    for estimate in (pv.naive_log_evidence, pv.log_evidence):
        off = [(estimate(vae, rows, samples=K).log_p.mean() - truth).item() for K in sizes]
        axis.semilogx(sizes, off, "o-", label="prior" if estimate is pv.naive_log_evidence else "q")
        low[kl, estimate] = [round(value, 3) for value in off]
        print(kl, estimate.__name__, low[kl, estimate])
    axis.axvline(math.exp(kl), color="grey", ls=":")
    axis.axhline(0, color="grey", lw=1)
    axis.set(title=f"KL of {kl} nats", xlabel="draws", xlim=(7, 1.5e5), ylim=(-40, 3))
axes[0].set_ylabel("estimate - log p(x), nats")
axes[0].legend(frameon=False, title="draws of z from")
plt.show()
for kl in (5, 10, 20):
    assert abs(low[kl, pv.log_evidence][1]) < 0.1  # 100 draws of q
naive = {kl: low[kl, pv.naive_log_evidence] for kl in (5, 10, 20)}
assert -2 < naive[5][1] < -0.2  # 100 draws, e^5 is 148
assert -3 < naive[10][3] < -1  # 10,000 draws, e^10 is 22,026
assert naive[20][4] < -10  # 100,000 draws, e^20 is 485 million
assert abs(naive[5][4]) < 0.15  # 100,000 draws

# %% [markdown]
# ## Squared distance prefers unlike images
#
# N4 has a second reason. For a Gaussian $p(x\mid z)$ the logarithm is
# $-\lVert x-f(z)\rVert^2/(2\sigma^2)$, and squared distance is a poor judge: an image with a part
# wiped out is *nearer* than one moved by a little, to us the same digit. (So it is for nearly all
# digits, thin strokes; for clothes, Fashion-MNIST at 8 x 8, for 72 %.) To reject the former,
# $\sigma$ must be small, and then almost every draw of the prior is rejected too: $n$ is large.

# %%
data = datasets.digits() if QUICK else datasets.mnist()
images = torch.from_numpy(data.x[:2_000]).float()[:, 0] / data.x.max()
side = images.shape[1]
rows, step = (1, 1) if QUICK else (4, 2)
wiped, shifted = images.clone(), pad(images, (step, -step))
wiped[:, side // 2 - rows // 2 : side // 2 - rows // 2 + rows] = 0
to_wiped, to_shifted = ((other - images).square().sum((1, 2)) for other in (wiped, shifted))
share = (to_wiped < to_shifted).double().mean()
print(
    f"squared distance: {rows} rows wiped out {to_wiped.mean():.1f}, moved by {step} pixels "
    f"{to_shifted.mean():.1f}; the former is nearer for {share:.1%} of the images"
)
assert share > 0.95
tiles = (pad(part[:10], (0, 1, 0, 1), value=0.5) for part in (images, wiped, shifted))
axis = plt.figure(figsize=(8, 2.6), layout="constrained").gca()
axis.imshow(torch.cat([torch.cat([*row], 1) for row in tiles]).numpy(), cmap="gray")
axis.set_xticks([])
axis.set_yticks([(side + 1) * (i + 0.5) for i in range(3)], ["image", "nearer", "farther"])
plt.show()

# %% [markdown]
# **Exercises.** 1. Derive the gap of the best diagonal $q$, and its variances. Does the $q$ that
# minimizes the *other* divergence, $\mathrm{KL}(p(z\mid x)\Vert q)$, have larger or smaller ones?
# 2. Make $q$ in the naive section narrower than the posterior (0.5). What goes wrong in 12
# dimensions? Answers: `tutorials/answers/14_the_gap.py`. **Next:** 15, the EM algorithm.
