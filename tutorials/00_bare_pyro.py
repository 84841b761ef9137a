# %% [markdown]
# # 00 · A variational autoencoder in bare Pyro
#
# A variational autoencoder is a pair of probabilistic programs. The *model* has a latent variable
# $z$ for each observation $x$; the *guide* infers the latent from the observation:
#
#     model   p(x, z) = p(x | z) p(z)        p(z) = N(0, I),  p(x | z) = Bernoulli(decoder(z))
#     guide   q(z | x) = N(mu(x), diag sigma(x)^2),  with mu and sigma from the encoder
#
# Both are trained together by maximizing the evidence lower bound,
#
#     ELBO(x) = E_q(z|x)[ log p(x | z) ] - KL( q(z | x) || p(z) )  <=  log p(x).
#
# This script writes out every step once, in Pyro and plain torch: data, networks, model, guide,
# loss and training loop. The last section gives the same weights to the library and gets the same
# loss.
#
#     python tutorials/00_bare_pyro.py --quick      # embedded digits, seconds
#     python tutorials/00_bare_pyro.py              # MNIST, from PYROVAE_DATA; minutes
#
# Source: Kingma & Welling, *Auto-Encoding Variational Bayes*, 2014 (AEVB below).

# %%
import argparse
import copy
import json
import math
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.nn.functional import softplus

import pyrovae as pv
from pyrovae import datasets, plots

parser = argparse.ArgumentParser(
    description="The whole VAE in plain Pyro, and the library's loss beside it."
)
parser.add_argument("--quick", action="store_true", help="embedded 8 x 8 digits instead of MNIST")
parser.add_argument("--output", type=Path, default=Path("figures"), help="folder for the pictures")
options = parser.parse_args([] if "ipykernel" in sys.modules else None)
options.output.mkdir(parents=True, exist_ok=True)

result = {}  # the numbers that this script computes, printed at its end


def show(figure, name):
    """Save a picture."""
    figure.savefig(options.output / f"00_{name}.png", dpi=110)


# %% [markdown]
# ## Data
#
# Grey levels in [0, 1] are read as probabilities. Each time an image enters a minibatch, its pixels
# are sampled again as 0 or 1, with the grey level as the probability of 1. The test images are
# sampled once, so that all results below refer to the same binary images.

# %%
torch.manual_seed(0)
data = datasets.digits() if options.quick else datasets.mnist()
white = data.total_count or 1  # the digits are counts from 0 to 16, MNIST has grey values in [0, 1]
# (N, D) and (M, D)
grey, grey_test = (torch.as_tensor(x).flatten(1) / white for x in (data.x, data.x_test))
x_test = torch.bernoulli(grey_test)

N, D = grey.shape
J, hidden, batch, epochs = (8, 100, 50, 40) if options.quick else (20, 500, 100, 10)  # J latents
print(f"{data.name}: {N} training images and {len(x_test)} test images of {D} pixels; {J} latents")

# %% [markdown]
# ## Two networks
#
# The *encoder* maps x to the parameters of q(z | x), the *decoder* maps z to those of p(x | z).
# (One of the notes calls both of them "decoder"; they are two networks with two different tasks.)
# The encoder outputs the *logarithm of the variance*, which may be any real number.

# %%
# (B, D) -> (B, 2 J)
encoder = nn.Sequential(nn.Linear(D, hidden), nn.Tanh(), nn.Linear(hidden, 2 * J))
# (B, J) -> (B, D), logits
decoder = nn.Sequential(nn.Linear(J, hidden), nn.Tanh(), nn.Linear(hidden, D))


def q_of(x):
    """Return mu and log sigma^2 of q(z | x), each with shape (B, J)."""
    return encoder(x).chunk(2, -1)


# %% [markdown]
# ## The reparameterization trick
#
# A sample from $N(\mu, \sigma^2)$ is a deterministic *function* of the parameters and of noise that
# does not depend on them (AEVB, eq. 10):
#
#     z = mu + sigma * eps,   eps ~ N(0, 1),   sigma = exp(logvar / 2)
#
# since sigma^2 = exp(logvar). One of the notes, and many repositories, write `eps * exp(logvar)`
# instead, which is a sample with variance exp(2 logvar). At logvar = 0 the two agree, so the
# mistake does not show at initialization. Elsewhere they differ, and then the closed-form KL in the
# loss belongs to a different distribution than the samples.

# %%
eps = torch.randn(200_000)
draws = {  # logvar: (correct samples, samples by the mistake)
    logvar: (eps * math.exp(logvar / 2), eps * math.exp(logvar)) for logvar in (-2, 0, 1)
}

print("\nlogvar   wanted variance   eps * exp(logvar / 2)   eps * exp(logvar)")
for logvar, (right, wrong) in draws.items():
    print(f"{logvar:6d}   {math.exp(logvar):15.3f}   {right.var():21.3f}   {wrong.var():17.3f}")
ratios = [
    (right.var().item() / math.exp(logvar), wrong.var().item() / math.exp(logvar))
    for logvar, (right, wrong) in draws.items()
]
result["variance_error"] = max(abs(right - 1) for right, _ in ratios)
result["variance_ratio_of_the_slip"] = [wrong for _, wrong in ratios]

figure = Figure(figsize=(10, 3), layout="constrained")
for axis, (logvar, (right, wrong)) in zip(figure.subplots(1, 3), draws.items(), strict=True):
    grid = torch.linspace(-6, 6, 400)
    axis.hist(
        wrong,
        bins=grid[::4],
        density=True,
        color=plots.ORANGE,
        alpha=0.55,
        label="eps * exp(logvar)",
    )
    axis.hist(
        right,
        bins=grid[::4],
        density=True,
        color=plots.BLUE,
        alpha=0.55,
        label="eps * exp(logvar / 2)",
    )
    density = torch.distributions.Normal(0, math.exp(logvar / 2)).log_prob(grid).exp()
    axis.plot(grid, density, "k", lw=1, label="N(0, exp(logvar))")
    axis.set(title=f"logvar = {logvar:g}", xlabel="z - mu", yscale="log", ylim=(1e-3, 4))
figure.axes[0].set_ylabel("density")
figure.axes[1].legend(frameon=False, fontsize=8, loc="upper right")
show(figure, "reparameterization")

# %% [markdown]
# The trick makes the samples differentiable. Take $f(z) = z^2$, whose expectation
# $\mu^2 + \sigma^2$ has the derivative $2 \mu$ with respect to $\mu$ and $\sigma^2$ with respect to
# $\log \sigma^2$. In torch, `rsample` implements the trick. `sample` gives the same numbers, but
# detached from the computation graph: no gradient flows through them.

# %%
mu, logvar = torch.tensor(0.7, requires_grad=True), torch.tensor(-1.0, requires_grad=True)
q = dist.Normal(mu, (logvar / 2).exp())
d_mu, d_logvar = torch.autograd.grad(q.rsample((200_000,)).square().mean(), [mu, logvar])
print(f"\nd/dmu     by rsample {d_mu:.4f}, exactly {2 * mu:.4f}")
print(f"d/dlogvar by rsample {d_logvar:.4f}, exactly {logvar.exp():.4f}")
result["gradient_error"] = max(abs(d_mu - 2 * mu).item(), abs(d_logvar - logvar.exp()).item())

# %% [markdown]
# The same for the encoder: the norm of the gradient of the reconstruction term, once for each kind
# of sample.


# %%
def reconstruction_gradient(draw):
    """Return the norm of the gradient of E_q log p(x | z) in the encoder's weights, 50 images."""
    encoder.zero_grad()
    mu, logvar = q_of(x_test[:50])
    z = draw(dist.Normal(mu, (logvar / 2).exp()))
    dist.Bernoulli(logits=decoder(z)).log_prob(x_test[:50]).sum().backward()
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    return sum(gradient.square().sum().item() for gradient in gradients) ** 0.5


result["encoder_gradient_rsample"] = reconstruction_gradient(dist.Normal.rsample)
result["encoder_gradient_sample"] = reconstruction_gradient(dist.Normal.sample)
encoder.zero_grad()
decoder.zero_grad()
by_rsample, by_sample = result["encoder_gradient_rsample"], result["encoder_gradient_sample"]
print(f"\nencoder's gradient: {by_rsample:.1f} by rsample, {by_sample:.1f} by sample")

# %% [markdown]
# (The score function estimator needs no `rsample`, but its variance is far larger: tutorial 04.
# Pyro uses it automatically for a distribution without reparameterized samples.)
#
# ## Model and guide
#
# In Pyro the two programs look like the equations. `pyro.sample` declares a named random variable.
# The plate declares the observations of the batch independent. `to_event(1)` makes the J latents,
# or the D pixels, of one observation a single vector-valued event. `pyro.module` registers a
# network's weights with Pyro under a name. The names matter: Pyro's parameter store is global, and
# a second model that uses the same names would silently share weights with the first, or not be
# trained at all.


# %%
def model(x):
    """z ~ p(z), x ~ p(x | z)."""
    pyro.module("decoder", decoder)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(J), torch.ones(J)).to_event(1))  # (B, J)
        return pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)  # (B, D)


def guide(x):
    """z ~ q(z | x)."""
    pyro.module("encoder", encoder)
    with pyro.plate("data", len(x)):
        mu, logvar = q_of(x)
        return pyro.sample("z", dist.Normal(mu, (logvar / 2).exp()).to_event(1))  # (B, J)


# %% [markdown]
# ## The loss, by hand
#
# With one sample of z per observation there are two estimators of the ELBO. Estimator A (AEVB,
# eq. 6) samples every term. Estimator B (eq. 7) uses the closed form of the KL of two Gaussians,
# derived in tutorial 03:
#
#     A   log p(x | z) + log p(z) - log q(z | x)
#     B   log p(x | z) - KL,      KL = 1/2 sum_j ( mu_j^2 + sigma_j^2 - log sigma_j^2 - 1 )
#
# Everything is *summed*: over pixels, over latents, over observations. Averaging over pixels or
# latents instead would weight the two terms by the numbers of pixels and latents, which is a hidden
# beta.


# %%
def loss_by_hand(x, closed_form):
    """Return -ELBO summed over a batch, estimated with one sample of eps per observation."""
    mu, logvar = q_of(x)
    eps = torch.randn_like(mu)
    z = mu + torch.exp(logvar / 2) * eps
    logits = decoder(z)
    reconstruction = (x * logits - softplus(logits)).sum()  # log Bernoulli(x; sigmoid(logits))
    analytic = 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum()
    # log q(z | x) - log p(z); the term -1/2 log(2 pi) of both cancels
    sampled = (-logvar / 2 - eps**2 / 2 + z**2 / 2).sum()
    return (analytic if closed_form else sampled) - reconstruction


def at_seed(loss, *arguments):
    """Return a loss as a number, with a fixed seed and without changing the global random state."""
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        return float(loss(*arguments))


def relative(a, b):
    """Return |a - b| / |b|."""
    return abs(a - b) / abs(b)


pairs = {"A": (Trace_ELBO(), False), "B": (TraceMeanField_ELBO(), True)}
for name, (objective, closed_form) in pairs.items():
    by_pyro = at_seed(objective.loss, model, guide, x_test)
    by_hand = at_seed(loss_by_hand, x_test, closed_form)
    result[f"pyro_against_hand_{name}"] = relative(by_pyro, by_hand)
    print(f"estimator {name}: {type(objective).__name__} {by_pyro:.3f}, by hand {by_hand:.3f}")

# %% [markdown]
# ## Training: stochastic variational inference
#
# Each step takes a minibatch, binarizes it, computes the loss and its gradient, and updates all
# weights of both networks. The initial weights are kept, so that the library can start from the
# same ones below.
#
# The test ELBO uses the same noise after each epoch, from a fork of the random number generator. If
# the global generator were seeded there, every epoch of training would repeat the same binary
# images and the same eps. On the digits the training curve would then look very smooth, but the
# test ELBO would end 0.3 nats lower.

# %%
start = copy.deepcopy(encoder.state_dict()), copy.deepcopy(decoder.state_dict())
pyro.clear_param_store()
svi = SVI(
    model,
    guide,
    pyro.optim.Adam({"lr": 2e-3 if options.quick else 1e-3}),
    loss=TraceMeanField_ELBO(),
)

curve, test_curve = [], []
for epoch in range(1, epochs + 1):
    total = 0.0
    for rows in torch.randperm(N).split(batch):
        total += svi.step(torch.bernoulli(grey[rows]))
    curve.append(-total / N)
    test_curve.append(-at_seed(loss_by_hand, x_test, True) / len(x_test))
    if epoch % (epochs // 5) == 0:
        print(
            f"epoch {epoch:3d}: ELBO {curve[-1]:8.2f} on training data, "
            f"{test_curve[-1]:8.2f} on test data, nats per image"
        )

# %% [markdown]
# What would a model without latents reach? As a baseline take independent pixels, each with its
# mean over the training images. If the ELBO is not far above their log-likelihood, z carries no
# information about x.

# %%
pixel = grey.mean(0).clamp(1e-3, 1 - 1e-3)
independent = dist.Bernoulli(pixel).log_prob(x_test).sum(-1).mean().item()
result["elbo"], result["independent_pixels"] = test_curve[-1], independent
print(f"\ntest ELBO {test_curve[-1]:.2f}; independent pixels {independent:.2f} nats per image")

figure = Figure(figsize=(6, 3.6), layout="constrained")
axis = figure.subplots()
axis.plot(range(1, epochs + 1), curve, color=plots.BLUE, label="training")
axis.plot(range(1, epochs + 1), test_curve, color=plots.ORANGE, label="test")
axis.axhline(independent, color=plots.GREY, ls="--", lw=1, label="independent pixels (test)")
axis.set(title="Bare Pyro: the ELBO rises", xlabel="epoch", ylabel="nats per image")
axis.legend(frameon=False)
axis.grid(alpha=0.3)
show(figure, "elbo")

# %% [markdown]
# A reconstruction decodes the mean of q(z | x); a sample decodes a draw from the prior. Both are
# shown as pixel probabilities.

# %%
with torch.no_grad():
    reconstructions = decoder(q_of(x_test[:12])[0]).sigmoid()
    samples = decoder(torch.randn(48, J)).sigmoid()
images = (-1, *data.shape)
rows = torch.cat([grey_test[:12], x_test[:12], reconstructions])
title = "Test images, binary images sampled from them, and reconstructions of the binary images"
show(plots.images(rows.reshape(images), title=title, columns=12, limits=(0, 1)), "reconstructions")
show(
    plots.images(samples.reshape(images), title="z ~ N(0, I), decoded", columns=12, limits=(0, 1)),
    "samples",
)

# %% [markdown]
# ## The same in the library
#
# Three parts, composed by `pv.VAE`, give the same two programs. The library's `DiagonalNormal`
# reads the second half of its network's output as log sigma = logvar / 2, so the weights of that
# half of the last layer are divided by 2 when they are copied.


# %%
def in_the_library(encoder_state, decoder_state):
    """Return the same VAE, with the same weights, as a composition of the library's parts."""
    vae = pv.VAE(
        prior=pv.priors.StandardNormal(J),
        posterior=pv.posteriors.DiagonalNormal(pv.nets.MLP(D, [hidden], 2 * J, activation=nn.Tanh)),
        likelihood=pv.likelihoods.Bernoulli(pv.nets.MLP(J, [hidden], D, activation=nn.Tanh)),
    )
    vae.posterior.net.layers.load_state_dict(encoder_state)
    vae.likelihood.net.layers.load_state_dict(decoder_state)
    with torch.no_grad():
        for parameter in vae.posterior.net.layers[-1].parameters():
            parameter[J:] /= 2  # log sigma^2 -> log sigma
    return vae


vae = in_the_library(encoder.state_dict(), decoder.state_dict())
ours = {"A": pv.objectives.SGVB_A(), "B": pv.objectives.SGVB_B()}
for name, (objective, _) in pairs.items():
    bare = at_seed(objective.loss, model, guide, x_test)
    library = at_seed(ours[name].loss, vae.model, vae.guide, x_test)
    result[f"loss_difference_{name}"] = relative(library, bare)
    print(
        f"estimator {name}: bare Pyro {bare:.4f}, library {library:.4f}, "
        f"relative difference {relative(library, bare):.1e}"
    )

# %% [markdown]
# The gradients agree too, in every layer (up to the factor 2 between log sigma and log sigma^2).

# %%
torch.manual_seed(1)
encoder.zero_grad(), decoder.zero_grad()
TraceMeanField_ELBO().loss_and_grads(model, guide, x_test)
torch.manual_seed(1)
pv.objectives.SGVB_B().loss_and_grads(vae.model, vae.guide, x_test)
for parameter in vae.posterior.net.layers[-1].parameters():
    parameter.grad[J:] /= 2
bare = [p.grad for p in (*encoder.parameters(), *decoder.parameters())]
library = [p.grad for p in vae.parameters()]
result["gradient_difference"] = max(
    ((a - b).norm() / b.norm()).item() for a, b in zip(library, bare, strict=True)
)
print(f"largest relative difference of a gradient: {result['gradient_difference']:.1e}")

# %% [markdown]
# The training loop is one call. From the same initial weights it reaches the same ELBO as the loop
# above, up to the order of the minibatches and the noise. `log_evidence` then estimates log p(x)
# itself, which the ELBO bounds from below.

# %%
fitted = in_the_library(*start)
rate = 2e-3 if options.quick else 1e-3
pv.fit(
    fitted,
    grey,
    transform=pv.batches.binarize,
    optimizer=lambda parameters: torch.optim.Adam(parameters, lr=rate),
    epochs=epochs,
    batch_size=batch,
    seed=0,
    progress=False,
)
result["elbo_fit"] = -at_seed(
    pv.objectives.SGVB_B().loss, fitted.model, fitted.guide, x_test
) / len(x_test)
subset = x_test[torch.randperm(len(x_test), generator=torch.Generator().manual_seed(0))[:1000]]
result["log_evidence"] = pv.log_evidence(fitted, subset, samples=200).log_p.mean().item()
print(f"\npv.fit: test ELBO {result['elbo_fit']:.2f}, by hand {result['elbo']:.2f} nats per image")
print(f"log p(x) of the fitted model: {result['log_evidence']:.2f}")

# %%
print("RESULT", json.dumps(result))
