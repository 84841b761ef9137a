# %% [markdown]
# # A variational autoencoder in 60 lines
#
# The whole of it in plain torch: data, two networks, the loss, the loop, samples. Nothing else is
# used, neither Pyro nor this library. Read it in a quarter of an hour; the other scripts explain
# every line of it, and 00 writes the same as two Pyro programs. Source: Kingma and Welling,
# *Auto-Encoding Variational Bayes*, 2014.
#
# A latent variable $z\sim N(0,I)$ goes through the *decoder* and gives each pixel of the image $x$
# its probability of being 1. The *encoder* goes the other way: from $x$ to the mean and the
# standard deviation of $q(z\mid x)$, a guess which $z$ it came from. Both are trained to make
#
# $$\mathrm{ELBO}(x)=\mathrm E_q\log p(x\mid z)-\mathrm{KL}(q(z\mid x)\,\Vert\,p(z))\le\log p(x)$$
#
# large: the first term asks that $x$ can be found again from its $z$, the second that these $z$
# look like draws of $N(0,I)$, from which new images are made in the end. `PYROVAE_QUICK=1` or
# `--quick` runs it on 8 x 8 digits; otherwise it takes 10,000 images of MNIST, from the folder
# `PYROVAE_DATA`.

# %%
import os
import sys

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import pad, softplus
from torchvision.datasets import MNIST

QUICK = "--quick" in sys.argv or os.environ.get("PYROVAE_QUICK") == "1"
SIZES = {True: 10_000, False: 1_000}  # images of MNIST for training, for testing
torch.manual_seed(0)

# %% [markdown]
# **Data.** Grey values in $[0,1]$ are read as probabilities: each time that an image is used for
# training, its pixels are drawn anew as 0 or 1. The test images are drawn once.

# %%
if QUICK:
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images / 16, test_size=0.2, random_state=0, stratify=labels)
else:
    root = os.environ.get("PYROVAE_DATA", "data")
    parts = [MNIST(root, train, download=True).data[:n] / 255 for train, n in SIZES.items()]
grey, grey_test = (torch.as_tensor(part).float().flatten(1) for part in parts)
test = torch.bernoulli(grey_test, generator=torch.Generator().manual_seed(0))
(N, D), (J, hidden, epochs) = grey.shape, (8, 100, 40) if QUICK else (20, 400, 20)

# %% [markdown]
# **Networks.** The encoder puts out a mean and the logarithm of a standard deviation for each of
# the $J$ latent dimensions, the decoder a logit for each of the $D$ pixels.

# %%
encoder = nn.Sequential(nn.Linear(D, hidden), nn.Tanh(), nn.Linear(hidden, 2 * J))
decoder = nn.Sequential(nn.Linear(J, hidden), nn.Tanh(), nn.Linear(hidden, D))

# %% [markdown]
# **Loss.** One draw of $z$ for each image. Written as $\mu+\sigma\epsilon$ it is a function of the
# encoder's output, and gradients pass through it (the reparameterization trick). The logarithm of
# the Bernoulli probability is $x\ell-\log(1+e^\ell)$ for a logit $\ell$, and the KL of two
# Gaussians has a closed form, which script 03 derives. Sums over pixels and latent dimensions, a
# mean over images.


# %%
def loss(x):
    mu, log_sigma = encoder(x).chunk(2, -1)  # (B, J) each
    z = mu + log_sigma.exp() * torch.randn_like(mu)
    logits = decoder(z)  # (B, D)
    log_p = (x * logits - softplus(logits)).sum(1)  # log p(x | z)
    kl = 0.5 * (mu**2 + (2 * log_sigma).exp() - 2 * log_sigma - 1).sum(1)
    return (kl - log_p).mean()  # minus the ELBO, nats an image


# %% [markdown]
# **Training.** Any optimizer will do.

# %%
adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-3)
curve = []
for _ in range(epochs):
    for rows in torch.randperm(N).split(50):
        adam.zero_grad()
        loss(torch.bernoulli(grey[rows])).backward()
        adam.step()
    with torch.no_grad():
        curve.append(-loss(test).item())

# %% [markdown]
# **Is it any good?** Compare with a model without latents, in which the pixels are independent,
# each with its mean over the training images. If the ELBO were not well above that, $z$ would say
# nothing about $x$.

# %%
p = grey.mean(0).clamp(1e-3, 1 - 1e-3)
independent = (test * p.log() + (1 - test) * (1 - p).log()).sum(1).mean().item()
print(f"ELBO of test images {curve[-1]:.2f}, independent pixels {independent:.2f} nats an image")
assert curve[-1] > independent + (2 if QUICK else 50)

# %% [markdown]
# **Pictures.** Test images; what the decoder makes of the mean of $q(z\mid x)$; and new images,
# from $z\sim N(0,I)$.

# %%
side = int(D**0.5)
with torch.no_grad():
    again = decoder(encoder(test[:12])[:, :J]).sigmoid()
    new = decoder(torch.randn(24, J)).sigmoid()
tiles = pad(torch.cat([test[:12], again, new]).view(4, 12, side, side), (0, 1, 0, 1), value=0.5)
left, right = plt.figure(figsize=(10, 3), layout="constrained").subplots(1, 2)
left.plot(curve, label="ELBO of test images")
left.axhline(independent, ls="--", color="grey", label="independent pixels")
left.set(xlabel="epoch", ylabel="nats an image", xticks=range(0, len(curve), 5))
left.legend(frameon=False)
right.imshow(tiles.permute(0, 2, 1, 3).flatten(2).flatten(0, 1).numpy(), cmap="gray")
right.set(title="Test images, reconstructions, new images", xticks=[], yticks=[])
plt.show()

# %% [markdown]
# **Exercises.** 1. Take the mean over pixels instead of the sum in `log_p`, as many programs do.
# Which model is trained then, and what becomes of the KL? 2. Replace the noise by zero and leave
# out the KL: which model of script 02 is that, and what do its "new images" look like? What happens
# if only the noise is replaced? Answers: `tutorials/answers/mini_vae.py`. **Next:** 00 writes the
# same in Pyro.
