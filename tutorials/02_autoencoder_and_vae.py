# %% [markdown]
# # 02 · A code against a distribution
#
# An autoencoder gives each image a point, its code; a VAE gives it a distribution. The notes that
# this course follows (five learners' texts in Chinese, N0 to N4) spend most of their pictures on
# this difference: what lies between two codes, what far from all of them, what happens on images
# that training has not seen. Here both models are one composition with two parts exchanged, and
# each claim gets a number. N3 writes the autoencoder as two maps and a squared error,
#
# $$f:\mathbb R^D\to\mathbb R^M,\qquad g:\mathbb R^M\to\mathbb R^D,\qquad
#   L=\sum_n\lVert x_n-g(f(x_n))\rVert^2 .$$
#
# `PYROVAE_QUICK=1` or `--quick` runs it on 8 x 8 digits; otherwise it takes 10,000 images of MNIST.

# %%
import math
import os
import sys

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import conv2d, conv_transpose2d, cross_entropy, mse_loss, pad

import pyrovae as pv
from pyrovae import datasets, likelihoods, nets, posteriors, priors, realism

QUICK = "--quick" in sys.argv or os.environ.get("PYROVAE_QUICK") == "1"
data = datasets.digits() if QUICK else datasets.mnist()
x, test = (torch.from_numpy(part[:10_000]).float() / data.x.max() for part in (data.x, data.x_test))
labels, kinds = (torch.from_numpy(part).long() for part in (data.labels, data.labels_test))
test, labels, kinds, shape = test[:2_000], labels[: len(x)], kinds[:2_000], x.shape[1:]
D, hidden, epochs = (8, 200, 30) if QUICK else (16, 400, 30)


def autoencoder(d, sigma=1.0):
    f, g = nets.MLP(shape, [hidden], d), nets.MLP(d, [hidden], shape)
    return pv.VAE(priors.Flat(d), posteriors.Point(f), likelihoods.Gaussian(g, sigma))


def convolutional(channels):
    f, g = nets.ConvEncoder(shape, None, channels), nets.ConvDecoder(None, shape, channels)
    flat = priors.Flat(f.shape_out[0])
    return pv.VAE(flat, posteriors.Point(f), likelihoods.Gaussian(g, 1.0))


def variational(d, sigma=0.3, learned=True):
    f, g = nets.MLP(shape, [hidden], 2 * d), nets.MLP(d, [hidden], shape)
    p = likelihoods.Gaussian(g, sigma, learned=learned)
    return pv.VAE(priors.StandardNormal(d), posteriors.DiagonalNormal(f), p)


def fit(make, *arguments, rows=x, epochs=epochs):
    torch.manual_seed(0)
    graph = make(*arguments)
    pv.fit(graph, rows, epochs=epochs, batch_size=50, seed=0, progress=False)
    return graph.eval()


def error(graph, rows=test):
    return mse_loss(pv.reconstruct(graph, rows), rows).item()


def show(title, rows):
    tiles = [pad(images[:, 0], (0, 1, 0, 1), value=0.5) for images in rows.values()]
    picture = torch.cat([torch.cat([*images], 1) for images in tiles])
    axis = plt.figure(figsize=(9, 0.6 + 0.85 * len(rows)), layout="constrained").gca()
    axis.imshow(picture.clamp(0, 1).numpy(), cmap="gray")
    axis.set(title=title, xticks=[])
    axis.set_yticks([(shape[1] + 1) * (i + 0.5) for i in range(len(rows))], [*rows])
    plt.show()


# %% [markdown]
# ## An autoencoder is a VAE with two parts exchanged
#
# Let the posterior be a point at $f(x)$, the prior flat ($p(z)=1$, so it adds nothing), and the
# likelihood a Gaussian with fixed $\sigma$. Then
#
# $$-\mathrm{ELBO}(x)=-\log p(x\mid f(x))
#   =\frac{\lVert x-g(f(x))\rVert^2}{2\sigma^2}+\frac D2\log(2\pi\sigma^2),$$
#
# the squared error up to a factor and a constant. The factor is $1/(2\sigma^2)$ on the *sum* of
# squares; N4's $1/\sigma^2$ on their mean over $n$ pixels is too small by the factor $n/2$. N3
# writes the composition as $f\circ g$. That one leads from codes to codes and takes no image: what
# reconstructs an image is $g\circ f$, first the encoder and then the decoder.

# %%
graph, sigma, n = autoencoder(D, 0.5), 0.5, x[0].numel()
f, g = graph.posterior.net, graph.likelihood.net
squares = (x - g(f(x))).square().flatten(1).sum(1)
by_hand = squares / (2 * sigma**2) + n / 2 * math.log(2 * math.pi * sigma**2)
assert torch.allclose(-pv.elbo(graph, x).elbo, by_hand, rtol=1e-5)
assert (g(f(x)).shape, f(g(f(x))).shape) == (x.shape, (len(x), D))  # images, codes

# %% [markdown]
# Without hidden layers both maps are linear. None does better than PCA, which leaves all variance
# but that of the first principal components, and an optimizer finds one that does as well.

# %%
digits = torch.from_numpy(datasets.digits().x).flatten(1).double() / 16
pca = torch.linalg.svdvals(digits - digits.mean(0))[4:].square().sum() / digits.numel()
torch.manual_seed(0)
linear = nn.Sequential(nn.Linear(64, 4), nn.Linear(4, 64)).double()
lbfgs = torch.optim.LBFGS(linear.parameters(), max_iter=1_000, line_search_fn="strong_wolfe")


def loss():
    lbfgs.zero_grad()
    (value := mse_loss(linear(digits), digits)).backward()
    return value


lbfgs.step(loss)
print(f"error of PCA {pca:.6f}, of the linear autoencoder {loss():.6f}")
assert abs(loss() / pca - 1) < 1e-4

# %% [markdown]
# ## Fully connected and convolutional
#
# N3's convolutional encoder halves a picture of 28 x 28 three times and ends at 4 x 4 x 8 = 128
# numbers, by four convolutions and three poolings; the decoder takes five convolutions and three
# upsamplings. `ConvEncoder` and `ConvDecoder` are this by default. All positions share weights:
# fewer parameters, more time, and with little training a larger error than that of a fully
# connected network with as long a code. A *transposed* convolution also enlarges: it inserts zeros
# and convolves with the flipped kernel. It is no inverse: a picture comes back as another one.

# %%
encoder, decoder = nets.ConvEncoder((1, 28, 28), None), nets.ConvDecoder(None, (1, 28, 28))
print(*(type(layer).__name__ for layer in encoder.layers), "end at", encoder.code)
assert encoder.code == decoder.code == (8, 4, 4)
assert [str(encoder).count(name) for name in ("Conv2d", "MaxPool2d")] == [4, 3]
assert [str(decoder).count(name) for name in ("Conv2d", "Upsample")] == [5, 3]

conv = fit(convolutional, (16, 4) if QUICK else (16, 8, 8), epochs=epochs // 2)
full = fit(autoencoder, conv.prior.d, epochs=epochs // 2)
size = [sum(p.numel() for p in graph.parameters()) for graph in (full, conv)]
print(f"code of {conv.prior.d}, parameters {size}, errors {error(full):.4f}, {error(conv):.4f}")
assert size[1] < size[0] / 5
assert error(full) < error(conv)
assert max(error(full), error(conv)) < 0.9 * mse_loss(x.mean(0).expand_as(test), test)
rows = [test[:10], *(pv.reconstruct(graph, test[:10]) for graph in (full, conv))]
show("Reconstructions", dict(zip(("original", "fully connected", "conv"), rows, strict=True)))

# %%
kernel, zeros = torch.randn(1, 1, 3, 3), torch.zeros(1, 1, 5, 5)
picture = nn.functional.adaptive_avg_pool2d(x[:1], 7)
zeros[..., ::2, ::2] = small = conv2d(picture, kernel, stride=2)  # 7 x 7 to 3 x 3
again = conv_transpose2d(small, kernel, stride=2)
assert torch.allclose(again, conv2d(zeros, kernel.flip(2, 3), padding=2), atol=1e-5)
assert (again - picture).norm() > 0.1 * picture.norm()

# %% [markdown]
# ## What lies between two codes
#
# N0's second figure: an autoencoder with codes of one number has learned three images; halfway
# between two codes it decodes to nonsense, and a VAE does not. Below, 41 codes from the least to
# the largest are decoded; clear is what lies nearer to one of the three than a fifth of their
# distance. Both decoders are continuous in one number, so *both* pass from image to image through
# mixtures, and the shares of clear images are alike: the claim is too strong.

# %%
three = torch.cat([x[labels == k][:1] for k in (1, 2, 3)])
clear, strips, apart = {}, {}, torch.pdist(three.flatten(1)).mean()
for name, parts in {"AE": (autoencoder, 1), "VAE": (variational, 1, 0.1, False)}.items():
    graph = fit(*parts, rows=three.repeat(50, 1, 1, 1), epochs=150)
    codes = pv.embed(graph, three)
    line = pv.decode(graph, torch.linspace(codes.min(), codes.max(), 41)[:, None])
    clear[name] = (realism.nearest(line, three).values < apart / 5).double().mean().item()
    strips[name] = line[::4]
print("share of clear images on the way:", clear)
assert abs(clear["AE"] - clear["VAE"]) < 0.25
show("Codes of one number, from the least to the largest", strips)

# %% [markdown]
# ## Holes: codes that no image has
#
# To generate, one needs codes. The VAE's prior says which; for an autoencoder one guesses $N(0,I)$,
# or a Gaussian fitted to the training codes. Two scores judge how real images are, since each can
# be fooled: the distance to the nearest training image (small for a blur) and the confidence of a
# calibrated classifier (high for many a bold shape). Together they say which images pass for real:
# those among the better 95 % of test images by both. At $N(0,I)$ the autoencoder's images are
# farther off; the fitted Gaussian repairs most of that. The confidence alone does not see it.

# %%
half, net = len(x) * 2 // 3, nn.Sequential(nn.Flatten(), nets.MLP(n, [200], 10))
adam = torch.optim.Adam(net.parameters(), 3e-3)
for rows in torch.randint(half, (600, 100)):
    adam.zero_grad()
    cross_entropy(net(x[rows]), labels[rows]).backward()
    adam.step()
judge = realism.Judge(net, x, x[half:], labels[half:])
models = {"AE": fit(autoencoder, D), "VAE": fit(variational, D)}
noise, far, passed, holes, real = torch.randn(1_000, D), {}, {}, {}, judge(test)
print("test images:", real, realism.passing(real, real))
for name, graph in models.items():
    codes = pv.embed(graph, x)
    fitted = codes.mean(0) + noise @ torch.linalg.cholesky(codes.T.cov()).T
    for where, z in {"N(0, I)": noise, "fitted": fitted}.items():
        images = pv.decode(graph, z).clamp(0, 1)
        far[name, where] = (found := judge(images)).distance.mean
        passed[name, where] = realism.passing(found, real).mean
        print(name, where, *found, "passing:", passed[name, where])
        holes[f"{name}, {where}"] = images[:12]
assert far["AE", "N(0, I)"] > (1.2 if QUICK else 1.05) * far["VAE", "N(0, I)"]
assert 1 < far["AE", "fitted"] / far["VAE", "fitted"] < 1.2
if QUICK:  # on MNIST 0.38 and 0.55: the same order, a smaller ratio
    assert passed["AE", "N(0, I)"] < 0.5 * passed["VAE", "N(0, I)"]
show("Decoded random codes", holes)

# %% [markdown]
# ## A three is a distribution, and the way to an eight
#
# N0: to a VAE "a 3" is a Gaussian, whose draws are threes with other strokes. Nine draws of
# $q(z\mid x)$ are decoded; the autoencoder's point gives one image nine times. N0 also walks from a
# 3 to an 8, where the autoencoder is said to jump. Between the ends, both models score the same
# within a few percent: holes are where no codes are, not between two digits. (With clothes,
# Fashion-MNIST at 8 x 8, the autoencoder's are 17 to 23 % farther off than the VAE's.)

# %%
draws, walks, score = {}, {}, {}
pairs = list(zip(test[kinds == 3][:100], test[kinds == 8][:100], strict=False))
for name, graph in models.items():
    z = graph.posterior(test[kinds == 3][:1].expand(9, *shape)).sample()
    draws[name] = pv.decode(graph, z)
    steps = torch.stack([pv.interpolate(graph, a, b, steps=9) for a, b in pairs])
    score[name] = torch.tensor([s.mean for s in judge(steps[:, 1:-1].flatten(0, 1).clamp(0, 1))])
    walks |= {f"{name} {i}": steps[i] for i in range(3)}
print(score, spread := [images.std(0).max().item() for images in draws.values()])
assert spread[0] < 1e-6 < 0.02 < spread[1]
assert (judge.logits(draws["VAE"]).argmax(1) == 3).double().mean() > 0.7
assert torch.allclose(score["AE"], score["VAE"], rtol=0.08)
show("Nine draws of the posterior of one 3, and three walks to an 8", draws | walks)

# %% [markdown]
# ## Which one overfits?
#
# N0 and N1 blame the autoencoder for overfitting. On 200 images, trained for long, *both* learn
# them by heart: test errors are many times those in training (printed), and of both about the same.

# %%
few = [fit(make, D, rows=x[:200], epochs=300) for make in (autoencoder, variational)]
print(ratio := [error(graph) / error(graph, x[:200]) for graph in few])
assert min(ratio) > 2  # test error over training error
assert 0.8 < error(few[0]) / error(few[1]) < 1.25
# %% [markdown]
# **Exercises.** 1. Give the autoencoder a standard normal prior: which term joins the loss? 2. Fix
# the VAE's $\sigma$ at 1: why do all its images of 8 x 8 digits look alike? Answers:
# `tutorials/answers/02_autoencoder_and_vae.py`. **Next:** 05, the weight of the KL.
