# %% [markdown]
# # 03 · The bound
#
# What the evidence lower bound is, how far below log p(x) it lies, what closes the gap, and why a
# VAE does not simply average p(x | z) over the prior. Every statement is checked numerically.
#
#     log p(x) = ELBO(q, x) + KL( q(z | x) || p(z | x) )
#     ELBO(q, x) = E_q[ log p(x | z) ] - KL( q(z | x) || p(z) )
#
#     python tutorials/03_the_bound.py --quick      # embedded digits, half a minute
#     python tutorials/03_the_bound.py              # MNIST, from PYROVAE_DATA; minutes

# %%
import argparse
import itertools
import json
import math
import sys
import warnings
from pathlib import Path

import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, Normal, kl_divergence

import pyrovae as pv
from pyrovae import datasets, plots

parser = argparse.ArgumentParser(
    description="Jensen, KL in closed form, the gap, E-step and M-step, the naive average."
)
parser.add_argument("--quick", action="store_true", help="embedded 8 x 8 digits instead of MNIST")
parser.add_argument("--output", type=Path, default=Path("figures"), help="folder for the pictures")
options = parser.parse_args([] if "ipykernel" in sys.modules else None)
options.output.mkdir(parents=True, exist_ok=True)
torch.manual_seed(0)
result = {}  # the numbers that this script computes, printed at its end


def show(figure, name):
    """Save a picture."""
    figure.savefig(options.output / f"03_{name}.png", dpi=110)


def z_score(draws, exact):
    """Return the distance of the draws' mean from the exact value, in standard errors."""
    return ((draws.mean() - exact) / (draws.std() / len(draws) ** 0.5)).abs().item()


# %% [markdown]
# ## Jensen's inequality
#
# A function with f'' >= 0 is **convex**: E f(X) >= f(E X). One with f'' <= 0 is **concave**: E f(X)
# <= f(E X). (One of the notes calls both convex.) The logarithm has f''(w) = -1 / w^2 < 0: it is
# concave, and so for any positive w
#
#     E log w <= log E w.
#
# With w = p(x, z) / q(z | x) and z ~ q(z | x), E w is p(x), and E log w is the ELBO. As a numerical
# example take w = e^u with u ~ N(0, s^2): E log w = 0 exactly, log E w = s^2 / 2 exactly. The gap
# grows with the variance of w; for a constant w it is zero.

# %%
curvature = torch.func.grad(torch.func.grad(torch.log))(torch.tensor(2.0)).item()
print(f"log''(2) = {curvature:.3f} < 0: concave")
gaps = {}
for s in (0.1, 0.5, 1.0):
    log_w = s * torch.randn(1_000_000, dtype=torch.double)
    gaps[s] = (log_w.exp().mean().log() - log_w.mean()).item()
    print(f"s = {s}: log E w - E log w = {gaps[s]:.4f}, exactly {s**2 / 2:.4f}")
result["curvature_of_log"] = curvature
result["jensen_error"] = max(abs(gap - s**2 / 2) for s, gap in gaps.items())

figure = Figure(figsize=(5.5, 3.8), layout="constrained")
axis = figure.subplots()
w = torch.linspace(0.05, 3.2, 300)
two = torch.tensor([0.3, 2.7])
axis.plot(w, w.log(), color=plots.BLUE, label="log w")
axis.plot(two, two.log(), "o-", color=plots.ORANGE, label="w = 0.3 or 2.7, equally likely")
axis.plot([1.5, 1.5], [two.log().mean().item(), math.log(1.5)], "k:", lw=1.5)
axis.annotate("log E w", (1.5, math.log(1.5)), (0.85, 0.85), arrowprops={"arrowstyle": "->"})
axis.annotate(
    "E log w", (1.5, two.log().mean().item()), (1.75, -0.75), arrowprops={"arrowstyle": "->"}
)
axis.set(title="The logarithm is concave: E log w <= log E w", xlabel="w", ylim=(-2.2, 1.4))
axis.legend(frameon=False, loc="lower right")
show(figure, "jensen")

# %% [markdown]
# ## KL of two Gaussians: diagonal
#
# In a VAE the posterior is q(z) = N(mu, diag sigma^2) and the prior is p(z) = N(0, I). The loss
# needs KL(q || p) = E_q[ log q - log p ]. (The derivation in the notes, (8) to (18), uses the names
# p and q the other way round; in the notation of the VAE its result is KL(q || p).) The normalizing
# constant of J independent Gaussians contains the *product* of the sigmas, which is missing in (8)
# and present again in (11):
#
#     q(z) = (2 pi)^(-J/2) (prod_j sigma_j)^(-1) exp( -1/2 sum_j (z_j - mu_j)^2 / sigma_j^2 )
#
#     log q - log p:   -1/2 sum_j log sigma_j^2
#                      -1/2 sum_j (z_j - mu_j)^2 / sigma_j^2  +  1/2 sum_j z_j^2
#     expectation:     -1/2 sum_j log sigma_j^2
#                      -J / 2                                 +  1/2 sum_j (mu_j^2 + sigma_j^2)
#
#     KL(q || p) = 1/2 sum_j ( mu_j^2 + sigma_j^2 - log sigma_j^2 - 1 )
#
# The second term has expectation -J / 2, since (z_j - mu_j)^2 / sigma_j^2 has mean 1 under q; the
# third follows from E z_j^2 = mu_j^2 + sigma_j^2.

# %%
mu = torch.tensor([0.5, -1.0], dtype=torch.double)
sigma = torch.tensor([0.4, 1.5], dtype=torch.double)
J = len(mu)
grid = torch.cartesian_prod(*2 * [torch.linspace(-12, 12, 1201, dtype=torch.double)])  # (1201^2, 2)
exponential = torch.exp(-0.5 * ((grid - mu) / sigma).square().sum(-1))
cell = (24 / 1200) ** 2
integral = (exponential.sum() * cell / ((2 * math.pi) ** (J / 2) * sigma.prod())).item()
one_sigma = (exponential.sum() * cell / (2 * math.pi * sigma[0] ** 2) ** (J / 2)).item()
print(
    f"\nthe density integrates to {integral:.6f}; "
    f"with one sigma instead of the product, as in (8), to {one_sigma:.3f}"
)
result["integral"] = integral

z = mu + sigma * torch.randn(1_000_000, J, dtype=torch.double)
steps = {  # term: (draws, exact expectation)
    "-1/2 sum (z - mu)^2 / sigma^2": (
        -0.5 * ((z - mu) / sigma).square().sum(-1),
        torch.tensor(-J / 2),
    ),
    " 1/2 sum z^2                 ": (0.5 * z.square().sum(-1), 0.5 * (mu**2 + sigma**2).sum()),
}
kl = 0.5 * (mu**2 + sigma**2 - (sigma**2).log() - 1).sum()
steps[" log q - log p               "] = (
    -sigma.log().sum() + sum(draws for draws, _ in steps.values()),
    kl,
)
for name, (draws, exact) in steps.items():
    print(f"E[{name}] by sampling {draws.mean():8.4f}, exactly {exact:8.4f}")
q, p = (
    Normal(mu, sigma),
    Normal(torch.zeros(J, dtype=torch.double), torch.ones(J, dtype=torch.double)),
)
forward, backward = kl_divergence(q, p).sum(), kl_divergence(p, q).sum()
print(
    f"closed form {kl:.6f}; torch: KL(q || p) {forward:.6f}, "
    f"with p and q exchanged KL(p || q) {backward:.6f}: the KL is not symmetric"
)
result["kl_z_scores"] = [z_score(*step) for step in steps.values()]
result["kl_diagonal_error"] = abs(kl - forward).item()
result["kl_roles_differ_by"] = abs(forward - backward).item()

# %% [markdown]
# ## KL of two Gaussians: full covariance
#
# For q = N(m0, S0) and p = N(m1, S1) in k dimensions:
#
#     E_q[ log q - log p ] = 1/2 E_q[ log |S1| - log |S0|
#                                     - (z - m0)' S0^-1 (z - m0) + (z - m1)' S1^-1 (z - m1) ]
#
#     (a)  E (z - m0)' S0^-1 (z - m0) = tr(S0^-1 S0) = k
#     (b)  E (z - m1)' S1^-1 (z - m1) = tr(S1^-1 S0) + (m1 - m0)' S1^-1 (m1 - m0),
#          since the cross term has mean zero
#
#     KL = 1/2 ( log |S1| / |S0|  -  k  +  tr(S1^-1 S0)  +  (m1 - m0)' S1^-1 (m1 - m0) )
#
# The factor 1/2 multiplies *every* term. (One of the notes drops it before E_q[(z - m0)'(S1^-1 -
# S0^-1)(z - m0)], has it again in the last line, and then subtracts the KL in the loss. The loss is
# minus the ELBO: -E_q log p(x | z) *plus* the KL.)

# %%
a = torch.randn(2, 3, 3, dtype=torch.double)
S0, S1 = a @ a.mT + 0.5 * torch.eye(3, dtype=torch.double)
m0, m1 = torch.randn(2, 3, dtype=torch.double)
q, p = MultivariateNormal(m0, S0), MultivariateNormal(m1, S1)
difference, inverse = m1 - m0, torch.linalg.inv(S1)
quadratic = (torch.trace(inverse @ S0) - 3).item()  # E (z - m0)' (S1^-1 - S0^-1) (z - m0)
means = (difference @ inverse @ difference).item()
log_ratio = (torch.logdet(S1) - torch.logdet(S0)).item()
full = 0.5 * (log_ratio + quadratic + means)

z = q.sample((1_000_000,))
draws = ((z - m0) @ (inverse - torch.linalg.inv(S0)) * (z - m0)).sum(-1)
print(
    f"\nE (z - m0)'(S1^-1 - S0^-1)(z - m0): by sampling {draws.mean():.4f}, exactly {quadratic:.4f}"
)
log_w = q.log_prob(z) - p.log_prob(z)
print(
    f"KL, full: closed form {full:.6f}, torch {kl_divergence(q, p):.6f}, "
    f"by sampling {log_w.mean():.4f}"
)
print(f"without the 1/2 of that term it would be {0.5 * (log_ratio + means) + quadratic:.4f}")
result["kl_full_error"] = abs(full - kl_divergence(q, p).item())
result["kl_full_z_scores"] = [z_score(draws, quadratic), z_score(log_w, full)]

# %% [markdown]
# ## A VAE whose evidence is known
#
# Let the decoder be linear and the noise Gaussian: x ~ N(W z + m, s^2 I). This is probabilistic PCA
# (Tipping & Bishop 1999), for which the quantities that are intractable in a VAE have closed forms:
#
#     p(x) = N(m, W W' + s^2 I)      p(z | x) = N( M^-1 W'(x - m), s^2 M^-1 ),   M = W'W + s^2 I
#
# The mean of the exact posterior is linear in x, and its full covariance is the same for all x. As
# a posterior of our own, in a few lines:


# %%
class LinearNormal(nn.Module):
    """q(z | x) = N(A x + b, L L'), L lower triangular, its diagonal positive as an exponential."""

    def __init__(self, features, latents):
        super().__init__()
        self.mean = nn.Linear(features, latents)
        self.log_diagonal = nn.Parameter(torch.zeros(latents))
        self.lower = nn.Parameter(torch.zeros(latents, latents))

    @property
    def L(self):  # noqa: N802
        return self.lower.tril(-1) + self.log_diagonal.exp().diag()

    def forward(self, x):
        return dist.MultivariateNormal(self.mean(x), scale_tril=self.L)

    @torch.no_grad()
    def put(self, A, b, L):  # noqa: N803
        """Set the parameters to the given values."""
        self.mean.weight.copy_(A), self.mean.bias.copy_(b)
        self.lower.copy_(L), self.log_diagonal.copy_(L.diagonal().log())


def linear_vae(features, latents, sigma):
    """Return the linear-Gaussian VAE, in float64."""
    net = nn.Linear(latents, features)
    decoder = pv.likelihoods.Gaussian(net, sigma=sigma, learned=True, floor=0.0)  # exact formulas
    encoder = LinearNormal(features, latents)
    return pv.VAE(pv.priors.StandardNormal(latents), encoder, decoder).double()


def parameters(vae):
    """Return W, m and s of a linear-Gaussian VAE."""
    net, log_sigma = vae.likelihood.net, vae.likelihood.log_sigma
    return net.weight.detach(), net.bias.detach(), log_sigma.exp().detach()


def evidence(vae, x):
    """Return the exact log N(x; m, W W' + s^2 I) of each observation."""
    W, m, s = parameters(vae)  # noqa: N806
    return LowRankMultivariateNormal(m, W, s**2 * torch.ones_like(m)).log_prob(x)


def posterior(vae, x):
    """Return the exact p(z | x)."""
    W, m, s = parameters(vae)  # noqa: N806
    M = W.T @ W + s**2 * torch.eye(W.shape[1], dtype=torch.double)  # noqa: N806
    return MultivariateNormal((x - m) @ W @ torch.linalg.inv(M), s**2 * torch.linalg.inv(M))


def e_step(vae):
    """Set q(z | x) to p(z | x)."""
    W, m, s = parameters(vae)  # noqa: N806
    M = W.T @ W + s**2 * torch.eye(W.shape[1], dtype=torch.double)  # noqa: N806
    A = torch.linalg.solve(M, W.T)  # noqa: N806
    vae.posterior.put(A, -A @ m, torch.linalg.cholesky(s**2 * torch.linalg.inv(M)))


toy = linear_vae(features=6, latents=2, sigma=0.5)
with torch.no_grad():
    toy.likelihood.net.weight.copy_(torch.randn(6, 2))
x = pv.generate(toy, 200, mean=False, seed=0)
exact = evidence(toy, x)
level = exact.mean().item()

# %% [markdown]
# With the exact posterior the weight w = p(x, z) / q(z | x) = p(x) does not depend on z. Jensen's
# inequality is then an equality, and the ELBO equals log p(x) **for every single draw**, not only
# on average. (`log_evidence` with one sample returns log w of one draw.)

# %%
e_step(toy)
spread = max(
    (pv.log_evidence(toy, x, samples=1, seed=seed).log_p - exact).abs().max().item()
    for seed in range(5)
)
print(
    f"\nexact posterior: largest |log w - log p(x)| "
    f"over 5 draws for each of {len(x)} observations: {spread:.1e}"
)
result["exact_posterior_error"] = spread

# %% [markdown]
# ## The gap
#
# Move q away from p(z | x): shift its mean, or scale its standard deviations. The ELBO falls below
# log p(x) by exactly KL(q || p(z | x)). Lines: log p(x) minus that KL in closed form. Points: the
# ELBO as the library estimates it.


# %%
def moved(shift=0.0, scale=1.0):
    """Return ELBO and KL(q || p(z | x)) per observation, for q with shifted mean or scaled L."""
    e_step(toy)
    q = toy.posterior
    with torch.no_grad():
        q.put(q.mean.weight, q.mean.bias + shift * torch.tensor([1.0, 0.0]), scale * q.L)
        kl = kl_divergence(q(x), posterior(toy, x))
    return pv.elbo(toy, x, samples=400).elbo, kl


shifts, scales = torch.linspace(-1, 1, 21), torch.logspace(-1, 1, 21, base=4)
curves = {
    "shift": [moved(shift=v) for v in shifts.tolist()],
    "scale": [moved(scale=v) for v in scales.tolist()],
}
z_scores = [
    z_score(exact - elbo - kl, 0)
    for points in curves.values()
    for elbo, kl in points
    if kl.mean() > 1e-3
]
result["gap_z_score"] = max(z_scores)
result["gap_error"] = max(
    abs((exact - elbo - kl).mean().item()) for points in curves.values() for elbo, kl in points
)
print(
    f"log p(x) = ELBO + KL(q || p(z | x)) for {len(z_scores)} choices of q: "
    f"within {result['gap_error']:.4f} nats (sampling error)"
)

figure = Figure(figsize=(10, 3.6), layout="constrained")
axes = figure.subplots(1, 2, sharey=True)
for axis, (name, points), at in zip(axes, curves.items(), (shifts, scales), strict=True):
    axis.axhline(level, color=plots.GREY, ls="--", label="log p(x)")
    axis.plot(
        at,
        [(exact - kl).mean().item() for _, kl in points],
        color=plots.BLUE,
        label="log p(x) - KL(q || p(z | x))",
    )
    axis.plot(
        at,
        [elbo.mean().item() for elbo, _ in points],
        "o",
        color=plots.ORANGE,
        ms=4,
        label="ELBO, estimated",
    )
    axis.set(
        xlabel={"shift": "shift of q's mean", "scale": "factor on q's standard deviations"}[name]
    )
    axis.grid(alpha=0.3)
axes[0].set(ylabel="nats per observation", ylim=(level - 6, level + 0.5))
axes[1].set_xscale("log", base=2)
axes[1].legend(frameon=False, loc="lower center")
figure.suptitle("The gap is exactly KL(q(z | x) || p(z | x))")
show(figure, "gap")

# %% [markdown]
# There are two KLs here, and they are easily confused. One of the notes equates log p(x | z) with
# the ELBO minus KL(q || p(z)). The correct identities are
#
#     E_q log p(x | z) = ELBO + KL( q(z | x) || p(z) )        the reconstruction, averaged over q
#             log p(x) = ELBO + KL( q(z | x) || p(z | x) )    the evidence, KL to the *posterior*
#
# For a q that differs from the posterior (its mean shifted by 0.3), averaged over the observations:

# %%
_, to_posterior = moved(shift=0.3)
terms = pv.elbo(toy, x, samples=4000)
unit_normal = MultivariateNormal(
    torch.zeros(2, dtype=torch.double), torch.eye(2, dtype=torch.double)
)
to_prior = kl_divergence(toy.posterior(x), unit_normal).detach()
W, m, s = parameters(toy)
# E_q log N(x; W z + m, s^2 I) = log N(x; W E z + m, s^2 I) - tr(W S W') / (2 s^2)
with torch.no_grad():
    fit = Normal(toy.likelihood.net(toy.posterior.mean(x)), s).log_prob(x).sum(-1)
    reconstruction = fit - (W @ toy.posterior.L).square().sum() / (2 * s**2)
elbo = reconstruction - to_prior
rows = {
    "ELBO": (elbo, terms.elbo),
    "ELBO + KL(q || p(z | x))    = log p(x)": (elbo + to_posterior, exact),
    "ELBO + KL(q || p(z))        = E_q log p(x | z)": (elbo + to_prior, terms.reconstruction),
    "ELBO - KL(q || p(z)), the mistake": (elbo - to_prior, terms.reconstruction),
}
for name, (left, right) in rows.items():
    print(f"{name:48s} {left.mean():9.4f} against {right.mean():9.4f}")
result["identity_error"] = (elbo + to_posterior - exact).abs().max().item()
result["slip_error"] = (elbo - to_prior - terms.reconstruction).mean().abs().item()

# %% [markdown]
# A *diagonal* q cannot match a posterior with correlated latents, so a gap remains after any amount
# of training. The best diagonal q has the variances 1 / Lambda_jj, where Lambda = M / s^2 is the
# precision matrix, and the gap is
#
#     1/2 ( sum_j log Lambda_jj - log |Lambda| ).

# %%
Lambda = (W.T @ W + s**2 * torch.eye(2, dtype=torch.double)) / s**2
remains = 0.5 * (Lambda.diagonal().log().sum() - torch.logdet(Lambda))
exact_q = posterior(toy, x[:1])
best_diagonal = MultivariateNormal(exact_q.mean, torch.diag_embed(1 / Lambda.diagonal()))
by_torch = kl_divergence(best_diagonal, exact_q).item()
print(f"gap of the best diagonal q: {remains:.6f} nats, by torch {by_torch:.6f}")
result["diagonal_gap_error"] = abs(remains.item() - by_torch)

# %% [markdown]
# ## E-step and M-step
#
# The ELBO has two arguments, q and the parameters. Maximizing it over q alone, which reaches log
# p(x), is the E-step: q(z | x) = p(z | x). Maximizing it over the parameters alone is the M-step.
# The EM algorithm alternates between them, and log p(x) never decreases. A VAE does both at once,
# by gradients. For probabilistic PCA on real images both steps have closed forms (m is the mean
# image), and so has the maximum (eigenvalues l_1 >= l_2 >= ... of the covariance, k latents, D
# pixels):
#
#     s^2 = mean of l_(k+1) .. l_D
#     max mean log p(x) = -1/2 ( D log 2 pi + sum_(j<=k) log l_j + (D - k) log s^2 + D )

# %%
data = datasets.digits() if options.quick else datasets.mnist()
white = data.total_count or 1
grey, grey_test = (torch.as_tensor(part).flatten(1) / white for part in (data.x, data.x_test))
X = grey[:2_000].double()
N, D = X.shape
k = 3
covariance = torch.cov(X.T, correction=0)
values = torch.linalg.eigvalsh(covariance).flip(0)
s2 = values[k:].mean()
maximum = (
    -0.5 * (D * math.log(2 * math.pi) + values[:k].log().sum() + (D - k) * s2.log() + D)
).item()


def m_step(vae):
    """Set W, m and s to maximize the ELBO at the current q (Tipping & Bishop 1999, appendix B)."""
    with torch.no_grad():
        z, S = vae.posterior.mean(X), vae.posterior.L @ vae.posterior.L.T  # noqa: N806
        m = X.mean(0)
        zz = z.T @ z / N + S  # mean of E[z z']; the mean of z is zero at every E-step
        W = torch.linalg.solve(zz, z.T @ (X - m) / N).T  # noqa: N806
        s2 = (
            (X - m).square().sum() / N - 2 * ((X - m) @ W * z).sum() / N + torch.trace(zz @ W.T @ W)
        ) / D
        vae.likelihood.net.weight.copy_(W)
        vae.likelihood.net.bias.copy_(m)
        vae.likelihood.log_sigma.copy_(s2.log() / 2)


def bound(vae):
    """Return mean log p(x), and the mean ELBO: log p(x) minus KL(q || p(z | x))."""
    log_p = evidence(vae, X).mean().item()
    with torch.no_grad():
        return log_p, log_p - kl_divergence(vae.posterior(X), posterior(vae, X)).mean().item()


em = linear_vae(D, k, sigma=0.3)
with torch.no_grad():
    em.likelihood.net.weight.copy_(0.1 * torch.randn(D, k))
    em.likelihood.net.bias.copy_(X.mean(0))
    em.posterior.mean.weight.zero_()
    em.posterior.mean.bias.zero_()
track = [("start", *bound(em))]
for _ in range(100 if options.quick else 400):
    e_step(em)
    track.append(("E", *bound(em)))
    m_step(em)
    track.append(("M", *bound(em)))
log_p, elbos = torch.tensor([t[1:] for t in track], dtype=torch.double).T
result["em_least_rise_of_elbo"] = elbos.diff().min().item()
result["em_least_rise_of_evidence"] = log_p.diff().min().item()
result["em_gap_after_e_step"] = (log_p - elbos)[1::2].abs().max().item()
result["em_below_maximum"] = maximum - log_p[-1].item()
print(
    f"\nEM on {data.name}, {k} latents: log p(x) {log_p[0]:.3f} -> {log_p[-1]:.6f}, "
    f"maximum from the eigenvalues {maximum:.6f}"
)
print(
    f"smallest change in a half-step: of the ELBO {elbos.diff().min():.1e}, "
    f"of log p(x) {log_p.diff().min():.1e}"
)

# %% [markdown]
# `pv.fit` trains the same model by stochastic gradients: q and the parameters together, with an
# amortized q, a sampled bound and minibatches. It reaches the same maximum, up to the noise of its
# steps.

# %%
sgd = linear_vae(D, k, sigma=0.3)
epochs = 60 if options.quick else 150
history = pv.fit(
    sgd,
    X,
    optimizer=lambda parameters: torch.optim.Adam(
        parameters, lr=2e-2 if options.quick else 1e-2, fused=True
    ),
    scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
    epochs=epochs,
    batch_size=100,
    seed=0,
    progress=False,
)
by_gradient, by_gradient_elbo = bound(sgd)
result["sgd_below_maximum"] = maximum - by_gradient
print(f"pv.fit: log p(x) {by_gradient:.3f}, ELBO {by_gradient_elbo:.3f}; maximum {maximum:.3f}")

figure = Figure(figsize=(10, 3.8), layout="constrained")
left, right = figure.subplots(1, 2)
first = 25
left.plot(range(first), log_p[:first], color=plots.BLUE, marker="s", ms=4, label="log p(x)")
left.plot(range(first), elbos[:first], color=plots.ORANGE, marker="o", ms=4, label="ELBO")
left.axhline(maximum, color=plots.GREY, ls="--", label="maximum, from eigenvalues")
left.set_xticks(range(first), [t[0] if i else "" for i, t in enumerate(track[:first])], fontsize=7)
left.set(title="E closes the gap, M raises log p(x)", xlabel="half-steps of EM")
left.set_ylabel("nats per image")
left.set_ylim(log_p[1].item() - 5, maximum + 3)
left.legend(frameon=False, loc="lower right")
right.semilogy(
    (maximum - log_p[1:80:2]).clamp(min=1e-12), color=plots.BLUE, label="EM, by iteration"
)
right.semilogy(
    maximum - torch.tensor(history.elbo), color=plots.GREEN, label="pv.fit (ELBO), by epoch"
)
right.set(title="Distance to the maximum", xlabel="iteration, epoch", ylabel="nats per image")
right.grid(alpha=0.3)
right.legend(frameon=False)
show(figure, "em")

# %% [markdown]
# ## The naive average needs too many z
#
# p(x) = E_p(z)[ p(x | z) ] suggests averaging p(x | z) over draws from the prior. This estimator is
# unbiased for p(x), but of little use: only a fraction of about e^-KL(q || p) of the prior's mass
# lies where q(z | x) has its mass, so about e^KL draws are needed until one explains x at all.
# Until such a z is drawn, the estimate of log p(x) is far too low. Importance sampling draws z from
# q(z | x), where p(x | z) is large, and divides by the density of the draws:
#
#     p(x) = E_q(z|x)[ p(x | z) p(z) / q(z | x) ]
#
# Both estimates of log p(x) are too low on average (Jensen's inequality again) and increase with
# the number K of draws. The effective sample size, (sum w)^2 / sum w^2, measures how many of the K
# draws contribute. A VAE is fitted to the counts 0 to 16 of the digits, or to binarized MNIST.

# %%
J, hidden, vae_epochs, batch = (8, 100, 40, 50) if options.quick else (20, 500, 10, 100)
vae = pv.VAE(
    pv.priors.StandardNormal(J),
    pv.posteriors.DiagonalNormal(pv.nets.MLP(D, [hidden], 2 * J, activation=nn.Tanh)),
    pv.likelihoods.Bernoulli(pv.nets.MLP(J, [hidden], D, activation=nn.Tanh)),
)
if options.quick:
    vae.posterior = pv.conditional.Standardized(vae.posterior, scale=16.0)
    vae.likelihood = pv.likelihoods.DiscretizedLogistic(
        pv.nets.MLP(J, [hidden], 2 * D, activation=nn.Tanh), levels=17
    )
train, images = (
    (16 * grey, 16 * grey_test[:30]) if options.quick else (grey, torch.bernoulli(grey_test[:30]))
)
pv.fit(
    vae,
    train,
    transform=None if options.quick else pv.batches.binarize,
    optimizer=lambda parameters: torch.optim.Adam(parameters, lr=2e-3, fused=True),
    epochs=vae_epochs,
    batch_size=batch,
    seed=0,
    progress=False,
)

sizes = [1, 3, 10, 30, 100, 300, 1000, 3000, 10_000]
warnings.simplefilter("ignore", pv.EvidenceWarning)  # too few draws are what is to be shown
estimates = {"naive": pv.naive_log_evidence, "importance": pv.log_evidence}
found = {
    name: [estimate(vae, images, samples=K) for K in sizes] for name, estimate in estimates.items()
}
reference = pv.log_evidence(vae, images, samples=30_000, seed=1)
best = reference.log_p.mean().item()
terms = pv.elbo(vae, images, samples=1000)
elbo, kl = terms.elbo.mean().item(), terms.kl.mean().item()
print(
    f"\nELBO {elbo:.2f}; log p(x) {best:.3f} nats per image "
    f"({len(images)} images, 30,000 importance samples)"
)
print(
    f"KL(q || p) {kl:.1f} nats on average: "
    f"about e^{kl:.1f} = {math.exp(kl):.0e} draws from the prior for one good z"
)
print("     K    naive       ESS   importance       ESS")
for i, K in enumerate(sizes):
    naive, importance = found["naive"][i], found["importance"][i]
    print(
        f"{K:6d}{naive.log_p.mean():9.2f}{naive.effective_sample_size.median():10.1f}"
        f"{importance.log_p.mean():13.2f}{importance.effective_sample_size.median():10.1f}"
    )
short = {name: [best - e.log_p.mean().item() for e in found[name]] for name in found}
result["elbo"], result["log_evidence"] = elbo, best
result["naive_short_at_100"] = short["naive"][sizes.index(100)]
result["naive_short_at_10000"] = short["naive"][-1]
result["importance_short_at_100"] = short["importance"][sizes.index(100)]
for name in found:
    ess = found[name][-1].effective_sample_size.median()
    result[f"ess_{name}_share"] = (ess / sizes[-1]).item()

figure = Figure(figsize=(10, 3.8), layout="constrained")
left, right = figure.subplots(1, 2)
for (name, results), colour in zip(found.items(), (plots.ORANGE, plots.BLUE), strict=True):
    left.semilogx(sizes, [e.log_p.mean().item() for e in results], "o-", color=colour, label=name)
    right.loglog(
        sizes,
        [e.effective_sample_size.median().item() for e in results],
        "o-",
        color=colour,
        label=name,
    )
left.axhline(best, color=plots.GREY, ls="--", label="30,000 importance samples")
left.axhline(elbo, color=plots.GREEN, ls=":", label="ELBO")
left.set(title="Estimate of log p(x)", xlabel="draws of z, K", ylabel="nats per image")
left.set_ylim(found["naive"][-1].log_p.mean().item() - 35, best + 4)
right.loglog(sizes, sizes, color=plots.GREY, ls="--", label="K")
right.set(
    title="Effective sample size, median over images",
    xlabel="draws of z, K",
    ylabel="effective draws",
)
for axis in (left, right):
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
show(figure, "evidence")

# %% [markdown]
# ## Minibatches
#
# The loss of N observations is estimated from M of them, scaled by N / M (AEVB, eq. 8). This
# estimator is unbiased: its mean over *all* minibatches of M observations is the loss of the whole
# data. With the exact posterior every draw gives log p(x), so there is no noise and the two are
# equal up to rounding: here over the 15 minibatches of 2 out of 6 observations.

# %%
e_step(toy)
six = x[:6]
whole = pv.objectives.SGVB_A().loss(toy.model, toy.guide, six)
scaled = pv.objectives.SGVB_A(data_size=6)
minibatches = [six[list(rows)] for rows in itertools.combinations(range(6), 2)]
each = torch.tensor(
    [scaled.loss(toy.model, toy.guide, minibatch) for minibatch in minibatches], dtype=torch.double
)
print(
    f"\nloss of 6 observations {whole:.10f}; of minibatches of 2: "
    f"from {each.min():.3f} to {each.max():.3f}, mean {each.mean():.10f}"
)
result["minibatch_error"] = abs(each.mean().item() - whole) / abs(whole)

# %%
print("RESULT", json.dumps(result))
