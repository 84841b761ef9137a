# %% [markdown]
# # Answers to 00 · A variational autoencoder in bare Pyro

# %%
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from sklearn.datasets import load_digits
from torch import nn

torch.manual_seed(0)

# %% [markdown]
# **1.** With $q=N(m,1)$ the KL is $m^2/2$, and $\mathrm E_q(x-\theta z)^2=(x-\theta m)^2+\theta^2$.
# The best mean is $m=\theta x/(1+\theta^2)$; put in, the two squares of $x$ join to
# $x^2/(1+\theta^2)$. With data of variance $V$ the mean ELBO is
# $-\frac12\log2\pi-\frac12V/(1+\theta^2)-\frac12\theta^2$. Its derivative in $\theta^2$ is zero at
# $1+\theta^2=\sqrt V$, while $\log p(x)$ has its maximum at $1+\theta^2=V$. For $V\le1$ both are at
# $\theta=0$.

# %%
for V in (1.5, 2.0, 5.0):
    theta2 = torch.linspace(0, 6, 60_001, dtype=torch.double)
    elbo = -0.5 * V / (1 + theta2) - 0.5 * theta2
    log_p = -0.5 * (1 + theta2).log() - 0.5 * V / (1 + theta2)
    assert abs(1 + theta2[elbo.argmax()] - V**0.5) < 1e-3
    assert abs(1 + theta2[log_p.argmax()] - V) < 1e-3
x, theta, z = 1.5, 0.7, torch.randn(4_000_000)
m = theta * x / (1 + theta**2)
sampled = (-0.5 * (x - theta * (m + z)) ** 2).mean() - m**2 / 2
assert abs(sampled - (-0.5 * x**2 / (1 + theta**2) - 0.5 * theta**2)) < 0.003

# %% [markdown]
# **2.** In `mini_vae.py` the formula of `log_p` changes, to $x\ell-e^\ell-\log x!$. Of the programs
# only the model does, in one line; the guide stays. (The encoder is better off with inputs of order
# one, hence the division by 16.) Both agree:

# %%
counts = torch.from_numpy(load_digits().data).float()
encoder = nn.Sequential(nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 16))
decoder = nn.Sequential(nn.Linear(8, 100), nn.Tanh(), nn.Linear(100, 64))


def model(x):
    pyro.module("poisson decoder", decoder)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(8), 1.0).to_event(1))
        pyro.sample("x", dist.Poisson(decoder(z).exp()).to_event(1), obs=x)


def guide(x):
    pyro.module("poisson encoder", encoder)
    with pyro.plate("data", len(x)):
        mu, log_sigma = encoder(x / 16).chunk(2, -1)
        pyro.sample("z", dist.Normal(mu, log_sigma.exp()).to_event(1))


def by_hand(x):
    mu, log_sigma = encoder(x / 16).chunk(2, -1)
    logits = decoder(mu + log_sigma.exp() * torch.randn_like(mu))
    log_p = (x * logits - logits.exp() - (x + 1).lgamma()).sum()
    return 0.5 * (mu**2 + (2 * log_sigma).exp() - 2 * log_sigma - 1).sum() - log_p


svi = SVI(model, guide, pyro.optim.Adam({"lr": 2e-3}), TraceMeanField_ELBO())
before = svi.evaluate_loss(counts) / len(counts)
for _ in range(10):
    for rows in torch.randperm(len(counts)).split(50):
        svi.step(counts[rows])
losses = []
for loss in (by_hand, svi.evaluate_loss):
    torch.manual_seed(1)
    with torch.no_grad():
        losses.append(float(loss(counts)) / len(counts))
print(f"loss before {before:.1f}, after {losses[1]:.1f} nats an image, by hand {losses[0]:.1f}")
assert abs(losses[0] - losses[1]) < 1e-3
assert losses[1] < 0.8 * before
