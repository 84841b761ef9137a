# %% [markdown]
# # 01 · Three parts
#
# A VAE is a prior, a posterior and a likelihood, each a module whose `forward` returns a distribution:
#
#     prior p(z | c)      posterior q(z | x, c)      likelihood p(x | z, c)
#
# Everything here is a swap of one of them, of a network inside one, or a wrap around all. The training call stays the
# same, and so do evaluation, sampling and files.
#
#     python tutorials/01_three_parts.py --quick      # embedded digits, half a minute
#     python tutorials/01_three_parts.py              # MNIST, from PYROVAE_DATA; minutes

# %%
import argparse
import json
import sys
import tempfile
from pathlib import Path

import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

import pyrovae as pv
from pyrovae.data import datasets
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

result = {}  # the numbers this script stands for, printed at its end

# %% [markdown]
# ## One set of images, three representations
#
# The same pictures can be told as *bits*, as *counts* from 0 to 16, or as *grey* values in [0, 1]. Which likelihoods
# fit depends on that, and so does the unit of the result: log p of bits and of counts is a log probability (at most 0),
# log p of grey values a log *density*, which may be positive and changes with the unit of the data. **Nats compare
# models of one representation, never of two.** Across representations only a score in the pictures' own unit remains:
# here the root mean squared error of E[x | z] against the grey image.

# %%
torch.manual_seed(0)
data = datasets.digits() if options.quick else datasets.mnist()
pictures = [
    torch.as_tensor(part).float() / (data.total_count or 1) for part in (data.x, data.x_test)
]  # in [0, 1]
some = torch.randperm(len(pictures[1]))[:1000]  # test images that the scores are of
grey, grey_test = pictures[0], pictures[1][some]
counts, counts_test = (16 * grey).round(), (16 * grey_test).round()
bits_test = torch.bernoulli(grey_test)  # drawn once; those of the training data at each visit
labels, labels_test = torch.as_tensor(data.labels), torch.as_tensor(data.labels_test)[some]

shape = data.shape  # (1, 8, 8) or (1, 28, 28)
hidden, d, epochs, batch = (100, 8, 22, 64) if options.quick else (400, 20, 5, 128)
print(
    f"{data.name}: {len(grey)} training images of shape {tuple(shape)}, scores on {len(grey_test)} test images; {d} latents"
)

# %% [markdown]
# The baseline, and the two calls used throughout: train, and score. The KL is warmed up over the first half of the
# steps; why is seen below, under networks.

# %%
rows = []  # of the table at the end


def vae(prior=None, posterior=None, likelihood=None):
    """Return the baseline, with the parts that are given in place of its own."""
    return pv.VAE(
        prior=prior or StandardNormal(d),
        posterior=posterior or DiagonalNormal(MLP(shape, [hidden], 2 * d)),
        likelihood=likelihood or Bernoulli(MLP(d, [hidden], shape)),
    )


def train(graph, x=grey, *c, transform=None):
    """Fit a graph; the settings are the same for all."""
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


def score(name, representation, graph, x, *c, unit=1):
    """Enter ELBO, log p(x) and the error of the reconstructions, in grey levels, into the table."""
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
# With a posterior that is a single point, and a prior that is flat, log p(x | f(x)) is all that is left of the ELBO: an
# autoencoder, on the same networks and the same loop. Having nothing to pay for its codes it comes closer to the very
# bits that it is shown, noise included, and no closer to the grey image behind them. And it has no distribution over
# codes: no samples, no log p(x), and the library says so.

# %%
autoencoder = vae(prior=Flat(d), posterior=Point(MLP(shape, [hidden], d)))
train(autoencoder, transform=pv.batches.binarize)
score("Flat, Point (autoencoder)", "bits", autoencoder, bits_test)
to_bits = {
    name: (pv.reconstruct(graph, bits_test) - bits_test).square().mean().sqrt().item()
    for name, graph in (("VAE", baseline), ("autoencoder", autoencoder))
}
result["error_to_bits"] = to_bits
print(
    "error to the bits shown:", ", ".join(f"{name} {value:.3f}" for name, value in to_bits.items())
)
try:
    pv.generate(autoencoder, 1)
except ValueError as refusal:
    print(refusal)

# %% [markdown]
# ## Swap the network
#
# A part does not know which network it holds. Nothing else changes: same data, same representation, so log p(x)
# compares.
#
# Deeper networks fall more easily into *posterior collapse*: at first the KL is cheapest to lower, q(z | x) falls onto
# the prior, and the decoder learns to do without z. Hence the warm-up of the KL's weight, from 0 to 1, in `train`;
# `latent_summary` says how many units are in use, and warns of a collapse.

# %%
channels = (16,) if options.quick else (32, 16, 16)  # one pooling for each
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
# A likelihood states which values it can explain and refuses others before training starts:

# %%
try:
    train(vae(), counts)
except ValueError as refusal:
    print(refusal)

# %% [markdown]
# Counts first. `Binomial` takes each pixel for 16 independent trials; `DiscretizedLogistic` gives it a place and a
# width; `Categorical` has a free probability for each level. All three are probabilities of the same counts, so their
# nats compare. Pixels of handwriting are mostly all ink or none, which 16 *independent* trials explain badly.
#
# A posterior should not see numbers far from unit size: `Standardized` divides what it sees, and only that.

# %%
two, seventeen = (
    (2 * shape[0], *shape[1:]),
    (17 * shape[0], *shape[1:]),
)  # parameters a pixel, as blocks of channels
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
# Grey values. `Gaussian` with a learned sigma is squared error with the right weight: 1 / (2 sigma^2) to 1 against the
# KL, found by training. `ContinuousBernoulli` is cross entropy on grey values *with* the constant that makes it a
# density; plain Bernoulli on grey values lacks that, is no likelihood, and is refused. These two are densities over
# grey values in one unit and compare with each other, not with the rows above.

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
    f"learned sigma: {sigma:.3f} grey levels; root mean squared error of the reconstructions {rows[-2][-1]:.3f}"
)


def in_rows(pictures, name, title):
    """Draw named rows of images and save the picture."""
    columns = max(len(images) for images in pictures.values())
    figure = Figure(figsize=(2.4 + 0.7 * columns, 0.75 * len(pictures) + 0.5), layout="constrained")
    axes = figure.subplots(len(pictures), 1)
    for axis, (label, images) in zip(axes, pictures.items(), strict=True):
        gap = torch.ones(len(images), *shape[:2], max(1, shape[2] // 14))
        row = (
            torch.cat([images, gap], -1)[:, 0].permute(1, 0, 2).flatten(1)
        )  # (H, columns * (W + gap))
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
# What comes after x in the batch is context: it reaches all three parts, and a network built with `context=10` takes it
# in. Given the label, the latents need no longer say which digit it is, and the model draws the digit that is asked
# for.
#
# log p(x | c) is not log p(x): with ten equally likely labels it can be higher by at most log 10 = 2.3 nats, since p(x | c)
# / 10 <= p(x) = 1/10 sum over labels of p(x | label).

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
drawn = pv.generate(
    conditional, len(digit), nn.functional.one_hot(digit, 10), seed=0
)  # E[x | z, c] for z ~ p(z)
judge = KNeighborsClassifier(5).fit(grey[:10_000].flatten(1).numpy(), labels[:10_000].numpy())
result["judge"] = float(judge.score(grey_test.flatten(1).numpy(), labels_test.numpy()))
result["drawn_as_asked"] = float(judge.score(drawn.flatten(1).numpy(), digit.numpy()))
print(
    f"a nearest-neighbour judge knows {result['judge']:.1%} of the test images, and {result['drawn_as_asked']:.1%} of those drawn"
)
in_rows({f"{k}": drawn[digit == k][:12] for k in range(10)}, "conditional", "Samples by label")

# %% [markdown]
# ## Wrap it all: denoising
#
# `Denoising` shows the guide a corrupted image while the model goes on to explain the clean one; in use (under
# `eval()`) what comes in is taken as it is. Here noise of 0.4 grey levels is added. The plain VAE with a Gaussian
# likelihood cleans up too, being a model of digits, but was never shown noise.

# %%
corrupt = pv.graphs.GaussianNoise(0.4)
denoising = train(
    pv.Denoising(
        vae(likelihood=Gaussian(MLP(d, [hidden], shape), sigma=0.5, learned=True)), corrupt
    )
)
score("Denoising, seeing clean images", "grey", denoising, grey_test)
noisy = corrupt(grey_test)
cleaned = {"plain VAE": pv.reconstruct(plain, noisy), "Denoising": pv.reconstruct(denoising, noisy)}
error = {
    name: (x - grey_test).square().mean().sqrt().item()
    for name, x in {"noisy": noisy, **cleaned}.items()
}
result["noise_left"] = error
print(
    "error against the clean image:",
    ", ".join(f"{name} {value:.3f}" for name, value in error.items()),
)
shown = {"test images": grey_test, "noisy": noisy, **cleaned}
in_rows(
    {name: x[:12] for name, x in shown.items()},
    "denoising",
    "Noise of 0.4 grey levels, and what is left of it",
)

# %% [markdown]
# ## Write your own
#
# A part is any module whose `forward` returns a Pyro distribution; there is nothing to inherit from and nothing to
# register. A Laplace prior with learned widths, whose draws are sparser than a Gaussian's, and a Laplace posterior:


# %%
class LaplacePrior(nn.Module):
    """p(z) = prod_j Laplace(z_j; 0, b_j), the widths b learned."""

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
# Two priors and two posteriors make four models. Where torch knows the KL of a pair in closed form it is used (all four
# here), else one draw stands for it.


# %%
def own():
    """Return a VAE with both parts of our own."""
    return vae(LaplacePrior(d), LaplacePosterior(MLP(shape, [hidden], 2 * d)))


both = train(own(), transform=pv.batches.binarize)
half = train(vae(prior=LaplacePrior(d)), transform=pv.batches.binarize)
other = train(
    vae(posterior=LaplacePosterior(MLP(shape, [hidden], 2 * d))), transform=pv.batches.binarize
)
result["own_prior"] = score("own prior (Laplace)", "bits", half, bits_test)
result["own_posterior"] = score("own posterior (Laplace)", "bits", other, bits_test)
result["own_both"] = score("own prior and posterior", "bits", both, bits_test)
widths = both.prior.log_b.exp().detach()
result["widths_moved"] = (widths - 1).abs().max().item()
print(f"learned widths b: {widths.min():.2f} to {widths.max():.2f}")

# %% [markdown]
# Files hold no code: the library's own parts are rebuilt from their description, a part of yours is only named. You
# build the object, `load` fills it. The figures before and after are equal to the bit.

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
# Compare ELBO and log p(x) inside one block only (and the row with a context with none). The last column compares
# everywhere, with two cautions: a row of bits was given less to see than the grey image it is measured against, and a
# small error says nothing of probabilities or samples. Of the parts swapped on bits, none moves log p(x) by much on so
# small a data set: the point here is that each was one line.

# %%
print(f"\n{'what':34s}{'ELBO':>10s}{'log p(x)':>10s}{'error':>8s}")
for block in ("bits", "counts", "grey"):
    print(f"--- {block}: {'log density' if block == 'grey' else 'log probability'}, nats an image")
    for name, representation, elbo, log_p, error in rows:
        if representation == block:
            print(f"{name:34s}{elbo:10.2f}{log_p:10.2f}{error:8.3f}")

# %%
print("RESULT", json.dumps(result))
