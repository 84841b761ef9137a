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
# The decoder gives $p(x_h \mid z)$. The difficulty is $p(z \mid x_o)$, the posterior given *what was
# measured*, and not given a picture in which the holes were filled with zeros. The encoder
# $q(z \mid x)$ was trained on whole, clean pictures. It is the wrong distribution here, but a good
# first guess, which `pv.impute`, `pv.denoise` and `pv.super_resolve` refine for each picture.
#
# People often judge such pictures by eye, since "no suitable measure" seems to be at hand. There are
# several. This script uses three, and puts simple methods beside the VAE in every table:
#
# * PSNR, the peak signal-to-noise ratio in decibels: $10 \log_{10}(1 / \text{mean squared error})$
#   for values in [0, 1]. Three decibels more halve the error.
# * SSIM, the structural similarity of small windows (Wang et al. 2004): 1 for equal pictures.
# * $\log p(x_h \mid x_o)$ of the true hidden values, in nats for each of them. It is a proper score:
#   in expectation no distribution but the true one gets the highest. The other two judge one
#   picture; this one judges the whole distribution, with its uncertainty.
#
# In quick mode the pictures are the 8 x 8 digits of scikit-learn, else 28 x 28 MNIST:
#
#     python tutorials/06_tasks.py --quick
#     PYROVAE_DATA=DATA python tutorials/06_tasks.py

# %%
import os
import sys

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

import pyrovae as pv
from pyrovae.baselines import PCA, bilinear_upsampling, mean_image, median_filter
from pyrovae.scores import coverage, psnr, ssim

quick = "--quick" in sys.argv or bool(os.environ.get("PYROVAE_QUICK"))
torch.manual_seed(0)

data = pv.datasets.digits() if quick else pv.datasets.mnist()
top = 16 if quick else 1
train, test = (torch.tensor(x, dtype=torch.float32) / top for x in (data.x, data.x_test))
labels, test_labels = torch.tensor(data.labels), torch.tensor(data.labels_test)
test, test_labels = test[:200], test_labels[:200]
size = train.shape[-1]


def show(rows):
    """Draw rows of eight pictures, each row with its name."""
    figure, axes = plt.subplots(len(rows), 8, figsize=(8, 1.05 * len(rows)))
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        for axis, picture in zip(line, pictures, strict=False):
            axis.imshow(picture.reshape(size, -1), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.tight_layout()
    plt.show()


# %% [markdown]
# ## 1. A case where everything is known
#
# Let the decoder be linear, $x = \mu + W z + \epsilon$ with $z \sim N(0, I)$ and
# $\epsilon \sim N(0, s^2 I)$. This is probabilistic PCA, and $x_h$ given $x_o$ is normal, with mean
# and variance in closed form. A VAE whose likelihood has those very weights must find the same
# numbers, although its encoder below was never trained: it answers 0 for every picture. What makes
# up for it is the refinement: normal distributions are fitted to $p(z \mid x_o)$ of each picture by
# gradient steps on its ELBO, and draws from them are weighted by importance.

# %%
pca = PCA(train, components=5)
decoder, encoder = nn.Linear(5, size**2), nn.Linear(size**2, 10)
with torch.no_grad():
    decoder.weight.copy_(pca.weights)
    decoder.bias.copy_(pca.mean)
    encoder.weight.zero_()
    encoder.bias.zero_()
linear = pv.VAE(
    pv.priors.StandardNormal(5),
    pv.posteriors.DiagonalNormal(encoder),
    pv.likelihoods.Gaussian(decoder, sigma=pca.variance**0.5),
)
flat = test.flatten(1)
hidden = torch.rand(flat.shape) < 0.5
exact = pca.impute(test, hidden.view(test.shape))
found = pv.impute(linear, flat, hidden=hidden, draws=199, samples=2000, seed=0)
score = pv.tasks.hidden_log_prob(linear, flat, hidden=hidden, samples=2000)

error = (found.mean - exact.mean.flatten(1)).abs().max().item()
nats = ((score.log_p - exact.log_prob) / hidden.sum(1)).abs().max().item()
held = coverage(exact.mean.flatten(1), *found.interval(0.9), where=hidden).mean
print(f"mean off by {error:.4f} at most, log p(x_h | x_o) by {nats:.5f} nats a pixel")
assert error < 0.05
assert nats < 0.01
