# %% [markdown]
# # Answers to the VAE in 60 lines

# %%
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import softplus

torch.manual_seed(0)
grey = torch.from_numpy(load_digits().data).float() / 16
J, D = 8, 64


def train(weight, noise=1.0, with_kl=True):
    """Return the mean reconstruction and KL, the codes and their scales, after training."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(D, 100), nn.Tanh(), nn.Linear(100, 2 * J))
    decoder = nn.Sequential(nn.Linear(J, 100), nn.Tanh(), nn.Linear(100, D))
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-3)

    def terms(x):
        mu, log_sigma = encoder(x).chunk(2, -1)
        logits = decoder(mu + noise * log_sigma.exp() * torch.randn_like(mu))
        kl = 0.5 * (mu**2 + (2 * log_sigma).exp() - 2 * log_sigma - 1).sum(1)
        log_p = (x * logits - softplus(logits)).sum(1)
        return log_p.mean(), kl.mean(), mu, log_sigma.exp()

    for _ in range(20):
        for rows in torch.randperm(len(grey)).split(50):
            log_p, kl, *_ = terms(torch.bernoulli(grey[rows]))
            adam.zero_grad()
            (with_kl * kl - weight * log_p).backward()
            adam.step()
    with torch.no_grad():
        return terms(torch.bernoulli(grey))


# %% [markdown]
# **1.** The mean over $D$ pixels divides the reconstruction by $D$. Times $D$, the loss is that of
# a $\beta$-VAE with $\beta=D$: here 64, with MNIST 784. No latent dimension is worth that much: the
# KL goes to zero, $z$ says nothing about $x$, and all samples are the mean image.

# %%
_, kl, *_ = train(weight=1.0)
_, collapsed, *_ = train(weight=1 / D)
print(f"KL {kl:.2f} nats with the sum, {collapsed:.4f} with the mean over pixels")
assert kl > 3
assert collapsed < 0.1

# %% [markdown]
# **2.** Without noise and KL it is an autoencoder: each image has a code, a point, and nothing says
# where the codes lie. They spread over a region much larger than that of $N(0,I)$, so that draws of
# $N(0,I)$ fall between or outside of them: holes (script 02).
#
# With the KL, but without noise, $\sigma$ occurs in the KL alone, which is least at $\sigma=1$ and
# is then $\lVert\mu\rVert^2/2$: an autoencoder with a quadratic penalty on its codes. Without noise
# even codes that lie close together can be told apart, so they shrink to a region much smaller than
# that of $N(0,I)$, and most draws fall outside of it.

# %%
lengths = {}
for name, with_kl in (("without noise and KL", False), ("without noise alone", True)):
    *_, codes, sigma = train(weight=1.0, noise=0.0, with_kl=with_kl)
    lengths[with_kl] = codes.square().sum(1).mean().item()
    print(f"{name}: mean squared length of a code {lengths[with_kl]:.2f}, of a draw {J}")
assert lengths[True] < J / 4 < 2 * J < lengths[False]
assert abs(sigma.mean() - 1) < 0.05
