# %% [markdown]
# # 16 · Tighter bounds
#
# With $K$ draws for each observation there is a bound between the ELBO and $\log p(x)$, and with
# $K\to\infty$ it reaches $\log p(x)$. This script measures how fast on a VAE whose evidence is
# known exactly, what a tighter bound does to the gradient of the guide, how the doubly
# reparameterized gradient repairs it, and what is gained on images. It continues N2's formulas 2
# and 6, in which $L$ draws are averaged *outside* the logarithm. (N0 to N4 are the notes that the
# course follows; `tutorials/README.md` introduces them.) Sources: Burda et al. 2016 (IWAE),
# Rainforth et al. 2018, Tucker et al. 2019 (DReG).
#
# $$\mathcal L_K=\mathrm E\,\log\frac1K\sum_{k=1}^K w_k,\qquad
#   w_k=\frac{p(x,z_k)}{q(z_k\mid x)},\quad z_k\sim q(z\mid x).$$
#
# `PYROVAE_QUICK=1` or `--quick` runs it on 8 x 8 digits; otherwise it takes 10,000 images of MNIST.

# %%
import math
import os
import sys
from functools import partial

import matplotlib.pyplot as plt
import pyro.distributions as dist
import torch
from torch import nn

import pyrovae as pv
from pyrovae import datasets, likelihoods, nets, objectives, posteriors, priors

QUICK = "--quick" in sys.argv or os.environ.get("PYROVAE_QUICK") == "1"
torch.manual_seed(0)

# %% [markdown]
# ## Why the bound rises with K
#
# Each weight has the mean $p(x)$, and so has their average, whose variance is $K$ times smaller.
# Jensen's inequality gives $\mathcal L_K\le\log p(x)$, and what it loses grows with that variance.
# Expand the logarithm around $p(x)$:
#
# $$\log p(x)-\mathcal L_K\approx\frac{1}{2K}\,\mathrm{Var}\Bigl(\frac{w}{p(x)}\Bigr).$$
#
# To test this take the VAE with a linear decoder, $x\sim N(Wz,s^2I)$ with two latent dimensions.
# Its posterior is Gaussian, $N(\mu,LL^\top)$, and $p(x)$ is the density of $N(0,WW^\top+s^2I)$. Let
# $q$ be a little off: shifted by $\delta$ in each dimension, with standard deviations $c$ times
# those of the posterior. In the coordinates in which the posterior is $N(0,I)$ the shift is
# $\delta'=L^{-1} (\delta,\delta)$, and the variance is a Gaussian integral:
#
# $$\mathrm{Var}\Bigl(\frac{w}{p(x)}\Bigr)=\Bigl(\frac{c^2}{\sqrt{2c^2-1}}\Bigr)^{2}
#   \exp\Bigl(\frac{\lVert\delta'\rVert^2}{2c^2-1}\Bigr)-1 .$$
#
# The guide has a shift of its own for each row of the batch. The same observation in $n$ rows then
# gives $n$ independent estimates in one run, and below $n$ independent gradients. (With $r$ for the
# mean of the weights over $p(x)$, the gap is estimated by $r-1-\log r$: the first two terms have
# the mean zero, and take most of the noise away.)

# %%
W, s, delta, c = torch.randn(6, 2).double(), 0.5, 0.1, 1.3
M = W.T @ W + s**2 * torch.eye(2)
L = torch.linalg.cholesky(s**2 * torch.linalg.inv(M))
x = torch.randn(1, 2).double() @ W.T + s * torch.randn(1, 6).double()
mu = x @ W @ torch.linalg.inv(M)
exact = dist.MultivariateNormal(torch.zeros(6).double(), W @ W.T + s**2 * torch.eye(6)).log_prob(x)


class Off(nn.Module):
    """q(z | x) = N(mu + delta, c^2 L L'), with one delta for each row."""

    def __init__(self, n):
        super().__init__()
        self.delta = nn.Parameter(torch.full((n, 2), delta).double())

    def forward(self, x):
        return dist.MultivariateNormal(mu + self.delta, scale_tril=c * L)


def linear_vae(n):
    decoder = nn.Linear(2, 6, bias=False)
    gaussian = likelihoods.Gaussian(decoder, sigma=s, floor=0.0)
    vae = pv.VAE(priors.StandardNormal(2), Off(n), gaussian).double()
    decoder.weight.data = W
    return vae


def log_weights(K, n):  # noqa: N803
    vae, rows = linear_vae(n), x.expand(n, 6)
    with torch.no_grad():
        z = vae.posterior(rows).sample((K,))
        prior, q = vae.prior().log_prob(z), vae.posterior(rows).log_prob(z)
        return vae.likelihood(z).log_prob(rows) + prior - q  # (K, n)


sizes = [1, 4, 16, 64, 256]
off = torch.linalg.solve(L, torch.full((2,), delta).double()).square().sum()
variance = (c**4 / (2 * c**2 - 1) * torch.exp(off / (2 * c**2 - 1)) - 1).item()
gaps, errors = [], []
print(f"{'K':>4} {'log p(x) - L_K':>15} {'Var / 2K':>10}")
for K in sizes:
    log_r = log_weights(K, 1_000_000 // K).logsumexp(0) - math.log(K) - exact
    estimates = log_r.exp() - 1 - log_r
    gaps.append(estimates.mean().item())
    errors.append(estimates.std().item() / len(estimates) ** 0.5)
    print(f"{K:4d} {gaps[-1]:9.5f} +- {errors[-1]:.5f} {variance / (2 * K):9.5f}")
assert all(a > b + 3 * error for a, b, error in zip(gaps, gaps[1:], errors, strict=False))
for K, gap, error in zip(sizes[2:], gaps[2:], errors[2:], strict=True):
    assert abs(gap - variance / (2 * K)) < 4 * error + variance / K**2  # and terms in 1 / K^2

# %% [markdown]
# > **Find the mistake.** Two programs look like $\mathcal L_K$ and are not. The mean of the
# > *logarithms* of $K$ weights is the ELBO again, estimated with less noise: it does not rise at
# > all. And one weight for a whole minibatch, a product over its rows, gives a bound for the
# > minibatch whose variance grows exponentially with the number of rows, hence a far looser one.
# > The logarithm stands outside the sum over draws and inside the sum over rows.

# %%
log_w = log_weights(64, 20_000)
right = (log_w.logsumexp(0) - math.log(64)).mean()
outside = log_w.mean()
batches = log_w.view(64, 200, 100).sum(2)  # 200 minibatches of 100 rows, one weight for each
joint = ((batches.logsumexp(0) - math.log(64)) / 100).mean()
short = {"L_64": right, "mean of logarithms": outside, "one weight": joint}
print("below log p(x):", {name: round((exact - b).item(), 4) for name, b in short.items()})
assert abs((exact - outside).item() - gaps[0]) < 0.01  # the ELBO's gap
assert (exact - joint) > 10 * (exact - right)

# %% [markdown]
# ## The gradient of the guide
#
# A tighter bound is not a better teacher of $q$. As $K$ grows, $\mathcal L_K$ depends less and less
# on $q$: its gradient in the guide's parameters $\phi$ falls as $1/K$, like the gap above. Its
# standard deviation only falls as $1/\sqrt K$. So the signal-to-noise ratio falls as $1/\sqrt K$
# (Rainforth et al. 2018). The noise is in one term. With $v_k=w_k/\sum_jw_j$,
#
# $$\frac{d\mathcal L_K}{d\phi}=\mathrm E\sum_kv_k\Bigl(\frac{\partial\log w_k}{\partial z_k}
#   \frac{dz_k}{d\phi}-\frac{\partial\log q(z_k\mid x)}{\partial\phi}\Bigr).$$
#
# The last term is a score function, and can be reparameterized a second time. What comes out is the
# doubly reparameterized gradient, DReG, in which the weights are squared and no score is left:
#
# $$\frac{d\mathcal L_K}{d\phi}=\mathrm E\sum_kv_k^2\,\frac{\partial\log w_k}{\partial z_k}
#   \frac{dz_k}{d\phi}.$$
#
# Its standard deviation falls as $K^{-3/2}$, faster than the signal, so that its ratio *rises* as
# $\sqrt K$. Both laws are for large $K$. Here they are on the linear VAE: the mean gradient in
# $\delta$ over the standard deviation of one estimate. Without any signal the ratio would be about
# $\sqrt{2/(\pi n)}$ for $n$ draws, drawn as a dotted line.


# %%
def gradients(kind, K, n):  # noqa: N803
    vae = linear_vae(n)
    loss = kind(samples=K).differentiable_loss(vae.model, vae.guide, x.expand(n, 6))
    return torch.autograd.grad(loss, vae.posterior.delta)[0]  # (n, 2), independent rows


ratios, means = {}, {}
for kind in (objectives.IWAE, objectives.DReG):
    for K in sizes:
        g = torch.cat([gradients(kind, K, 2_500) for _ in range(4)])
        means[kind, K] = g.mean(0), g.std(0) / len(g) ** 0.5
        ratios.setdefault(kind.__name__, []).append((g.mean(0).abs() / g.std(0)).mean().item())
print(ratios)
for K in sizes:  # both estimate the same gradient
    (a, da), (b, db) = means[objectives.IWAE, K], means[objectives.DReG, K]
    assert ((a - b).abs() / (da**2 + db**2).sqrt()).max() < 4
slope = {
    name: math.log(r[-1] / r[1]) / math.log(sizes[-1] / sizes[1]) for name, r in ratios.items()
}
print("powers of K from 4 to 256:", slope)
assert abs(slope["IWAE"] + 0.5) < 0.12
assert abs(slope["DReG"] - 0.5) < 0.06
left, right = plt.figure(figsize=(9, 3.4), layout="constrained").subplots(1, 2)
left.loglog(sizes, gaps, "o", label="log p(x) - L_K")
left.loglog(sizes, [variance / (2 * K) for K in sizes], label="Var(w / p(x)) / 2K")
left.set(title="The bound tightens as 1 / K", xlabel="K", ylabel="nats")
for name, power in {"IWAE": -0.5, "DReG": 0.5}.items():
    (line,) = right.loglog(sizes, ratios[name], "o", label=name)
    law = [ratios[name][2] * (K / 16) ** power for K in sizes]
    right.loglog(sizes, law, color=line.get_color(), label=f"K to the {power}")
right.axhline((2 / math.pi / 10_000) ** 0.5, color="grey", ls=":")
right.set(title="Signal / noise of the guide's gradient", xlabel="K")
for axis in (left, right):
    axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## What is gained on images
#
# A VAE is trained with the ELBO and with $\mathcal L_8$, the latter by both gradients. Training
# images are drawn anew as bits at each visit, the test bits once. For the *model* the tighter bound
# is worth something: a mismatch of $q$ costs it less, and $\mathcal L_{1000}$, which stands for
# $\log p(x)$, ends a quarter of a nat higher (on MNIST two nats). For the *guide* the gradient
# decides: with that of IWAE the ELBO of the same model is half a nat lower (on MNIST two), so its
# $q$ is farther from the posterior; with DReG's it is not (on MNIST it is, for one seed of two),
# and $\mathcal L_{1000}$ is no lower. All of this costs eight draws for each image instead of one.

# %%
data = datasets.digits() if QUICK else datasets.mnist()
images, held_out = (torch.from_numpy(part).flatten(1) for part in (data.x, data.x_test))
grey, grey_test = images[:10_000] / images.max(), held_out[:1_000] / images.max()
many, grey_test = [*sizes, 1_000], grey_test if QUICK else grey_test[:300]
test = torch.bernoulli(grey_test, generator=torch.Generator().manual_seed(0))
D = test.shape[1]
J, hidden, batch, epochs = (8, 64, 50, 30) if QUICK else (20, 200, 100, 15)


def train(objective, seed):
    torch.manual_seed(seed)
    encoder = nets.MLP(D, [hidden], 2 * J, activation=nn.Tanh)
    decoder = nets.MLP(J, [hidden], D, activation=nn.Tanh)
    q, p = posteriors.DiagonalNormal(encoder), likelihoods.Bernoulli(decoder)
    vae = pv.VAE(priors.StandardNormal(J), q, p)
    settings = {"batch_size": batch, "epochs": epochs, "seed": seed, "progress": False}
    settings |= {"optimizer": partial(torch.optim.Adam, lr=2e-3), "objective": objective}
    pv.fit(vae, grey, transform=pv.batches.binarize, **settings)
    elbo = pv.elbo(vae, test, samples=20).elbo.mean().item()
    bounds = [-objectives.IWAE(samples=K).loss(vae.model, vae.guide, test) for K in many]
    return elbo, [bound / len(test) for bound in bounds]


contestants = {
    "ELBO": objectives.SGVB_B(),
    "IWAE": objectives.IWAE(samples=8),
    "DReG": objectives.DReG(samples=8),
}
found = {(name, seed): train(o, seed) for name, o in contestants.items() for seed in (0, 1)}
for (name, seed), (elbo, bounds) in found.items():
    print(f"{name}, seed {seed}: ELBO {elbo:.2f}, L_1000 {bounds[-1]:.2f}")
for seed in (0, 1):
    elbo, iwae, dreg = (found[name, seed] for name in contestants)
    assert min(iwae[1][-1], dreg[1][-1]) > elbo[1][-1] + 0.1  # L_1000
    assert dreg[1][-1] > iwae[1][-1] - 0.1
    assert iwae[0] < elbo[0] - 0.2  # the ELBO
    assert not QUICK or iwae[0] < dreg[0] - 0.2
    for bounds in (elbo[1], iwae[1], dreg[1]):
        assert min(torch.tensor(bounds).diff()) > -0.1  # one draw of each bound
axis = plt.figure(figsize=(6, 3.4), layout="constrained").gca()
for name in contestants:
    axis.semilogx(many, found[name, 0][1], "o-", label=f"trained with {name}")
axis.set(title="Three models, by K of the bound", xlabel="K", ylabel="L_K of test images, nats")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# **Exercises.** 1. Make $q$ narrower than the posterior, $c=0.8$. What happens to DReG's law, and
# which moments of the weights are to blame? 2. Show that $\mathcal L_K$ with the exact posterior as
# $q$ equals $\log p(x)$ for every draw and every $K$, and that DReG's gradient is then zero without
# noise while IWAE's is not. Answers: `tutorials/answers/16_tighter_bounds.py`. **Next:** 07 gives
# the prior more than one component.
