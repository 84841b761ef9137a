# %% [markdown]
# # Answers to 04 · Estimators

# %%
from functools import partial

import torch
from torch import nn

import pyrovae as pv

torch.manual_seed(0)

# %% [markdown]
# **1.** The variance $8\mu^2+6+(\mu^2+3-b)^2$ is least at $b=\mu^2+3=\mathrm E f+2$. In general the
# variance of $(f-b)\,s$ with the score $s=\nabla_\phi\log q$ is a parabola in $b$, and its minimum
# is a mean of $f$ in which each draw has the weight $s^2$:
#
# $$b^*=\frac{\mathrm E\,fs^2}{\mathrm E\,s^2}.$$

# %%
mu, eps = 3.0, torch.randn(4_000_000, dtype=torch.double)
f = (mu + eps).square()
best = (f * eps.square()).mean() / eps.square().mean()
assert abs(best - (mu**2 + 3)) < 0.05
variances = {b: ((f - b) * eps).var().item() for b in (mu**2 + 1, mu**2 + 3, mu**2 + 5)}
print(variances)
assert min(variances, key=variances.get) == mu**2 + 3

# %% [markdown]
# **2.** Two rows give $A$ and $B$, and the law predicts the others within the noise of the
# variances, a few percent each.

# %%
grey = torch.from_numpy(pv.datasets.digits().x).flatten(1) / 16
encoder = pv.nets.MLP(64, [64], 16, activation=nn.Tanh)
decoder = pv.nets.MLP(8, [64], 64, activation=nn.Tanh)
q, p = pv.posteriors.DiagonalNormal(encoder), pv.likelihoods.Bernoulli(decoder)
vae = pv.VAE(pv.priors.StandardNormal(8), q, p)
adam = partial(torch.optim.Adam, lr=2e-3)
bits = pv.batches.binarize
pv.fit(vae, grey, epochs=20, optimizer=adam, transform=bits, seed=0, progress=False)


def variance(m, draws):
    objective, each = pv.objectives.SGVB_B(samples=draws), []
    for _ in range(500):
        x = torch.bernoulli(grey[torch.randperm(len(grey))[:m]])
        loss = objective.differentiable_loss(vae.model, vae.guide, x) / m
        g = torch.autograd.grad(loss, list(q.parameters()))
        each.append(torch.cat([part.flatten() for part in g]))
    return torch.stack(each).var(0).sum().item()


found = {(m, draws): variance(m, draws) for m, draws in ((100, 1), (10, 10), (20, 5), (50, 1))}
B = (found[100, 1] - found[10, 10] / 10) / (1 / 100 - 1 / 1000)
A = 10 * (found[10, 10] - B / 100)
print(f"A = {A:.1f}, B = {B:.1f}")
for (m, draws), value in found.items():
    predicted = A / m + B / (m * draws)
    print(f"M = {m}, L = {draws}: variance {value:.3f}, predicted {predicted:.3f}")
    assert abs(predicted / value - 1) < 0.1
