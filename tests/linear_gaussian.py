"""Probabilistic PCA as a VAE, with evidence and posterior in closed form (Tipping & Bishop 1999).

z ~ N(0, I),   x | z ~ N(W z + m, s^2 I)
log p(x) = log N(x; m, W W^T + s^2 I)
p(z | x) = N(M^-1 W^T (x - m), s^2 M^-1),   M = W^T W + s^2 I
"""

import torch
from torch import nn
from torch.distributions import MultivariateNormal

import pyrovae as pv


def data(n=300, features=6, latents=2, seed=0):
    """Return rows drawn from a linear-Gaussian model."""
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(features, latents, generator=g, dtype=torch.double)
    x = torch.randn(n, latents, generator=g, dtype=torch.double) @ w.T + 1
    return x + 0.5 * torch.randn(n, features, generator=g, dtype=torch.double)


def vae(features=6, latents=2, sigma=0.5):
    """Return a VAE in float64 whose networks are linear."""
    return pv.VAE(
        pv.priors.StandardNormal(latents),
        pv.posteriors.DiagonalNormal(nn.Linear(features, 2 * latents)),
        pv.likelihoods.Gaussian(nn.Linear(latents, features), sigma=sigma),
    ).double()


def exact(features=6, latents=2, sigma=0.5, seed=0):
    """Return a linear VAE with its exact posterior, diagonal by orthogonal factors, as guide."""
    graph = vae(features, latents, sigma)
    g = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(features, latents, generator=g, dtype=torch.double)).Q
    w = basis * torch.tensor([2.0, 0.7], dtype=torch.double)
    variance = sigma**2 / (w.square().sum(0) + sigma**2)
    to_mean = (w / (w.square().sum(0) + sigma**2)).T
    with torch.no_grad():
        graph.likelihood.net.weight.copy_(w)
        graph.likelihood.net.bias.fill_(1.0)
        graph.posterior.net.weight.copy_(torch.cat([to_mean, torch.zeros_like(to_mean)]))
        graph.posterior.net.bias.copy_(torch.cat([-to_mean.sum(1), variance.log() / 2]))
    return graph


def evidence(graph, x):
    """Return the exact log p(x) of each row."""
    w, m, s = graph.likelihood.net.weight, graph.likelihood.net.bias, graph.likelihood.sigma
    eye = torch.eye(len(m), dtype=torch.double)
    return MultivariateNormal(m, w @ w.T + s**2 * eye).log_prob(x).detach()


def maximum_evidence(x, latents, sigma):
    """Return the largest mean log p(x) over W and m, by eigenvalues (eq. 8 of the paper)."""
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    kept, lost = values[:latents].clamp(min=sigma**2), values[latents:]
    d = x.shape[1]
    log_det = kept.log().sum() + (d - latents) * 2 * torch.tensor(sigma).log()
    spread = (values[:latents] / kept).sum() + lost.sum() / sigma**2
    return -0.5 * (d * torch.log(torch.tensor(2 * torch.pi)) + log_det + spread).item()
