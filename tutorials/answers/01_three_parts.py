# %% [markdown]
# # Answers to 01 · Three parts

# %%
from functools import partial

import pyro.distributions as dist
import torch
from torch import nn
from torch.nn.functional import one_hot

import pyrovae as pv

data = pv.datasets.digits()
grey = torch.from_numpy(data.x).flatten(1) / 16
labels = one_hot(torch.from_numpy(data.labels).long(), 10)
D, J = 64, 8


def fit(graph, *rows, transform=None, epochs=20):
    adam = partial(torch.optim.Adam, lr=3e-3)
    settings = {"transform": transform, "epochs": epochs, "batch_size": 50, "seed": 0}
    pv.fit(graph, rows, optimizer=adam, progress=False, **settings)
    return graph.eval()


# %% [markdown]
# **1.** The prior takes the label and returns a normal distribution with that label's mean. The
# decoder takes only $z$ (`*c` is ignored), so that the label can only act through the prior. What
# is drawn under two labels then differs.


# %%
class MeanOfLabel(nn.Module):
    def __init__(self, d, labels):
        super().__init__()
        self.mean = nn.Parameter(0.1 * torch.randn(labels, d))

    def forward(self, c):
        return dist.Normal(c.to(self.mean.dtype) @ self.mean, 1.0).to_event(1)


class WithoutContext(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, z, *c):
        return self.part(z)


torch.manual_seed(0)
q = pv.posteriors.DiagonalNormal(pv.nets.MLP(D, [100], 2 * J, context=10))
p = WithoutContext(pv.likelihoods.Bernoulli(pv.nets.MLP(J, [100], D)))
vae = fit(pv.VAE(MeanOfLabel(J, 10), q, p), grey, labels, transform=pv.batches.binarize)
apart = torch.pdist(vae.prior.mean.detach()).mean()
zeros, ones = (one_hot(torch.full((200,), c), 10) for c in (0, 1))
drawn = [pv.generate(vae, 200, c, seed=0).mean(0) for c in (zeros, ones)]
truth = [grey[labels[:, c] == 1].mean(0) for c in (0, 1)]
print(f"mean distance of two labels' means {apart:.2f}")
assert apart > 1
for c in (0, 1):
    assert (drawn[c] - truth[c]).norm() < (drawn[c] - truth[1 - c]).norm()

# %% [markdown]
# **2.** $\sigma=1$ says that the pixels, which lie in $[0,1]$, have noise as wide as their range. A
# latent dimension pays only if its part of the variance of all pixels together is larger than
# $\sigma^2$. On these digits the largest eigenvalue of the covariance is below 1: none stays
# active. The learned $\sigma$ keeps most of them.

# %%
largest = torch.linalg.eigvalsh(grey.T.cov())[-1]
active = {}
for learned in (False, True):
    torch.manual_seed(0)
    q = pv.posteriors.DiagonalNormal(pv.nets.MLP(D, [100], 2 * J))
    p = pv.likelihoods.Gaussian(pv.nets.MLP(J, [100], D), sigma=1.0, learned=learned)
    graph = fit(pv.VAE(pv.priors.StandardNormal(J), q, p), grey)
    active[learned] = int(pv.active_units(graph, grey).sum())
print(
    f"largest eigenvalue {largest:.2f}; active: sigma = 1 {active[False]}, learned {active[True]}"
)
assert largest < 1
assert active[False] == 0
assert active[True] > 4
