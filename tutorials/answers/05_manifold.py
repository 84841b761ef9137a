# %% [markdown]
# # Answers to 05 · The manifold
#
# **1.** It is the largest eigenvalue of the covariance of the pixels, $l_1$. The model with a
# linear decoder is probabilistic PCA, whose best $WW^\top+\lambda I$ keeps the eigenvalues above
# $\lambda$ and no other (Tipping and Bishop, 1999). A latent that begins to be used moves the image
# by little, where every decoder is linear, so the threshold is the same for networks. Below it is
# crossed from both sides, at $0.7\,l_1$ and $1.3\,l_1$. (Close to it training takes long: the gain
# of a latent is there of second order.) On the digits $l_1$ is 0.7, on MNIST 5.4.

# %%
import math
from functools import partial

import torch
from torch import nn
from torch.distributions import MultivariateNormal

import pyrovae as pv
from pyrovae import datasets, likelihoods, nets, posteriors, priors

x = torch.from_numpy(datasets.digits().x).flatten(1).float() / 16
largest = torch.linalg.eigvalsh(x.T.cov())[-1].item()


def fitted(rows, q, g, sigma, **how):
    prior, p = priors.StandardNormal(2), likelihoods.Gaussian(g, sigma, learned=False)
    graph = pv.VAE(prior, posteriors.DiagonalNormal(q), p)
    adam = partial(torch.optim.Adam, lr=3e-3)
    pv.fit(graph, rows, optimizer=adam, batch_size=50, seed=0, progress=False, **how)
    return graph


active = {}
for share in (0.7, 1.3):
    torch.manual_seed(0)
    networks = nets.MLP(64, [100], 4), nets.MLP(2, [100], 64)
    graph = fitted(x, *networks, (share * largest) ** 0.5, epochs=30)
    active[share] = int(pv.active_units(graph, x).sum())
print(f"largest eigenvalue {largest:.2f}, active latents at these shares of it: {active}")
assert active[1.3] == 0 < active[0.7]

# %% [markdown]
# **2.** Without hidden layers the mean is $Wz+b$, and $p(x)=N(b,WW^\top+\sigma^2I)$ is one
# Gaussian. The best of them has the mean and the covariance of the data, whatever their shape, with
# $\log p(x)=-\tfrac12\log|2\pi eS|$ on average. The ring becomes a round cloud, and the hole in its
# middle fills: a draw of $N(0,sI)$ is nearer than $r$ to the centre with the probability
# $1-e^{-r^2/2s}$. With $\sigma$ fixed at 0.3 (below the best scale) the latents make up the rest.

# %%
torch.manual_seed(0)
z = torch.randn(2_000, 2)
ring = z / 10 + z / z.norm(dim=1, keepdim=True)
graph = fitted(ring, nn.Linear(2, 4), nn.Linear(2, 2), 0.3, epochs=40)
S = ring.T.cov(correction=0)
best = MultivariateNormal(ring.mean(0), S).log_prob(ring).mean().item()
assert abs(best + torch.logdet(2 * math.pi * math.e * S).item() / 2) < 1e-4
bound = pv.elbo(graph, ring, samples=20).elbo.mean().item()
made = pv.generate(graph, 10_000, mean=False, seed=0)
hole = (made.norm(dim=1) < 0.5).double().mean().item()
share = 1 - math.exp(-(0.5**2) / (2 * S.trace().item() / 2))
print(f"ELBO {bound:.3f} of {best:.3f}; in the hole {hole:.3f}, expected {share:.3f}")
assert best - 0.1 < bound < best + 0.03
assert abs(hole - share) < 0.03
