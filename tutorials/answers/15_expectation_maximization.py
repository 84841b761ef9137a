# %% [markdown]
# # Answers to 15 · Expectation and maximization

# %%
import torch

import pyrovae as pv

x = torch.from_numpy(pv.datasets.digits().x).flatten(1).double() / 16
X = x - x.mean(0)
(N, D), k = X.shape, 3


def step(W, s2, with_s=True):  # noqa: N803
    inverse = torch.linalg.inv(W.T @ W + s2 * torch.eye(k))
    z, S = X @ W @ inverse, s2 * inverse * with_s  # noqa: N806
    return torch.linalg.solve(z.T @ z / N + S, z.T @ X / N).T


# %% [markdown]
# **1.** At $W=0$ the posterior is the prior: all codes have the mean 0, the regression of the
# images on them is zero, and $W$ stays 0. The images are then independent pixels with one variance.
# It is a stationary point and not a maximum: from a $W$ next to zero EM leaves it.

# %%
s2 = X.square().mean()
assert step(torch.zeros(D, k).double(), s2).abs().max() == 0
torch.manual_seed(0)
W = start = 1e-6 * torch.randn(D, k).double()
for _ in range(20):
    W = step(W, s2)
assert W.norm() > 100 * start.norm()

# %% [markdown]
# **2.** Take one latent dimension in the direction of an eigenvector of the covariance, with
# $W=\lambda u$. The code is $\lambda u^\top x/(\lambda^2+s^2)$, and the regression on it gives
# $\lambda+s^2/\lambda$: $\lambda^2$ grows by more than $2s^2$ in each step, whatever the data.
# Large weights make small codes, which the prior likes. The $S$ of the M-step is what prevents it.

# %%
u = torch.linalg.eigh(X.T @ X / N).eigenvectors[:, -k:]
W, s2 = u * 0.5, torch.tensor(0.05).double()
for _ in range(50):
    squared = W.square().sum(0)
    W = step(W, s2, with_s=False)
    growth = W.square().sum(0) - squared
    assert torch.allclose(growth, 2 * s2 + s2**2 / squared)
with_s = u * 0.5
for _ in range(500):
    with_s = step(with_s, s2)
values = torch.linalg.eigvalsh(X.T @ X / N)[-k:]
assert torch.allclose(with_s.square().sum(0), values - s2, atol=1e-6)  # the maximum at this s
print(f"W'W after 50 steps: {W.square().sum(0)}, with S in the end {with_s.square().sum(0)}")
