# %% [markdown]
# # 06 · What a VAE is for: four tasks, each with a score
#
# "Auto-encoding variational Bayes" (Kingma & Welling 2014, section 2.1) names three problems that
# the method solves. The third is *approximate marginal inference of the variable x*: denoising,
# inpainting and super-resolution. All three are one formula. Let $x_o$ be what was measured and
# $x_h$ what was not. Then
#
# $$p(x_h \mid x_o) = \int p(x_h \mid z)\, p(z \mid x_o)\, dz .$$
#
# The decoder gives $p(x_h \mid z)$. The difficulty is $p(z \mid x_o)$, the posterior given *what
# was measured*, which is not the posterior given a picture whose holes were filled with zeros.
# The encoder $q(z \mid x)$ was trained on whole, clean pictures. It is the wrong distribution
# here, but a good first guess, which `pv.impute`, `pv.denoise` and `pv.super_resolve` refine for
# each picture.
#
# Such pictures are often judged by eye, because no suitable measure seems to be at hand. There are
# several. This script uses three, and puts simple methods beside the VAE in every table:
#
# * PSNR, the peak signal-to-noise ratio in decibels: $-10 \log_{10}(\text{mean squared error})$ for
#   values in [0, 1]. Three decibels more halve the error.
# * SSIM, the structural similarity of small windows (Wang et al. 2004): 1 for equal pictures.
# * $\log p(x_h \mid x_o)$ of the true hidden values, in nats for each of them. It is a proper
#   score: in expectation no distribution scores higher than the true one. PSNR and SSIM judge one
#   picture; this score judges the whole distribution, with its uncertainty.
#
# In quick mode the pictures are the 8 x 8 digits of scikit-learn, else 28 x 28 MNIST:
#
#     python tutorials/06_tasks.py --quick
#     PYROVAE_DATA=DATA python tutorials/06_tasks.py

# %%
import os
import sys

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
train, test = (torch.tensor(x) / data.x.max() for x in (data.x, data.x_test))
labels, test_labels = torch.tensor(data.labels), torch.tensor(data.labels_test)
train, labels = train[:20_000], labels[:20_000]
test, test_labels = test[:100], test_labels[:100]
everything, test = test, test[test_labels != 4]  # section 6 needs the fours, the others do not
shape, size = train.shape[1:], train[0].numel()


def show(**rows):
    """Draw eight pictures for each name, a row each."""
    _, axes = plt.subplots(len(rows), 8, figsize=(8, 1.05 * len(rows)))
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        for axis, picture in zip(line, pictures[:8], strict=True):
            axis.imshow(picture[0], cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name.replace("_", "\n"), rotation=0, ha="right", va="center")
    plt.show()


def table(restored):
    """Print PSNR and SSIM of each way to restore the test pictures, and return the PSNR."""
    for name, x in restored.items():
        a, b = psnr(x.clamp(0, 1), test), ssim(x.clamp(0, 1), test)
        print(f"{name:<24} {a.mean:6.2f} +- {a.standard_error:.2f} dB    SSIM {b.mean:.3f}")
    return {name: psnr(x.clamp(0, 1), test).mean for name, x in restored.items()}


# %% [markdown]
# ## 1. A case where everything is known
#
# Let the decoder be linear, $x = \mu + W z + \epsilon$ with $z \sim N(0, I)$ and
# $\epsilon \sim N(0, s^2 I)$. This is probabilistic PCA (Tipping & Bishop 1999). Then $x_h$ given
# $x_o$ is normal. With $W_o$ the rows of $W$ at the observed pixels and
# $M = W_o^\top W_o + s^2 I$,
#
# $$E[x_h \mid x_o] = \mu_h + W_h M^{-1} W_o^\top (x_o - \mu_o), \qquad
# \mathrm{Var}[x_h \mid x_o] = s^2 \left( I + W_h M^{-1} W_h^\top \right) .$$
#
# `PCA(...).impute` computes this. A VAE whose likelihood has the same weights must find the same
# numbers, although its encoder below was never trained: whatever it sees, it answers
# $N(0, I)$. What makes up for it is the refinement. Normal distributions are fitted to
# $p(z \mid x_o)$ of each picture by gradient steps on its own ELBO, and their draws are weighted by
# importance. The pictures are drawn from the model itself, so that its intervals must hold: 90 % of
# the hidden pixels should lie in their 90 % intervals.

# %%
pca = PCA(train, components=5)
decoder, encoder = nn.Linear(5, size), nn.Linear(size, 10)
with torch.no_grad():
    decoder.weight.copy_(pca.weights)
    decoder.bias.copy_(pca.mean)
    nn.init.zeros_(encoder.weight)
    nn.init.zeros_(encoder.bias)
linear = pv.VAE(
    pv.priors.StandardNormal(5),
    pv.posteriors.DiagonalNormal(encoder),
    pv.likelihoods.Gaussian(decoder, sigma=pca.variance**0.5),
)
x = pv.generate(linear, 50, mean=False, seed=1)
hidden = torch.rand(x.shape) < 0.5
exact = pca.impute(x.view(-1, *shape), hidden.view(-1, *shape))
found = pv.impute(linear, x, hidden=hidden, draws=39, samples=4000, seed=0)
score = pv.tasks.hidden_log_prob(linear, x, hidden=hidden, samples=4000, seed=0)

error = (found.mean - exact.mean.flatten(1)).abs().max().item()
nats = ((score.log_p - exact.log_prob) / hidden.sum(1)).abs().max().item()
held = coverage(x, *found.interval(0.9), where=hidden)
print(f"means differ by {error:.4f} at most, log p(x_h | x_o) by {nats:.4f} nats a pixel")
print(f"90 % intervals hold {100 * held.mean:.1f} % of the hidden pixels")
assert error < 0.02
assert nats < 0.01
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
known = train[labels != 4]
validation, known = known[: len(known) // 10], known[len(known) // 10 :]
latents, width, epochs = (10, 128, 150) if QUICK else (20, 400, 30)


def vae():
    """A VAE with fully connected networks."""
    return pv.VAE(
        pv.priors.StandardNormal(latents),
        pv.posteriors.DiagonalNormal(pv.nets.MLP(tuple(shape), [width], 2 * latents)),
        pv.likelihoods.Gaussian(
            pv.nets.MLP(latents, [width], tuple(shape)), sigma=0.2, learned=True
        ),
    )


def fit(graph):
    """Train until the bound on the validation rows stops to rise; its best weights are kept."""
    how = {"epochs": epochs, "patience": 10, "batch_size": 64, "progress": False}
    pv.fit(graph, known, validation=validation, seed=0, **how)
    return graph


model = fit(vae())

# %% [markdown]
# ## 3. Denoise
#
# The noise is that of the usual example: $y = x + 0.5\,\epsilon$. What is asked for is
# $p(x \mid y) = \int p(x \mid z, y)\, p(z \mid y)\, dz$ with $p(y \mid z) = E_{p(x|z)}[p(y \mid
# x)]$. Three ways to get it from a VAE:
#
# * *the encoder*: encode the noisy picture and decode. The encoder has never seen noise.
# * *a denoising VAE*: `pv.Denoising` shows the encoder noisy pictures in training, while the model
#   explains the clean ones. It is bound to one kind and one amount of noise.
# * *the posterior*: the VAE of above, and the noise as part of the likelihood. Nothing is trained
#   again, and another noise is another argument.

# %%
noise = pv.graphs.GaussianNoise(0.5)
y = noise(test)
denoising = fit(pv.Denoising(vae(), noise))
posterior = pv.denoise(model, y, noise=noise, draws=39, seed=0)

decibels = table(
    {
        "noisy": y,
        "mean image": mean_image(known, len(y)),
        "median filter, 3 x 3": median_filter(y),
        "PCA, 10 components": PCA(known, 10).denoise(y),
        "VAE, the encoder": pv.denoise(model, y, seed=0).mean,
        "denoising VAE": pv.denoise(denoising, y, seed=0).mean,
        "VAE, the posterior": posterior.mean,
    }
)
simple = max(list(decibels.values())[:4])
print(f"90 % intervals hold {100 * coverage(test, *posterior.interval()).mean:.1f} %")
assert decibels["denoising VAE"] > simple
assert decibels["VAE, the posterior"] > simple
assert decibels["VAE, the posterior"] > decibels["VAE, the encoder"]
show(noisy=y, posterior=posterior.mean, a_draw=posterior.draws[0], clean=test)

# %% [markdown]
# ## 4. Impute: half of the picture is hidden
#
# Fill the lower half with zeros, encode, decode: this infers $z$ from the zeros too, and they say
# that the digit ends in the middle. The posterior given the upper half alone does not read them.
# PCA is used with its own conditional distribution, as in section 1: once with as many components
# as the VAE has latents, and once with 40. The last line is the proper score, in nats for each
# hidden pixel; for the VAE it is an estimate, which is too low rather than too high.

# %%
lower = torch.zeros(shape, dtype=torch.bool)
lower[:, shape[1] // 2 :] = True
rivals = {"encoder on zeros": "encoder", "posterior": "refine"}
answers = {
    name: pv.impute(model, test, hidden=lower, method=method, seed=0)
    for name, method in rivals.items()
}
gaussians = {f"PCA, {k} components": PCA(known, k).impute(test, lower) for k in (latents, 40)}
nats = {name: (g.log_prob / lower.sum()).mean().item() for name, g in gaussians.items()}
for name, method in rivals.items():
    how = {"hidden": lower, "method": method, "samples": 5_000, "batch_size": 16}
    log_p = pv.tasks.hidden_log_prob(model, test, **how).log_p
    nats[name] = (log_p / lower.sum()).mean().item()
pictures = {name: answer.mean for name, answer in answers.items()}
pictures |= {name: gaussian.mean for name, gaussian in gaussians.items()}
pictures["mean image"] = torch.where(lower, mean_image(known, len(test)), test)
decibels = table(pictures)
print("nats for each hidden pixel:", {name: round(value, 3) for name, value in nats.items()})
assert nats["posterior"] > nats[f"PCA, {latents} components"]
assert nats["posterior"] > nats["encoder on zeros"] + 0.1
assert decibels["posterior"] == max(decibels.values())
zeros, four = answers["encoder on zeros"].mean, answers["posterior"].draws
show(truth=test, given=torch.where(lower, 0.0, test), encoder_on_zeros=zeros, draw_1=four[0])
show(draw_1=four[0], draw_2=four[1], draw_3=four[2], draw_4=four[3])

# %% [markdown]
# The draws differ where the upper half leaves a choice, and agree where it does not. This is what a
# single filled-in picture cannot say.
#
# Do the two kinds of score agree? Not quite. On the 8 x 8 digits PCA with 40 components has the
# better density, 0.64 nats a pixel against 0.40, and yet its picture is farther from the truth. It
# knows how much each direction varies, while this likelihood has one standard deviation for all
# pixels, the ever black ones at the border included. Only a comparison with a rival of a serious
# size shows that. With as many components as latents PCA is behind in both.
#
# ## 5. Super-resolve: only the means of 2 x 2 squares are known
#
# The measurement is $S = \frac14 \sum_{i \in \text{square}} x_i$. Given $z$ the pixels are
# independent normals, so $S$ is normal, and the pixels given $S$ are normal with exactly this mean.
# Every draw therefore has the given means. Bilinear interpolation, which knows nothing of digits,
# stands beside it.

# %%
pooled = nn.functional.avg_pool2d(test, 2)
large = pv.super_resolve(model, pooled, factor=2, draws=39, seed=0)
decibels = table(
    {
        "repeated pixels": pooled.repeat_interleave(2, -1).repeat_interleave(2, -2),
        "bilinear": bilinear_upsampling(pooled, 2),
        "mean image": mean_image(known, len(test)),
        "VAE, the posterior": large.mean,
    }
)
again = nn.functional.avg_pool2d(large.draws[0], 2)
assert (again - pooled).abs().max() < 1e-4
assert decibels["VAE, the posterior"] > max(list(decibels.values())[:3]) + 1
show(
    given=pooled.repeat_interleave(2, -1).repeat_interleave(2, -2),
    bilinear=bilinear_upsampling(pooled),
    posterior=large.mean,
    truth=test,
)

# %% [markdown]
# ## 6. Anomalies: does the model notice what it has never seen?
#
# `pv.anomaly_score` is $-\log p(x)$, by importance sampling from the encoder. The area under the
# curve is the probability that a four, which training did not contain, gets a higher score than
# another digit: 1/2 is guessing, 1 is perfect. It is compared with the density of PCA.
#
# One caution: the score depends on how complicated a picture is too, not only on how strange it is
# (Nalisnick et al. 2019). A picture that is all black is no digit, and no training picture was like
# it, but it is simple. The last line shows how it fares.

# %%
strange = test_labels == 4
scores = pv.anomaly_score(model, everything, samples=200)
nothing_hidden = torch.ones(shape, dtype=torch.bool)  # of PCA log p(x): all pixels given none
rival = -PCA(known, 10).impute(everything, nothing_hidden).log_prob
area, of_pca = roc_auc_score(strange, scores), roc_auc_score(strange, rival)
print(f"area under the curve: VAE {area:.3f}, PCA {of_pca:.3f}")
assert area > 0.8
blank = pv.anomaly_score(model, torch.zeros(1, *shape), samples=200)
print(f"a black picture scores higher than {(scores < blank).double().mean():.0%} of the digits")
