# %% [markdown]
# # Answers to 03 · Jensen's inequality and the KL divergence

# %%
import torch
from torch.distributions import Gamma, Normal, kl_divergence

torch.manual_seed(0)

# %% [markdown]
# **1.** $\mathrm E\,w=a/b$ and $\mathrm E\log w=\psi(a)-\log b$ with the digamma function $\psi$,
# so the loss is $\log a-\psi(a)$ whatever the rate $b$. For large $a$ it is about $1/(2a)$, half
# the variance of $w/\mathrm E\,w$: the law that script 16 finds for the weights of a VAE.

# %%
for a in (0.5, 2.0, 50.0):
    w = Gamma(torch.tensor(a).double(), 3.0).sample((1_000_000,))
    lost = w.mean().log() - w.log().mean()
    exact = torch.tensor(a).double().log() - torch.tensor(a).double().digamma()
    print(f"a = {a}: {lost:.4f}, exactly {exact:.4f}, 1 / 2a = {1 / (2 * a):.4f}")
    assert (lost - exact).abs() < 0.02
assert abs(exact * 2 * a - 1) < 0.01

# %% [markdown]
# **2.** $\mathrm E_q\,p/q=1$, so $r-1$ has the mean zero. $\log r\le r-1$ makes the second never
# negative: this is the proof that a KL is not. Near $r=1$ it is $(r-1)^2/2$, of second order, while
# $-\log r$ is of first order, with a mean of second order.

# %%
q, p = Normal(0.1, 1.0), Normal(0.0, 1.0)
z = q.sample((1_000_000,)).double()
log_r = p.log_prob(z) - q.log_prob(z)
plain, better = -log_r, log_r.exp() - 1 - log_r
print(f"KL {kl_divergence(q, p):.5f}; standard deviations {plain.std():.4f}, {better.std():.4f}")
assert better.min() > -1e-6  # rounding of float32
assert better.std() < 0.1 * plain.std()
assert (better.mean() - kl_divergence(q, p)).abs() < 5 * better.std() / 1_000
