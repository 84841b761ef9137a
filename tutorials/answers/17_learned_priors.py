# %% [markdown]
# # Answers to 17 · Learned priors
#
# **1.** If $q(z\mid x)=r(z)$ for all $x$, then $q_\text{agg}=r$ and $I(x;z)=0$: the best prior is
# $r$ itself, and the KL is zero. Such a model has collapsed; its decoder gets no information.
#
# **2.** With one hidden layer the decoder bends the plane, as N4 says, and $N(0,I)$ gains about
# half of what a learned prior gained before; what is left is smaller.

# %%
from functools import partial

import torch
from torch.distributions import kl_divergence

import pyrovae as pv
from pyrovae import likelihoods, nets, posteriors, priors

torch.manual_seed(0)
r = torch.distributions.Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0]))
assert kl_divergence(r, r).sum() == 0  # I(x; z) and KL(q_agg || p), both

W = torch.linalg.qr(torch.randn(10, 2)).Q.T
t = 3 + 7 * torch.rand(2_400)
codes = torch.stack([t.cos(), t.sin()], 1) * t[:, None] / 4 + 0.1 * torch.randn(2_400, 2)
x, test = (codes @ W + 0.3 * torch.randn(2_400, 10)).split([2_000, 400])


def bound(prior, hidden):
    torch.manual_seed(0)
    q = posteriors.DiagonalNormal(nets.MLP(10, [64], 4))
    graph = pv.VAE(prior, q, likelihoods.Gaussian(nets.MLP(2, hidden, 10), 0.3))
    adam = partial(torch.optim.Adam, lr=5e-3)
    pv.fit(graph, x, epochs=20, batch_size=100, optimizer=adam, seed=0, progress=False)
    return pv.elbo(graph, test, samples=10).elbo.mean().item()


gains = {}
for hidden in ((), (64,)):
    plain, learned = (bound(p, hidden) for p in (priors.StandardNormal(2), priors.Mixture(2, 20)))
    gains[hidden] = learned - plain
print("gain of a learned prior without and with a hidden layer:", gains)
assert gains[()] > 0.2
assert gains[(64,)] < gains[()]
