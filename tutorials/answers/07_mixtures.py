# %% [markdown]
# # Answers to 07 · Mixtures
#
# **1.** Start both Gaussians at the same mean and standard deviation. All responsibilities are then
# 1/2, the M-step gives both the same parameters again, and EM never leaves: it stays at the fit of
# *one* Gaussian, a stationary point that is no maximum. A start that differs goes on to a better
# one.

# %%
from functools import partial

import torch
from torch.distributions import Normal

import pyrovae as pv
from pyrovae import likelihoods, nets, posteriors, priors

torch.manual_seed(0)
x = torch.cat([Normal(0.0, 1.0).sample((600,)), Normal(6.0, 0.5).sample((400,))]).double()


def em(mu, steps=100):
    w, sigma = torch.full((2,), 0.5).double(), x.std().repeat(2)
    for _ in range(steps):
        joint = w.log() + Normal(mu, sigma).log_prob(x[:, None])
        r = joint.softmax(1)
        w, mu = r.mean(0), r.T @ x / r.sum(0)
        sigma = ((r * (x[:, None] - mu) ** 2).sum(0) / r.sum(0)).sqrt()
    return (w.log() + Normal(mu, sigma).log_prob(x[:, None])).logsumexp(1).mean()


one = Normal(x.mean(), x.std(correction=0)).log_prob(x).mean()
stuck, free = em(torch.tensor([3.0, 3.0]).double()), em(torch.tensor([2.0, 4.0]).double())
assert abs(stuck - one) < 1e-9
assert free > one + 0.3

# %% [markdown]
# **2.** The decoder is trained for Gaussian posteriors, not for the density alone. Its ELBO is
# below its $\log p(x)$, and $\log p(x)$ below what the same decoder reaches when it is trained by
# the integral itself.

# %%
z = torch.linspace(-5, 5, 101)
log_weights = Normal(0.0, 1.0).log_prob(z) + (z[1] - z[0]).log()


def log_p(likelihood, rows):
    return (log_weights + likelihood(z[:, None]).log_prob(rows[:, None, None])).logsumexp(1).mean()


def decoder():
    torch.manual_seed(1)
    return likelihoods.HeteroscedasticGaussian(nets.MLP(1, [32], 2), floor=0.05)


rows, by_integral = x.float(), decoder()
adam = torch.optim.Adam(by_integral.parameters(), 1e-2)
for _ in range(500):
    adam.zero_grad()
    log_p(by_integral, rows).neg().backward()
    adam.step()
q = posteriors.DiagonalNormal(nets.MLP(1, [32], 2))
vae = pv.VAE(priors.StandardNormal(1), q, decoder())
fast = partial(torch.optim.Adam, lr=1e-2)
pv.fit(vae, rows[:, None], epochs=50, batch_size=100, optimizer=fast, seed=0, progress=False)
elbo, by_bound = pv.elbo(vae, rows[:, None], samples=20).elbo.mean(), log_p(vae.likelihood, rows)
print(f"ELBO {elbo:.3f}, log p(x) {by_bound:.3f}; by the integral {log_p(by_integral, rows):.3f}")
assert elbo < by_bound < log_p(by_integral, rows)
