# %% [markdown]
# # 04 · Estimators
#
# A VAE is trained by gradients of an expectation, and an expectation is estimated from draws. One
# gradient has many estimators with the same mean and very different noise. This script measures
# that noise: on one dimension with exact formulas, then on a VAE. It follows N2 (a translation of
# Kingma and Welling 2014, "AEVB"), sections 2.2 to 2.4 and its formulas 4 to 8 and 11 to 14. (N0 to
# N4 are the notes that the course follows; `tutorials/README.md` introduces them.)
#
# $$\nabla_\phi\,\mathrm E_{q_\phi}f(z)
#   =\mathrm E_{q_\phi}\bigl[f(z)\,\nabla_\phi\log q_\phi(z)\bigr]\quad\text{(score function)}\qquad
#   =\mathrm E_{\epsilon}\bigl[\nabla_\phi f(g_\phi(\epsilon))\bigr]
#   \quad\text{(reparameterized, SGVB)}$$
#
# `PYROVAE_QUICK=1` or `--quick` runs it on 8 x 8 digits; otherwise it takes 10,000 images of MNIST.

# %%
import os
import sys
from functools import partial
from itertools import combinations

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam

import pyrovae as pv
from pyrovae import datasets, likelihoods, nets, objectives, posteriors, priors

QUICK = "--quick" in sys.argv or os.environ.get("PYROVAE_QUICK") == "1"
torch.manual_seed(0)

# %% [markdown]
# ## One dimension, by hand
#
# Take $f(z)=z^2$ and $q=N(\mu,1)$. Then $\mathrm E f=\mu^2+1$, and its gradient is $2\mu$. One draw
# $z=\mu+\epsilon$ gives the score-function estimate $z^2\epsilon$, or $(z^2-b)\,\epsilon$ with any
# number $b$ as *baseline*, since $\mathrm E\,\epsilon=0$; or the reparameterized one, $2(\mu+
# \epsilon)$. All have the mean $2\mu$; their variances are
#
# $$\mathrm{Var}\,(z^2-b)\,\epsilon=8\mu^2+6+(\mu^2+3-b)^2,\qquad
#   \mathrm{Var}\,2(\mu+\epsilon)=4 .$$
#
# Without a baseline the variance grows with the *size* of $f$, although only its slope matters: $f$
# and $f+1000$ have the same gradient. That is why N2 calls the estimator impractical. The baseline
# $b=\mathrm E f$ removes most of the size (it is not the best one, see exercise 1), and the
# reparameterized gradient uses the slope itself.
#
# The first formula above holds as it stands if $f$ does not depend on $\phi$. The ELBO's $f=\log
# p(x,z)-\log q_\phi(z\mid x)$ does. Its further term is $-\mathrm E\,\nabla_\phi\log q_\phi=-\int
# \nabla_\phi q_\phi\,dz=-\nabla_\phi 1=0$ and may be left out.

# %%
mu, eps = 3.0, torch.randn(2_000_000, dtype=torch.double)
for b in (0.0, mu**2 + 1, mu**2 + 3):
    score = ((mu + eps) ** 2 - b) * eps
    exact = 8 * mu**2 + 6 + (mu**2 + 3 - b) ** 2
    print(f"baseline {b:4.0f}: variance {score.var():7.2f}, exactly {exact:.0f}")
    assert abs(score.mean() - 2 * mu) < 5 * (exact / len(eps)) ** 0.5
    assert abs(score.var() / exact - 1) < 0.03
assert abs((2 * (mu + eps)).var() - 4) < 0.03

# %% [markdown]
# ## Three ways to reparameterize
#
# Section 2.4 of AEVB names three ways to a function $g_\phi(\epsilon)$ with $q_\phi(z)\,dz=
# p(\epsilon)\,d\epsilon$: the inverse of the distribution function at a uniform $u$; a location and
# a scale; a composition of such functions. It lists the gamma distribution as a composition, a sum
# of exponentials; but this needs a whole number as shape. For any shape $dz/d\phi=-(\partial
# F/\partial\phi)/q(z)$ is computed from $F$, the distribution function (Figurnov et al. 2018). The
# last column says by how many standard errors the mean gradient of 200,000 draws is off the exact
# gradient of $\mathrm E f$, at the worst parameter. The Cauchy distribution has no mean, but
# $\mathrm E\cos z$ exists.

# %%
exp, cos, square = torch.exp, torch.cos, torch.square
turned = [
    ("Laplace", "location, scale", "m + b e", cos, lambda m, b: m.cos() / (1 + exp(2 * b))),
    ("StudentT", "location, scale", "m + s e", square, lambda m, s: m**2 + exp(2 * s) * 5 / 3),
    ("Logistic", "location, scale", "m + s e", square, lambda m, s: m**2 + exp(2 * s) * 3.2899),
    ("Exponential", "inverse of F", "-log(1 - u) / r", square, lambda r: 2 * exp(-2 * r)),
    ("Cauchy", "inverse of F", "m + s tan(pi (u - 1/2))", cos, lambda m, s: m.cos() * exp(-exp(s))),
    ("LogNormal", "composition", "exp(m + s e)", torch.log, lambda m, s: m + 0 * s),
    ("Gamma", "implicit", "F(z) = u", square, lambda a, r: exp(a) * (1 + exp(a)) * exp(-2 * r)),
]
for name, way, g, f, expectation in turned:
    part = getattr(posteriors, name)(nn.Identity())
    values = torch.tensor([0.6, -0.4])[: len(part.outputs)].double()
    rows = values.repeat(200_000, 1).requires_grad_()
    (draws,) = torch.autograd.grad(f(part(rows).rsample()).sum(), rows)
    exact = torch.autograd.functional.jacobian(lambda v: expectation(*v), values)  # noqa: B023
    off = ((draws.mean(0) - exact) / (draws.std(0) / len(draws) ** 0.5 + 1e-9)).abs().max()
    print(f"{name:12s}{way:17s}{g:25s}{off:5.1f}")
    assert off < 5

# %% [markdown]
# ## The gradient of a VAE
#
# The same on the guide of a briefly trained VAE, for one minibatch of 50 images. SGVB A (N2,
# formula 6) samples every term of the bound, SGVB B (formula 7) has the KL in closed form. N2 says
# that B usually has the smaller variance; here it does. The baselines are the running mean of $f$
# over earlier minibatches, and the mean of $f$ over the other draws of the same image. The ratio of
# two variances is also the number of draws that the noisier estimator needs in place of one: for
# the plain score function more than a thousand, with a baseline between two and some hundreds. With
# five draws, leaving one out even has less variance than SGVB A on the digits (0.34, 0.46), but not
# on MNIST (3.73, 0.22).

# %%
data = datasets.digits() if QUICK else datasets.mnist()
images, held_out = (torch.from_numpy(part).flatten(1) for part in (data.x, data.x_test))
grey, grey_test = images[:10_000] / images.max(), held_out[:1_000] / images.max()
test = torch.bernoulli(grey_test, generator=torch.Generator().manual_seed(0))
D = test.shape[1]
J, hidden, epochs = (8, 64, 20) if QUICK else (20, 200, 10)
adam = partial(Adam, lr=2e-3)


def new_vae():
    torch.manual_seed(1)
    encoder = nets.MLP(D, [hidden], 2 * J, activation=nn.Tanh)
    decoder = nets.MLP(J, [hidden], D, activation=nn.Tanh)
    q, p = posteriors.DiagonalNormal(encoder), likelihoods.Bernoulli(decoder)
    return pv.VAE(priors.StandardNormal(J), q, p)


def train(objective=None, optimizer=adam, batch=50, epochs=epochs):
    vae, quiet = new_vae(), {"seed": 0, "progress": False}
    settings = {"objective": objective, "optimizer": optimizer, "batch_size": batch, **quiet}
    pv.fit(vae, grey, epochs=epochs, transform=pv.batches.binarize, **settings)
    return vae, pv.elbo(vae, test, samples=10).elbo.mean().item()


def gradients(vae, objective, batch, draws):
    weights = list(vae.posterior.parameters())
    losses = (objective.differentiable_loss(vae.model, vae.guide, batch()) for _ in range(draws))
    each = [torch.cat([g.flatten() for g in torch.autograd.grad(v, weights)]) for v in losses]
    return torch.stack(each).double() / len(batch())


vae, _ = train()
some = torch.bernoulli(grey[:50])
score, mean, others = objectives.ScoreFunction, objectives.RunningMean, objectives.LeaveOneOut
A, B = objectives.SGVB_A, objectives.SGVB_B
of_one = {"score": score(), "running mean": score(baseline=mean()), "SGVB A": A(), "SGVB B": B()}
of_five = {"score, 5": score(5), "leave one out, 5": score(5, baseline=others())}
of_five |= {"SGVB A, 5": A(5), "SGVB B, 5": B(5)}
drawn = {k: gradients(vae, o, lambda: some, 300)[5:] for k, o in (of_one | of_five).items()}
variance = {name: g.var(0).sum().item() for name, g in drawn.items()}  # after 5 of the running mean
reference = drawn["SGVB B, 5"]
for name, g in drawn.items():
    errors = (g.var(0) + reference.var(0)) / len(g)
    agree = ((g.mean(0) - reference.mean(0))[errors > 0] ** 2 / errors[errors > 0]).mean().item()
    print(f"{name:17s} variance / SGVB B {variance[name] / variance['SGVB B']:9.2f}")
    assert agree < 2  # the mean squared distance of two means in standard errors: 1 if equal
one, five = ([variance[name] for name in group] for group in (of_one, of_five))
assert one == sorted(one, reverse=True)
assert min(one[0] / one[3], five[0] / five[3]) > 100
assert min(five[1:3]) > five[3]  # leave one out, SGVB A
assert abs(five[3] / one[3] - 1 / 5) < 0.04
axes = plt.figure(figsize=(9, 2.6), layout="constrained").subplots(1, 2, sharex=True)
for axis, names in zip(axes, (list(of_one), list(of_five)), strict=True):
    axis.barh(names[::-1], [variance[name] for name in names[::-1]])
    axis.set(xscale="log", title="Variance of the guide's gradient")
plt.show()

# %% [markdown]
# What the noise costs in training, with equally many steps and draws:

# %%
ends = {name: train(o)[1] for name, o in of_five.items()}
print("ELBO of test images:", {name: round(end, 2) for name, end in ends.items()})
assert ends["score, 5"] < min(list(ends.values())[1:]) - 1

# %% [markdown]
# ## M = 100, L = 1
#
# The loss of $N$ images is estimated from a minibatch of $M$, scaled by $N/M$ (formula 8). It is
# unbiased: over all 15 minibatches of 2 out of 6 images its mean is the loss of the 6. (The check
# needs a loss without noise. An autoencoder has one: its posterior is a point.)

# %%
q, p = posteriors.Point(nn.Linear(D, 2)), likelihoods.Bernoulli(nn.Linear(2, D))
point = pv.VAE(priors.Flat(2), q, p)
whole = A().loss(point.model, point.guide, some[:6])
scaled = partial(A(data_size=6).loss, point.model, point.guide)
parts = [scaled(some[list(rows)]) for rows in combinations(range(6), 2)]
assert abs(sum(parts) / len(parts) / whole - 1) < 1e-5

# %% [markdown]
# N2 recommends $M=100$ images and $L=1$ draw for each. At a constant number $ML$ of decoder passes
# (the encoder makes $M$) the gradient of the mean loss has the variance $A/M+B/(ML)$: the second
# term, the noise of $z$, is the same, and the first, the choice of the images, only grows if draws
# are spent on the same images. So $L=1$ has the least variance.


# %%
def minibatch(m):
    return torch.bernoulli(grey[torch.randperm(len(grey))[:m]])


grid = {}
for M, L in ((100, 1), (50, 2), (20, 5), (10, 10)):
    fresh = partial(minibatch, M)
    noise = gradients(vae, B(L), fresh, 300).var(0).sum().item()
    passes = epochs * M // 100  # over the data: as many steps as for M = 100
    grid[M] = noise, train(B(L), batch=M, epochs=passes)[1]
    print(f"M = {M:3d}, L = {L:2d}: variance {noise:8.3f}, ELBO {grid[M][1]:.2f}")
noises, elbos = zip(*grid.values(), strict=True)
assert noises[0] < noises[2] < noises[3]
assert list(elbos) == sorted(elbos, reverse=True)

# %% [markdown]
# ## SGD, Adagrad, Adam; MAP; streams
#
# AEVB used SGD or Adagrad (N2); Adam came in the same year. All take the same gradient, each has a
# best learning rate of its own, and at that they differ less than the same optimizer can at two
# rates. On the digits the three then end within a nat; on MNIST, after ten passes, Adam is far
# ahead of Adagrad, and Adagrad of SGD, which with larger steps diverges.

# %%
rates = {SGD: (0.01, 0.1) if QUICK else (0.001, 0.01), Adagrad: (0.01, 0.03), Adam: (0.001, 0.01)}
ends = {o.__name__: [train(None, partial(o, lr=lr), 100)[1] for lr in rates[o]] for o in rates}
print(ends)
best = [max(pair) for pair in ends.values()]
assert max(best) - min(best) < max(abs(a - b) for a, b in ends.values())

# %% [markdown]
# So far the parameters $\theta$ were those of maximum likelihood. N2's problem 1 also allows the
# maximum a posteriori (MAP): with the prior $N(0,\tau^2I)$ on $\theta$ the mean loss gains
# $\lVert\theta\rVert^2/(2\tau^2N)$, which is one argument, `weight_decay` $=1/(\tau^2N)$, for the
# parameters of the decoder only: given for all, it shrinks the encoder too. And the data need not
# be finite: `fit` also takes a stream of minibatches, each seen once (N2's "online" setting).

# %%
theta, decay = torch.ones(3, requires_grad=True), 1 / (2.0**2 * len(grey))  # tau = 2
theta.sin().sum().backward()  # any loss
by_hand = theta.detach() - 0.1 * (theta.grad + decay * theta.detach())
SGD([theta], lr=0.1, weight_decay=decay).step()
assert torch.allclose(theta, by_hand)
stream = (torch.bernoulli(grey[torch.randint(len(grey), (100,))]) for _ in range(400))
online, untrained = new_vae(), new_vae()
pv.fit(online, stream, epochs=1, steps_per_epoch=400, optimizer=adam, progress=False)
assert (pv.elbo(online, test).elbo - pv.elbo(untrained, test).elbo).mean() > 15

# %% [markdown]
# **Exercises.** 1. Which baseline $b$ is best for $f(z)=z^2$? It is not $\mathrm E f$. What is the
# best one for any $f$? 2. Estimate $A$ and $B$ of $A/M+B/(ML)$ from two of the rows above and
# predict the others. Answers: `tutorials/answers/04_estimators.py`. **Next:** 16, tighter bounds.
