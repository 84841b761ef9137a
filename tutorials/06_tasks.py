# %% [markdown]
# # 06 · What a VAE is for: four tasks, each with a score
#
# "Auto-encoding variational Bayes" (Kingma & Welling 2014, section 2.1) names three problems that
# it solves. The third is marginal inference of x: denoising, inpainting and super-resolution. All
# are one formula. Let $x_o$ be what was measured and $x_h$ what was not. Then
#
# $$p(x_h \mid x_o) = \int p(x_h \mid z)\, p(z \mid x_o)\, dz .$$
#
# The decoder gives $p(x_h \mid z)$. The difficulty is $p(z \mid x_o)$, the posterior given *what
# was measured*, which is not the posterior given a picture whose holes were filled with zeros. The
# encoder $q(z \mid x)$ was trained on whole, clean pictures: the wrong distribution here, but a
# good first guess, which `pv.impute`, `pv.denoise` and `pv.super_resolve` refine for each picture.
#
# This script uses three scores, and has simple methods beside the VAE in every table:
#
# * PSNR, the peak signal-to-noise ratio in decibels: $-10 \log_{10}(\text{mean squared error})$ for
#   values in [0, 1]. Three decibels more halve that mean.
# * SSIM, the structural similarity of small windows (Wang et al. 2004): 1 for equal pictures.
# * $\log p(x_h \mid x_o)$ of the true hidden values, in nats for each of them. It is a proper
#   score: in expectation no distribution scores higher than the true one. PSNR and SSIM judge one
#   picture; this score judges the whole distribution, with its uncertainty.
#
# Run it with `PYROVAE_QUICK=1` (or `--quick`) for 8 x 8 digits, under a minute; otherwise on MNIST.

# %%
import os
import sys
import warnings

import matplotlib.pyplot as plt
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

import pyrovae as pv
from pyrovae.evaluation.baselines import PCA, bilinear_upsampling, mean_image, median_filter
from pyrovae.evaluation.scores import coverage, psnr, ssim

QUICK = "--quick" in sys.argv or os.environ.get("PYROVAE_QUICK") == "1"
torch.manual_seed(0)
data = pv.datasets.digits() if QUICK else pv.datasets.mnist()
train, everything = (torch.tensor(x) / data.x.max() for x in (data.x[:10_000], data.x_test[:100]))
is_four = torch.tensor(data.labels_test[:100] == 4)
test, shape = everything[~is_four], train.shape[1:]  # without fours: see section 2


def show(**rows):
    """Draw eight pictures for each name, a row each."""
    framed = [nn.functional.pad(x[:8, 0].clamp(0, 1), [1] * 4, value=0.6) for x in rows.values()]
    strips = [torch.cat(list(x), -1) for x in framed]
    plt.figure(figsize=(8, 1.1 * len(rows)))
    plt.imshow(torch.cat(strips).numpy(), cmap="gray")
    plt.yticks([(i + 0.5) * (shape[1] + 2) for i in range(len(rows))], rows)
    plt.xticks([])
    plt.show()


def table(restored):
    """Print PSNR and SSIM of each way to restore the test pictures, and return the PSNR."""
    found = {name: psnr(x.clamp(0, 1), test) for name, x in restored.items()}
    for name, x in restored.items():
        error, similarity = found[name].standard_error, ssim(x.clamp(0, 1), test).mean
        print(f"{name:<22} {found[name].mean:6.2f} +- {error:.2f} dB    SSIM {similarity:.3f}")
    return {name: score.mean for name, score in found.items()}


# %% [markdown]
# ## 1. A case where everything is known
#
# Let the decoder be linear, $x = \mu + W z + \epsilon$ with $z \sim N(0, I)$ and $\epsilon \sim
# N(0, s^2 I)$. This is probabilistic PCA (Tipping & Bishop 1999). Then $x_h$ given $x_o$ is normal.
# With $W_o$ the rows of $W$ at the observed pixels and $M = W_o^\top W_o + s^2 I$,
#
# $$E[x_h \mid x_o] = \mu_h + W_h M^{-1} W_o^\top (x_o - \mu_o), \qquad
# \mathrm{Var}[x_h \mid x_o] = s^2 \left( I + W_h M^{-1} W_h^\top \right) .$$
#
# `PCA(...).impute` computes this. A VAE with the same weights must find the same numbers, although
# its encoder below was never trained, and answers $N(0, I)$ to everything. What makes up for it is
# the refinement: normal distributions are fitted to $p(z \mid x_o)$ of each picture by gradient
# steps on its own ELBO, and their draws are weighted by importance. The pictures are drawn from the
# model itself, so that its intervals must hold: 90 % of the hidden pixels should lie in them.

# %%
pca = PCA(train, components=5)
decoder, encoder = nn.Linear(5, shape.numel()), nn.Linear(shape.numel(), 10)
decoder.load_state_dict({"weight": pca.weights, "bias": pca.mean})
encoder.load_state_dict({name: torch.zeros_like(p) for name, p in encoder.named_parameters()})
prior, q = pv.priors.StandardNormal(5), pv.posteriors.DiagonalNormal(encoder)
linear = pv.VAE(prior, q, pv.likelihoods.Gaussian(decoder, sigma=pca.variance**0.5))
x = pv.generate(linear, 50, mean=False, seed=1)
hidden = torch.rand(x.shape) < 0.5
exact = pca.impute(x.view(-1, *shape), hidden.view(-1, *shape))
found = pv.impute(linear, x, hidden=hidden, draws=39, samples=4000, seed=0)
score = pv.tasks.hidden_log_prob(linear, x, hidden=hidden, samples=4000, seed=0)
error = (found.mean - exact.mean.flatten(1)).abs().max()
nats = ((score.log_p - exact.log_prob) / hidden.sum(1)).abs().max()
held = coverage(x, *found.interval(0.9), where=hidden)
print(f"means differ by {error:.4f} at most, log p(x_h | x_o) by {nats:.4f} nats a pixel")
print(f"90 % intervals hold {100 * held.mean:.1f} % of the hidden pixels")
assert max(error, nats) < 0.02
assert abs(held.mean - 0.9) < 4 * held.standard_error < 0.05

# %% [markdown]
# ## 2. A VAE, and a digit that it never sees
#
# From here on the decoder is a network. The likelihood is Gaussian with a learned standard
# deviation, for grey values in [0, 1], so that densities can be compared with those of PCA. The
# fours are left out of the training data, and of the tables below; section 6 asks whether the model
# notices them. A tenth of the training rows says when to stop: a decoder that has learned its
# training pictures by heart has too small a standard deviation, and a proper score punishes that.

# %%
known = train[torch.tensor(data.labels[:10_000] != 4)]
validation, known = known[: len(known) // 10], known[len(known) // 10 :]
latents, width, epochs = (10, 128, 150) if QUICK else (20, 400, 30)


def vae():
    f, g = pv.nets.MLP(shape, [width], 2 * latents), pv.nets.MLP(latents, [width], shape)
    likelihood = pv.likelihoods.Gaussian(g, sigma=0.2, learned=True)
    return pv.VAE(pv.priors.StandardNormal(latents), pv.posteriors.DiagonalNormal(f), likelihood)


def fit(graph):
    """Train until the bound on the validation rows stops to rise; its best weights are kept."""
    how = {"patience": 10, "batch_size": 64, "seed": 0, "progress": False}
    pv.fit(graph, known, validation=validation, epochs=epochs, **how)
    return graph


model = fit(vae())

# %% [markdown]
# ## 3. Denoise
#
# With the usual noise, $y = x + 0.5\,\epsilon$, three ways to $p(x \mid y) = \int p(x \mid z, y)\,
# p(z \mid y)\, dz$, where $p(y \mid z) = E_{p(x|z)}[p(y \mid x)]$:
#
# * *the encoder*: encode the noisy picture, though the encoder has never seen noise, and decode.
# * *a denoising VAE*: `pv.Denoising` shows the encoder noisy pictures in training, while the model
#   explains the clean ones. It is bound to one kind and one amount of noise.
# * *the posterior*: the VAE of above, with the noise as an argument. Nothing is trained again.
#
# N3 compares convolutional and fully connected denoising autoencoders by eye: the former clean
# digits better, clothes not. By SSIM it is so, 0.75 against 0.67 on MNIST and 0.57 against 0.60 on
# Fashion-MNIST; by PSNR the latter are better on both (`benchmarks/denoise.py`).

# %%
noise = pv.graphs.GaussianNoise(0.5)
y = noise(test)
denoising = fit(pv.Denoising(vae(), noise))
posterior = pv.denoise(model, y, noise=noise, draws=39, seed=0)
ways = {
    "noisy": y,
    "mean image": mean_image(known, len(y)),
    "median filter, 3 x 3": median_filter(y),
    "PCA, 10 components": PCA(known, 10).denoise(y),
    "VAE, the encoder": pv.denoise(model, y, seed=0).mean,
    "denoising VAE": pv.denoise(denoising, y, seed=0).mean,
    "VAE, the posterior": posterior.mean,
}
decibels = table(ways)
print(f"90 % intervals hold {100 * coverage(test, *posterior.interval()).mean:.1f} %")
assert decibels["denoising VAE"] > max(list(decibels.values())[:4])  # the simple methods
assert decibels["VAE, the posterior"] > max(list(decibels.values())[:5])
show(noisy=y, posterior=posterior.mean, draw=posterior.draws[0], clean=test)

# %% [markdown]
# ## 4. Impute: half of the picture is hidden
#
# Fill the lower half with zeros, encode, decode: this infers $z$ from the zeros too, and they say
# that the digit ends in the middle. The posterior given the upper half alone does not read them.
# PCA is used with its own conditional distribution, as in section 1: once with as many components
# as the VAE has latents, and once with 40. The last line is the proper score, in nats for each
# hidden pixel; for the VAE it is an estimate, which is too low rather than too high.

# %%
lower = (torch.arange(shape[1]) >= shape[1] // 2)[:, None].expand(shape)
warnings.simplefilter("ignore", pv.RestorationWarning)
nats, pictures = {}, {"mean image": torch.where(lower, mean_image(known, len(test)), test)}
for k in (latents, 40):
    gaussian = PCA(known, k).impute(test, lower)
    pictures[f"PCA, {k} components"] = gaussian.mean
    nats[f"PCA, {k} components"] = (gaussian.log_prob / lower.sum()).mean().item()
for name, method in {"encoder on zeros": "encoder", "VAE, the posterior": "refine"}.items():
    answer = pv.impute(model, test, hidden=lower, method=method, seed=0)
    pictures[name], how = answer.mean, {"samples": 5_000, "batch_size": 8}
    log_p = pv.tasks.hidden_log_prob(model, test, hidden=lower, method=method, **how).log_p
    nats[name] = (log_p / lower.sum()).mean().item()
decibels, draws = table(pictures), answer.draws
print("nats for each hidden pixel:", {name: round(value, 2) for name, value in nats.items()})
assert decibels["VAE, the posterior"] == max(decibels.values())
assert nats["VAE, the posterior"] > nats["encoder on zeros"] + 0.1
show(truth=test, given=torch.where(lower, 0.0, test), encoder=pictures["encoder on zeros"])
show(draw_1=draws[0], draw_2=draws[1], draw_3=draws[2], draw_4=draws[3])

# %% [markdown]
# The draws differ where the upper half leaves a choice, which a single picture cannot say; on MNIST
# too little, as in a third of the rows one draw of $z$ has most of the weight (a silenced warning).
# The pictures of the VAE are closest to the truth. But on the 8 x 8 digits its density is level
# with that of PCA with as many components as the VAE has latents, and PCA with 40 is ahead; on
# MNIST both are. A closer mean is not a better distribution.
#
# ## 5. Super-resolve: only the means of 2 x 2 squares are known
#
# The measurement is $S = \frac14 \sum_{i \in \text{square}} x_i$. Given $z$ the pixels are
# independent normals, so $S$ is normal, and the pixels given $S$ are normal with exactly this mean.
# Every draw therefore has the given means. Bilinear interpolation knows nothing of digits.

# %%
pooled = nn.functional.avg_pool2d(test, 2)
repeated = pooled.repeat_interleave(2, -1).repeat_interleave(2, -2)
large = pv.super_resolve(model, pooled, factor=2, draws=39, seed=0)
bilinear = bilinear_upsampling(pooled, 2)
found = table({"repeated": repeated, "bilinear": bilinear, "VAE, the posterior": large.mean})
assert (nn.functional.avg_pool2d(large.draws[0], 2) - pooled).abs().max() < 1e-4
assert found["VAE, the posterior"] > max(found["repeated"], found["bilinear"]) + 1
show(given=repeated, bilinear=bilinear, posterior=large.mean, truth=test)

# %% [markdown]
# ## 6. Anomalies: does the model notice what it has never seen?
#
# `pv.anomaly_score` is $-\log p(x)$, by importance sampling from the encoder. The area under the
# curve is the probability that a four, which training did not contain, gets a higher score than
# another digit: 1/2 is guessing, 1 is perfect. On MNIST it is 0.80; with PCA's density, 0.63.
#
# Models may find simple pictures probable, however strange (Nalisnick et al. 2019). A black picture
# is as simple as can be. The model of 8 x 8 digits is not deceived; that of MNIST is, to which it
# is more probable than nearly all digits: errors are made at strokes. The library warns that the
# estimates are too low for most pictures; for an order among them they serve, so it is silenced.

# %%
warnings.simplefilter("ignore", pv.EvidenceWarning)
rows, four = torch.tensor(data.x_test[:1_000]) / data.x.max(), data.labels_test[:1_000] == 4
scores = pv.anomaly_score(model, rows, samples=200)
rival = -PCA(known, 10).impute(rows, torch.ones_like(lower)).log_prob  # all given none
area, of_pca = roc_auc_score(four, scores), roc_auc_score(four, rival)
print(f"area under the curve: VAE {area:.3f}, PCA {of_pca:.3f}")
assert area > max(0.9 if QUICK else 0.7, of_pca)
blank = pv.anomaly_score(model, torch.zeros(1, *shape), samples=200)
print(f"black picture: higher than {(share := (scores < blank).double().mean()):.1%} of the digits")
assert share > 0.9 if QUICK else share < 0.1

# %% [markdown]
# **Exercises.** All on the linear model of section 1, where the answers are exact. 1. By how many
# decibels is the mean of $p(x_h\mid x_o)$ closer to the truth than a draw, and why? 2. Tell
# `pv.denoise` half, and then twice, of the noise that the pictures really have. What happens to the
# error, and what to the 90 % intervals? Answers: `tutorials/answers/06_tasks.py`. **Next:** 03.
