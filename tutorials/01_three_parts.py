# %% [markdown]
# # 01 · Three parts
#
# A VAE has three parts: a prior, a posterior and a likelihood. Each is a module whose `forward`
# returns a distribution:
#
#     prior p(z | c)      posterior q(z | x, c)      likelihood p(x | z, c)
#
# This tutorial replaces one part at a time, or a network inside a part, or wraps the whole model.
# The calls for training, evaluation, sampling and saving stay the same.
#
#     python tutorials/01_three_parts.py --quick      # embedded digits, half a minute
#     python tutorials/01_three_parts.py              # MNIST, from PYROVAE_DATA; minutes

# %%
import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path

import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

import pyrovae as pv
from pyrovae import datasets
from pyrovae.likelihoods import (
    Bernoulli,
    Binomial,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
)
from pyrovae.nets import MLP, ConvDecoder, ConvEncoder, ResidualMLP
from pyrovae.posteriors import DiagonalNormal, Point
from pyrovae.priors import Flat, StandardNormal

parser = argparse.ArgumentParser(
    description="Swap the prior, the posterior, the likelihood, the network; add a context; wrap."
)
parser.add_argument("--quick", action="store_true", help="embedded 8 x 8 digits instead of MNIST")
parser.add_argument("--output", type=Path, default=Path("figures"), help="folder for the pictures")
options = parser.parse_args([] if "ipykernel" in sys.modules else None)
options.output.mkdir(parents=True, exist_ok=True)

result = {}  # the numbers that this script computes, printed at its end

# %% [markdown]
# ## One set of images, three representations
#
# The same images can be represented as *bits*, as *counts* from 0 to 16, or as *grey* values in
# [0, 1]. The representation decides which likelihoods are valid and what the result means: log p(x)
# of bits and of counts is a log probability (at most 0), log p(x) of grey values is a log
# *density*, which may be positive and changes with the unit of the data. **Values in nats are
# comparable within one representation, never between two.** Between representations, only an error
# in the unit of the images is comparable: here the root mean squared error of E[x | z] against the
# grey image.

# %%
torch.manual_seed(0)
data = datasets.digits() if options.quick else datasets.mnist()
# in [0, 1]
pictures = [torch.as_tensor(x).float() / (data.total_count or 1) for x in (data.x, data.x_test)]
some = torch.randperm(len(pictures[1]))[:1000]  # the test images for all scores
grey, grey_test = pictures[0], pictures[1][some]
counts, counts_test = (16 * grey).round(), (16 * grey_test).round()
bits_test = torch.bernoulli(grey_test)  # sampled once; training data are sampled at each visit
labels, labels_test = torch.as_tensor(data.labels), torch.as_tensor(data.labels_test)[some]

shape = data.shape  # (1, 8, 8) or (1, 28, 28)
hidden, d, epochs, batch = (100, 8, 22, 64) if options.quick else (400, 20, 5, 128)
print(
    f"{data.name}: {len(grey)} training images of shape {tuple(shape)}, "
    f"scores on {len(grey_test)} test images; {d} latents"
)

# %% [markdown]
# The baseline, and two functions for all models: `train` and `score`. The weight of the KL is
# warmed up from 0 to 1 over the first half of the steps; the section on networks below explains
# why.

# %%
rows = []  # the rows of the table at the end


def vae(prior=None, posterior=None, likelihood=None):
    """Return the baseline, in which the given parts replace the default ones."""
    return pv.VAE(
        prior=prior or StandardNormal(d),
        posterior=posterior or DiagonalNormal(MLP(shape, [hidden], 2 * d)),
        likelihood=likelihood or Bernoulli(MLP(d, [hidden], shape)),
    )


def train(graph, x=grey, *c, transform=None):
    """Fit a graph (a pair of model and guide) with the settings that all of them share."""
    rate = 3e-3 if options.quick else 1e-3
    pv.fit(
        graph,
        (x, *c),
        transform=transform,
        objective=pv.objectives.SGVB_B(beta=pv.objectives.warm_up(0.5)),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=rate, fused=True),
        epochs=epochs,
        batch_size=batch,
        seed=0,
        progress=False,
    )
    return graph


# A hundred draws leave the evidence of many rows uncertain by a nat, and `log_evidence` warns.
# Means over hundreds of rows, of models that are nats apart, can be compared all the same.
warnings.simplefilter("ignore", pv.EvidenceWarning)


def score(name, representation, graph, x, *c, unit=1):
    """Add ELBO, log p(x) and the reconstruction error in grey levels to the table."""
    error = (pv.reconstruct(graph, x, *c) / unit - grey_test).square().mean().sqrt().item()
    try:
        elbo = pv.elbo(graph, x, *c, samples=10).elbo.mean().item()
        log_p = pv.log_evidence(graph, x, *c, samples=100).log_p.mean().item()
    except ValueError as refusal:  # an autoencoder has neither
        print(f"{name}: {refusal}")
        elbo = log_p = float("nan")
    rows.append((name, representation, elbo, log_p, error))
    print(f"{name:32s} ELBO {elbo:9.2f}   log p(x) {log_p:9.2f}   error {error:.3f}")
    return log_p


baseline = train(vae(), transform=pv.batches.binarize)
result["baseline"] = score("baseline", "bits", baseline, bits_test)
pixel = grey.mean(0).clamp(1e-3, 1 - 1e-3)
result["independent_pixels"] = (
    dist.Bernoulli(pixel).log_prob(bits_test).flatten(1).sum(-1).mean().item()
)
print(f"independent pixels, no latents: log p(x) {result['independent_pixels']:.2f}")

# %% [markdown]
# ## Swap the prior and the posterior: an autoencoder
#
# With a point posterior (a Delta distribution at f(x)) and a flat (improper) prior, the ELBO
# reduces to log p(x | f(x)): an autoencoder, with the same networks and the same training loop.
# There is no KL, so it reconstructs its binary input more closely, noise included, but not the grey
# image from which the input was sampled. It has no distribution over the latents, so it can neither
# generate samples nor estimate log p(x), and the library raises an error.

# %%
autoencoder = vae(prior=Flat(d), posterior=Point(MLP(shape, [hidden], d)))
train(autoencoder, transform=pv.batches.binarize)
score("Flat, Point (autoencoder)", "bits", autoencoder, bits_test)
to_bits = {
    name: (pv.reconstruct(graph, bits_test) - bits_test).square().mean().sqrt().item()
    for name, graph in (("VAE", baseline), ("autoencoder", autoencoder))
}
result["error_to_bits"] = to_bits
listed = ", ".join(f"{name} {value:.3f}" for name, value in to_bits.items())
print("error against the binary input:", listed)
try:
    pv.generate(autoencoder, 1)
except ValueError as refusal:
    print(refusal)

# %% [markdown]
# ## Swap the network
#
# A part works with any network. Nothing else changes: the data and their representation are the
# same, so log p(x) is comparable.
#
# Deeper networks are more prone to *posterior collapse*: at the start of training the easiest way
# to reduce the loss is to reduce the KL, so q(z | x) collapses to the prior and the decoder learns
# to ignore z. This is why `train` warms up the weight of the KL from 0 to 1. `latent_summary`
# returns how many units are active, and a warning if the posterior has collapsed.

# %%
channels = (16,) if options.quick else (32, 16, 16)  # one pooling layer per entry
convolutional = vae(
    posterior=DiagonalNormal(ConvEncoder(shape, 2 * d, channels)),
    likelihood=Bernoulli(ConvDecoder(d, shape, channels)),
)
residual = vae(
    posterior=DiagonalNormal(ResidualMLP(shape, hidden, 2 * d)),
    likelihood=Bernoulli(ResidualMLP(d, hidden, shape)),
)
result["convolutional"] = score(
    "convolutional networks", "bits", train(convolutional, transform=pv.batches.binarize), bits_test
)
result["residual"] = score(
    "residual networks", "bits", train(residual, transform=pv.batches.binarize), bits_test
)
summary = pv.latent_summary(convolutional, bits_test)
print(f"convolutional: {int(summary.active.sum())} of {d} units active, warning: {summary.warning}")

# %% [markdown]
# ## Swap the likelihood
#
# Each likelihood has a support. Data outside the support raise a `ValueError` before training:

# %%
try:
    train(vae(), counts)
except ValueError as refusal:
    print(refusal)

# %% [markdown]
# Counts first. `Binomial` treats each pixel as 16 independent trials; `DiscretizedLogistic` has a
# location and a scale per pixel; `Categorical` has a free probability for each level. All three are
# probabilities of the same counts, so their values in nats are comparable. Most pixels of
# handwriting are either fully white or fully black, which 16 *independent* trials describe badly.
#
# The input of an encoder should have values of the order of 1: `Standardized` rescales the input of
# the posterior, and nothing else.

# %%
# shapes for 2 and for 17 parameters per pixel, as blocks of channels
two, seventeen = (2 * shape[0], *shape[1:]), (17 * shape[0], *shape[1:])
on_counts = {
    "Binomial": Binomial(MLP(d, [hidden], shape), total_count=16),
    "DiscretizedLogistic": DiscretizedLogistic(MLP(d, [hidden], two), levels=17),
    "Categorical": Categorical(MLP(d, [hidden], seventeen), levels=17),
}
reconstructions = {
    "test images": grey_test[:10],
    "Bernoulli": pv.reconstruct(baseline, bits_test[:10]),
}
reconstructions["autoencoder"] = pv.reconstruct(autoencoder, bits_test[:10])
for name, likelihood in on_counts.items():
    seen = pv.conditional.Standardized(DiagonalNormal(MLP(shape, [hidden], 2 * d)), scale=16.0)
    graph = train(vae(posterior=seen, likelihood=likelihood), counts)
    result[name] = score(name, "counts", graph, counts_test, unit=16)
    reconstructions[name] = pv.reconstruct(graph, counts_test[:10]) / 16

# %% [markdown]
# Grey values. `Gaussian` with a learned sigma is the squared error, weighted against the KL by
# 1 / (2 sigma^2), a weight that is learned. `ContinuousBernoulli` is the cross entropy of grey
# values *with* the normalizing constant that makes it a density. A plain Bernoulli lacks this
# constant: on grey values it is not a likelihood, and it raises an error. `Gaussian` and
# `ContinuousBernoulli` are densities over grey values in the same unit, so they are comparable with
# each other, but not with the models above.

# %%
on_grey = {
    "Gaussian, learned sigma": Gaussian(MLP(d, [hidden], shape), sigma=0.5, learned=True),
    "ContinuousBernoulli": ContinuousBernoulli(MLP(d, [hidden], shape)),
}
fitted = {name: train(vae(likelihood=likelihood)) for name, likelihood in on_grey.items()}
for name, graph in fitted.items():
    result[name] = score(name, "grey", graph, grey_test)
    reconstructions[name] = pv.reconstruct(graph, grey_test[:10])
plain = fitted["Gaussian, learned sigma"]
sigma = plain.likelihood.log_sigma.exp().item()
result["sigma"] = sigma
print(
    f"learned sigma: {sigma:.3f} grey levels; "
    f"root mean squared error of the reconstructions {rows[-2][-1]:.3f}"
)


def in_rows(pictures, name, title):
    """Draw named rows of images and save the picture."""
    columns = max(len(images) for images in pictures.values())
    figure = Figure(figsize=(2.4 + 0.7 * columns, 0.75 * len(pictures) + 0.5), layout="constrained")
    axes = figure.subplots(len(pictures), 1)
    for axis, (label, images) in zip(axes, pictures.items(), strict=True):
        gap = torch.ones(len(images), *shape[:2], max(1, shape[2] // 14))
        row = torch.cat([images, gap], -1)[:, 0].permute(1, 0, 2)  # (H, columns, W + gap)
        row = row.flatten(1)
        axis.imshow(row.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.set_ylabel(label, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    figure.savefig(options.output / f"01_{name}.png", dpi=110, bbox_inches="tight")


in_rows(reconstructions, "likelihoods", "E[x | z] at the mean of q(z | x), by likelihood")

# %% [markdown]
# ## Add a context: a conditional VAE
#
# Every tensor after x in the batch is context: it is passed to all three parts, and a network with
# `context=10` takes it as a further input. Given the label, the latents no longer have to encode
# which digit it is, and the model generates the requested digit.
#
# log p(x | c) is not log p(x): with ten equally likely labels it can be higher by at most log 10 =
# 2.3 nats, since
#
#     p(x | c) / 10  <=  p(x) = 1/10 sum over labels of p(x | label).

# %%
one_hot, one_hot_test = nn.functional.one_hot(labels, 10), nn.functional.one_hot(labels_test, 10)
conditional = pv.VAE(
    prior=StandardNormal(d),
    posterior=DiagonalNormal(MLP(shape, [hidden], 2 * d, context=10)),
    likelihood=Bernoulli(MLP(d, [hidden], shape, context=10)),
)
train(conditional, grey, one_hot, transform=pv.batches.binarize)
result["conditional"] = score(
    "context: the label, log p(x | c)", "bits", conditional, bits_test, one_hot_test
)

digit = torch.arange(10).repeat_interleave(50)
asked = nn.functional.one_hot(digit, 10)
drawn = pv.generate(conditional, len(digit), asked, seed=0)  # E[x | z, c] for z ~ p(z)
classifier = KNeighborsClassifier(5).fit(grey[:10_000].flatten(1).numpy(), labels[:10_000].numpy())
result["judge"] = float(classifier.score(grey_test.flatten(1).numpy(), labels_test.numpy()))
result["drawn_as_asked"] = float(classifier.score(drawn.flatten(1).numpy(), digit.numpy()))
print(
    f"accuracy of a nearest-neighbour classifier: {result['judge']:.1%} on test images, "
    f"{result['drawn_as_asked']:.1%} on generated images"
)
in_rows({f"{k}": drawn[digit == k][:12] for k in range(10)}, "conditional", "Samples by label")

# %% [markdown]
# ## Wrap the model: denoising
#
# With `Denoising` the guide sees a corrupted image, while the model still explains the clean one.
# In evaluation mode (`eval()`) the input is used as it is. Here the noise has a standard deviation
# of 0.4 grey levels. The plain VAE with a Gaussian likelihood removes noise too, since it is a
# model of digits, but it was never trained on noisy images.

# %%
corrupt = pv.graphs.GaussianNoise(0.4)
denoising = train(
    pv.Denoising(
        vae(likelihood=Gaussian(MLP(d, [hidden], shape), sigma=0.5, learned=True)), corrupt
    )
)
score("Denoising, given clean images", "grey", denoising, grey_test)
noisy = corrupt(grey_test)
cleaned = {"plain VAE": pv.reconstruct(plain, noisy), "Denoising": pv.reconstruct(denoising, noisy)}
error = {
    name: (x - grey_test).square().mean().sqrt().item()
    for name, x in {"noisy": noisy, **cleaned}.items()
}
result["noise_left"] = error
listed = ", ".join(f"{name} {value:.3f}" for name, value in error.items())
print("error against the clean image:", listed)
shown = {"test images": grey_test, "noisy": noisy, **cleaned}
in_rows(
    {name: x[:12] for name, x in shown.items()},
    "denoising",
    "Noise with a standard deviation of 0.4 grey levels, and reconstructions",
)

# %% [markdown]
# ## Write your own
#
# A part is any module whose `forward` returns a Pyro distribution; there is nothing to inherit from
# and nothing to register. As an example, a Laplace prior with learned scales, whose samples are
# sparser than those of a Gaussian, and a Laplace posterior:


# %%
class LaplacePrior(nn.Module):
    """p(z) = prod_j Laplace(z_j; 0, b_j) with learned scales b."""

    def __init__(self, d):
        super().__init__()
        self.log_b = nn.Parameter(torch.zeros(d))

    def forward(self, *c):
        return dist.Laplace(torch.zeros_like(self.log_b), self.log_b.exp()).to_event(1)


class LaplacePosterior(nn.Module):
    """q(z | x) = prod_j Laplace(z_j; mu_j(x), b_j(x))."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, *c):
        mu, log_b = self.net(x, *c).chunk(2, -1)
        return dist.Laplace(mu, log_b.exp()).to_event(1)


# %% [markdown]
# Two priors and two posteriors make four models. The closed form of the KL is used where torch has
# one for the pair (all four pairs here), else the KL is estimated with one sample.


# %%
def own():
    """Return a VAE with the two parts defined above."""
    return vae(LaplacePrior(d), LaplacePosterior(MLP(shape, [hidden], 2 * d)))


both = train(own(), transform=pv.batches.binarize)
half = train(vae(prior=LaplacePrior(d)), transform=pv.batches.binarize)
own_posterior = vae(posterior=LaplacePosterior(MLP(shape, [hidden], 2 * d)))
other = train(own_posterior, transform=pv.batches.binarize)
result["own_prior"] = score("own prior (Laplace)", "bits", half, bits_test)
result["own_posterior"] = score("own posterior (Laplace)", "bits", other, bits_test)
result["own_both"] = score("own prior and posterior", "bits", both, bits_test)
scales = both.prior.log_b.exp().detach()
result["widths_moved"] = (scales - 1).abs().max().item()
print(f"learned scales b: {scales.min():.2f} to {scales.max():.2f}")

# %% [markdown]
# Model files hold no code. The library's own parts are rebuilt from their description; for a part
# of yours the file holds only its name. You construct the model, and `load` fills in its weights.
# The results before and after are bitwise equal.

# %%
with tempfile.TemporaryDirectory() as folder:
    pv.save(both, folder)
    try:
        pv.load(folder)
    except ValueError as refusal:
        print(refusal)
    loaded = pv.load(folder, into=own())
before, after = (
    pv.log_evidence(graph, bits_test[:100], samples=50).log_p for graph in (both, loaded)
)
result["difference_after_loading"] = (before - after).abs().max().item()
print(f"largest difference of log p(x) after loading: {result['difference_after_loading']}")

# %% [markdown]
# ## The table
#
# Compare ELBO and log p(x) within one block only (and the row with a context with no other row).
# The last column is comparable between all rows, with two cautions: a model of bits is given less
# information than the grey image that its error is measured against, and a small error does not
# imply good probabilities or good samples. On so small a data set, none of the parts replaced on
# bits changes log p(x) by much; the point here is that each replacement took one line.

# %%
print(f"\n{'model':34s}{'ELBO':>10s}{'log p(x)':>10s}{'error':>8s}")
for block in ("bits", "counts", "grey"):
    unit = "log density" if block == "grey" else "log probability"
    print(f"--- {block}: {unit}, nats per image")
    for name, representation, elbo, log_p, error in rows:
        if representation == block:
            print(f"{name:34s}{elbo:10.2f}{log_p:10.2f}{error:8.3f}")

# %%
print("RESULT", json.dumps(result))
