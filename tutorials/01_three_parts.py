# %% [markdown]
# # 01 · Three parts
#
# A VAE has a prior, a posterior and a likelihood. In the library each is a module whose `forward`
# returns a distribution, so that one is exchanged without a change in the others, in the loss or in
# the loop. This script exchanges each of them, adds a context, wraps a model, and ends with a part
# of one's own. It follows N3 ("Bernoulli for bits, Gaussian for vectors"), N4's $X\sim
# N(f(z),\sigma^2I)$, and N2's link to autoencoders. (N0 to N4 are the notes that the course
# follows; `tutorials/README.md` introduces them.)
#
# $$\text{prior }p(z\mid c)\qquad\text{posterior }q(z\mid x,c)\qquad\text{likelihood }p(x\mid z,c)$$
#
# `PYROVAE_QUICK=1` or `--quick` runs it on 8 x 8 digits; otherwise it takes 10,000 images of MNIST.

# %%
import math
import os
import sys
import warnings
from functools import partial

import matplotlib.pyplot as plt
import pyro.distributions as dist
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.nn.functional import one_hot, pad

import pyrovae as pv
from pyrovae.likelihoods import Bernoulli, Binomial, DiscretizedLogistic, Gaussian
from pyrovae.nets import MLP, ConvDecoder, ConvEncoder
from pyrovae.posteriors import DiagonalNormal, Point
from pyrovae.priors import Flat, StandardNormal

QUICK = "--quick" in sys.argv or os.environ.get("PYROVAE_QUICK") == "1"
data = pv.datasets.digits() if QUICK else pv.datasets.mnist()
images, held_out = (torch.from_numpy(part).float() for part in (data.x, data.x_test))
grey, grey_test = images[:10_000] / images.max(), held_out[:1_000] / images.max()
test = torch.bernoulli(grey_test, generator=torch.Generator().manual_seed(0))
labels, kinds = (torch.from_numpy(part).long() for part in (data.labels, data.labels_test))
labels, kinds = labels[: len(grey)], kinds[: len(test)]
shape, bits = grey.shape[1:], pv.batches.binarize
hidden, J, epochs, rate = (100, 8, 20, 3e-3) if QUICK else (400, 20, 10, 3e-3)


def vae(prior=None, posterior=None, likelihood=None):
    torch.manual_seed(0)
    prior = prior or StandardNormal(J)
    posterior = posterior or DiagonalNormal(MLP(shape, [hidden], 2 * J))
    return pv.VAE(prior, posterior, likelihood or Bernoulli(MLP(J, [hidden], shape)))


def train(graph, *rows, transform=None, epochs=epochs):
    adam, beta = partial(torch.optim.Adam, lr=rate), pv.objectives.warm_up(0.5)
    settings = {"optimizer": adam, "epochs": epochs, "batch_size": 50, "transform": transform}
    settings |= {"objective": pv.objectives.SGVB_B(beta=beta), "seed": 0, "progress": False}
    pv.fit(graph, rows, **settings)
    return graph.eval()


def elbo(graph, *rows):
    return pv.elbo(graph, *rows, samples=10).elbo.mean().item()


def refused(function, *arguments):
    try:
        function(*arguments)
    except ValueError as refusal:
        return str(refusal)


def error(x, target=grey_test):
    return (x - target).square().mean().sqrt().item()


def show(title, rows):
    tiles = [pad(row[:12, 0], (0, 1, 0, 1), value=0.5) for row in rows.values()]
    axis = plt.figure(figsize=(9, 0.6 + 0.7 * len(rows)), layout="constrained").gca()
    picture = torch.cat([torch.cat([*row], 1) for row in tiles])
    axis.imshow(picture.clamp(0, 1).numpy(), cmap="gray")
    axis.set(title=title, xticks=[])
    axis.set_yticks([(shape[1] + 1) * (i + 0.5) for i in range(len(rows))], [*rows])
    plt.show()


# %% [markdown]
# ## The prior and the posterior: an autoencoder
#
# The baseline has a standard normal prior, a normal posterior and a Bernoulli likelihood. (`train`
# raises the weight of the KL from 0 to 1 over the first half of the steps, since the easiest way to
# a smaller loss is at first a posterior that equals the prior.) Now let the posterior be a *point*
# and the prior *flat*: the ELBO becomes $\log p(x\mid f(x))$, and the same call of `fit` trains an
# autoencoder. Without a KL it reconstructs its input more closely, noise included; from the grey
# image out of which the input was drawn it is *farther* on the digits, but on MNIST a little
# nearer. Its $z$ has no distribution, so the library refuses to generate from it.

# %%
baseline = train(vae(), grey, transform=bits)
point = train(vae(Flat(J), Point(MLP(shape, [hidden], J))), grey, transform=bits)
again = {"VAE": pv.reconstruct(baseline, test), "autoencoder": pv.reconstruct(point, test)}
to_bits = [error(x, test) for x in again.values()]
to_grey = [error(x) for x in again.values()]
print("VAE, autoencoder: error to the bits", to_bits, "to the grey images", to_grey)
assert to_bits[1] < to_bits[0] - 0.005
assert not QUICK or to_grey[1] > to_grey[0]
pixels = dist.Bernoulli(grey.mean(0).clamp(1e-3, 1 - 1e-3)).log_prob(test).sum((1, 2, 3)).mean()
print(f"ELBO {(first := elbo(baseline, test)):.2f}, independent pixels {pixels:.2f}")
assert first > pixels + (2.5 if QUICK else 60)
print(refusal := refused(pv.generate, point, 1))
assert "flat" in refusal

# %% [markdown]
# ## The network
#
# Any module of the right shapes will do, here convolutions with pooling and upsampling. The data
# are the same bits, so the ELBOs may be compared. `latent_summary` counts the latent dimensions in
# use and says if the posterior has collapsed to the prior.

# %%
channels = (16,) if QUICK else (32, 16)
q, p = ConvEncoder(shape, 2 * J, channels), ConvDecoder(J, shape, channels)
conv = vae(posterior=DiagonalNormal(q), likelihood=Bernoulli(p))
train(conv, grey, transform=bits)
active = int(pv.latent_summary(conv, test).active.sum())
print(f"ELBO {elbo(conv, test):.2f}, active latent dimensions {active} of {J}")
assert elbo(conv, test) > pixels + (2 if QUICK else 60)

# %% [markdown]
# ## The likelihood
#
# The likelihood says what kind of numbers the data are. The same images can be *bits*, *counts*
# from 0 to 16, or *grey* values in $[0,1]$. $\log p(x)$ of bits and counts is the logarithm of a
# probability and at most 0; that of grey values is a *density*, which may be positive and depends
# on the unit. **Nats may be compared within one representation, never between two.** Data outside
# of a likelihood's support are refused before training.
#
# Counts: sixteen independent trials a pixel (`Binomial`) cannot describe that most pixels of
# handwriting are either black or white; a location and a scale (`DiscretizedLogistic`) can. Grey: a
# Gaussian with a learned $\sigma$, which is the squared error with a weight that the data choose.
# The cross entropy of grey values is no likelihood: it lacks the constant that makes it a density
# (05 has it), and the plain Bernoulli refuses grey values. Between representations only an error in
# the unit of the images can be compared: here the root mean squared error of the reconstruction
# (the pixels are in $[0,1]$).

# %%
assert "expected x to hold 0 or 1" in refused(train, vae(), 16 * grey)
counts, two = [(16 * part).round() for part in (grey, grey_test)], (2 * shape[0], *shape[1:])
of = {
    "Binomial": (Binomial(MLP(J, [hidden], shape), total_count=16), 16, *counts),
    "DiscretizedLogistic": (DiscretizedLogistic(MLP(J, [hidden], two), levels=17), 16, *counts),
    "Gaussian": (Gaussian(MLP(J, [hidden], shape), sigma=0.5, learned=True), 1, grey, grey_test),
}
rows, bound, fitted = {"test images": grey_test, "Bernoulli": again["VAE"]}, {}, {}
for name, (likelihood, white, seen, unseen) in of.items():
    q = DiagonalNormal(MLP(shape, [hidden], 2 * J))
    q = pv.conditional.Standardized(q, scale=float(white))  # inputs of order one
    fitted[name] = train(vae(posterior=q, likelihood=likelihood), seen)
    rows[name] = pv.reconstruct(fitted[name], unseen) / white
    bound[name] = elbo(fitted[name], unseen)
    print(f"{name:20s} ELBO {bound[name]:8.2f}, error {error(rows[name]):.3f}")
assert bound["DiscretizedLogistic"] > bound["Binomial"] + 10
sigma = fitted["Gaussian"].likelihood.scale.item()
assert error(rows["Gaussian"]) - 0.01 < sigma < 0.25  # that error, and the spread of q besides
show("Reconstructions by likelihood", rows)

# %% [markdown]
# ## A context: the conditional VAE
#
# Further tensors of a batch are *context* $c$, passed to all three parts; a network with
# `context=10` takes it as a further input. With the label as $c$ the latents need not say which
# digit it is, and a digit can be asked for. With ten equally likely labels the *same* model also
# has
#
# $$p(x)=\tfrac1{10}\sum_cp(x\mid c),\qquad\log p(x\mid c)-\log p(x)\le\log10,$$
#
# and a classifier, the label with the largest $p(x\mid c)$. The difference is what the label is
# worth in nats. A classifier by nearest neighbours recognizes most digits that were asked for: more
# than eight in ten on the digits, three in four on MNIST, where $z$ still has a say in it.

# %%
q = DiagonalNormal(MLP(shape, [hidden], 2 * J, context=10))
labelled = vae(posterior=q, likelihood=Bernoulli(MLP(J, [hidden], shape, context=10)))
train(labelled, grey, one_hot(labels, 10), transform=bits, epochs=20)
warnings.simplefilter("ignore", pv.EvidenceWarning)  # a wrong label's images are far from its prior
some, known = test[:360], kinds[:360]
asked = [one_hot(torch.full((len(some),), c), 10) for c in range(10)]
log_p = torch.stack([pv.log_evidence(labelled, some, c, samples=100).log_p for c in asked], 1)
own = log_p[torch.arange(len(some)), known]
worth = own - (log_p.logsumexp(1) - math.log(10))
accuracy = (log_p.argmax(1) == known).double().mean()
print(f"log p(x | c) {own.mean():.2f}, the label's worth {worth.mean():.2f}, right {accuracy:.0%}")
assert worth.max() <= math.log(10) + 1e-6
assert worth.mean() > 1
assert accuracy > 0.7
digits = torch.arange(10).repeat_interleave(12)  # twelve of each are asked for
drawn = pv.generate(labelled, 120, one_hot(digits, 10), seed=0)
judge = KNeighborsClassifier(5).fit(grey.flatten(1).numpy(), labels.numpy())
print("as asked:", recognized := judge.score(drawn.flatten(1).numpy(), digits.numpy()))
assert recognized > (0.85 if QUICK else 0.5)
show("Samples by label", {str(c): drawn[digits == c] for c in range(10)})

# %% [markdown]
# ## A wrapper: denoising
#
# With `Denoising` the guide sees a corrupted image while the model explains the clean one; in
# evaluation the input is taken as it is. The noise has the standard deviation 0.4 (the pixels are
# in $[0,1]$). The plain VAE with a Gaussian likelihood removes noise too, but its encoder was never
# shown any (06 is about this).

# %%
noise = pv.graphs.GaussianNoise(0.4)
clean = vae(likelihood=Gaussian(MLP(J, [hidden], shape), sigma=0.5, learned=True))
denoising, noisy = train(pv.Denoising(clean, noise), grey), noise(grey_test)
cleaned = [pv.reconstruct(graph, noisy) for graph in (fitted["Gaussian"], denoising)]
left = [error(x) for x in (noisy, *cleaned)]
print("error of the noisy images, after the plain VAE, after Denoising:", left)
assert left[2] < left[1] < 0.8 * left[0]


# %% [markdown]
# ## Parts of one's own
#
# Any module whose `forward` returns a Pyro distribution is a part; there is nothing to inherit from
# and nothing to register. As an example a Laplace prior with learned scales, whose draws are
# sparser than normal ones. For a normal posterior and this prior torch has the KL in closed form;
# for a pair without one it is estimated from the draws, and nothing else changes.


# %%
class LaplacePrior(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.log_b = nn.Parameter(torch.zeros(d))

    def forward(self, *c):
        return dist.Laplace(torch.zeros_like(self.log_b), self.log_b.exp()).to_event(1)


own = train(vae(prior=LaplacePrior(J)), grey, transform=bits)
print(f"ELBO with the Laplace prior {elbo(own, test):.2f}, log scales {own.prior.log_b.data}")
assert elbo(own, test) > pixels + (2 if QUICK else 60)
assert own.prior.log_b.abs().max() > 0.1  # the parameters of one's own part are trained
# %% [markdown]
# **Exercises.** 1. Give the prior the context, $p(z\mid c)=N(\mu_c,I)$ with ten learned means:
# write the part, and train it with a decoder that is not shown the label. 2. Fit the `Gaussian`
# with $\sigma$ fixed at 1 to see what "the squared error" means as a likelihood: how many latent
# dimensions stay active? Answers: `tutorials/answers/01_three_parts.py`. **Next:** 02 compares
# autoencoder and VAE.
