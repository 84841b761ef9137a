# %% [markdown]
# # 03 · Jensen's inequality and the KL divergence
#
# The two tools with which the bound of a VAE is derived, and the derivation itself, row by row,
# each row as a number. It follows N0, sections 2.3.1 to 2.4 with its formulas 1 to 30, and N4's KL
# of two Gaussians with full covariances. (N0 to N4 are the notes that the course follows;
# `tutorials/README.md` introduces them.) No data and no training: it runs in seconds, in quick mode
# with fewer draws (`PYROVAE_QUICK=1` or `--quick`).
#
# $$\mathrm E\log w\le\log\mathrm E\,w,\qquad
#   \mathrm{KL}(q\,\Vert\,p)=\mathrm E_q[\log q-\log p]\ge0 .$$

# %%
import math
import os
import sys

import matplotlib.pyplot as plt
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

QUICK = "--quick" in sys.argv or os.environ.get("PYROVAE_QUICK") == "1"
torch.manual_seed(0)
DRAWS = 300_000 if QUICK else 3_000_000


def agrees(draws, exact):
    """Whether the mean of the draws is the exact value, within four standard errors."""
    return (draws.mean() - exact).abs() < 4 * draws.std() / len(draws) ** 0.5


# %% [markdown]
# ## Jensen's inequality
#
# A function with $f''\ge0$ is **convex**: $\mathrm E f(X)\ge f(\mathrm E X)$, formula 1. One with
# $f''\le0$ is **concave**: $\mathrm E f(X)\le f(\mathrm E X)$, formula 2. The logarithm has
# $f''(w)= -1/w^2$ and is concave, so for any positive random $w$
#
# $$\mathrm E\log w\le\log\mathrm E\,w .$$
#
# As an example whose two sides are known take $w=e^u$ with $u\sim N(0,s^2)$: $\mathrm E\log w=0$
# and $\log\mathrm E\,w=s^2/2$. What is lost grows with the variance of $w$, and is zero if $w$ is a
# constant. Both facts return in scripts 14 and 16.
#
# > **Find the mistake.** N0 calls a function with $f''\le0$ convex, like one with $f''\ge0$. With
# > the logarithm taken for convex, the inequality turns around, and the "lower" bound of the VAE
# > would be an upper one.

# %%
curvature = torch.func.grad(torch.func.grad(torch.log))(torch.tensor(2.0))
assert curvature == -1 / 4  # log'' at 2: concave
for s in (0.125, 0.5, 1.0):
    w = (s * torch.randn(DRAWS, dtype=torch.double)).exp()
    assert agrees(w.log(), 0.0)
    assert agrees(w, math.exp(s**2 / 2))  # its logarithm is s^2 / 2
    print(
        f"s = {s}: E log w {w.log().mean():.4f}, log E w {w.mean().log():.4f} = {s**2 / 2} + noise"
    )
axis = plt.figure(figsize=(6, 3.6), layout="constrained").gca()
w, two = torch.linspace(0.05, 3.2, 300), torch.tensor([0.3, 2.7])
below, above = two.log().mean().item(), two.mean().log().item()
axis.plot(w.numpy(), w.log().numpy(), label="log w")
axis.plot(two.numpy(), two.log().numpy(), "o-", label="w = 0.3 or 2.7, equally likely")
axis.plot([1.5, 1.5], [below, above], "k:")
axis.annotate("log E w", (1.5, above), (0.9, 0.85), arrowprops={"arrowstyle": "->"})
axis.annotate("E log w", (1.5, below), (1.8, -0.75), arrowprops={"arrowstyle": "->"})
axis.set(title="The logarithm is concave", xlabel="w", ylim=(-2.2, 1.4))
axis.legend(frameon=False, loc="lower right")
plt.show()

# %% [markdown]
# ## The bound, row by row
#
# With $w=p(x,z)/q(z\mid x)$ and $z\sim q(z\mid x)$ the inequality gives the bound. These are N0's
# formulas 22 to 27; the first two rows are equalities, the third is Jensen's inequality, formula 3,
# and the rows after it only rewrite it:
#
# $$\begin{aligned}
# \log p(x)&=\log\int p(x\mid z)\,p(z)\,dz                                       &&(22)\\
#   &=\log\int q(z\mid x)\frac{p(x,z)}{q(z\mid x)}\,dz                           &&(23)\\
#   &\ge\int q(z\mid x)\log\frac{p(x,z)}{q(z\mid x)}\,dz                         &&(24)\\
#   &=\int q(z\mid x)\bigl(\log p(x\mid z)+\log p(z)-\log q(z\mid x)\bigr)\,dz   &&(25),(26)\\
#   &=\mathrm E_q\log p(x\mid z)+\mathrm E_q\log p(z)-\mathrm E_q\log q(z\mid x) &&(27)\\
#   &=\mathrm E_q\log p(x\mid z)-\mathrm{KL}(q(z\mid x)\,\Vert\,p(z)).           &&(28)
# \end{aligned}$$
#
# Minus the last row is the loss, formula 29. To see the rows as numbers let $z$ be one-dimensional,
# $z\sim N(0,1)$, $x\mid z\sim N(z,1)$, and $x=1.5$. Then $p(x)=N(0,2)$, the posterior is $N(x/2,
# 1/2)$ by Bayes' rule (formula 4), and all integrals can be taken on a grid. Where $q$ is the
# posterior, $w$ is the constant $p(x)$ and the inequality an equality.

# %%
x, z = torch.tensor(1.5).double(), torch.linspace(-12, 12, 20_001, dtype=torch.double)
width, prior, likelihood = z[1] - z[0], Normal(0.0, 1.0).log_prob(z), Normal(z, 1.0).log_prob(x)
evidence = Normal(0.0, 2**0.5).log_prob(x)
for mean, sd in ((0.75, 0.5**0.5), (0.75, 0.5), (0.0, 1.0)):
    log_q = Normal(mean, sd).log_prob(z)
    q = log_q.exp() * width
    row_22 = ((likelihood + prior).exp().sum() * width).log()
    row_23 = (q * (likelihood + prior - log_q).exp()).sum().log()
    row_24 = (q * (likelihood + prior - log_q)).sum()
    three = [(q * term).sum() for term in (likelihood, prior, log_q)]
    row_27 = three[0] + three[1] - three[2]
    row_28 = three[0] - kl_divergence(Normal(mean, sd), Normal(0.0, 1.0))
    print(
        f"q = N({mean}, {sd:.2f}^2): (22) {row_22:.4f}, (24) {row_24:.4f}; the integrals of (27)",
        [f"{term:.4f}" for term in three],
    )
    assert (row_22 - evidence).abs() < 1e-6
    assert (row_23 - evidence).abs() < 1e-6
    assert (row_27 - row_24).abs() < 1e-9
    assert (row_28 - row_24).abs() < 1e-6
    is_posterior = (mean, sd) == (0.75, 0.5**0.5)
    assert (row_24 < evidence - 0.01) or (is_posterior and (row_24 - evidence).abs() < 1e-6)

# %% [markdown]
# ## The KL divergence is cross entropy minus entropy
#
# Formulas 5 to 7 split the KL of two distributions,
#
# $$\mathrm{KL}(p_1\Vert p_2)=\underbrace{-\mathrm E_{p_1}\log p_2}_{\text{cross entropy}}
#   -\underbrace{(-\mathrm E_{p_1}\log p_1)}_{\text{entropy}} .$$
#
# In bits (with the logarithm to the base 2) it is a length. A good code gives a symbol of
# probability $p$ a word of $-\log_2p$ bits; the entropy is then the mean length of a message. Who
# uses the code of $p_2$ for symbols of $p_1$ needs the cross entropy, and the KL is what he wastes.
# This is N2's view of $z$ as a code: the KL of a VAE, over $\log2$, is how many bits the code of
# $x$ costs, and minus the ELBO how many it takes to send $x$ altogether.

# %%
p1, p2 = torch.tensor([1 / 8, 1 / 8, 1 / 4, 1 / 2]), torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 8])
own, other = ["111", "110", "10", "0"], ["0", "10", "110", "111"]  # the words of both codes
entropy, cross = (sum(p * len(w) for p, w in zip(p1, words, strict=True)) for words in (own, other))
kl = (p1 * (p1 / p2).log2()).sum()
print(f"entropy {entropy} bits, cross entropy {cross} bits, KL {kl} bits")
assert entropy == -(p1 * p1.log2()).sum()
assert cross == -(p1 * p2.log2()).sum()
assert kl == cross - entropy

# %% [markdown]
# ## KL of two Gaussians: diagonal
#
# In a VAE $q=N(\mu,\mathrm{diag}\,\sigma^2)$ and $p=N(0,I)$, in $J$ dimensions. The expectations of
# the three terms of $\log q-\log p$ are formulas 13 to 18:
#
# $$\begin{aligned}
# \log q-\log p&=-\tfrac12\sum_j\log\sigma_j^2-\tfrac12\sum_j\frac{(z_j-\mu_j)^2}{\sigma_j^2}
#   +\tfrac12\sum_jz_j^2\\
# \mathrm{KL}&=-\tfrac12\sum_j\log\sigma_j^2-\tfrac J2+\tfrac12\sum_j(\mu_j^2+\sigma_j^2)
#   =\tfrac12\sum_j(\mu_j^2+\sigma_j^2-\log\sigma_j^2-1),
# \end{aligned}$$
#
# since $(z_j-\mu_j)^2/\sigma_j^2$ has the mean 1, and $z_j^2$ the mean $\mu_j^2+\sigma_j^2$. (N2
# says before its formula 7 that this KL is integrated numerically. The paper says analytically.)
#
# > **Find the mistake.** There are two in formula 8. It names $N(\mu,\sigma^2)$ $p$ and $N(0,I)$
# > $q$; the result is $\mathrm{KL}(q\Vert p)$ in the notation of the rest, and the KL is not
# > symmetric. And the normalizing constant has $(2\pi\sigma^2)^{J/2}$ for
# > $(2\pi)^{J/2}\prod_j\sigma_j$: the density does not integrate to one. (Formula 11 has it right
# > again.)

# %%
mu, sigma = torch.tensor([0.5, -1.0]).double(), torch.tensor([0.4, 1.5]).double()
z = mu + sigma * torch.randn(DRAWS, 2, dtype=torch.double)
term_16, term_17 = -0.5 * ((z - mu) / sigma).square().sum(1), 0.5 * z.square().sum(1)
closed = 0.5 * (mu**2 + sigma**2 - (sigma**2).log() - 1).sum()
assert agrees(term_16, -2 / 2)
assert agrees(term_17, 0.5 * (mu**2 + sigma**2).sum())
assert agrees(-sigma.log().sum() + term_16 + term_17, closed)
q, p = Normal(mu, sigma), Normal(torch.zeros(2).double(), torch.ones(2).double())
assert torch.allclose(closed, kl_divergence(q, p).sum())
assert (closed - kl_divergence(p, q).sum()).abs() > 1  # the roles matter
grid = torch.cartesian_prod(*2 * [torch.linspace(-12, 12, 1_201, dtype=torch.double)])
mass = torch.exp(-0.5 * ((grid - mu) / sigma).square().sum(1)).sum() * 0.02**2
print(f"KL {closed:.4f}; by (8) the density integrates to {mass / (2 * math.pi * 0.4**2):.2f}")
assert (mass / (2 * math.pi * sigma.prod()) - 1).abs() < 1e-6

# %% [markdown]
# ## KL of two Gaussians: full covariances
#
# N4 has $q=N(m_0,S_0)$ and $p=N(m_1,S_1)$ in $k$ dimensions. The expectations under $q$ of the two
# quadratic forms are $\mathrm{tr}(S_0^{-1}S_0)=k$ and $\mathrm{tr}(S_1^{-1}S_0)+(m_1-m_0)^\top
# S_1^{-1}(m_1-m_0)$, so
#
# $$\mathrm{KL}=\tfrac12\Bigl(\log\frac{|S_1|}{|S_0|}-k+\mathrm{tr}(S_1^{-1}S_0)
#   +(m_1-m_0)^\top S_1^{-1}(m_1-m_0)\Bigr),$$
#
# and against $N(0,I)$, the case of a VAE whose $q=N(\mu,\Sigma)$ is not diagonal,
#
# $$\mathrm{KL}=\tfrac12\bigl(-\log|\Sigma|+\mu^\top\mu+\mathrm{tr}\,\Sigma-k\bigr).$$
#
# A draw of it is $z=\mu+\Sigma^{1/2}\epsilon$, $\epsilon\sim N(0,I)$; any root with $\Sigma^{1/2}
# (\Sigma^{1/2})^\top=\Sigma$ will do, such as Cholesky's triangular one.
#
# > **Find the mistake.** N4 loses the factor 1/2 of one term on the way and has it again in the
# > last row; prints the trace of a determinant in the special case; and subtracts the KL in the
# > loss, which is *minus* the ELBO, $-\mathrm E_q\log p(x\mid z)+\mathrm{KL}$.

# %%
a, (m0, m1) = torch.randn(2, 3, 3).double(), torch.randn(2, 3).double()
S0, S1 = a @ a.mT + 0.5 * torch.eye(3)
inverse, d = torch.linalg.inv(S1), m1 - m0
quadratic = torch.trace(inverse @ S0) - 3
others = torch.logdet(S1) - torch.logdet(S0) + d @ inverse @ d
q, p, unit = MultivariateNormal(m0, S0), MultivariateNormal(m1, S1), torch.eye(3).double()
assert torch.allclose(0.5 * (others + quadratic), kl_divergence(q, p))
assert (0.5 * others + quadratic - kl_divergence(q, p)).abs() > 0.1  # with the 1/2 lost
special = 0.5 * (-torch.logdet(S0) + m0 @ m0 + torch.trace(S0) - 3)
assert torch.allclose(special, kl_divergence(q, MultivariateNormal(0 * m0, unit)))
root = torch.linalg.cholesky(S0)
z = m0 + torch.randn(DRAWS, 3, dtype=torch.double) @ root.T
assert (z.T.cov() - S0).abs().max() < 0.03 * S0.max()
assert agrees(q.log_prob(z) - p.log_prob(z), kl_divergence(q, p))
print(f"KL {kl_divergence(q, p):.4f}, with the lost 1/2 {0.5 * others + quadratic:.4f}")

# %% [markdown]
# **Exercises.** 1. Let $w$ have a gamma distribution with shape $a$. What is $\log\mathrm E\,w-
# \mathrm E\log w$, and how does it fall with $a$? 2. The KL is the mean of $-\log r$ under $q$ with
# $r=p/q$, and also that of $r-1-\log r$. Why, which of the two is never negative, and which is less
# noisy where $q\approx p$? Answers: `tutorials/answers/03_jensen_and_kl.py`. **Next:** 14 measures
# how far the bound is below $\log p(x)$.
