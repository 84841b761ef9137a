# %% [markdown]
# # 15 · Expectation and maximization
#
# The evidence lower bound has two arguments, the distribution $q(z\mid x)$ and the parameters
# $\theta$ of the model. Maximizing it over one of them at a time is the EM algorithm; taking
# gradient steps in both at once is AEVB, the way in which a VAE is trained. This script runs the
# two steps where both have closed forms, and then compares AEVB with the two older methods that its
# paper (Kingma and Welling 2014) names, Monte Carlo EM and wake-sleep, at equal numbers of draws
# and at equal time. It follows N2, section 2.1, and N3, which calls the inference network the
# E-step and the generative network the M-step. (N0 to N4 are the notes that the course follows;
# `tutorials/README.md` introduces them.)
#
# $$\log p_\theta(x)=\mathrm{ELBO}(q,\theta)+\mathrm{KL}(q(z\mid x)\,\Vert\,p_\theta(z\mid x))$$
#
# `PYROVAE_QUICK=1` or `--quick` runs it on 8 x 8 digits; otherwise it takes 10,000 images of MNIST.

# %%
import math
import os
import sys
import time
import warnings
from functools import partial

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal, Normal, kl_divergence

import pyrovae as pv
from pyrovae import datasets, likelihoods, nets, objectives, posteriors, priors

QUICK = "--quick" in sys.argv or os.environ.get("PYROVAE_QUICK") == "1"
data = datasets.digits() if QUICK else datasets.mnist()
images, held_out = (torch.from_numpy(part).flatten(1) for part in (data.x, data.x_test))
grey, grey_test = images[:10_000] / images.max(), held_out[:1_000] / images.max()
test = torch.bernoulli(grey_test, generator=torch.Generator().manual_seed(0))

# %% [markdown]
# ## Both steps in closed form
#
# Let the decoder be linear and the noise Gaussian. This model is probabilistic PCA (Tipping and
# Bishop 1999), here on the grey values of the images, with $k=3$ latent dimensions:
#
# $$z\sim N(0,I),\qquad x\sim N(Wz+m,\ s^2I),\qquad m=\text{the mean image}.$$
#
# **E-step.** At fixed parameters the best $q$ is the one whose KL to the posterior is zero, the
# posterior itself. With $M=W^\top W+s^2I$ it is a Gaussian with a covariance that all images share,
#
# $$q(z\mid x)=N\bigl(M^{-1}W^\top(x-m),\ S\bigr),\qquad S=s^2M^{-1}.$$
#
# **M-step.** At fixed $q$ the best $W$ is a linear regression of the images on their codes, in
# which $\mathrm E\,zz^\top$ takes the place of $zz^\top$, and the best $s^2$ is the squared error
# that is left, averaged over pixels, images and draws of $q$:
#
# $$W=\Bigl(\tfrac1N\sum_n(x_n-m)\,\mathrm E z_n^\top\Bigr)\Bigl(\tfrac1N\sum_n\mathrm E
#   z_nz_n^\top\Bigr)^{-1},\qquad s^2=\frac1{ND}\sum_n\mathrm E\lVert x_n-m-Wz_n\rVert^2 .$$
#
# The ELBO below is computed as reconstruction minus $\mathrm{KL}(q\Vert p(z))$, and $\log p(x)$ as
# the density of $N(m,WW^\top+s^2I)$. Neither knows of the other, so that their agreement after an
# E-step is a check and not a definition.

# %%
m = grey[:2_000].double().mean(0)
X = grey[:2_000].double() - m
(N, D), k = X.shape, 3
zero, unit = torch.zeros(D).double(), torch.eye(k).double()


def e_step(W, s2):  # noqa: N803
    inverse = torch.linalg.inv(W.T @ W + s2 * unit)
    return X @ W @ inverse, s2 * inverse  # the means, shape (N, k), and the covariance


def m_step(z, S):  # noqa: N803
    zz = z.T @ z / N + S
    W = torch.linalg.solve(zz, z.T @ X / N).T  # noqa: N806
    return W, ((X - z @ W.T).square().sum() / N + torch.trace(W @ S @ W.T)) / D


def bounds(W, s2, z, S):  # noqa: N803
    log_p = LowRankMultivariateNormal(zero, W, zero + s2).log_prob(X)
    fit = Normal(z @ W.T, s2.sqrt()).log_prob(X).sum(1) - torch.trace(W @ S @ W.T) / (2 * s2)
    kl = kl_divergence(MultivariateNormal(z, S), MultivariateNormal(zero[:k], unit))
    return log_p.mean(), (fit - kl).mean()


torch.manual_seed(0)
W, s2, z, S = 0.1 * torch.randn(D, k).double(), torch.tensor(0.09).double(), X[:, :k] * 0, unit
track = [bounds(W, s2, z, S)]
for _ in range(100 if QUICK else 200):
    z, S = e_step(W, s2)
    track.append(bounds(W, s2, z, S))
    W, s2 = m_step(z, S)
    track.append(bounds(W, s2, z, S))
log_p, elbo = torch.tensor(track, dtype=torch.double).T
assert min(log_p.diff().min(), elbo.diff().min()) > -1e-9  # neither ever decreases
assert (log_p - elbo)[1::2].abs().max() < 1e-9  # after each E-step the bound is tight
assert (log_p - elbo)[2:20:2].min() > 1e-3  # after an M-step it is not

# %% [markdown]
# The maximum is known, too. With the eigenvalues $l_1\ge l_2\ge\dots$ of the covariance matrix of
# the images it is reached where $s^2$ is the mean of the $D-k$ smallest ones:
#
# $$\max_\theta\frac1N\sum_n\log p_\theta(x_n)=-\tfrac12\Bigl(D\log2\pi+\sum_{j\le k}\log l_j
#   +(D-k)\log s^2+D\Bigr).$$
#
# A VAE takes steps in $q$ and $\theta$ together, with gradients of a sampled bound on minibatches.
# With linear networks it reaches the same maximum up to the noise of its steps, a tenth of a nat on
# the digits. Its $q$ has a diagonal covariance, which costs nothing here: $WR$ is as good as $W$
# for any rotation $R$, and for one of them the posterior's covariance is diagonal.

# %%
values = torch.linalg.eigvalsh(X.T @ X / N).flip(0)
rest = values[k:].mean()
constant = D * math.log(2 * math.pi) + D
maximum = -0.5 * (constant + values[:k].log().sum() + (D - k) * rest.log())
print(f"EM {log_p[-1]:.6f}, maximum from the eigenvalues {maximum:.6f} nats an image")
assert -1e-9 < maximum - log_p[-1] < (1e-6 if QUICK else 1e-2)
q, p = nn.Linear(D, 2 * k), nn.Linear(k, D)
gaussian = likelihoods.Gaussian(p, sigma=0.3, learned=True)
linear = pv.VAE(priors.StandardNormal(k), posteriors.DiagonalNormal(q), gaussian)
passes, adam = 60 if QUICK else 200, partial(torch.optim.Adam, lr=1e-2)
cosine = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=passes)
settings = {"epochs": passes, "batch_size": 50, "seed": 0, "progress": False}
history = pv.fit(linear, X, optimizer=adam, scheduler=cosine, **settings)
covariance = torch.eye(D) * linear.likelihood.scale.item() ** 2 + p.weight @ p.weight.T
exact = MultivariateNormal(p.bias.double(), covariance.double()).log_prob(X).mean().item()
print(f"AEVB {exact:.3f}")
assert -1e-6 < maximum - exact < (0.5 if QUICK else 2)
left, right = plt.figure(figsize=(9, 3.4), layout="constrained").subplots(1, 2)
left.plot(log_p[1:24], "s-", label="log p(x)")
left.plot(elbo[1:24], "o-", label="ELBO")
left.axhline(maximum, color="grey", ls="--", label="maximum, from eigenvalues")
left.set(title="E closes the gap, M raises log p(x)", xlabel="half-steps", ylabel="nats an image")
right.semilogy((maximum - log_p[1:120:2]).clamp(min=1e-9), label="EM, by iteration")
right.semilogy(maximum - torch.tensor(history.elbo), label="AEVB (ELBO), by epoch")
right.set(title="Distance to the maximum")
for axis in (left, right):
    axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Where neither step has a closed form
#
# With a network as decoder $p(x)=\int p(x\mid z)\,p(z)\,dz$ and the posterior $p(z\mid x)$ cannot
# be computed, hence not EM's E-step either, nor the expectations of a mean-field approximation (N2,
# section 2.1; a comment there integrates over $\theta$, but the integral is over $z$). There are
# three ways around it:
#
# * **AEVB.** One bound, one draw of $q$, one gradient step in $q$ and $\theta$ together.
# * **Monte Carlo EM.** The E-step draws from the posterior, by a chain of Hamiltonian Monte Carlo
#   for every image of the minibatch; the M-step is a gradient of $\log p(x,z)$ at the ends of the
#   chains. A chain of ten leapfrog steps needs eleven gradients of the decoder for one draw. (It
#   needs no $q$. Here one proposes where the chains start and is trained on where they end, so that
#   all methods can be compared by the same estimate of $\log p(x)$.)
# * **Wake-sleep.** Wake: $\theta$ is trained at $z\sim q(z\mid x)$. Sleep: $q$ is trained on pairs
#   $(z,x)$ drawn from the model, which minimizes $\mathrm{KL}(p\Vert q)$ and not the ELBO's
#   $\mathrm{KL}(q\Vert p)$. No single bound rises in both phases. In *reweighted* wake-sleep both
#   phases use several draws of $q$, weighted by $p(x,z)/q(z\mid x)$.
#
# N2 says of Monte Carlo EM that it is too slow for large data. To test this, the methods are given
# equal numbers of draws first, and then equal time. Training images are drawn anew as bits at each
# visit, the test bits once; the score is $\log p(x)$ of test images by importance sampling, whose
# noise is small against the differences, since the images are the same. AEVB and wake-sleep go on
# after Monte Carlo EM has stopped; seconds are those of the processor, without the evaluations.

# %%
J, hidden, batch = (8, 64, 50) if QUICK else (20, 200, 100)
short, long, score_rows = (10, 40, len(test)) if QUICK else (5, 20, 200)


def learn(objective, epochs, seed):
    torch.manual_seed(seed)
    encoder = nets.MLP(D, [hidden], 2 * J, activation=nn.Tanh)
    decoder = nets.MLP(J, [hidden], D, activation=nn.Tanh)
    q, p = posteriors.DiagonalNormal(encoder), likelihoods.Bernoulli(decoder)
    vae = pv.VAE(priors.StandardNormal(J), q, p)
    points, clock = {}, [time.process_time()]

    def record(history):
        if (epoch := len(history.loss)) % short == 0 or epoch in (2, 5):
            used = time.process_time() - clock[0]
            evidence = pv.log_evidence(vae, test[:score_rows], samples=100).log_p
            points[epoch] = used, evidence.mean().item()
            clock[0] = time.process_time() - used

    settings = {"batch_size": batch, "epochs": epochs, "seed": seed, "progress": False}
    settings |= {"optimizer": partial(torch.optim.Adam, lr=2e-3), "callback": record}
    pv.fit(vae, grey, objective=objective, transform=pv.batches.binarize, **settings)
    return points


warnings.simplefilter("ignore", pv.EvidenceWarning)  # early in training the guide is still far off
ways = {
    "AEVB": (objectives.SGVB_B, {}, long),
    "Monte Carlo EM": (objectives.MonteCarloEM, {"steps": 1, "leapfrog": 10}, short),
    "wake-sleep": (objectives.WakeSleep, {}, long),
    "AEVB, 5 draws": (objectives.SGVB_B, {"samples": 5}, 2 * short),
    "reweighted wake-sleep, 5 draws": (objectives.ReweightedWakeSleep, {"samples": 5}, 2 * short),
}
learn(objectives.SGVB_B(), 1, 0)  # the first run of a process is slower
runs = {
    (name, seed): learn(kind(**options), epochs, seed)
    for seed in ((0,) if QUICK else (0, 1))
    for name, (kind, options, epochs) in ways.items()
}
for (name, seed), points in runs.items():
    for epoch in {short, max(points)}:
        seconds, score = points[epoch]
        print(f"seed {seed}  {name:31s} epoch {epoch:3d} {seconds:6.1f} s  log p(x) {score:7.2f}")
figure, axis = plt.subplots(figsize=(9, 3.6), layout="constrained")
for name in ways:
    axis.plot(*zip(*runs[name, 0].values(), strict=True), "o-", ms=3, label=name)
axis.set_xscale("log", base=2)
axis.xaxis.set_major_formatter("{x:g}")
axis.set(title="At equal time", xlabel="processor seconds", ylabel="log p(x) of test images, nats")
figure.legend(frameon=False, loc="outside right center")
plt.show()

# %% [markdown]
# **At equal draws**, one for each image and epoch, Monte Carlo EM and AEVB are alike: its draws are
# nearer to the posterior, and it is ahead by a few tenths of a nat on the digits, but behind by two
# nats on MNIST. The chains take several times AEVB's processor time, and AEVB with five draws for
# each image is as good or better at less than half of that time. **At equal time** AEVB with one
# draw has made four times as many passes over the data as Monte Carlo EM and is far ahead (on MNIST
# by twenty nats): N2's sentence holds. Wake-sleep takes more time for a pass and is behind after
# equally many, since its guide minimizes another divergence. Reweighted wake-sleep with five draws
# is on a par with AEVB with five draws on the digits, and behind it on MNIST.

# %%
margin = 0.5 if QUICK else 3.0
for seed in (0,) if QUICK else (0, 1):
    aevb, chains, sleep, five, weighted = (runs[name, seed] for name in ways)
    assert chains[short][0] > 3 * aevb[short][0]  # seconds for one draw each
    assert abs(chains[short][1] - aevb[short][1]) < margin
    assert five[short][1] > chains[short][1] - 0.2  # five draws, in less than half of the time
    assert five[short][0] < 0.5 * chains[short][0]
    assert aevb[long][1] > chains[short][1] + margin  # more passes, in less time
    assert aevb[long][0] < chains[short][0]
    assert aevb[long][1] > sleep[long][1] + 0.1
    assert aevb[long][0] < 1.3 * sleep[long][0]
    assert five[max(five)][1] > weighted[max(five)][1] - 0.3

# %% [markdown]
# **Exercises.** 1. Start EM at $W=0$: where does it end, and why? 2. Leave $S$ out of the M-step,
# so that each image counts with one code instead of a distribution of codes. Show that $W$ then
# grows in every step without end. Answers: `tutorials/answers/15_expectation_maximization.py`.
# **Next:** 04 compares estimators of the bound's gradient.
