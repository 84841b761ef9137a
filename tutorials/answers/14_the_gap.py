# %% [markdown]
# # Answers to 14 · The gap

# %%
import math

import torch
from torch.distributions import MultivariateNormal, kl_divergence

torch.manual_seed(0)
a = torch.randn(3, 3).double()
S = a @ a.T + 0.3 * torch.eye(3)  # the covariance of the posterior
precision = torch.linalg.inv(S)

# %% [markdown]
# **1.** For $q=N(\mu,\mathrm{diag}\,v)$ and $p=N(\mu,S)$ the divergence is
# $\frac12\bigl(\sum_jv_j\Lambda_{jj}-k-\sum_j\log v_j-\log|\Lambda|\bigr)$. Its derivative in $v_j$
# is zero at $v_j=1/\Lambda_{jj}$, and there it is the gap of the text. The other divergence,
# $\mathrm{KL}(p\Vert q)=\frac12\bigl(\sum_jS_{jj}/v_j-k+\sum_j\log v_j-\log|S|\bigr)$, is least at
# the marginal variances $v_j=S_{jj}$. They are never smaller, since $1/\Lambda_{jj}$ is the
# variance of $z_j$ *given* the other dimensions. The ELBO makes $q$ too narrow, wake-sleep makes it
# wide.

# %%
zero = torch.zeros(3).double()
p = MultivariateNormal(zero, S)


def best(divergence):
    log_v = torch.zeros(3, dtype=torch.double, requires_grad=True)
    lbfgs = torch.optim.LBFGS([log_v], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        lbfgs.zero_grad()
        value = divergence(MultivariateNormal(zero, torch.diag(log_v.exp())))
        value.backward()
        return value

    lbfgs.step(loss)
    return log_v.detach().exp()


elbo, sleep = best(lambda q: kl_divergence(q, p)), best(lambda q: kl_divergence(p, q))
assert torch.allclose(elbo, 1 / precision.diagonal(), rtol=1e-4)
assert torch.allclose(sleep, S.diagonal(), rtol=1e-4)
assert (sleep >= elbo).all()
print("variances by KL(q || p):", elbo, "by KL(p || q):", sleep)

# %% [markdown]
# **2.** In each dimension the weight is $c\,e^{-z^2/2+z^2/2c^2}$, with $c=0.5$ a function that
# *grows* with $z$, where $q$ draws nothing: its second moment is infinite for $c\le1/\sqrt2$. With
# 12 dimensions nearly every estimate is too low, since the draws that would lift it are never made;
# more draws hardly help. A $q$ that is too wide (1.2) has bounded weights.

# %%
K, rows = 10_000, 50
off = {}
for c in (0.5, 1.2):
    z = c * torch.randn(rows, K, 12, dtype=torch.double)
    log_w = (12 * math.log(c) - z.square().sum(2) / 2 * (1 - 1 / c**2)).logsumexp(1) - math.log(K)
    off[c] = log_w  # the logarithm of the mean of w / p(x); exactly 0
    print(f"c = {c}: mean {log_w.mean():.3f}, standard deviation {log_w.std():.3f}")
assert off[0.5].mean() < -0.5
assert (off[0.5] < 0).double().mean() > 0.8
assert off[1.2].mean().abs() < 0.02
