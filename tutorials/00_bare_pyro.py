# %% [markdown]
# # 00 · A variational autoencoder in bare Pyro
#
# `mini_vae.py` is a VAE in sixty lines of torch. Its loss is one formula, and for another model one
# has to derive another formula. Here the same VAE is written as two probabilistic programs, from
# which Pyro, and then this library, make the loss themselves. Read `mini_vae.py` first. This script
# follows N0, sections 2.3.6 and 2.4, N1, and N2, sections 2.1 to 2.3. (N0 to N4 are the notes that
# the course follows; `tutorials/README.md` introduces them.)
#
# $$\text{model}\quad p(x,z)=p(x\mid z)\,p(z),\qquad\qquad
#   \text{guide}\quad q(z\mid x)=N(\mu(x),\mathrm{diag}\,\sigma(x)^2).$$
#
# `PYROVAE_QUICK=1` or `--quick` runs it on 8 x 8 digits; otherwise it takes 10,000 images of MNIST.

# %%
import math
import os
import sys
import warnings
from copy import deepcopy
from itertools import pairwise

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.nn.functional import softplus

import pyrovae as pv
from pyrovae import datasets, likelihoods, nets, objectives, posteriors, priors

QUICK = "--quick" in sys.argv or os.environ.get("PYROVAE_QUICK") == "1"
torch.manual_seed(0)
data = datasets.digits() if QUICK else datasets.mnist()
images, held_out = (torch.from_numpy(part).flatten(1) for part in (data.x, data.x_test))
grey, grey_test = images[:10_000] / images.max(), held_out[:1_000] / images.max()
test = torch.bernoulli(grey_test, generator=torch.Generator().manual_seed(0))
(N, D), (J, hidden, epochs) = grey.shape, (8, 100, 25) if QUICK else (20, 400, 20)

# %% [markdown]
# ## The parts and where they stand
#
# The encoder leads from an image to a distribution of $z$, the decoder from a $z$ to a distribution
# of images. (N0 calls both of them "decoder" in one place; they are two networks with two tasks.
# Its formula 19 has a misprint of the same kind, $p(z\mid z)$ for $p(x\mid z)$.) To fit the VAE one
# goes along the upper row of the picture; to generate images one enters at the prior.

# %%
axis = plt.figure(figsize=(9, 2), layout="constrained").gca()
boxes = ["x", "encoder", r"$\mu,\ \sigma$", r"$z=\mu+\sigma\epsilon$", "decoder", r"$p(x\mid z)$"]
places = {name: (i, 0.0) for i, name in enumerate(boxes)}
places |= {r"$\epsilon\sim N(0,I)$": (2.0, -1.0), r"prior: $z\sim N(0,I)$": (4.0, -1.0)}
arrows = [*pairwise(boxes), *zip([*places][6:], boxes[3:5], strict=True)]
frame = {"boxstyle": "round,pad=0.5", "facecolor": "white"}
look = {"ha": "center", "va": "center", "size": 11, "bbox": frame}
for a, b in arrows:  # drawn from the frame of b, where the head is
    axis.annotate(b, places[a], places[b], arrowprops={"arrowstyle": "<-"}, **look)
for name, at in places.items():
    axis.text(*at, name, zorder=5, **look)
axis.set(xlim=(-0.5, 5.6), ylim=(-1.5, 0.6))
axis.axis("off")
plt.show()
encoder = nn.Sequential(nn.Linear(D, hidden), nn.Tanh(), nn.Linear(hidden, 2 * J))
decoder = nn.Sequential(nn.Linear(J, hidden), nn.Tanh(), nn.Linear(hidden, D))
start = deepcopy([encoder.state_dict(), decoder.state_dict()])

# %% [markdown]
# ## The reparameterization trick
#
# A draw of $N(\mu,\sigma^2)$ is a *function* of the parameters and of noise that does not depend on
# them, $z=\mu+\sigma\epsilon$ (N0, formula 20; N2, formulas 4 and 14), so it can be differentiated.
# With $f(z)=z^2$ the mean gradients are those of $\mathrm E f=\mu^2+\sigma^2$: $2\mu$ in $\mu$ and
# $2\sigma^2$ in $\log\sigma$. In torch, `rsample` is the trick; `sample` gives the same numbers,
# and no gradient passes through them.
#
# > **Find the mistake.** N1's program has an encoder that puts out the logarithm of the *variance*,
# > `logvar`, and draws `mean + eps * torch.exp(logvar)`. The standard deviation is `exp(logvar /
# > 2)`. At `logvar = 0` the two agree, so that nothing shows at the start of training; elsewhere
# > the draws have the variance $\sigma^4$, while the KL in the loss is that of $\sigma^2$.

# %%
eps = torch.randn(400_000)
for logvar in (-2.0, 0.0, 1.0):
    right, wrong = eps * math.exp(logvar / 2), eps * math.exp(logvar)
    print(f"variance {math.exp(logvar):.3f}: drawn {right.var():.3f}, N1's {wrong.var():.3f}")
    assert abs(right.var() / math.exp(logvar) - 1) < 0.02
    assert abs(wrong.var() / math.exp(2 * logvar) - 1) < 0.02
mu, log_sigma = (torch.tensor(value, requires_grad=True) for value in (0.7, -0.5))
z = dist.Normal(mu, log_sigma.exp()).rsample((400_000,))
slopes = torch.stack(torch.autograd.grad(z.square().mean(), [mu, log_sigma]))
assert torch.allclose(slopes, torch.stack([2 * mu, 2 * (2 * log_sigma).exp()]), atol=0.01)
assert not dist.Normal(mu, log_sigma.exp()).sample().requires_grad

# %% [markdown]
# ## Two programs
#
# `pyro.sample` names a random variable and gives it a distribution; with `obs=` it is observed. The
# `plate` says that the images of a batch are independent, and `to_event(1)` that the $J$ latent
# dimensions, or the $D$ pixels, of one image are a single random vector. Pyro needs both: from the
# two it knows over what to sum, and which terms belong to which image. `pyro.module` registers the
# weights of a network. Its names are global: a second model under the same names would share
# weights with the first, without a word.


# %%
def model(x):
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(J), 1.0).to_event(1))  # (B, J)
        pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)  # (B, D)


def guide(x):
    pyro.module("encoder", encoder)
    with pyro.plate("data", len(x)):
        mu, log_sigma = encoder(x).chunk(2, -1)
        pyro.sample("z", dist.Normal(mu, log_sigma.exp()).to_event(1))  # (B, J)


# %% [markdown]
# Compare `mini_vae.py`: the formulas of $\log p(x\mid z)$ and of the KL are gone. Pyro runs the
# guide, runs the model at the guide's $z$, and adds up the log densities that it meets.
# `Trace_ELBO` draws all terms (N2, formula 6), `TraceMeanField_ELBO` takes the KL in closed form
# where there is one (formula 7). Both agree with the formulas by hand at the same noise. Printed
# are the three integrals of N0's formulas 25 to 27, the last two of which make the KL (28). All
# terms are *sums*, over pixels, latent dimensions and images; a mean over one of them would weigh
# the terms anew.


# %%
def terms(x):
    mu, log_sigma = encoder(x).chunk(2, -1)
    eps = torch.randn_like(mu)
    z = mu + log_sigma.exp() * eps
    logits, c = decoder(z), J * len(x) * math.log(2 * math.pi) / 2
    log_likelihood = (x * logits - softplus(logits)).sum()
    kl = 0.5 * (mu**2 + (2 * log_sigma).exp() - 2 * log_sigma - 1).sum()
    return log_likelihood, -z.square().sum() / 2 - c, (log_sigma + eps**2 / 2).sum() + c, kl


def at_seed(function, *arguments):
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        return function(*arguments)


def show_terms():
    reconstruction, prior, entropy, kl = (float(term) for term in at_seed(terms, test))
    losses = [
        float(at_seed(e.loss, model, guide, test)) for e in (Trace_ELBO(), TraceMeanField_ELBO())
    ]
    assert math.isclose(losses[0], -(reconstruction + prior + entropy), rel_tol=1e-5)
    assert math.isclose(losses[1], kl - reconstruction, rel_tol=1e-5)
    assert abs(-prior - entropy - kl) < 0.05 * kl + 30  # (28), the left side with noise
    numbers = [term / len(test) for term in (reconstruction, prior, entropy, kl)]
    print("E log p(x|z) {:.2f}, E log p(z) {:.2f}, -E log q {:.2f}; KL {:.2f}".format(*numbers))
    return -losses[1] / len(test)


print(f"ELBO before training {show_terms():.2f}")

# %% [markdown]
# ## Stochastic variational inference
#
# The loop of `mini_vae.py` with Pyro's `SVI` in place of loss, gradient and step (N2, algorithm 1).

# %%
pyro.clear_param_store()
svi = SVI(model, guide, pyro.optim.Adam({"lr": 2e-3}), TraceMeanField_ELBO())
for _ in range(epochs):
    for rows in torch.randperm(N).split(50):
        svi.step(torch.bernoulli(grey[rows]))
elbo = show_terms()
pixels = dist.Bernoulli(grey.mean(0).clamp(1e-3, 1 - 1e-3)).log_prob(test).sum(1).mean().item()
print(f"ELBO after training {elbo:.2f}, independent pixels {pixels:.2f} nats an image")
assert elbo > pixels + (2 if QUICK else 50)

# %% [markdown]
# ## The same in the library
#
# Three parts make the same two programs. At the same weights and noise the losses are the same
# numbers, and from the same initial weights `pv.fit` ends where the loop above does. N1's formula 5
# reads the ELBO as reconstruction minus KL; the picture shows the KL of each latent dimension, what
# it knows about the image. `log_evidence` estimates $\log p(x)$ itself, which lies above the ELBO.
# (On MNIST 300 draws are too few, so the estimate is too low; the warning of it is silenced.)

# %%
q = posteriors.DiagonalNormal(nets.MLP(D, [hidden], 2 * J, activation=nn.Tanh))
p = likelihoods.Bernoulli(nets.MLP(J, [hidden], D, activation=nn.Tanh))
vae = pv.VAE(priors.StandardNormal(J), q, p)
for part, network in ((q, encoder), (p, decoder)):
    part.net.layers.load_state_dict(network.state_dict())
pairs = {Trace_ELBO(): objectives.SGVB_A(), TraceMeanField_ELBO(): objectives.SGVB_B()}
for bare, ours in pairs.items():
    ours = at_seed(ours.loss, vae.model, vae.guide, test)
    assert math.isclose(at_seed(bare.loss, model, guide, test), ours, rel_tol=1e-5)
for part, state in zip((q, p), start, strict=True):
    part.net.layers.load_state_dict(state)
bits, adam = pv.batches.binarize, lambda weights: torch.optim.Adam(weights, lr=2e-3)
pv.fit(vae, grey, transform=bits, optimizer=adam, epochs=epochs, batch_size=50, progress=False)
fitted = at_seed(objectives.SGVB_B().loss, vae.model, vae.guide, test) / -len(test)
warnings.simplefilter("ignore", pv.EvidenceWarning)
log_p = pv.log_evidence(vae, test, samples=300).log_p.mean().item()
print(f"pv.fit: ELBO {fitted:.2f}, log p(x) {log_p:.2f}")
assert abs(fitted - elbo) < (0.5 if QUICK else 2)
assert fitted < log_p
each = pv.kl_per_dimension(vae, test)
axis = plt.figure(figsize=(6, 2.4), layout="constrained").gca()
axis.bar([*map(str, range(J))], each.sort(descending=True).values.numpy())
axis.set(title="KL of each latent dimension", xlabel="latent dimension, sorted", ylabel="nats")
plt.show()

# %% [markdown]
# > **Find the mistakes.** N1 says of its bound $L_b$, the ELBO: (a) it is the *infimum* of $\log
# > p(x)$; (b) its first row is $\int q\log\frac{p(z,x)}{p(z\mid x)}dz$; (c) maximizing $\log p(x)$
# > is equivalent to maximizing it. But (a) it is *a* lower bound, and there are larger ones ($\log
# > p(x)$ above is itself estimated by one). (b) By Bayes' rule that row is $\log p(x)$; the
# > denominator of $L_b$ is $q(z\mid x)$. (c) The maxima differ if $q$ is not exact.
#
# One dimension shows (b) and (c) in closed form. Let $z\sim N(0,1)$ and $x\mid z\sim N(\theta
# z,1)$, with data of variance 2. Then $p(x)=N(0,\theta^2+1)$, and the most likely $\theta$ is 1.
# Give $q$ a free mean and the fixed standard deviation 1. At its best mean, $\theta
# x/(1+\theta^2)$, the mean ELBO is $-\frac12\log2\pi-1/(1+\theta^2)-\theta^2/2$, whose maximum is
# at $\theta^2=\sqrt2-1$.

# %%
theta = torch.linspace(0.05, 2, 400, dtype=torch.double)
variance = 1 + theta**2
log_px = -0.5 * (2 * math.pi * variance).log() - 1 / variance
bound = -0.5 * math.log(2 * math.pi) - 1 / variance - theta**2 / 2
print(f"maxima: log p(x) {theta[log_px.argmax()]:.3f}, ELBO {theta[bound.argmax()]:.3f}")
assert (bound < log_px).all()
assert abs(theta[log_px.argmax()] - 1) < 0.01
assert abs(theta[bound.argmax()] - math.sqrt(math.sqrt(2) - 1)) < 0.01
x, z = (
    1.5,
    dist.Normal(0.75, 1.0).sample((1_000,)).double(),
)  # theta = 1: p(z | x) = N(x / 2, 1 / 2)
joint = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(torch.tensor(x))
first_row = joint - dist.Normal(x / 2, 0.5**0.5).log_prob(z)  # log p(x), for every z
assert (first_row - dist.Normal(0.0, 2**0.5).log_prob(torch.tensor(x))).abs().max() < 1e-5
assert (joint - dist.Normal(x / 2, 1.0).log_prob(z)).mean() < first_row.mean() - 0.1
# %% [markdown]
# **Exercises.** 1. Derive the ELBO of the last cell, and its maximum for data of any variance. 2.
# Make $x\mid z$ a `dist.Poisson`, with counts from 0 to 16 as data: which lines of `mini_vae.py`
# change, and which of the two programs? Answers: `tutorials/answers/00_bare_pyro.py`. **Next:** 01
# exchanges the parts.
