# %% [markdown]
# # Answers to 06 · Four tasks
#
# **1.** By 3.01 decibels. Given $x_o$, the truth and a draw of $p(x_h\mid x_o)$ are two independent
# draws of one distribution with the mean $m$ and the variance $v$. So $E(\text{draw}-x)^2=2v$ and
# $E(m-x)^2=v$, and $10\log_{10}2=3.01$. It needs no Gaussian, only that the model is right. PSNR
# therefore prefers a blurred mean to any draw, however good.

# %%
import math

import torch
from torch import nn

import pyrovae as pv
from pyrovae.evaluation.baselines import PCA
from pyrovae.evaluation.scores import coverage

torch.manual_seed(0)
digits = torch.tensor(pv.datasets.digits().x) / 16
pca = PCA(digits, components=5)
decoder, encoder = nn.Linear(5, 64), nn.Linear(64, 10)
decoder.load_state_dict({"weight": pca.weights, "bias": pca.mean})
encoder.load_state_dict({name: torch.zeros_like(p) for name, p in encoder.named_parameters()})
prior, q = pv.priors.StandardNormal(5), pv.posteriors.DiagonalNormal(encoder)
linear = pv.VAE(prior, q, pv.likelihoods.Gaussian(decoder, sigma=pca.variance**0.5))
x = pv.generate(linear, 100, mean=False, seed=1)

hidden = torch.rand(x.shape) < 0.5
found = pv.impute(linear, x, hidden=hidden, draws=39, samples=2_000, seed=0)
of_mean = (found.mean - x)[hidden].square().mean()
of_draw = (found.draws - x)[:, hidden].square().mean()
gain = 10 * math.log10(of_draw / of_mean)
print(f"the mean is better by {gain:.2f} dB")
assert abs(gain - 10 * math.log10(2)) < 0.15

# %% [markdown]
# **2.** The error is smallest with the true noise: with half of it the answer follows the noise,
# with twice of it too little of the picture. The intervals say which of the two it was. They are
# too short if the noise is taken for smaller than it is, and a little too long if for larger: the
# noise of the pixels themselves, which the model knows, is most of their length.

# %%
y, rmse, held = x + 0.5 * torch.randn_like(x), {}, {}
for scale in (0.25, 0.5, 1.0):
    noise = pv.graphs.GaussianNoise(scale)
    answer = pv.denoise(linear, y, noise=noise, draws=39, samples=2_000, seed=0)
    rmse[scale] = (answer.mean - x).square().mean().sqrt().item()
    held[scale] = coverage(x, *answer.interval(0.9))
print("error:", rmse, "intervals hold:", {scale: round(c.mean, 3) for scale, c in held.items()})
assert rmse[0.5] < min(rmse[0.25], rmse[1.0])
assert abs(held[0.5].mean - 0.9) < 4 * held[0.5].standard_error
assert held[0.25].mean < held[0.5].mean < held[1.0].mean
