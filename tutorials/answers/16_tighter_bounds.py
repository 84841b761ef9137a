# %% [markdown]
# # Answers to 16 · Tighter bounds

# %%
import torch

torch.manual_seed(0)


def gradients(delta, c, K, n=20_000):  # noqa: N803
    """IWAE's and DReG's gradient in the shift of q = N(delta, c^2), posterior N(0, 1)."""
    shift = torch.full((n,), delta, dtype=torch.double, requires_grad=True)
    z = shift + c * torch.randn(K, n, dtype=torch.double)

    def log_w(shift, z):  # up to a constant
        return -z.square() / 2 + ((z - shift) / c).square() / 2

    v = log_w(shift, z).softmax(0).detach()
    iwae = torch.autograd.grad((v * log_w(shift, z)).sum(), shift, retain_graph=True)[0]
    dreg = torch.autograd.grad((v**2 * log_w(shift.detach(), z)).sum(), shift)[0]
    return iwae, dreg


def ratio(g):
    return (g.mean().abs() / g.std()).item()


# %% [markdown]
# **1.** With $c=0.8$ the weights have heavy tails: $q$ has too little mass where the posterior has
# it, and a single draw from there dominates all others. The variance of DReG's gradient has the
# fourth power of the weights in it, and $\mathrm E\,w^4$ under $q$ is $\int p^4/q^3\,dz$, which is
# finite only for $4-3/c^2>0$, that is $c>0.866$. So the ratio does not rise with $K$, while for the
# wider $q$ it doubles with each fourfold $K$.

# %%
wide, narrow = ([ratio(gradients(0.1, c, K)[1]) for K in (4, 16, 64)] for c in (1.3, 0.8))
print("DReG, c = 1.3:", wide, "c = 0.8:", narrow)
assert wide[0] < wide[1] < wide[2]
assert narrow[2] < 1.5 * narrow[0] < 0.5 * wide[2]

# %% [markdown]
# **2.** With the exact posterior every weight is $p(x)$, so $\mathcal L_K=\log p(x)$ for all draws.
# DReG's gradient goes through $\partial\log w/\partial z$, which is zero everywhere. IWAE's has the
# score, whose mean is zero and whose variance is $1/K$ here.

# %%
for K in (1, 8):
    iwae, dreg = gradients(0.0, 1.0, K)
    print(f"K = {K}: variance of IWAE's gradient {iwae.var():.4f}, of DReG's {dreg.var():.1e}")
    assert dreg.abs().max() < 1e-12
    assert abs(iwae.var() * K - 1) < 0.05  # standard error of a variance: 1 %
