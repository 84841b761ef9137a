# %% [markdown]
# # Answers to 02 · A code against a distribution
#
# **1.** With $p(z)=N(0,I)$ in the place of the flat prior the loss gains
# $-\log p(f(x))=\tfrac12\lVert f(x)\rVert^2+\tfrac d2\log2\pi$: a penalty on the squared length of
# the code. It is not a VAE yet. The posterior is still a point, so no term keeps it wide, and the
# codes can be made small at no cost, by a decoder with larger weights.

# %%
from functools import partial

import torch
from torch.distributions import Normal

import pyrovae as pv
from pyrovae import datasets, likelihoods, nets, posteriors, priors

torch.manual_seed(0)
x = torch.from_numpy(datasets.digits().x).flatten(1).float() / 16
f, g, d = nets.MLP(64, [100], 8), nets.MLP(8, [100], 64), 8
point, likelihood = posteriors.Point(f), likelihoods.Gaussian(g, 1.0)
flat, normal = (
    pv.elbo(pv.VAE(prior, point, likelihood), x).elbo
    for prior in (priors.Flat(d), priors.StandardNormal(d))
)
penalty = -Normal(0.0, 1.0).log_prob(f(x)).sum(1)
assert torch.allclose(flat - normal, penalty, rtol=1e-4)

# %% [markdown]
# **2.** With $\sigma=1$ the pixels, whose standard deviations are below $\tfrac12$, are almost all
# noise to the model. A latent pays for its KL only if it explains more than $\sigma^2$: with a
# linear decoder it stays active where an eigenvalue of the pixels' covariance is larger (Tipping
# and Bishop, 1999). The largest is 0.7 on the digits, so every latent collapses to the prior, and
# the decoder gives the mean image at every $z$. At $\sigma=0.3$ latents are active.

# %%
largest = torch.linalg.eigvalsh(x.T.cov())[-1].item()
active, spread = {}, {}
for sigma in (1.0, 0.3):
    torch.manual_seed(0)
    q = posteriors.DiagonalNormal(nets.MLP(64, [100], 2 * d))
    p = likelihoods.Gaussian(nets.MLP(d, [100], 64), sigma)
    vae = pv.VAE(priors.StandardNormal(d), q, p)
    adam = partial(torch.optim.Adam, lr=3e-3)
    pv.fit(vae, x, epochs=15, optimizer=adam, batch_size=50, seed=0, progress=False)
    active[sigma] = int(pv.active_units(vae, x).sum())
    spread[sigma] = pv.generate(vae, 200, seed=0).var(0).sum().item()
print(f"largest eigenvalue {largest:.2f}, active {active}, variance of the images made {spread}")
assert largest < 1
assert active[1.0] == 0 < active[0.3]
assert spread[1.0] < 0.05 * spread[0.3]
